package namespace

import (
	"github.com/sluicefs/sluice"
)

// count changes the counters of a mount.
func (w *writer) count(mount sluice.MountID, d countsRow) error {
	if d == (countsRow{}) {
		return nil
	}
	key := key64(tagCounts, uint64(mount))
	old, err := as[countsRow](w.get(key))
	if err != nil {
		return err
	}
	if old != nil {
		d = old.add(d)
	}
	if d == (countsRow{}) {
		w.del(key)
	} else {
		w.put(key, &d)
	}
	return nil
}

// addNode makes an entry.
func (w *writer) addNode(mount sluice.MountID, parent sluice.FileID, name string, n *node) error {
	w.put(childKey(tagNode, parent, name), n)
	w.put(nameKey(n.id), &nameRow{parent, name})
	if n.ttl != nil {
		w.put(ttlKey(n.ttl.due, n.id), nothing{})
	}
	return w.count(mount, countsOf(n))
}

// setNode replaces the node of an entry by a later state of the same inode.
func (w *writer) setNode(mount sluice.MountID, parent sluice.FileID, name string, old, n *node) error {
	w.put(childKey(tagNode, parent, name), n)
	if old.ttl != n.ttl {
		if old.ttl != nil {
			w.del(ttlKey(old.ttl.due, old.id))
		}
		if n.ttl != nil {
			w.put(ttlKey(n.ttl.due, n.id), nothing{})
		}
	}
	return w.count(mount, countsOf(n).add(countsOf(old).negative()))
}

// set is setNode at a place, which it changes.
func (w *writer) set(p *place, n *node) error {
	old := p.node
	p.node = n
	return w.setNode(p.mountID(), p.parent, p.name, old, n)
}

// dropNode takes an entry away with all that belongs to its inode. A directory must be
// empty. Who may have been given a grant is told.
func (w *writer) dropNode(mount sluice.MountID, parent sluice.FileID, name string, n *node) error {
	w.del(childKey(tagNode, parent, name))
	w.del(nameKey(n.id))
	if n.has(flagXAttrs) {
		w.del(xattrsKey(n.id))
	}
	if n.ttl != nil {
		w.del(ttlKey(n.ttl.due, n.id))
	}
	if n.has(flagHeld) {
		for _, e := range n.extents {
			w.del(contentKey(e.Content))
		}
	}
	if n.has(flagWriters) {
		if err := w.dropWriters(n.id); err != nil {
			return err
		}
	}
	w.changed = append(w.changed, n.id)
	return w.count(mount, countsOf(n).negative())
}

// moveNode gives an inode another name in the same mount.
func (w *writer) moveNode(parent sluice.FileID, name string, toParent sluice.FileID, toName string, n *node) {
	w.del(childKey(tagNode, parent, name))
	w.put(childKey(tagNode, toParent, toName), n)
	w.put(nameKey(n.id), &nameRow{toParent, toName})
}

// touch sets the times of a directory whose entries changed.
func (w *writer) touch(d at) error {
	if d.node == nil {
		return nil
	}
	n, err := child(w, d.parent, d.name)
	if err != nil || n == nil || n.id != d.node.id || n.mtime == w.wall {
		return err
	}
	c := *n
	if c.ctime == c.mtime || c.ctime < w.wall {
		c.ctime = w.wall
	}
	c.mtime = w.wall
	w.put(childKey(tagNode, d.parent, d.name), &c)
	return nil
}

// bury remembers that a name in a mount went, so that no listing made before brings it
// back.
func (w *writer) bury(mount sluice.MountID, parent sluice.FileID, name string) {
	if mount == 0 {
		return
	}
	key := string(childKey(tagTomb, parent, name))
	w.command[key] = &tombRow{w.index, w.tick}
	w.tombs = append(w.tombs, tomb{w.index, w.tick, key})
	w.revert(func() { w.tombs = w.tombs[:len(w.tombs)-1] })
}

// The bounds of what is remembered of names that went: listings older than both are
// trusted with nothing that is absent here.
const (
	maxTombs    = 100_000
	tombTicks   = int64(5 * 60 * 1e9)
	tombsAtOnce = 2000
)

// forgetTombs drops what is old, a bounded number per entry.
func (w *writer) forgetTombs() {
	n := 0
	for n < len(w.tombs) && n < tombsAtOnce && (len(w.tombs)-n > maxTombs || w.tick-w.tombs[n].tick > tombTicks) {
		t := w.tombs[n]
		r, err := as[tombRow](w.get([]byte(t.key)))
		if err != nil {
			return
		}
		if r != nil && r.index == t.index {
			w.entry[t.key] = nil
		}
		w.meta.tombFloor = max(w.meta.tombFloor, t.index)
		n++
	}
	w.tombs = w.tombs[n:]
}

// newFile returns the next inode id.
func (w *writer) newFile() sluice.FileID {
	w.meta.file++
	return sluice.FileID(w.meta.file)
}

// newContent returns the next content id.
func (w *writer) newContent() sluice.ContentID {
	w.meta.content++
	return sluice.ContentID{Incarnation: w.meta.incarnation[len(w.meta.incarnation)-1], Counter: w.meta.content}
}

// newNode makes the node of something made here by a user.
func (w *writer) newNode(by *sluice.Principal, dir *node, flags uint32, mode sluice.Mode) *node {
	owner, group := dir.perm.owner, dir.perm.group
	if by != nil && by.User != "" {
		owner = by.User
		if dir.perm.mode&0o2000 == 0 && len(by.Groups) > 0 {
			group = by.Groups[0]
		}
	}
	mode &= sluice.ModeMask
	if dir.perm.mode&0o2000 != 0 && flags&flagDir != 0 {
		mode |= 0o2000
	}
	return &node{
		id: w.newFile(), flags: flags | flagLocal | flagMade | flagUserAttrs, perm: w.permFor(owner, group, mode),
		mtime: w.wall, ctime: w.wall, changed: w.index,
	}
}

// setTTL gives a node a time to live that begins at this entry; 0 is none.
func (w *writer) setTTL(n *node, after int64, action sluice.TTLAction) {
	n.ttl = nil
	if after > 0 {
		n.ttl = &ttl{after: after, due: w.tick + after, epoch: uint64(w.index), action: action}
	}
}

// addWriter notes the right to write a content of a file.
func (w *writer) addWriter(file sluice.FileID, c sluice.ContentID, r *writerRow) error {
	w.put(writerKey(file, c), r)
	w.put(sessionOfKey(r.session, file, c), nothing{})
	w.put(contentKey(c), &contentRow{file: file})
	return w.count(r.mount, countsRow{writers: 1})
}

// endWriterRows takes a writer's rows away; with content those of the content too.
func (w *writer) endWriterRows(file sluice.FileID, c sluice.ContentID, r *writerRow, content bool) error {
	w.del(writerKey(file, c))
	w.del(sessionOfKey(r.session, file, c))
	if content {
		w.del(contentKey(c))
	}
	return w.count(r.mount, countsRow{writers: -1})
}

// writersOf returns the writers of a file.
func (w *writer) writersOf(file sluice.FileID, f func(c sluice.ContentID, r *writerRow)) error {
	p := key64(tagWriter, uint64(file))
	return w.scan(p, prefixEnd(p), func(key string, r row) (bool, error) {
		f(sluice.ContentID{Incarnation: sluice.Incarnation(be64(key, 9)), Counter: be64(key, 17)}, r.(*writerRow))
		return true, nil
	})
}

// dropWriters ends all writers of a file.
func (w *writer) dropWriters(file sluice.FileID) error {
	type one struct {
		c sluice.ContentID
		r *writerRow
	}
	var all []one
	if err := w.writersOf(file, func(c sluice.ContentID, r *writerRow) { all = append(all, one{c, r}) }); err != nil {
		return err
	}
	for _, x := range all {
		if err := w.endWriterRows(file, x.c, x.r, true); err != nil {
			return err
		}
	}
	return nil
}

// dropWriter ends a writer whose content is not published. An entry that was only its
// own disappears.
func (w *writer) dropWriter(file sluice.FileID, c sluice.ContentID, r *writerRow, content bool) error {
	if err := w.endWriterRows(file, c, r, content); err != nil {
		return err
	}
	p, err := locate(w, file)
	if err != nil || !p.found() {
		return err
	}
	left := 0
	if err := w.writersOf(file, func(sluice.ContentID, *writerRow) { left++ }); err != nil || left > 0 {
		return err
	}
	if p.node.has(flagComplete) {
		n := *p.node
		n.set(flagWriters, false)
		return w.set(&p, &n)
	}
	if err := w.dropNode(p.mountID(), p.parent, p.name, p.node); err != nil {
		return err
	}
	return w.touch(p.dir)
}

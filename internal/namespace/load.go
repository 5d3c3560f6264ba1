package namespace

import (
	"errors"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// loader brings in what a store was seen to have. With no writer it only finds out
// whether there is anything to change.
type loader struct {
	v      view
	w      *writer // nil: dry
	c      *wire.LoadChildren
	noted  sluice.Index
	mount  *mountRow
	dir    place
	loaded uint32
	added  bool // an entry was made: the directories above are in the store
	more   bool // absent directories have more below than one step takes
}

// errNeeded ends a dry run.
var errNeeded = errors.New("there is something to change")

// loadChildren is LoadChildren.
func (w *writer) loadChildren(c *wire.LoadChildren) (*wire.Answer, error) {
	if len(c.Objects) > maxRows {
		return nil, fail(sluice.TooLarge, "%d objects in one step; at most %d", len(c.Objects), maxRows)
	}
	l := &loader{v: w, w: w, c: c, noted: sluice.Index(c.Noted)}
	if err := l.run(); err != nil {
		return nil, err
	}
	return &wire.Answer{Loaded: l.loaded, More: l.more}, nil
}

// NeedsLoad says whether applying the command could change anything, so that what is
// known already is not proposed again. Where it cannot tell, it says yes.
func (s *State) NeedsLoad(c *wire.LoadChildren) bool {
	look := s.look
	if c.Complete || len(c.Objects) > 1 {
		look = s.lookAt // memory alone will not do
	}
	err := look(func(v view) error {
		l := &loader{v: v, c: c, noted: sluice.Index(c.Noted)}
		return l.run()
	})
	return err != nil
}

// change makes one change, or in a dry run ends it.
func (l *loader) change(f func() error) error {
	if l.w == nil {
		return errNeeded
	}
	l.loaded++
	return f()
}

func (l *loader) run() error {
	path, err := parsePath(l.c.Dir)
	if err != nil {
		return err
	}
	if l.mount = l.v.table().byID(sluice.MountID(l.c.Mount)); l.mount == nil || !l.mount.mount.Path.Contains(path) {
		return fail(sluice.NotFound, "the mount is not there any more")
	}
	if l.dir, err = walk(l.v, nil, path); err != nil {
		return err
	}
	p := &l.dir
	if p.mountID() != l.mount.mount.ID {
		return fail(sluice.NotFound, "another mount is there")
	}
	if p.moved > l.noted || l.busy(span{p.key(), false}, true) {
		return nil
	}
	if l.c.Gone {
		if !p.found() || path == l.mount.mount.Path {
			return nil
		}
		return l.absent(p.at, p.key())
	}
	if !p.found() {
		if ok, err := l.makeMissing(); err != nil || !ok {
			return err
		}
	}
	if !p.node.dir() {
		return fail(sluice.NotDirectory, "it is a %s here", p.node.kind())
	}
	seen := make(map[string]bool, len(l.c.Objects))
	for _, o := range l.c.Objects {
		seen[o.Key] = true
		if err := l.object(o); err != nil {
			return err
		}
	}
	if l.c.Complete {
		if err := l.absentOf(seen); err != nil {
			return err
		}
	}
	if l.w != nil && l.added {
		return l.w.storedAbove(&place{path: path.Join("x"), mount: l.mount})
	}
	return nil
}

// busy says whether an open intent touches the key, so that what a listing says of it
// cannot be trusted. A dry run does not know.
func (l *loader) busy(s span, ahead bool) bool {
	if l.w == nil {
		return false
	}
	return l.w.open.find(l.mount.mount.ID, s, ahead) != 0
}

// makeMissing makes the directories down to the listed one: the store has them, since
// something lies below. False: they went after the listing, or there is nothing.
func (l *loader) makeMissing() (bool, error) {
	p := &l.dir
	if len(l.c.Objects) == 0 {
		return false, nil
	}
	if ok, err := l.maybeNew(p.deepest.node.id, p.missing[0]); err != nil || !ok {
		return false, err
	}
	return true, l.change(func() error {
		dir := p.deepest
		for _, name := range p.missing {
			n := l.newNode(&wire.Object{Dir: true})
			if err := l.w.addNode(p.mountID(), dir.node.id, name, n); err != nil {
				return err
			}
			p.dir, dir = dir, at{dir.node.id, name, n}
		}
		p.at, p.missing = dir, nil
		return nil
	})
}

// maybeNew says whether a name that is not here may be believed to be in the store: it
// did not go after the listing was begun.
func (l *loader) maybeNew(dir sluice.FileID, name string) (bool, error) {
	if l.w != nil && l.noted < l.w.meta.tombFloor {
		return false, nil
	}
	t, err := as[tombRow](l.v.get(childKey(tagTomb, dir, name)))
	return t == nil || t.index <= l.noted, err
}

// object brings in one object.
func (l *loader) object(o *wire.Object) error {
	if sluice.CheckName(o.Key) != nil {
		return nil
	}
	dir := l.dir.node.id
	n, err := child(l.v, dir, o.Key)
	if err != nil {
		return err
	}
	key := joinKey(l.dir.key(), o.Key)
	if n != nil && (n.changed > l.noted || n.has(flagMount)) || l.busy(span{key, false}, true) {
		return nil
	}
	if n == nil {
		if ok, err := l.maybeNew(dir, o.Key); err != nil || !ok {
			return err
		}
		return l.change(func() error { return l.add(o) })
	}
	e := at{dir, o.Key, n}
	switch {
	case n.dir() && o.Dir:
		return l.sameDir(e, o)
	case n.dir():
		if !n.inStore() {
			return nil // the directory wins
		}
		return l.replace(e, key, o)
	case o.Dir:
		if !n.inStore() || n.persist != sluice.Persisted {
			return nil // what is not yet in the store is not given up
		}
		return l.replace(e, key, o)
	default:
		return l.sameFile(e, o)
	}
}

// replace puts a file in the place of a directory that is gone, or the other way.
func (l *loader) replace(e at, key string, o *wire.Object) error {
	if err := l.absent(e, key); err != nil {
		return err
	}
	left, err := child(l.v, e.parent, e.name)
	if err != nil || left != nil {
		return err
	}
	return l.change(func() error { return l.add(o) })
}

// add makes an entry.
func (l *loader) add(o *wire.Object) error {
	l.added = true
	return l.w.addNode(l.mount.mount.ID, l.dir.node.id, o.Key, l.newNode(o))
}

// newNode makes the node of something that a store has.
func (l *loader) newNode(o *wire.Object) *node {
	w := l.w
	owner, group, mode := l.shownPerm(o)
	n := &node{id: w.newFile(), perm: w.permFor(owner, group, mode), mtime: o.Mtime}
	if n.mtime == 0 {
		n.mtime = w.wall
	}
	n.ctime = n.mtime
	switch {
	case o.Dir:
		n.flags = flagDir
		n.version = ""
	case o.Target != "":
		n.flags, n.target, n.version = flagSymlink|flagStoreLink, o.Target, sluice.Version(o.Version)
	default:
		n.flags = flagComplete
		l.fill(n, o)
	}
	return n
}

// fill gives a file's node the content of an object.
func (l *loader) fill(n *node, o *wire.Object) {
	n.length, n.version, n.storeAt = o.Length, sluice.Version(o.Version), o.Mtime
	n.extents = nil
	if o.Length > 0 {
		size := l.mount.mount.Options.BlockSize
		if size <= 0 {
			size = sluice.DefaultBlockSize
		}
		n.extents = []sluice.Extent{{Content: l.w.newContent(), Count: uint32((o.Length-1)/size + 1), BlockSize: size}}
	}
	l.w.holdPinned(n)
}

// shownPerm is what users see of an object's owner, group and mode.
func (l *loader) shownPerm(o *wire.Object) (owner, group string, mode sluice.Mode) {
	m := &l.mount.mount.Options
	if o.Native {
		return first(o.Owner, m.Owner), first(o.Group, m.Group), sluice.Mode(o.Mode)
	}
	mode = m.FileMode
	if mode == 0 {
		mode = 0o644
	}
	if o.Dir {
		if mode = m.DirMode; mode == 0 {
			mode = 0o755
		}
	}
	return m.Owner, m.Group, mode
}

// permChanged says whether the store's own owner, group or mode is another than shown.
func (l *loader) permChanged(n *node, o *wire.Object) bool {
	if !o.Native || n.has(flagUserAttrs) {
		return false
	}
	owner, group, mode := l.shownPerm(o)
	return n.perm.owner != owner || n.perm.group != group || n.perm.mode != mode
}

// sameDir notes that a directory is in the store.
func (l *loader) sameDir(e at, o *wire.Object) error {
	seen := e.node.has(flagLocal)
	perm := !seen && l.permChanged(e.node, o) // one made here keeps what its maker gave it
	if !seen && !perm {
		return nil
	}
	return l.change(func() error {
		n := *e.node
		n.set(flagLocal, false)
		if perm {
			n.perm = l.w.permFor(l.shownPerm(o))
			l.w.changed = append(l.w.changed, n.id)
		}
		return l.w.setNode(l.mount.mount.ID, e.parent, e.name, e.node, &n)
	})
}

// sameFile compares a file with its object.
func (l *loader) sameFile(e at, o *wire.Object) error {
	old := e.node
	link := old.has(flagSymlink)
	switch {
	case !link && !old.has(flagComplete), link && !old.has(flagStoreLink), old.persist != sluice.Persisted:
		return nil // what is not yet in the store is not given up
	case link != (o.Target != ""):
		return l.replace(e, joinKey(l.dir.key(), e.name), o)
	}
	changed := old.version != sluice.Version(o.Version) || old.has(flagLocal) || old.target != o.Target
	if !link && o.Version == "" {
		changed = changed || old.length != o.Length || old.storeAt != o.Mtime
	}
	perm := l.permChanged(old, o)
	if !changed && !perm {
		return nil
	}
	return l.change(func() error {
		n := *old
		n.set(flagLocal, false)
		if perm {
			n.perm = l.w.permFor(l.shownPerm(o))
		}
		if changed {
			l.take(&n, o, link)
		}
		l.w.changed = append(l.w.changed, n.id)
		return l.w.setNode(l.mount.mount.ID, e.parent, e.name, old, &n)
	})
}

// take gives a file that changed in the store its new content.
func (l *loader) take(n *node, o *wire.Object, link bool) {
	if n.has(flagHeld) {
		for _, x := range n.extents {
			l.w.del(contentKey(x.Content))
		}
		n.set(flagHeld, false)
	}
	if o.Mtime != 0 {
		n.mtime, n.atime = o.Mtime, 0
	}
	n.ctime = l.w.wall
	if link {
		n.target, n.version = o.Target, sluice.Version(o.Version)
		return
	}
	l.fill(n, o)
}

// absentOf takes away the entries of the listed range that the store does not have.
func (l *loader) absentOf(seen map[string]bool) error {
	type entry struct {
		name string
		n    *node
	}
	var gone []entry
	err := children(l.v, l.dir.node.id, l.c.After, func(name string, n *node) (bool, error) {
		if l.c.Upto != "" && name > l.c.Upto {
			return false, nil
		}
		if !seen[name] && n.inStore() && n.changed <= l.noted && !(n.dir() && n.has(flagMade) && l.keepsMade(n)) {
			if len(gone) >= maxRows {
				l.more = true
				return false, nil
			}
			gone = append(gone, entry{name, n})
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, e := range gone {
		if err := l.absent(at{l.dir.node.id, e.name, e.n}, joinKey(l.dir.key(), e.name)); err != nil {
			return err
		}
	}
	return nil
}

// keepsMade says whether a directory made here stays as it is when the store has
// nothing below it: only one with entries may have some that are gone.
func (l *loader) keepsMade(n *node) bool {
	none, err := empty(l.v, n.id)
	return err == nil && none && n.has(flagLocal)
}

// absent takes away an entry that the store does not have, with what is below it, as
// far as it was seen in the store and not changed since. What is not in the store yet
// stays, and the directories above it.
func (l *loader) absent(e at, key string) error {
	kept := map[sluice.FileID]bool{} // directories that keep something
	rows := 0
	var gone []leaf
	_, err := postOrder(l.v, leaf{e, key}, func(x leaf) (bool, error) {
		if rows++; rows > maxRows {
			l.more = true
			return false, nil
		}
		n := x.node
		if !n.inStore() || n.changed > l.noted || n.moved > l.noted || kept[n.id] || l.busy(span{x.key, n.dir()}, true) {
			kept[x.parent] = true
			return true, nil
		}
		if n.persist != sluice.Persisted || n.has(flagWriters) || n.dir() && n.has(flagMade) {
			kept[x.parent] = true
		}
		gone = append(gone, x)
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, x := range gone {
		if err := l.change(func() error { return l.takeAway(x.at) }); err != nil {
			return err
		}
	}
	return nil
}

// takeAway drops an entry, or makes of it what is here only.
func (l *loader) takeAway(e at) error {
	old := e.node
	switch {
	case old.persist != sluice.Persisted, old.dir() && old.has(flagMade):
		n := *old
		n.set(flagLocal, true)
		n.version, n.storeAt = "", 0
		return l.w.setNode(l.mount.mount.ID, e.parent, e.name, old, &n)
	case old.has(flagWriters):
		n := *old
		n.set(flagLocal, true)
		n.set(flagComplete, false)
		n.set(flagHeld, false)
		if old.has(flagHeld) {
			for _, x := range old.extents {
				l.w.del(contentKey(x.Content))
			}
		}
		n.extents, n.length, n.version, n.storeAt = nil, 0, "", 0
		l.w.changed = append(l.w.changed, n.id)
		return l.w.setNode(l.mount.mount.ID, e.parent, e.name, old, &n)
	}
	if old.dir() {
		none, err := empty(l.v, old.id)
		if err != nil || !none {
			return err
		}
	}
	return l.w.dropNode(l.mount.mount.ID, e.parent, e.name, old)
}

package namespace

import (
	"fmt"

	"github.com/sluicefs/sluice"
)

// Check verifies every invariant of the state by reading all of it, and returns the
// first that does not hold, with kind Corrupt. It runs beside everything else, but what
// Apply keeps in memory it compares only when Apply is not at work: tests call it
// between entries.
func (s *State) Check() error {
	err := s.lookAt(func(v view) error {
		c := &checker{v: v, counts: map[sluice.MountID]countsRow{}, ids: map[sluice.FileID]bool{}, contents: map[sluice.ContentID]sluice.FileID{}}
		return c.run()
	})
	if err != nil {
		return &sluice.Error{Op: "check state", Kind: sluice.Corrupt, Err: err}
	}
	return nil
}

// checker gathers what the rows say together.
type checker struct {
	v        view
	meta     *metaRow
	counts   map[sluice.MountID]countsRow
	ids      map[sluice.FileID]bool
	contents map[sluice.ContentID]sluice.FileID // that must have a row
	due      int
}

func (c *checker) run() error {
	meta, err := as[metaRow](c.v.get([]byte{tagMeta}))
	if err != nil || meta == nil {
		return err
	}
	c.meta = meta
	if len(meta.incarnation) == 0 {
		return nil
	}
	root, err := child(c.v, rootKeyParent, "")
	if err != nil {
		return err
	}
	if root == nil || root.id != sluice.RootID || !root.dir() {
		return fmt.Errorf("there is no root directory")
	}
	steps := []func() error{
		func() error { return c.tree(at{rootKeyParent, "", root}, "/", 0) },
		c.detached, c.hidden, c.nodes, c.names, c.ttls, c.contentRows, c.writers, c.answers, c.intents, c.counters,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// tree checks an entry and all below.
func (c *checker) tree(e at, path string, mount sluice.MountID) error {
	n := e.node
	if n.has(flagMount) {
		r := c.v.table().byRoot[n.id]
		if r == nil {
			return fmt.Errorf("%s is a mount point without a mount", path)
		}
		if string(r.mount.Path) != path {
			return fmt.Errorf("the mount %s lies at %s", r.mount.Path, path)
		}
		mount = r.mount.ID
	}
	if err := c.node(e, path, mount); err != nil {
		return err
	}
	if !n.dir() {
		return nil
	}
	if path == "/" {
		path = ""
	}
	return children(c.v, n.id, "", func(name string, x *node) (bool, error) {
		if err := sluice.CheckName(name); err != nil {
			return false, fmt.Errorf("below %s: %w", path, err)
		}
		return true, c.tree(at{n.id, name, x}, path+"/"+name, mount)
	})
}

// node checks one inode by itself.
func (c *checker) node(e at, path string, mount sluice.MountID) error {
	n := e.node
	switch {
	case c.ids[n.id]:
		return fmt.Errorf("%s: the inode %d has another name too", path, n.id)
	case uint64(n.id) > c.meta.file:
		return fmt.Errorf("%s: the inode %d was not given out yet", path, n.id)
	case n.changed > c.meta.applied:
		return fmt.Errorf("%s changed at %d, after %d", path, n.changed, c.meta.applied)
	case n.dir() && (len(n.extents) > 0 || n.length != 0):
		return fmt.Errorf("the directory %s has content", path)
	case n.has(flagSymlink) && n.target == "":
		return fmt.Errorf("the link %s has no target", path)
	case n.file() && !n.has(flagComplete) && (len(n.extents) > 0 || !n.has(flagWriters)):
		return fmt.Errorf("the incomplete file %s has content or no writer", path)
	case n.has(flagKey) && mount == 0:
		return fmt.Errorf("%s has a store key outside of mounts", path)
	case mount == 0 && n.inStore():
		return fmt.Errorf("%s is in a store outside of mounts", path)
	}
	c.ids[n.id] = true
	c.counts[mount] = c.counts[mount].add(countsOf(n))
	if n.id != sluice.RootID {
		r, err := as[nameRow](c.v.get(nameKey(n.id)))
		if err != nil {
			return err
		}
		if r == nil || r.parent != e.parent || r.name != e.name {
			return fmt.Errorf("%s: the inode %d does not name it in return", path, n.id)
		}
	}
	x, err := c.v.get(xattrsKey(n.id))
	if err != nil {
		return err
	}
	if (x != nil) != n.has(flagXAttrs) {
		return fmt.Errorf("%s: extended attributes %v, its flag says %v", path, x != nil, n.has(flagXAttrs))
	}
	return c.belongings(n, path)
}

// belongings checks the rows that an inode's fields stand for.
func (c *checker) belongings(n *node, path string) error {
	if n.ttl != nil {
		c.due++
		if r, err := c.v.get(ttlKey(n.ttl.due, n.id)); err != nil || r == nil {
			return fmt.Errorf("%s: its time to live is in no queue (%w)", path, err)
		}
	}
	var length int64
	for i, x := range n.extents {
		if x.Count == 0 || x.BlockSize <= 0 {
			return fmt.Errorf("%s: its extent %d is empty", path, i)
		}
		length += int64(x.Count) * x.BlockSize
		if n.has(flagHeld) {
			c.contents[x.Content] = n.id
		}
	}
	if last := len(n.extents) - 1; last >= 0 && (n.length > length || n.length <= length-n.extents[last].BlockSize) {
		return fmt.Errorf("%s: %d bytes do not fit its extents of %d", path, n.length, length)
	}
	if n.length > 0 && n.file() && len(n.extents) == 0 {
		return fmt.Errorf("%s: %d bytes without an extent", path, n.length)
	}
	return nil
}

func (c *checker) detached() error {
	return all(c.v, tagDetached, func(key string, r row) (bool, error) {
		d := r.(*detachedRow)
		id := be64(key, 1)
		parent := detachedBit | sluice.FileID(id)
		n, err := child(c.v, parent, "")
		if err != nil || n == nil {
			return true, err
		}
		clean := *n // a detached mount point is no mount point any more
		return true, c.loose(at{parent, "", &clean}, fmt.Sprintf("detached %d", id), d.mount)
	})
}

// loose checks a subtree that is not in the tree.
func (c *checker) loose(e at, path string, mount sluice.MountID) error {
	if err := c.node(e, path, mount); err != nil {
		return err
	}
	if !e.node.dir() {
		return nil
	}
	return children(c.v, e.node.id, "", func(name string, x *node) (bool, error) {
		return true, c.loose(at{e.node.id, name, x}, path+"/"+name, mount)
	})
}

func (c *checker) hidden() error {
	return all(c.v, tagHidden, func(key string, r row) (bool, error) {
		parent, name := sluice.FileID(be64(key, 1)), key[9:]
		over, err := child(c.v, parent, name)
		if err != nil {
			return false, err
		}
		if over == nil || !over.has(flagMount) {
			return false, fmt.Errorf("%q is shadowed by no mount point", name)
		}
		path, _, err := pathOf(c.v, parent)
		if err != nil {
			return false, err
		}
		p, err := walk(c.v, nil, path)
		if err != nil {
			return false, err
		}
		return true, c.loose(at{parent, name, r.(*node)}, "shadowed "+name, p.mountID())
	})
}

// nodes finds those that no walk reaches.
func (c *checker) nodes() error {
	return all(c.v, tagNode, func(key string, r row) (bool, error) {
		if n := r.(*node); !c.ids[n.id] {
			return false, fmt.Errorf("the inode %d (%q) can be reached from nowhere", n.id, key[9:])
		}
		return true, nil
	})
}

func (c *checker) names() error {
	for _, tag := range []byte{tagName, tagXAttrs} {
		err := all(c.v, tag, func(key string, _ row) (bool, error) {
			if id := sluice.FileID(be64(key, 1)); !c.ids[id] {
				return false, fmt.Errorf("a row %q is left of the inode %d", tag, id)
			}
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) ttls() error {
	n := 0
	err := all(c.v, tagTTL, func(string, row) (bool, error) {
		n++
		return true, nil
	})
	if err == nil && n != c.due {
		err = fmt.Errorf("%d times to live are queued, %d inodes have one", n, c.due)
	}
	return err
}

func (c *checker) contentRows() error {
	writers := map[sluice.ContentID]bool{}
	err := all(c.v, tagWriter, func(key string, _ row) (bool, error) {
		writers[sluice.ContentID{Incarnation: sluice.Incarnation(be64(key, 9)), Counter: be64(key, 17)}] = true
		return true, nil
	})
	if err != nil {
		return err
	}
	found := 0
	err = all(c.v, tagContent, func(key string, r row) (bool, error) {
		id := sluice.ContentID{Incarnation: sluice.Incarnation(be64(key, 1)), Counter: be64(key, 9)}
		file, has := c.contents[id]
		if has && file == r.(*contentRow).file {
			found++
		} else if !writers[id] {
			return false, fmt.Errorf("a row is left of the content %s", id)
		}
		return true, nil
	})
	if err == nil && found != len(c.contents) {
		err = fmt.Errorf("%d held contents have a row, %d should", found, len(c.contents))
	}
	return err
}

func (c *checker) writers() error {
	return all(c.v, tagWriter, func(key string, r row) (bool, error) {
		w, file := r.(*writerRow), sluice.FileID(be64(key, 1))
		content := sluice.ContentID{Incarnation: sluice.Incarnation(be64(key, 9)), Counter: be64(key, 17)}
		c.counts[w.mount] = c.counts[w.mount].add(countsRow{writers: 1})
		if !c.ids[file] {
			return false, fmt.Errorf("the writer of %s has no file", content)
		}
		if w.intent == 0 {
			x, err := c.v.get(sessionOfKey(w.session, file, content))
			if err != nil || x == nil {
				return false, fmt.Errorf("the writer of %s is not its session's (%w)", content, err)
			}
			return true, nil
		}
		i, err := c.v.get(key64(tagIntent, w.intent))
		if err != nil || i == nil {
			return false, fmt.Errorf("the writer of %s waits for the intent %d, which is not there (%w)", content, w.intent, err)
		}
		return true, nil
	})
}

func (c *checker) answers() error {
	return all(c.v, tagAnswer, func(key string, r row) (bool, error) {
		a := r.(*answerRow)
		if a.intent == 0 {
			return true, nil
		}
		i, err := c.v.get(key64(tagIntent, a.intent))
		if err == nil && i == nil {
			err = fmt.Errorf("an answer waits for the intent %d, which is not there", a.intent)
		}
		return true, err
	})
}

// intents: their footprints do not overlap.
func (c *checker) intents() error {
	open := newFootprints()
	return all(c.v, tagIntent, func(_ string, r row) (bool, error) {
		i := &r.(*intentRow).Intent
		if c.v.table().byID(i.Mount) == nil {
			return false, fmt.Errorf("the intent %d has no mount", i.ID)
		}
		for _, s := range i.footprint() {
			if id := open.find(i.Mount, s, true); id != 0 {
				return false, fmt.Errorf("the intents %d and %d overlap at %q", id, i.ID, s.key)
			}
		}
		open.add(i)
		return true, nil
	})
}

func (c *checker) counters() error {
	err := all(c.v, tagCounts, func(key string, r row) (bool, error) {
		mount := sluice.MountID(be64(key, 1))
		if want := c.counts[mount]; *r.(*countsRow) != want {
			return false, fmt.Errorf("the counters of mount %d are %+v, counted are %+v", mount, *r.(*countsRow), want)
		}
		delete(c.counts, mount)
		return true, nil
	})
	if err != nil {
		return err
	}
	for mount, want := range c.counts {
		if want != (countsRow{}) {
			return fmt.Errorf("mount %d has no counters, counted are %+v", mount, want)
		}
	}
	return nil
}

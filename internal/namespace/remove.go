package namespace

import (
	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// remove is Remove.
func (w *writer) remove(c *wire.Remove, by *sluice.Principal, r sluice.RequestID) (*wire.Answer, error) {
	path, err := parsePath(c.Path)
	if err != nil {
		return nil, err
	}
	p, err := walkTo(w, by, path)
	if err != nil {
		return nil, err
	}
	return w.removeAt(&p, c.Recursive, c.CacheOnly, by, r)
}

// removeAt removes what is at a place.
func (w *writer) removeAt(p *place, recursive, cacheOnly bool, by *sluice.Principal, r sluice.RequestID) (*wire.Answer, error) {
	n := p.node
	switch {
	case p.path == sluice.Root:
		return nil, fail(sluice.Busy, "the root stays")
	case n.has(flagMount):
		return nil, fail(sluice.Busy, "it is a mount point; unmount it")
	case n.dir() && w.mounts.inside(p.path) != nil:
		return nil, fail(sluice.Busy, "%s is mounted inside", w.mounts.inside(p.path).mount.Path)
	}
	if !cacheOnly {
		if err := writable(p); err != nil {
			return nil, err
		}
	}
	if err := mayUnlink(by, p.dir.node, n); err != nil {
		return nil, err
	}
	none := true
	if n.dir() {
		var err error
		if none, err = empty(w, n.id); err != nil {
			return nil, err
		}
		if !none && !recursive {
			return nil, kindError(sluice.NotEmpty)
		}
		if !none {
			if _, err := mayEmpty(w, by, p.at, maxRows); err != nil {
				return nil, err
			}
		}
	}
	if none {
		return w.removeOne(p, cacheOnly, by, r)
	}
	return w.removeTree(p, cacheOnly, by, r)
}

// mayEmpty judges the removal of all that a directory contains as if it were done entry
// by entry: every directory with entries must be readable, writable and searchable, and
// a sticky one gives up only what by owns. It looks at limit entries (0: all) and
// returns how many are left to look at.
func mayEmpty(v view, by *sluice.Principal, dir at, limit int) (left int, err error) {
	if by == nil || by.Super {
		return limit, nil
	}
	if limit == 0 {
		limit = -1
	}
	err = children(v, dir.node.id, "", func(name string, n *node) (bool, error) {
		if limit--; limit == 0 {
			return false, nil
		}
		if !allowed(by, dir.node, MayRead|MayWrite|MayExecute) {
			return false, fail(sluice.Permission, "%s may not empty the directory", by.User)
		}
		if err := mayUnlink(by, dir.node, n); err != nil || !n.dir() {
			return err == nil, err
		}
		var err error
		limit, err = mayEmpty(v, by, at{dir.node.id, name, n}, limit)
		return limit != 0, err
	})
	return limit, err
}

// MayEmpty says whether by may remove a directory with all that it contains, as far as
// that is known here. The desk asks before it proposes a removal: Apply looks at no
// more entries than a command may have. Kinds as of Stat.
func (s *State) MayEmpty(by sluice.Principal, path sluice.Path) error {
	return s.lookAt(func(v view) error {
		p, err := walkTo(v, &by, path)
		if err != nil || !p.node.dir() {
			return err
		}
		_, err = mayEmpty(v, &by, p.at, 0)
		return err
	})
}

// removeOne removes a file, link or empty directory.
func (w *writer) removeOne(p *place, cacheOnly bool, by *sluice.Principal, r sluice.RequestID) (*wire.Answer, error) {
	n := p.node
	stored := p.mount != nil && n.inStore() && !cacheOnly
	s := span{p.key(), n.dir()}
	if err := w.clear(p.mountID(), s, stored); err != nil {
		return nil, err
	}
	if !stored {
		return &wire.Answer{}, w.unlink(p)
	}
	op := OpRemove
	if n.dir() {
		op = OpRmdir
	}
	i := w.newIntent(op, p, by, r)
	i.Key, i.Version, i.File = s.key, n.version, n.id
	if n.dir() {
		i.Key += "/"
	}
	return w.beginIntent(i), nil
}

// unlink takes an entry away here.
func (w *writer) unlink(p *place) error {
	if err := w.dropNode(p.mountID(), p.parent, p.name, p.node); err != nil {
		return err
	}
	w.bury(p.mountID(), p.parent, p.name)
	return w.touch(p.dir)
}

// removeTree detaches a directory with all that is in it, to be taken away in steps.
func (w *writer) removeTree(p *place, cacheOnly bool, by *sluice.Principal, r sluice.RequestID) (*wire.Answer, error) {
	stored := p.mount != nil && !cacheOnly
	key := p.key()
	if err := w.clear(p.mountID(), span{key, true}, true); err != nil {
		return nil, err
	}
	d := &detachedRow{mount: p.mountID(), path: p.path, key: key}
	var i *Intent
	if stored {
		i = w.newIntent(OpRemoveTree, p, by, r)
		i.Key, i.File = key+"/", p.node.id
		d.intent = i.ID
	}
	id := w.detach(p, d)
	w.bury(p.mountID(), p.parent, p.name)
	if err := w.touch(p.dir); err != nil {
		return nil, err
	}
	w.changed = append(w.changed, p.node.id, 0) // 0: whatever lies below
	if i == nil {
		return &wire.Answer{Detached: id}, nil
	}
	i.Detached = id
	return w.beginIntent(i), nil
}

// detach takes the subtree at a place out of the tree.
func (w *writer) detach(p *place, d *detachedRow) uint64 {
	w.meta.intent++
	id := w.meta.intent
	d.since = w.tick
	parent := detachedBit | sluice.FileID(id)
	w.put(key64(tagDetached, id), d)
	w.moveNode(p.parent, p.name, parent, "", p.node)
	return id
}

// finishRemove takes away what a store has removed.
func (w *writer) finishRemove(i *Intent) (*wire.Answer, error) {
	p, err := locate(w, i.File)
	if err != nil {
		return nil, err
	}
	if !p.found() {
		return &wire.Answer{}, nil
	}
	if p.node.dir() {
		none, err := empty(w, p.node.id)
		if err != nil {
			return nil, err
		}
		if !none { // something was made in it meanwhile: it stays, as ours
			n := *p.node
			n.set(flagLocal, true)
			if err := w.set(&p, &n); err != nil {
				return nil, err
			}
			return answerOf(kindError(sluice.NotEmpty)), nil
		}
	}
	return &wire.Answer{}, w.unlink(&p)
}

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
		if !none && !allowed(by, n, MayRead|MayWrite|MayExecute) {
			return nil, fail(sluice.Permission, "%s may not empty the directory", by.User)
		}
	}
	if none {
		return w.removeOne(p, cacheOnly, by, r)
	}
	return w.removeTree(p, cacheOnly, by, r)
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

package namespace

import (
	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// leaf is one inode of a detached subtree, in the order of removal.
type leaf struct {
	at
	key string // the store's, without "/"
}

// postOrder calls f for what lies below the entry e, children before their directory,
// and for e itself, until f says false. Memory is bounded by the depth.
func postOrder(v view, e leaf, f func(leaf) (bool, error)) (bool, error) {
	if e.node.dir() {
		on := true
		err := children(v, e.node.id, "", func(name string, n *node) (bool, error) {
			key := joinKey(e.key, name)
			if n.has(flagKey) {
				key = n.key
			}
			var err error
			on, err = postOrder(v, leaf{at{e.node.id, name, n}, key}, f)
			return on, err
		})
		if err != nil || !on {
			return false, err
		}
	}
	return f(e)
}

// detachedRoot returns a detached row and its root, nil where they are gone.
func detachedRoot(v view, id uint64) (*detachedRow, *leaf, error) {
	d, err := as[detachedRow](v.get(key64(tagDetached, id)))
	if err != nil || d == nil {
		return nil, nil, err
	}
	parent := detachedBit | sluice.FileID(id)
	n, err := child(v, parent, "")
	if err != nil || n == nil {
		return d, nil, err
	}
	return d, &leaf{at{parent, "", n}, d.key}, nil
}

// reap is Reap: it takes the first rows of a detached subtree away. With nothing left
// to take, reaped is 0 and more is false.
func (w *writer) reap(c *wire.Reap) (*wire.Answer, error) {
	limit := int(min(c.Limit, maxRows))
	d, root, err := detachedRoot(w, c.Detached)
	if err != nil || d == nil {
		return &wire.Answer{}, err
	}
	if d.session != 0 {
		n, more, err := w.reapSession(d.session, limit)
		if !more {
			w.del(key64(tagDetached, c.Detached))
		}
		return &wire.Answer{Reaped: uint64(n), More: more}, err
	}
	if root == nil {
		if d.intent == 0 {
			w.del(key64(tagDetached, c.Detached))
		}
		return &wire.Answer{}, nil
	}
	var gone []leaf
	more := false
	_, err = postOrder(w, *root, func(l leaf) (bool, error) {
		if len(gone) >= limit {
			more = true
			return false, nil
		}
		gone = append(gone, l)
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	for _, l := range gone {
		if err := w.dropNode(d.mount, l.parent, l.name, l.node); err != nil {
			return nil, err
		}
	}
	if !more && d.intent == 0 {
		w.del(key64(tagDetached, c.Detached))
	}
	return &wire.Answer{Reaped: uint64(len(gone)), More: more}, nil
}

// releaseDetached lets go of what an intent had detached: what is left of it is reaped
// without a store.
func (w *writer) releaseDetached(id uint64) error {
	d, root, err := detachedRoot(w, id)
	if err != nil || d == nil {
		return err
	}
	if root == nil {
		w.del(key64(tagDetached, id))
		return nil
	}
	c := *d
	c.intent = 0
	w.put(key64(tagDetached, id), &c)
	return nil
}

// expireTTL is ExpireTTL.
func (w *writer) expireTTL(c *wire.ExpireTTL) (*wire.Answer, error) {
	p, err := locate(w, sluice.FileID(c.File))
	if err != nil {
		return nil, err
	}
	if !p.found() {
		return nil, fail(sluice.NotFound, "it is gone")
	}
	t := p.node.ttl
	if t == nil || t.epoch != c.Epoch || t.due > w.tick {
		return nil, fail(sluice.Stale, "its time to live was changed")
	}
	if t.action == sluice.TTLDelete {
		return w.removeAt(&p, true, false, nil, sluice.RequestID{})
	}
	n := *p.node
	n.ttl = nil
	w.changed = append(w.changed, n.id)
	if err := w.set(&p, &n); err != nil {
		return nil, err
	}
	return &wire.Answer{Info: wire.FromFileInfo(p.info())}, nil
}

package namespace

import (
	"maps"
	"slices"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// The bounds of extended attributes, in bytes.
const (
	maxXAttrName = 255
	maxXAttrs    = 64 << 10 // names and values of one inode
)

// setAttr is SetAttr.
func (w *writer) setAttr(c *wire.SetAttr, by *sluice.Principal) (*wire.Answer, error) {
	path, err := parsePath(c.Path)
	if err != nil {
		return nil, err
	}
	p, err := walkTo(w, by, path)
	if err != nil {
		return nil, err
	}
	ch := c.Change.Sluice()
	n := *p.node
	if err := w.setPerm(&p, &n, by, &ch); err != nil {
		return nil, err
	}
	if err := w.setTimes(&p, &n, by, &ch); err != nil {
		return nil, err
	}
	if err := w.setXAttrs(&p, &n, by, &ch); err != nil {
		return nil, err
	}
	n.ctime, n.changed = w.wall, w.index
	if err := w.set(&p, &n); err != nil {
		return nil, err
	}
	w.changed = append(w.changed, n.id)
	return &wire.Answer{Info: wire.FromFileInfo(p.info())}, nil
}

// setPerm changes owner, group and mode.
func (w *writer) setPerm(p *place, n *node, by *sluice.Principal, ch *sluice.AttrChange) error {
	if ch.Mode == nil && ch.Owner == nil && ch.Group == nil {
		return nil
	}
	if err := writable(p); err != nil {
		return err
	}
	super := by == nil || by.Super
	o := *n.perm
	if ch.Owner != nil && *ch.Owner != o.owner {
		if !super {
			return fail(sluice.Permission, "only the superuser changes owners")
		}
		o.owner, o.mode = *ch.Owner, clearSet(n, o.mode)
	}
	if ch.Group != nil && *ch.Group != o.group {
		if !super && !(owns(by, n) && by.In(*ch.Group)) {
			return fail(sluice.Permission, "only an owner who is a member of the group gives a file to it")
		}
		o.group, o.mode = *ch.Group, clearSet(n, o.mode)
	}
	if ch.Mode != nil {
		if !owns(by, n) {
			return fail(sluice.Permission, "only the owner changes the mode")
		}
		if *ch.Mode&^sluice.ModeMask != 0 {
			return fail(sluice.Invalid, "the mode %#o has more than permission bits", *ch.Mode)
		}
		o.mode = *ch.Mode
		if !super && !n.dir() && !by.In(o.group) {
			o.mode &^= 0o2000
		}
	}
	if len(o.owner) > sluice.MaxName || len(o.group) > sluice.MaxName {
		return fail(sluice.Invalid, "a name of an owner or group has at most %d bytes", sluice.MaxName)
	}
	n.perm = w.permFor(o.owner, o.group, o.mode)
	n.set(flagUserAttrs, true)
	return nil
}

// clearSet returns the mode without what a change of ownership takes from a file.
func clearSet(n *node, m sluice.Mode) sluice.Mode {
	if n.dir() {
		return m
	}
	return m &^ 0o6000
}

// setTimes changes times, time to live and pin.
func (w *writer) setTimes(p *place, n *node, by *sluice.Principal, ch *sluice.AttrChange) error {
	if ch.Mtime != nil || ch.Atime != nil {
		if err := writable(p); err != nil {
			return err
		}
		if !owns(by, n) {
			return fail(sluice.Permission, "only the owner sets times")
		}
	}
	if ch.Mtime != nil {
		n.mtime = wire.FromTime(*ch.Mtime)
		n.set(flagUserAttrs, true)
	}
	if ch.Atime != nil {
		n.atime = wire.FromTime(*ch.Atime)
	}
	if ch.TTL == nil && ch.TTLAction == nil && ch.Pinned == nil {
		return nil
	}
	if !owns(by, n) && !allowed(by, n, MayWrite) {
		return fail(sluice.Permission, "only who may write it changes its time to live or pin")
	}
	if ch.TTL != nil || ch.TTLAction != nil {
		if err := w.changeTTL(n, ch); err != nil {
			return err
		}
		if n.ttl != nil && n.ttl.action == sluice.TTLDelete && p.dir.node != nil {
			if err := mayUnlink(by, p.dir.node, n); err != nil { // it is a removal, later
				return err
			}
		}
	}
	if ch.Pinned != nil {
		n.set(flagPinned, *ch.Pinned)
		w.holdPinned(n)
	}
	return nil
}

// holdPinned gives the contents of a pinned file rows of their own, so that a worker
// that asks about them learns that they live.
func (w *writer) holdPinned(n *node) {
	if !n.has(flagPinned) || n.has(flagHeld) || len(n.extents) == 0 {
		return
	}
	n.set(flagHeld, true)
	for _, e := range n.extents {
		w.put(contentKey(e.Content), &contentRow{file: n.id})
	}
}

func (w *writer) changeTTL(n *node, ch *sluice.AttrChange) error {
	var after int64
	var action sluice.TTLAction
	if n.ttl != nil {
		after, action = n.ttl.after, n.ttl.action
	}
	if ch.TTL != nil {
		after = int64(*ch.TTL)
	}
	if ch.TTLAction != nil {
		action = *ch.TTLAction
	}
	if after < 0 || action > sluice.TTLDelete {
		return fail(sluice.Invalid, "a time to live is a positive duration with the action free or delete")
	}
	w.setTTL(n, after, action)
	return nil
}

// setXAttrs changes extended attributes.
func (w *writer) setXAttrs(p *place, n *node, by *sluice.Principal, ch *sluice.AttrChange) error {
	if len(ch.XAttrs) == 0 {
		return nil
	}
	if err := writable(p); err != nil {
		return err
	}
	if !owns(by, n) && !allowed(by, n, MayWrite) {
		return fail(sluice.Permission, "%s may not write it", by.User)
	}
	old, err := as[xattrsRow](w.get(xattrsKey(n.id)))
	if err != nil {
		return err
	}
	x := &xattrsRow{values: map[string][]byte{}}
	if old != nil {
		maps.Copy(x.values, old.values)
	}
	for _, name := range slices.Sorted(maps.Keys(ch.XAttrs)) {
		if err := x.change(name, ch.XAttrs[name], ch.XAttrMode); err != nil {
			return err
		}
	}
	if x.size() > maxXAttrs {
		return fail(sluice.TooLarge, "the extended attributes have %d bytes; at most %d", x.size(), maxXAttrs)
	}
	n.set(flagXAttrs, len(x.values) > 0)
	if len(x.values) > 0 {
		w.put(xattrsKey(n.id), x)
	} else if old != nil {
		w.del(xattrsKey(n.id))
	}
	return nil
}

// change sets or (nil) removes one attribute.
func (r *xattrsRow) change(name string, value []byte, mode sluice.XAttrMode) error {
	_, there := r.values[name]
	switch {
	case name == "" || len(name) > maxXAttrName:
		return fail(sluice.Invalid, "the name of an extended attribute has 1 to %d bytes", maxXAttrName)
	case mode == sluice.XAttrCreate && there:
		return fail(sluice.Exists, "the attribute %q is there", name)
	case mode == sluice.XAttrReplace && !there:
		return fail(sluice.NotFound, "the attribute %q is not there", name)
	case value == nil:
		delete(r.values, name)
	default:
		r.values[name] = value
	}
	return nil
}

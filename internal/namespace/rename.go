package namespace

import (
	"strings"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// renaming is a rename that was found good.
type renaming struct {
	from, to place
	by       *sluice.Principal
	request  sluice.RequestID
}

// rename is Rename.
func (w *writer) rename(c *wire.Rename, by *sluice.Principal, r sluice.RequestID) (*wire.Answer, error) {
	x := renaming{by: by, request: r}
	from, err := parsePath(c.From)
	if err != nil {
		return nil, err
	}
	to, err := parsePath(c.To)
	if err != nil {
		return nil, err
	}
	if x.from, err = walkTo(w, by, from); err != nil {
		return nil, err
	}
	if from == to {
		return &wire.Answer{Info: wire.FromFileInfo(x.from.info())}, nil
	}
	if x.to, err = walk(w, by, to); err != nil {
		return nil, err
	}
	if err := w.mayRename(&x, c.NoReplace); err != nil {
		return nil, err
	}
	switch {
	case x.from.mount == nil:
		err = w.moveNow(&x)
	case x.from.node.dir():
		return w.renameDir(&x, c.Atomic)
	default:
		return w.renameFile(&x)
	}
	return &wire.Answer{Info: wire.FromFileInfo(x.to.info())}, err
}

// mayRename judges a rename.
func (w *writer) mayRename(x *renaming, noReplace bool) error {
	n, t := x.from.node, x.to.node
	switch {
	case x.from.path == sluice.Root || x.to.path == sluice.Root:
		return fail(sluice.Busy, "the root stays where it is")
	case n.has(flagMount):
		return fail(sluice.Busy, "%s is a mount point; unmount it first", x.from.path)
	case t != nil && t.has(flagMount):
		return fail(sluice.Busy, "%s is a mount point", x.to.path)
	case x.from.mountID() != x.to.mountID():
		return fail(sluice.CrossMount, "%s lies in another mount than %s", x.from.path, x.to.path)
	case x.from.path.Contains(x.to.path):
		return fail(sluice.Invalid, "a directory cannot be moved into itself")
	case len(x.to.missing) > 1:
		return fail(sluice.NotFound, "the target's directory does not exist")
	}
	for _, p := range []*place{&x.from, &x.to} {
		if m := w.mounts.inside(p.path); m != nil && (p.node != nil && p.node.dir()) {
			return fail(sluice.Busy, "%s is mounted inside", m.mount.Path)
		}
		if err := writable(p); err != nil {
			return err
		}
		if err := mayUnlink(x.by, p.dir.node, p.node); err != nil {
			return err
		}
	}
	if n.dir() && x.from.parent != x.to.dir.node.id && !allowed(x.by, n, MayWrite) {
		return fail(sluice.Permission, "%s may not write the directory that is moved", x.by.User)
	}
	return w.mayReplaceBy(n, t, noReplace)
}

// mayReplaceBy says whether a rename of n may take the place of t.
func (w *writer) mayReplaceBy(n, t *node, noReplace bool) error {
	switch {
	case t == nil:
		return nil
	case noReplace:
		return kindError(sluice.Exists)
	case n.dir() && !t.dir():
		return fail(sluice.NotDirectory, "the target is a file")
	case !n.dir() && t.dir():
		return fail(sluice.IsDirectory, "the target is a directory")
	case t.dir():
		none, err := empty(w, t.id)
		if err == nil && !none {
			err = fail(sluice.NotEmpty, "the target directory is not empty")
		}
		return err
	}
	return nil
}

// moveNow makes the change of the namespace. x.to is where the inode lies then.
func (w *writer) moveNow(x *renaming) error {
	if x.to.node != nil {
		if err := w.dropNode(x.to.mountID(), x.to.parent, x.to.name, x.to.node); err != nil {
			return err
		}
	}
	n := *x.from.node
	n.ctime, n.changed = w.wall, w.index
	if n.dir() {
		n.moved = w.index
	}
	toParent := x.to.dir.node.id
	w.moveNode(x.from.parent, x.from.name, toParent, x.to.name, &n)
	w.bury(x.from.mountID(), x.from.parent, x.from.name)
	w.changed = append(w.changed, n.id)
	if err := w.touch(x.from.dir); err != nil {
		return err
	}
	if toParent != x.from.parent {
		if err := w.touch(x.to.dir); err != nil {
			return err
		}
	}
	x.to.at = at{toParent, x.to.name, &n}
	return nil
}

// renameFile renames a file or link in a mount: at once where the store has neither it
// nor what it replaces, else by an intent.
func (w *writer) renameFile(x *renaming) (*wire.Answer, error) {
	from, to := span{x.from.key(), false}, span{x.to.ownKey(), false}
	n, t := x.from.node, x.to.node
	stored := n.inStore() && n.has(flagComplete|flagSymlink)
	if !stored && (t == nil || !t.inStore()) {
		for _, s := range []span{from, to} {
			if err := w.clear(x.from.mountID(), s, false); err != nil {
				return nil, err
			}
		}
		if err := w.moveNow(x); err != nil {
			return nil, err
		}
		return &wire.Answer{Info: wire.FromFileInfo(x.to.info())}, nil
	}
	i := w.newIntent(OpRename, &x.from, x.by, x.request)
	i.To, i.File, i.ToKey = x.to.path, n.id, to.key
	if stored {
		i.Key, i.Version = from.key, n.version
	}
	if t != nil && t.inStore() {
		i.ToKey, i.ToVersion = x.to.key(), t.version
	} else {
		i.ToAbsent = true
	}
	for _, s := range append(i.footprint(), from) {
		if err := w.clear(i.Mount, s, true); err != nil {
			return nil, err
		}
	}
	return w.beginIntent(i), nil
}

// renameDir renames a directory in a mount.
func (w *writer) renameDir(x *renaming, atomic bool) (*wire.Answer, error) {
	local, err := w.onlyHere(&x.from)
	if err != nil {
		return nil, err
	}
	local = local && (x.to.node == nil || x.to.node.has(flagLocal))
	for _, s := range []span{{x.from.key(), true}, {x.to.ownKey(), true}} {
		if err := w.clear(x.from.mountID(), s, true); err != nil {
			return nil, err
		}
	}
	if local {
		if err := w.moveNow(x); err != nil {
			return nil, err
		}
		return &wire.Answer{Info: wire.FromFileInfo(x.to.info())}, nil
	}
	op := OpMoveTree
	if atomic {
		op = OpRenameDir
	}
	i := w.newIntent(op, &x.from, x.by, x.request)
	i.To, i.File = x.to.path, x.from.node.id
	i.Key, i.ToKey = x.from.key()+"/", x.to.ownKey()+"/"
	i.ToAbsent = x.to.node == nil
	if atomic {
		return w.beginIntent(i), nil
	}
	i.Request = sluice.RequestID{} // answered at once; the store catches up
	if err := w.moveNow(x); err != nil {
		return nil, err
	}
	n := *x.to.node
	n.key = strings.TrimSuffix(i.Key, "/")
	n.set(flagKey, true)
	if err := w.set(&x.to, &n); err != nil {
		return nil, err
	}
	w.beginIntent(i)
	return &wire.Answer{Info: wire.FromFileInfo(x.to.info())}, nil
}

// onlyHere says whether nothing of a directory is in the store, as far as one step can
// see.
func (w *writer) onlyHere(p *place) (bool, error) {
	here, rows := true, 0
	_, err := postOrder(w, leaf{p.at, p.key()}, func(l leaf) (bool, error) {
		rows++
		here = !l.node.inStore() && rows <= maxRows
		return here, nil
	})
	return here, err
}

// finishRename makes the change that a store has made.
func (w *writer) finishRename(i *Intent, o *wire.Object) (*wire.Answer, error) {
	x, err := w.again(i)
	if err != nil {
		return answerOf(err), nil
	}
	if err := w.moveNow(x); err != nil {
		return nil, err
	}
	n := *x.to.node
	n.set(flagKey, false)
	n.key = ""
	if i.Op == OpRename && i.Key != "" && o != nil {
		n.version, n.storeAt = sluice.Version(o.Version), o.Mtime
	}
	if n.dir() {
		n.set(flagLocal, false)
	}
	if err := w.set(&x.to, &n); err != nil {
		return nil, err
	}
	if err := w.storedAbove(&x.to); err != nil {
		return nil, err
	}
	return &wire.Answer{Info: wire.FromFileInfo(x.to.info())}, nil
}

// again finds the places of a rename that was decided before.
func (w *writer) again(i *Intent) (*renaming, error) {
	var x renaming
	var err error
	if x.from, err = locate(w, i.File); err != nil {
		return nil, err
	}
	if x.to, err = walk(w, nil, i.To); err != nil {
		return nil, err
	}
	switch {
	case !x.from.found() || x.from.mountID() != i.Mount || x.to.mountID() != i.Mount || len(x.to.missing) > 1:
		return nil, fail(sluice.UnknownOutcome, "the names went while the store made the change")
	case x.to.found() && (x.to.node.dir() != x.from.node.dir() || x.to.node.id == x.from.node.id):
		return nil, fail(sluice.UnknownOutcome, "another entry came in the way while the store made the change")
	}
	return &x, nil
}

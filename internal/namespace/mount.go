package namespace

import (
	"maps"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// maxMounts bounds the mount table, which is looked through as a whole.
const maxMounts = 1000

// mount is MountStore.
func (w *writer) mount(c *wire.MountStore, by *sluice.Principal) (*wire.Answer, error) {
	path, err := parsePath(c.Path)
	if err != nil {
		return nil, err
	}
	p, err := w.mayMount(path, by)
	if err != nil {
		return nil, err
	}
	o := c.Options.Sluice()
	if !p.found() {
		if err := w.parents(p, by); err != nil {
			return nil, err
		}
	}
	if p.found() {
		w.put(childKey(tagHidden, p.parent, p.name), p.node)
	}
	mode := o.DirMode
	if mode == 0 {
		mode = 0o755
	}
	n := w.newNode(by, p.dir.node, flagDir|flagMount, mode)
	n.perm = w.permFor(first(o.Owner, n.perm.owner), first(o.Group, n.perm.group), mode)
	n.moved = w.index
	w.meta.mount++
	w.meta.epoch++
	r := &mountRow{
		mount: sluice.Mount{ID: sluice.MountID(w.meta.mount), Path: path, URI: c.Uri, Options: o},
		root:  n.id, epoch: w.meta.epoch, secrets: maps.Clone(c.Secrets),
	}
	if err := w.addNode(r.mount.ID, p.dir.node.id, p.name, n); err != nil {
		return nil, err
	}
	w.put(key64(tagMount, w.meta.mount), r)
	w.mounts = w.mounts.with(r)
	w.changed = append(w.changed, 0)
	if err := w.touch(p.dir); err != nil {
		return nil, err
	}
	return &wire.Answer{Mount: wire.FromMount(r.shown())}, nil
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// shown is the mount without what has no fixed order in an answer.
func (r *mountRow) shown() sluice.Mount {
	m := r.mount
	m.Options.Properties = nil
	return m
}

// mayMount judges the place of a mount point.
func (w *writer) mayMount(path sluice.Path, by *sluice.Principal) (*place, error) {
	switch {
	case by != nil && !by.Super:
		return nil, fail(sluice.Permission, "only the superuser mounts")
	case path == sluice.Root:
		return nil, fail(sluice.Unsupported, "the root cannot be a mount yet; mount at a directory of it")
	case w.mounts.at(path) != nil:
		return nil, fail(sluice.Exists, "%s is mounted there already; unmount it first", w.mounts.at(path).mount.URI)
	case w.mounts.inside(path) != nil:
		return nil, fail(sluice.Busy, "%s is mounted inside", w.mounts.inside(path).mount.Path)
	case len(w.mounts.rows) >= maxMounts:
		return nil, fail(sluice.TooLarge, "there are %d mounts, the most there may be", maxMounts)
	}
	p, err := walk(w, by, path)
	if err != nil {
		return nil, err
	}
	if err := w.clear(p.mountID(), span{p.key(), true}, true); err != nil {
		return nil, err
	}
	if !p.found() {
		return &p, nil
	}
	if !p.node.dir() {
		return nil, fail(sluice.NotDirectory, "there is a file at %s", path)
	}
	if p.mount != nil {
		return &p, w.noWriters(p.mount)
	}
	none, err := empty(w, p.node.id)
	if err == nil && !none {
		err = fail(sluice.NotEmpty, "the directory %s has entries that the mount would hide", path)
	}
	return &p, err
}

// noWriters refuses to shadow a directory while files of its mount are being written:
// one of them might be in it, and could not be ended any more.
func (w *writer) noWriters(m *mountRow) error {
	c, err := as[countsRow](w.get(key64(tagCounts, uint64(m.mount.ID))))
	if err == nil && c != nil && c.writers > 0 {
		err = fail(sluice.Busy, "files of the mount %s are being written", m.mount.Path)
	}
	return err
}

// unmount is UnmountStore.
func (w *writer) unmount(c *wire.UnmountStore, by *sluice.Principal) (*wire.Answer, error) {
	path, err := parsePath(c.Path)
	if err != nil {
		return nil, err
	}
	r := w.mounts.at(path)
	switch {
	case by != nil && !by.Super:
		return nil, fail(sluice.Permission, "only the superuser unmounts")
	case r == nil:
		return nil, fail(sluice.NotFound, "nothing is mounted there")
	case w.mounts.inside(path) != nil:
		return nil, fail(sluice.Busy, "%s is mounted inside; unmount it first", w.mounts.inside(path).mount.Path)
	}
	p, err := walkTo(w, nil, path)
	if err != nil {
		return nil, err
	}
	if err := w.mayUnmount(r, c.Force); err != nil {
		return nil, err
	}
	id := w.detach(&p, &detachedRow{mount: r.mount.ID, path: path})
	if err := w.unhide(&p); err != nil {
		return nil, err
	}
	w.del(key64(tagMount, uint64(r.mount.ID)))
	w.mounts = w.mounts.without(r.mount.ID)
	w.changed = append(w.changed, 0)
	if err := w.touch(p.dir); err != nil {
		return nil, err
	}
	return &wire.Answer{Mount: wire.FromMount(r.shown()), Detached: id}, nil
}

// unhide brings back what the mount point had shadowed.
func (w *writer) unhide(p *place) error {
	key := childKey(tagHidden, p.parent, p.name)
	n, err := as[node](w.get(key))
	if err != nil || n == nil {
		return err
	}
	w.del(key)
	c := *n
	c.changed, c.moved = w.index, w.index
	w.put(childKey(tagNode, p.parent, p.name), &c)
	return nil
}

// mayUnmount says whether everything of a mount is in its store. By force what is not
// is given up, and open intents end with an unknown outcome.
func (w *writer) mayUnmount(r *mountRow, force bool) error {
	counts, err := as[countsRow](w.get(key64(tagCounts, uint64(r.mount.ID))))
	if err != nil {
		return err
	}
	var open []*Intent
	for _, id := range w.openOf(r.mount.ID) {
		i, err := w.intent(id)
		if err != nil {
			return err
		}
		open = append(open, i)
	}
	if !force {
		switch {
		case counts != nil && counts.unpersisted > 0:
			return fail(sluice.Busy, "%d files of it are not in the store; persist them, or unmount by force", counts.unpersisted)
		case counts != nil && counts.writers > 0:
			return fail(sluice.Busy, "%d files of it are being written", counts.writers)
		case len(open) > 0:
			return inWay{open[0].ID}
		}
		return nil
	}
	for _, i := range open {
		w.endIntent(i, answerOf(fail(sluice.UnknownOutcome, "the mount was taken away by force meanwhile")))
		if err := w.giveUp(i); err != nil {
			return err
		}
		if i.Detached != 0 {
			if err := w.releaseDetached(i.Detached); err != nil {
				return err
			}
		}
	}
	return nil
}

// giveUp drops the writer of a commit that is not carried out any more.
func (w *writer) giveUp(i *Intent) error {
	if i.Op != OpCommit {
		return nil
	}
	wr, err := as[writerRow](w.get(writerKey(i.File, i.Content)))
	if err != nil || wr == nil {
		return err
	}
	return w.endWriterRows(i.File, i.Content, wr, true)
}

// updateMount is UpdateMount.
func (w *writer) updateMount(c *wire.UpdateMount, by *sluice.Principal) (*wire.Answer, error) {
	path, err := parsePath(c.Path)
	if err != nil {
		return nil, err
	}
	r := w.mounts.at(path)
	switch {
	case by != nil && !by.Super:
		return nil, fail(sluice.Permission, "only the superuser changes mounts")
	case r == nil:
		return nil, fail(sluice.NotFound, "nothing is mounted there")
	}
	n := *r
	n.mount.Options = c.Options.Sluice()
	if !c.KeepSecrets {
		n.secrets = maps.Clone(c.Secrets)
	}
	w.meta.epoch++
	n.epoch = w.meta.epoch
	w.put(key64(tagMount, uint64(n.mount.ID)), &n)
	w.mounts = w.mounts.with(&n)
	w.changed = append(w.changed, 0)
	return &wire.Answer{Mount: wire.FromMount(n.shown())}, nil
}

package master

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/namespace"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs"
)

// task is an intent as this process found it.
type task struct {
	namespace.Intent
	tried bool // an attempt may have been sent before this process began
}

// call is one attempt at a task.
type call struct {
	m       *Master
	t       *task
	mount   *mountEntry
	store   underfs.Store
	attempt uint64
	term    uint64
}

// run carries the attempt out and returns what lies in the store then, nil where that
// is nothing.
func (c *call) run(ctx context.Context) (*wire.Object, error) {
	switch c.t.Op {
	case namespace.OpCommit:
		return c.commit(ctx)
	case namespace.OpMkdir:
		return c.mkdir(ctx)
	case namespace.OpRename, namespace.OpRenameDir:
		return c.rename(ctx)
	case namespace.OpRemove:
		return nil, c.delete(ctx, c.key(), c.t.Version)
	case namespace.OpRmdir:
		return nil, c.delete(ctx, c.key(), "")
	case namespace.OpMoveTree:
		return nil, c.moveTree(ctx)
	case namespace.OpRemoveTree:
		return nil, c.removeTree(ctx)
	default:
		return nil, &sluice.Error{Kind: sluice.Unsupported, Err: fmt.Errorf("an intent to %s; was it written by a later version?", c.t.Op)}
	}
}

// key and to are what the intent is about, in the words of drivers.
func (c *call) key() underfs.Key { return underfs.Key(c.t.Key) }
func (c *call) to() underfs.Key  { return underfs.Key(c.t.ToKey) }

// expect is what a commit replaces.
func (c *call) expect() underfs.Condition {
	return underfs.Condition{Absent: c.t.Absent, Version: c.t.Version}
}

// replaces is what a rename replaces.
func (c *call) replaces() underfs.Condition {
	return underfs.Condition{Absent: c.t.ToAbsent, Version: c.t.ToVersion}
}

// repeated says that an earlier attempt may have been carried out.
func (c *call) repeated() bool { return c.t.tried || c.attempt > 1 }

// object is what the journal keeps of an object.
func object(o *underfs.Object) *wire.Object { return objectNamed(o, string(o.Key)) }

// doubtful says whether an error leaves open what happened, or may be the echo of an
// earlier attempt that did happen.
func doubtful(err error) bool {
	switch sluice.KindOf(err) {
	case sluice.UnknownOutcome, sluice.Timeout, sluice.Cancelled, sluice.Changed, sluice.Exists, sluice.NotFound:
		return true
	}
	return false
}

// commit makes a sealed content visible.
func (c *call) commit(ctx context.Context) (*wire.Object, error) {
	if c.repeated() {
		if o, err := c.committed(ctx, true); o != nil || err != nil {
			return o, err
		}
	}
	o, err := c.publish(ctx)
	if err == nil {
		return o, nil
	}
	if !doubtful(err) {
		return nil, err
	}
	look, cancel := context.WithTimeout(c.m.ctx, c.mount.timeout())
	defer cancel()
	sent := c.repeated() || !refusing(err)
	if found, err2 := c.committed(look, sent); found != nil || err2 != nil {
		return found, err2
	}
	if errors.Is(err, sluice.NotFound) {
		return nil, &sluice.Error{Kind: sluice.Lost, Err: fmt.Errorf("the upload vanished before it was complete: %w", err)}
	}
	return nil, err
}

// publish sends the one call that makes the content visible: an order to the worker
// that has the bytes, or the completion of an upload that lies in the store.
func (c *call) publish(ctx context.Context) (*wire.Object, error) {
	if c.t.Empty {
		return c.putEmpty(ctx, c.key(), c.expect())
	}
	p := c.t.Sealed.Prepared
	if p.Inline {
		return c.order(ctx)
	}
	completer, ok := underfs.As[underfs.Completer](c.store)
	if !ok {
		return nil, &sluice.Error{Kind: sluice.Unsupported, Err: errors.New("the store cannot complete what another process uploaded")}
	}
	o, err := completer.Complete(ctx, c.key(), p, c.expect())
	if err != nil {
		return nil, err
	}
	return object(&o), nil
}

// order has the worker that holds the bytes send them.
func (c *call) order(ctx context.Context) (*wire.Object, error) {
	r, err := c.m.fleet.Order(ctx, c.t.Sealed.Worker, &wire.Order{
		Intent: c.t.ID, Attempt: c.attempt, Term: c.term, TimeLeft: int64(c.m.attempt(c.mount)),
		Content: wire.FromContentID(c.t.Sealed.Content), Key: c.t.Key, Mount: uint64(c.t.Mount),
		Put: true, Absent: c.t.Absent, Version: string(c.t.Version),
	})
	if err != nil {
		return nil, err
	}
	if err := r.Error.Sluice(); err != nil {
		return nil, err
	}
	if r.Object == nil {
		return nil, &sluice.Error{Kind: sluice.UnknownOutcome, Err: errors.New("the worker's answer has no object")}
	}
	return r.Object, nil
}

// refusing says that the store refused a call, which therefore did nothing.
func refusing(err error) bool {
	return errors.Is(err, sluice.Changed) || errors.Is(err, sluice.Exists) || errors.Is(err, sluice.NotFound)
}

// committed looks whether our content lies in the store: by the tag it was sent with,
// or where the store keeps none and a call may have been carried out, by a length that
// fits and a version that is not the one replaced. Nil and no error: it does not, and
// the expected old one does.
func (c *call) committed(ctx context.Context, sent bool) (*wire.Object, error) {
	o, err := c.store.Stat(ctx, c.key())
	if errors.Is(err, sluice.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, &sluice.Error{Kind: sluice.Unavailable, Err: fmt.Errorf("it is not known what became of the change: %w", err)}
	}
	tag := c.tag()
	replaced := c.t.Version != "" && o.Version == c.t.Version
	switch {
	case o.Dir:
		return nil, &sluice.Error{Kind: sluice.IsDirectory}
	case tag != "" && o.Tag != "":
		if o.Tag == tag {
			return object(&o), nil
		}
	case !replaced && o.Length == c.t.Sealed.Length && sent:
		return object(&o), nil
	}
	if replaced {
		return nil, nil
	}
	return nil, &sluice.Error{Kind: sluice.Changed, Err: errors.New("the store has another version than was known; look at it and write again")}
}

// mkdir makes directories that the store has as such, or markers.
func (c *call) mkdir(ctx context.Context) (*wire.Object, error) {
	var last *wire.Object
	for _, key := range c.t.Dirs {
		o, err := c.makeDir(ctx, underfs.Key(key))
		if err != nil {
			return nil, err
		}
		last = o
	}
	return last, nil
}

func (c *call) makeDir(ctx context.Context, key underfs.Key) (*wire.Object, error) {
	d, ok := underfs.As[underfs.Directories](c.store)
	if !ok {
		o, err := c.putEmpty(ctx, key, underfs.Condition{})
		if o != nil {
			o.Dir, o.Marker = true, true
		}
		return o, err
	}
	mode := c.t.Mode
	if mode == 0 {
		mode = 0o755
	}
	o, err := d.Mkdir(ctx, key, mode)
	if err == nil {
		return object(&o), nil
	}
	if !doubtful(err) {
		return nil, err
	}
	found, err2 := c.store.Stat(ctx, key[:len(key)-1])
	switch {
	case err2 == nil && found.Dir:
		return object(&found), nil
	case err2 == nil:
		return nil, &sluice.Error{Kind: sluice.Exists, Err: errors.New("a file of that name appeared in the store")}
	}
	return nil, err
}

// putEmpty writes an empty object: a file without bytes, or what stands for a directory.
func (c *call) putEmpty(ctx context.Context, key underfs.Key, cond underfs.Condition) (*wire.Object, error) {
	tag := ""
	if key[len(key)-1] != '/' {
		tag = c.emptyTag()
	}
	up, err := c.store.Create(ctx, key, underfs.CreateOptions{Tag: tag, Mode: c.t.Mode})
	if err != nil {
		return nil, err
	}
	if _, err = up.Prepare(ctx); err == nil {
		var o underfs.Object
		if o, err = up.Commit(ctx, cond); err == nil {
			return object(&o), nil
		}
	}
	if sluice.KindOf(err) != sluice.UnknownOutcome {
		// What it left is swept later if even this fails.
		_ = up.Abort(context.WithoutCancel(ctx))
	}
	return nil, err
}

// emptyTag is what an empty file of this intent is recognised by.
func (c *call) emptyTag() string {
	return fmt.Sprintf("%016x-intent-%d", uint64(c.m.incarnation()), c.t.ID)
}

// tag is what our content is recognised by in the store, where that keeps it.
func (c *call) tag() string {
	if c.t.Empty {
		return c.emptyTag()
	}
	return c.t.Sealed.Prepared.Tag
}

// delete deletes an object of a version, or an empty directory. That it is not there is
// what was wanted.
func (c *call) delete(ctx context.Context, key underfs.Key, v sluice.Version) error {
	err := c.store.Delete(ctx, key, underfs.Condition{Version: v})
	if errors.Is(err, sluice.NotFound) {
		return nil
	}
	return err
}

// rename moves a file, or on a store that does it in one step a directory.
func (c *call) rename(ctx context.Context) (*wire.Object, error) {
	if c.t.Key == "" { // the source is not in the store: only the target goes
		return nil, c.delete(ctx, c.to(), c.t.ToVersion)
	}
	if c.repeated() {
		if o, err := c.renamed(ctx); o != nil || err != nil {
			return o, err
		}
	}
	o, err := c.move(ctx)
	if err == nil {
		return o, nil
	}
	if !doubtful(err) {
		return nil, err
	}
	look, cancel := context.WithTimeout(c.m.ctx, c.mount.timeout())
	defer cancel()
	if found, err2 := c.renamed(look); found != nil || err2 != nil {
		return found, err2
	}
	return nil, err
}

// move sends the rename, or a copy and a deletion.
func (c *call) move(ctx context.Context) (*wire.Object, error) {
	if r, ok := underfs.As[underfs.Renamer](c.store); ok {
		if c.t.Op == namespace.OpRenameDir && !c.t.ToAbsent {
			// An empty directory is replaced, and no version names one: it goes first.
			if err := c.delete(ctx, c.to(), ""); err != nil {
				return nil, err
			}
		}
		o, err := r.Rename(ctx, c.key(), c.to(), c.replaces())
		if err != nil {
			return nil, err
		}
		return object(&o), nil
	}
	if c.t.Op == namespace.OpRenameDir {
		return nil, &sluice.Error{Kind: sluice.Unsupported, Err: errors.New("the store has no rename of directories")}
	}
	return c.moveFile(ctx, c.key(), c.t.Version, c.to(), c.replaces())
}

// moveFile copies a file and deletes the source.
func (c *call) moveFile(ctx context.Context, from underfs.Key, v sluice.Version, to underfs.Key, cond underfs.Condition) (*wire.Object, error) {
	copier, ok := underfs.As[underfs.Copier](c.store)
	if !ok {
		return nil, &sluice.Error{Kind: sluice.Unsupported, Err: errors.New("the store can neither rename nor copy")}
	}
	o, err := copier.Copy(ctx, from, v, to, cond)
	if err != nil {
		return nil, err
	}
	if err := c.delete(ctx, from, v); err != nil {
		return nil, &sluice.Error{Kind: sluice.UnknownOutcome, Err: err}
	}
	return object(&o), nil
}

// renamed looks whether the rename was done: the source is gone and the target there.
// Of a copy without its deletion it does the rest.
func (c *call) renamed(ctx context.Context) (*wire.Object, error) {
	return c.moved(ctx, c.key(), c.t.Version, c.to(), c.replaces())
}

// moved is renamed, of any source and target.
func (c *call) moved(ctx context.Context, from underfs.Key, v sluice.Version, to underfs.Key, cond underfs.Condition) (*wire.Object, error) {
	unknown := func(err error) error {
		return &sluice.Error{Kind: sluice.Unavailable, Err: fmt.Errorf("it is not known what became of the change: %w", err)}
	}
	source, err := c.store.Stat(ctx, bare(from))
	gone := errors.Is(err, sluice.NotFound)
	if err != nil && !gone {
		return nil, unknown(err)
	}
	target, err := c.store.Stat(ctx, bare(to))
	absent := errors.Is(err, sluice.NotFound)
	switch {
	case err != nil && !absent:
		return nil, unknown(err)
	case absent && gone:
		return nil, &sluice.Error{Kind: sluice.NotFound, Err: errors.New("the store has neither the source nor the target any more")}
	case absent:
		return nil, nil
	case gone:
		return object(&target), nil
	case source.Dir || target.Dir, cond.Version != "" && target.Version == cond.Version:
		return nil, nil // not yet: the target is the one to be replaced
	case target.Length != source.Length || v != "" && source.Version != v:
		return nil, nil
	}
	if _, ok := underfs.As[underfs.Renamer](c.store); ok {
		return nil, nil // it renames in one step
	}
	// A copy without its deletion: the condition let nobody else's come to lie there.
	if err := c.delete(ctx, from, v); err != nil {
		return nil, err
	}
	return object(&target), nil
}

// bare returns the key without the slash of a directory.
func bare(key underfs.Key) underfs.Key { return underfs.Key(strings.TrimSuffix(string(key), "/")) }

package namespace

import (
	"strings"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// intent returns an open intent, nil if there is none.
func (w *writer) intent(id uint64) (*Intent, error) {
	r, err := as[intentRow](w.get(key64(tagIntent, id)))
	if err != nil || r == nil {
		return nil, err
	}
	return &r.Intent, nil
}

// beginAttempt is BeginAttempt.
func (w *writer) beginAttempt(c *wire.BeginAttempt) (*wire.Answer, error) {
	i, err := w.intent(c.Intent)
	if err != nil {
		return nil, err
	}
	if i == nil {
		return nil, fail(sluice.NotFound, "there is no intent %d", c.Intent)
	}
	n := *i
	n.Attempts++
	n.Attempt = Attempt{
		Number: n.Attempts, Term: sluice.Term(c.Term), Worker: sluice.WorkerID(c.Worker),
		TimeLeft: time.Duration(c.TimeLeft), At: time.Duration(w.tick),
	}
	w.put(key64(tagIntent, i.ID), &intentRow{n})
	return &wire.Answer{}, nil
}

// endIntent closes an intent and gives its answer to the request that waits.
func (w *writer) endIntent(i *Intent, a *wire.Answer) {
	w.del(key64(tagIntent, i.ID))
	kept := w.open.spans[i.ID]
	if kept != nil {
		w.open.remove(kept)
		w.revert(func() { w.open.add(kept) })
	}
	st := w.sessions[i.Request.Session]
	if st == nil {
		return
	}
	if _, ok := st.seqs[i.Request.Seq]; !ok {
		return
	}
	c := wire.Answer{Error: a.Error, Info: a.Info, Content: a.Content, Write: a.Write}
	for _, id := range w.changed {
		c.Changed = append(c.Changed, uint64(id))
	}
	w.put(key128(tagAnswer, uint64(i.Request.Session), i.Request.Seq), &answerRow{lowest: st.lowest, answer: marshalAnswer(&c)})
}

// finishIntent is FinishIntent. Its answer is that of the request that waited. One that
// is not there was finished before.
func (w *writer) finishIntent(c *wire.FinishIntent) (*wire.Answer, error) {
	i, err := w.intent(c.Intent)
	if err != nil {
		return nil, err
	}
	if i == nil {
		return nil, fail(sluice.NotFound, "there is no intent %d", c.Intent)
	}
	var a *wire.Answer
	if c.Done {
		a, err = w.finishDone(i, c.Object)
	} else {
		refused := c.Refused
		if refused == nil {
			refused = &wire.Error{Kind: uint32(sluice.Internal), Text: "the store refused it for no reason"}
		}
		a, err = w.finishRefused(i, refused)
		if a == nil && err == nil { // diverged: it stays, to be shown
			return &wire.Answer{Error: refused}, nil
		}
	}
	if err != nil {
		return nil, err
	}
	w.endIntent(i, a)
	return a, nil
}

// finishDone makes here what the store has done.
func (w *writer) finishDone(i *Intent, o *wire.Object) (*wire.Answer, error) {
	switch i.Op {
	case OpCommit:
		return w.finishCommit(i, o)
	case OpMkdir:
		return w.finishMkdir(i)
	case OpRename, OpRenameDir:
		return w.finishRename(i, o)
	case OpRemove, OpRmdir:
		return w.finishRemove(i)
	case OpMoveTree:
		return w.finishMoveTree(i)
	case OpRemoveTree:
		return w.finishRemoveTree(i, &wire.Answer{})
	default:
		return nil, fail(sluice.Internal, "the operation %d is unknown", i.Op)
	}
}

// finishCommit publishes a content that the store has.
func (w *writer) finishCommit(i *Intent, o *wire.Object) (*wire.Answer, error) {
	wr, err := as[writerRow](w.get(writerKey(i.File, i.Content)))
	if err != nil {
		return nil, err
	}
	p, err := locate(w, i.File)
	if err != nil {
		return nil, err
	}
	if wr == nil || !p.found() {
		return answerOf(fail(sluice.UnknownOutcome, "the file went while it was published")), nil
	}
	n, err := w.publishContent(&p, i.Content, wr, i.Sealed.Length, wr.blockSize)
	if err != nil {
		return nil, err
	}
	n.persist = sluice.Persisted
	n.set(flagLocal, false)
	n.set(flagKey, p.key() != i.Key)
	n.key = ""
	if n.has(flagKey) {
		n.key = i.Key
	}
	if o != nil {
		n.version, n.storeAt = sluice.Version(o.Version), o.Mtime
	}
	if err := w.set(&p, n); err != nil {
		return nil, err
	}
	if err := w.storedAbove(&p); err != nil {
		return nil, err
	}
	if err := w.touch(p.dir); err != nil {
		return nil, err
	}
	if p, err = locate(w, i.File); err != nil {
		return nil, err
	}
	return &wire.Answer{Info: wire.FromFileInfo(p.info()), Write: uint32(wr.write)}, nil
}

// storedAbove marks the directories above a file that the store has: it has them too.
func (w *writer) storedAbove(p *place) error {
	if p.mount == nil {
		return nil
	}
	for path := p.path.Parent(); p.mount.mount.Path != path && p.mount.mount.Path.Contains(path); path = path.Parent() {
		d, err := walk(w, nil, path)
		if err != nil || !d.found() || !d.node.has(flagLocal) {
			return err
		}
		n := *d.node
		n.set(flagLocal, false)
		if err := w.set(&d, &n); err != nil {
			return err
		}
	}
	return nil
}

// leave has every listing of a path of a mount that was begun before this entry say
// nothing: until now the store was at work there, though the namespace had changed.
func (w *writer) leave(i *Intent) error {
	p, err := walk(w, nil, i.Path)
	switch {
	case err != nil || p.mountID() != i.Mount:
		return nil // a file, or another mount, is in the way
	case !p.found():
		w.bury(i.Mount, p.deepest.node.id, p.missing[0])
		return nil
	case !p.node.dir():
		return nil
	}
	n := *p.node
	n.moved = w.index
	return w.set(&p, &n)
}

// finishRemoveTree lets go of a removed directory whose objects are gone.
func (w *writer) finishRemoveTree(i *Intent, a *wire.Answer) (*wire.Answer, error) {
	if err := w.leave(i); err != nil {
		return nil, err
	}
	return a, w.releaseDetached(i.Detached)
}

// finishMoveTree ends the move of a renamed directory's objects.
func (w *writer) finishMoveTree(i *Intent) (*wire.Answer, error) {
	if err := w.leave(i); err != nil {
		return nil, err
	}
	p, err := locate(w, i.File)
	if err != nil || !p.found() {
		return &wire.Answer{}, err
	}
	n := *p.node
	n.key = ""
	n.set(flagKey, false)
	n.set(flagLocal, false)
	n.changed, n.moved = w.index, w.index
	w.changed = append(w.changed, 0)
	if err := w.set(&p, &n); err != nil {
		return nil, err
	}
	return &wire.Answer{}, w.storedAbove(&p)
}

// finishRefused takes back what can be taken back of an intent that the store refused
// for good. A nil answer means that it cannot.
func (w *writer) finishRefused(i *Intent, why *wire.Error) (*wire.Answer, error) {
	a := &wire.Answer{Error: why}
	switch i.Op {
	case OpCommit:
		wr, err := as[writerRow](w.get(writerKey(i.File, i.Content)))
		if err != nil || wr == nil {
			return a, err
		}
		return a, w.dropWriter(i.File, i.Content, wr, true)
	case OpMoveTree:
		return w.refusedMove(i, why)
	case OpRemoveTree:
		// What the store still has is shown again by the next sync.
		return w.finishRemoveTree(i, a)
	default:
		return a, nil
	}
}

// refusedMove brings a renamed directory back to its old name if nothing was moved in
// the store and nothing depends on the new one; else the intent diverges.
func (w *writer) refusedMove(i *Intent, why *wire.Error) (*wire.Answer, error) {
	p, err := locate(w, i.File)
	if err != nil {
		return nil, err
	}
	back, err := walk(w, nil, i.Path)
	if err == nil && p.found() && p.path == i.To && !i.Diverged && !back.found() && len(back.missing) == 1 {
		moved, err := w.anyMoved(i, &p)
		if err != nil {
			return nil, err
		}
		if !moved {
			x := renaming{from: p, to: back}
			if err := w.moveNow(&x); err != nil {
				return nil, err
			}
			n := *x.to.node
			n.key = ""
			n.set(flagKey, false)
			return &wire.Answer{Error: why}, w.set(&x.to, &n)
		}
	}
	n := *i
	n.Diverged, n.Message = true, why.Text
	w.put(key64(tagIntent, i.ID), &intentRow{n})
	return nil, nil
}

// anyMoved says whether an object below a directory was moved by the intent, as far as
// one step can see; if an attempt was made and there is more, it says yes.
func (w *writer) anyMoved(i *Intent, p *place) (bool, error) {
	to := strings.TrimSuffix(i.ToKey, "/")
	moved, rows := false, 0
	_, err := postOrder(w, leaf{p.at, p.key()}, func(l leaf) (bool, error) {
		rows++
		moved = moved || l.node.has(flagKey) && l.node.id != p.node.id && below(to, l.node.key) || rows > maxRows && i.Attempts > 0
		return !moved && rows <= maxRows, nil
	})
	return moved, err
}

// moveKeys is MoveKeys: the files' bytes lie under the keys that their paths imply.
func (w *writer) moveKeys(c *wire.MoveKeys) (*wire.Answer, error) {
	i, err := w.intent(c.Intent)
	if err != nil {
		return nil, err
	}
	if i == nil || i.Op != OpMoveTree {
		return nil, fail(sluice.NotFound, "there is no intent %d that moves keys", c.Intent)
	}
	if len(c.Moved) > maxRows {
		return nil, fail(sluice.TooLarge, "%d keys in one step; at most %d", len(c.Moved), maxRows)
	}
	for _, m := range c.Moved {
		p, err := locate(w, sluice.FileID(m.File))
		if err != nil {
			return nil, err
		}
		if !p.found() || p.mountID() != i.Mount || p.key() != m.From {
			continue
		}
		n := *p.node
		n.key = p.ownKey()
		n.set(flagKey, true)
		n.changed = w.index
		if m.Object != nil {
			n.version, n.storeAt = sluice.Version(m.Object.Version), m.Object.Mtime
		}
		w.changed = append(w.changed, n.id)
		if err := w.set(&p, &n); err != nil {
			return nil, err
		}
	}
	return &wire.Answer{}, nil
}

// maxRows is the most entries that one command may carry.
const maxRows = 1000

// reportLost is ReportLost.
func (w *writer) reportLost(c *wire.ReportLost) (*wire.Answer, error) {
	content := c.Content.Sluice()
	r, err := as[contentRow](w.get(contentKey(content)))
	if err != nil || r == nil {
		return &wire.Answer{}, err
	}
	n := &contentRow{file: r.file}
	for _, h := range r.holders {
		if h.Worker != sluice.WorkerID(c.Worker) {
			n.holders = append(n.holders, h)
		}
	}
	w.put(contentKey(content), n)
	p, err := locate(w, r.file)
	if err != nil || !p.found() || len(n.holders) > 0 || len(r.holders) == 0 {
		return &wire.Answer{}, err
	}
	if p.node.content() != content || p.node.persist == sluice.Persisted {
		return &wire.Answer{}, nil
	}
	f := *p.node
	f.persist, f.changed = sluice.BytesLost, w.index
	w.changed = append(w.changed, f.id)
	return &wire.Answer{}, w.set(&p, &f)
}

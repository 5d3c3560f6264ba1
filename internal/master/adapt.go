package master

import (
	"context"
	"errors"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/namespace"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs"
)

// task returns an open intent.
func (m *Master) task(id uint64) (*task, bool) {
	i, ok, err := m.state.Intent(id)
	if err != nil || !ok {
		return nil, false
	}
	return &task{Intent: i, tried: i.Attempts > 0}, true
}

// intentOpen says whether an intent has not ended.
func (m *Master) intentOpen(id uint64) bool {
	_, ok, err := m.state.Intent(id)
	return ok || err != nil
}

// beginAttempt journals that the store is about to be asked, and returns the attempt's
// number.
func (m *Master) beginAttempt(ctx context.Context, t *task, term uint64) (uint64, error) {
	b := &wire.BeginAttempt{Intent: t.ID, TimeLeft: int64(m.attempt(m.mountTable.Load().byID(t.Mount))), Term: term}
	if t.Sealed.Prepared.Inline {
		b.Worker = uint64(t.Sealed.Worker)
	}
	if _, err := m.propose(ctx, &wire.Command{Op: &wire.Command_BeginAttempt{BeginAttempt: b}}); err != nil {
		return 0, err
	}
	i, ok, err := m.state.Intent(t.ID)
	if err != nil || !ok {
		return 0, errors.Join(err, errors.New("the intent has ended"))
	}
	return uint64(i.Attempts), nil
}

// reapPage removes the first n rows of a detached subtree.
func (m *Master) reapPage(ctx context.Context, id uint64, n int) (*wire.Answer, error) {
	return m.propose(ctx, &wire.Command{Op: &wire.Command_Reap{Reap: &wire.Reap{Detached: id, Limit: uint32(n)}}})
}

// makesDirs says whether mkdir and rmdir reach the store of a mount.
func (m *Master) makesDirs(e *mountEntry) bool {
	return e != nil && (e.features.NativeDirs || e.Options.Markers)
}

// renamesWhole says whether the store renames directories in one step.
func (m *Master) renamesWhole(e *mountEntry) bool { return e != nil && e.features.AtomicRename }

// learnBelow brings in what the store has in a directory, and with recursive in all
// below it, before a change that concerns all of it is judged.
func (m *Master) learnBelow(ctx context.Context, mount *mountEntry, dir sluice.Path, recursive bool) error {
	everybody := sluice.Principal{Super: true}
	info, err := m.state.Stat(everybody, dir, false)
	if absent(err) || err == nil && !info.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	freshness := sluice.Always()
	for after, done := "", false; !done; {
		if after, done, err = m.ensureListed(ctx, mount, dir, after, freshness); err != nil {
			return err
		}
	}
	if !recursive {
		return nil
	}
	for after := ""; ; {
		page, err := m.state.List(everybody, dir, after, pageObjects)
		if err != nil {
			if absent(err) {
				return nil
			}
			return err
		}
		for _, e := range page.Entries {
			if e.IsDir() && !e.IsMount {
				if err := m.learnBelow(ctx, mount, e.Path, true); err != nil {
					return err
				}
			}
			after = e.Path.Name()
		}
		if !page.More {
			return nil
		}
	}
}

// verdicts answers what becomes of contents that a worker must not evict by itself.
func (m *Master) verdicts(ids []sluice.ContentID) []*wire.ContentVerdict {
	out := make([]*wire.ContentVerdict, 0, len(ids))
	index := m.state.Applied()
	for _, id := range ids {
		v, pinned, err := m.state.Verdict(id)
		if err != nil {
			continue // no word is "keep"
		}
		out = append(out, &wire.ContentVerdict{Content: wire.FromContentID(id), State: uint32(v), Index: uint64(index), Pinned: pinned})
	}
	return out
}

// mountRows is the mount table of the state.
func (m *Master) mountRows() []namespace.MountRow { return m.state.Mounts() }

// lastTick is the journal time that the state has come to.
func (m *Master) lastTick() time.Duration { return m.state.Tick() }

// restoreSessions gives every session of the state its full lease, and returns how many
// there are.
func (m *Master) restoreSessions() (int, error) {
	all, err := m.state.Sessions()
	for _, s := range all {
		m.sessions.add(s.ID, s.Epoch)
	}
	return len(all), err
}

// openIntents returns the intents of the state in order of their ids.
func (m *Master) openIntents() []namespace.Intent {
	all, err := m.state.Intents()
	if err != nil {
		m.cfg.Log.Error("the open intents cannot be read", "cause", err)
	}
	return all
}

// detached returns the roots of what is out of the tree and waits for nothing but to be
// cleared away.
func (m *Master) detached() ([]uint64, error) {
	all, err := m.state.Detached()
	var out []uint64
	for _, d := range all {
		if d.Intent == 0 {
			out = append(out, d.ID)
		}
	}
	return out, err
}

// expireTTL ends files whose time has passed, a bounded number at once, from the cursor
// on, which it moves: what a sick store keeps from being ended is not in the way of the
// rest.
func (m *Master) expireTTL(ctx context.Context, cursor *string) error {
	due, next, err := m.state.DueTTL(m.ticker.now(), *cursor, dueFiles)
	if err != nil {
		return err
	}
	*cursor = next
	for _, f := range due {
		info, _ := m.state.FileByID(f.File)
		a, err := m.propose(ctx, &wire.Command{Op: &wire.Command_ExpireTtl{ExpireTtl: &wire.ExpireTTL{File: uint64(f.File), Epoch: f.Epoch}}})
		switch {
		case errors.Is(err, sluice.Busy), errors.Is(err, sluice.NotFound), errors.Is(err, sluice.Stale):
			continue // another time
		case err != nil:
			return err
		}
		if err := m.notices.publish(ctx, a.Changed); err != nil {
			return err
		}
		if m.spare(&info) {
			m.dropCached(&info)
		}
	}
	return nil
}

// spare says whether the blocks of a file whose time has passed may go: it is gone
// itself, or the store has its bytes and nobody pinned them. What is in workers only
// stays, like what a store has not removed yet.
func (m *Master) spare(info *sluice.FileInfo) bool {
	rest, there := m.state.FileByID(info.ID)
	return !there || rest.Persistence == sluice.Persisted && !rest.Pinned
}

// dropCached tells the workers to let go of a file's blocks.
func (m *Master) dropCached(info *sluice.FileInfo) {
	view, _ := m.fleet.View()
	for _, e := range info.Extents {
		m.fleet.Forget(e.Content)
		for _, w := range view.Workers {
			// One that cannot be told evicts them in its own time.
			_ = m.fleet.Send(w.ID, &wire.Order{Content: wire.FromContentID(e.Content), Drop: true})
		}
	}
}

// sweepAge is how old what a dead writer left in a store must be to be removed.
const sweepAge = 24 * time.Hour

// sweep has the stores remove what writers that died have left in them.
func (m *Master) sweep() {
	for _, e := range m.mountTable.Load().entries {
		store, err := m.stores.Acquire(e.ID)
		if err != nil || e.Options.ReadOnly {
			continue
		}
		if s, ok := underfs.As[underfs.Sweeper](store.Store); ok {
			n, err := s.Sweep(m.ctx, sweepAge, m.uploadLives)
			if err != nil && m.ctx.Err() == nil {
				m.cfg.Log.Warn("abandoned uploads cannot be swept", "mount", string(e.Path), "cause", err)
			} else if n > 0 {
				m.cfg.Log.Info("abandoned uploads were swept", "mount", string(e.Path), "count", n)
			}
		}
		store.Release()
	}
}

// uploadLives says whether what carries a tag or has an upload's id may still be
// completed: its content is not known to be dead, or an intent names it.
func (m *Master) uploadLives(name string) bool {
	for _, i := range m.openIntents() {
		if i.Sealed.Prepared.Upload == name || i.Sealed.Prepared.Tag == name {
			return true
		}
	}
	id, err := sluice.ParseContentID(name)
	if err != nil {
		return false
	}
	v, _, err := m.state.Verdict(id)
	return err != nil || v != namespace.VerdictDead
}

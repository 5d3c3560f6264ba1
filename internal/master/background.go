package master

import (
	"context"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// The bounds of one round of housekeeping.
const (
	reapRows  = 1000
	dueFiles  = 1000
	sweepTime = 10 * time.Minute // between sweeps of abandoned uploads
)

// housekeep notices what time has ended: workers, sessions, TTLs.
func (m *Master) housekeep() {
	tick := time.NewTicker(m.cfg.Background)
	defer tick.Stop()
	swept := m.cfg.Boot()
	var marked sluice.Index
	due := "" // where the round before stopped to end files whose time is over
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-tick.C:
		}
		m.fleet.Expire()
		if m.Ready() != nil {
			continue
		}
		if err := m.expireSessions(m.ctx); err != nil && m.ctx.Err() == nil {
			m.cfg.Log.Warn("sessions cannot be ended", "cause", err)
		}
		if err := m.expireTTL(m.ctx, &due); err != nil && m.ctx.Err() == nil {
			m.cfg.Log.Warn("files whose time is over cannot be ended", "cause", err)
		}
		marked = m.journalHash(m.ctx, marked)
		if m.staleMounts() {
			m.mountsChanged()
		}
		m.intents.resume()
		m.reaper.kick()
		m.promote(m.ctx)
		if m.cfg.Boot()-swept > sweepTime {
			swept = m.cfg.Boot()
			m.wg.Go(m.sweep)
		}
	}
}

// journalHash lets every member compare its changes with the primary's, once for each
// mark, and returns the mark it has come to.
func (m *Master) journalHash(ctx context.Context, last sluice.Index) sluice.Index {
	index, hash := m.state.Mark()
	if index <= last {
		return last
	}
	_, err := m.propose(ctx, &wire.Command{Op: &wire.Command_CheckHash{CheckHash: &wire.CheckHash{Index: uint64(index), Hash: hash}}})
	if err != nil {
		return last // another time
	}
	return index
}

// reaper removes what was detached from the tree, in bounded steps.
type reaper struct {
	m    *Master
	wake chan struct{} // has room for one
}

func newReaper(m *Master) *reaper { return &reaper{m: m, wake: make(chan struct{}, 1)} }

// kick makes it look for work.
func (r *reaper) kick() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run reaps until the master ends.
func (r *reaper) run() {
	r.kick()
	for {
		select {
		case <-r.m.ctx.Done():
			return
		case <-r.wake:
		}
		if err := r.reap(r.m.ctx); err != nil && r.m.ctx.Err() == nil {
			r.m.cfg.Log.Warn("removed directories cannot be cleared away yet", "cause", err)
		}
	}
}

// reap empties every detached subtree.
func (r *reaper) reap(ctx context.Context) error {
	roots, err := r.m.detached()
	if err != nil {
		return err
	}
	for _, root := range roots {
		for {
			a, err := r.m.propose(ctx, &wire.Command{Op: &wire.Command_Reap{Reap: &wire.Reap{Detached: root, Limit: reapRows}}})
			if err != nil {
				return err
			}
			if a.Reaped == 0 && !a.More {
				break
			}
		}
	}
	return nil
}

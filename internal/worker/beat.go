package worker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs/mounts"
)

// beats tells the masters of the worker again and again.
type beats struct {
	w    *Worker
	kick chan struct{} // has room for one: beat at once
	full atomic.Bool   // the next beat looks for never-evictable contents, however lately one did

	// Of the loop only.
	mounts uint64             // version of the mount table
	asks   []sluice.ContentID // never-evictable contents that are still to be asked about
	looked time.Duration      // boot time of the last look for them
	failed bool               // the last beat
	views  uint64             // version of the view; a smaller one is another primary's

	mu    sync.Mutex
	begun uint64        // guarded by mu: beats begun
	good  uint64        // guarded by mu: number of the last one that was answered
	at    time.Duration // guarded by mu: boot time of its answer
	err   error         // guarded by mu: why the last one was not
	wake  chan struct{} // guarded by mu: closed and replaced at the end of each beat
	index uint64        // guarded by mu: the highest of the verdicts
}

func newBeats(w *Worker) *beats {
	return &beats{w: w, kick: make(chan struct{}, 1), wake: make(chan struct{}), err: errors.New("no master has answered yet")}
}

// The times of heartbeats.
const (
	beatTimeout = 5 * time.Second
	lookEvery   = 5 * time.Second // for never-evictable contents
	staleAfter  = 15 * time.Second
	maxAsked    = 1000 // contents in one beat
)

// ready says whether a master answered lately.
func (b *beats) ready() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.good == 0:
		return &sluice.Error{Op: "ready", Kind: sluice.Unavailable, Err: b.err}
	case b.w.cfg.Boot()-b.at > staleAfter:
		return &sluice.Error{Op: "ready", Kind: sluice.Unavailable, Err: errors.Join(errors.New("no master has answered lately"), b.err)}
	}
	return nil
}

// now waits until a beat that begins from here on was answered, at most so long.
func (b *beats) now(ctx context.Context, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	b.mu.Lock()
	after := b.begun
	b.mu.Unlock()
	for {
		select {
		case b.kick <- struct{}{}:
		default:
		}
		b.mu.Lock()
		good, wake, err := b.good, b.wake, b.err
		b.mu.Unlock()
		if good > after {
			return nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-b.w.alive.Done():
			return errStopping()
		}
	}
}

// reclaimWait is how long a writer waits for room that dead contents may leave.
const reclaimWait = 2 * time.Second

// reclaim asks the masters at once which never-evictable contents are still live, and
// returns when what is not has made room: also what clients on this host still had open.
func (b *beats) reclaim(ctx context.Context) error {
	b.full.Store(true)
	if err := b.now(ctx, reclaimWait); err != nil {
		return err
	}
	b.w.cfg.Store.Settle(ctx)
	return nil
}

// loop beats until ctx ends.
func (b *beats) loop(ctx context.Context) {
	interval := b.w.cfg.Interval
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.kick:
		case <-timer.C:
		}
		if d := b.beat(ctx); d > 0 && b.w.cfg.Interval == DefaultInterval {
			interval = d
		}
		if len(b.asks) > 0 {
			timer.Reset(interval / 10) // there is more to ask
		} else {
			timer.Reset(interval)
		}
		if b.failed { // a caller that kicks does not make it a storm
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
				timer.Reset(0)
			}
		}
	}
}

// beat does one, and returns when the master wants the next.
func (b *beats) beat(ctx context.Context) time.Duration {
	w := b.w
	b.mu.Lock()
	b.begun++
	n := b.begun
	b.mu.Unlock()
	q, d := b.request()
	var a wire.HeartbeatAnswer
	call, cancel := context.WithTimeout(ctx, beatTimeout)
	err := w.masters.call(call, wire.MethodHeartbeat, q, &a)
	cancel()
	if err == nil {
		b.learn(ctx, q, &a)
		if len(b.asks) <= maxAsked {
			b.asks = nil
		} else {
			b.asks = b.asks[maxAsked:]
		}
	} else if d.full || len(d.gained)+len(d.dropped) > 0 {
		w.holds.again()
	}
	if err != nil && !b.failed && ctx.Err() == nil {
		w.log.Warn("no master answers the heartbeat", "cause", err)
	}
	if err == nil && b.failed {
		w.log.Info("a master answers again")
		w.holds.again() // it may be another, which knows nothing
	}
	b.failed = err != nil
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
	if err == nil {
		b.good, b.at = n, w.cfg.Boot()
	}
	close(b.wake)
	b.wake = make(chan struct{})
	return time.Duration(a.Interval)
}

// request makes a heartbeat.
func (b *beats) request() (*wire.Heartbeat, delta) {
	w := b.w
	b.look()
	r := w.report()
	d := w.delta()
	return &wire.Heartbeat{
		Worker: wire.FromWorkerInfo(r.WorkerInfo), Boot: w.boot, Mounts: b.mounts,
		Report: []*wire.WorkerReport{wire.FromWorkerReport(r)},
		Gained: wire.Map(d.gained, wire.FromBlockID), Dropped: wire.Map(d.dropped, wire.FromBlockID), Full: d.full,
		Unpersisted: wire.Map(b.asks[:min(len(b.asks), maxAsked)], wire.FromContentID),
	}, d
}

// look finds the contents to ask about, when all found before were.
func (b *beats) look() {
	w := b.w
	if len(b.asks) > 0 {
		return
	}
	b.asks = w.uploads.open(maxPrepared)
	now := w.cfg.Boot()
	if !b.full.Swap(false) && b.looked != 0 && now-b.looked < lookEvery {
		return
	}
	b.looked = now
	if s := w.cfg.Store.Stats(); s.Unpersisted == 0 && s.Pinned == 0 {
		return
	}
	for c := range w.cfg.Store.Contents() {
		if (c.Unpersisted || c.Pinned) && !c.Quarantined && w.uploads.find(c.Content) == nil {
			b.asks = append(b.asks, c.Content)
		}
	}
}

// learn takes in what the master says.
func (b *beats) learn(ctx context.Context, q *wire.Heartbeat, a *wire.HeartbeatAnswer) {
	w := b.w
	if a.Mounts != b.mounts {
		rows := make([]mounts.Row, 0, len(a.Table))
		for _, x := range a.Table {
			rows = append(rows, mounts.Row{Mount: x.Mount.Sluice(), Secrets: x.Secrets, Epoch: x.Epoch})
		}
		w.cfg.Stores.Update(rows)
		b.mounts = a.Mounts
	}
	live := make(map[sluice.Incarnation]bool, len(a.Incarnations))
	if len(a.Incarnations) > 0 {
		all := make([]sluice.Incarnation, 0, len(a.Incarnations))
		for _, i := range a.Incarnations {
			live[sluice.Incarnation(i)] = true
			all = append(all, sluice.Incarnation(i))
		}
		w.cfg.Store.Quarantine(all)
	}
	if v := a.View.Sluice(); v != nil {
		if v.Version < b.views {
			w.holds.again() // another primary, which knows nothing of this worker
		}
		b.views = v.Version
		if old := w.view.Swap(v); changedOrder(old, v) {
			w.holds.again()
		}
	}
	asked := make(map[sluice.ContentID]bool, len(q.Unpersisted))
	for _, c := range q.Unpersisted {
		asked[c.Sluice()] = true
	}
	for _, v := range a.Verdicts {
		if c := v.Content.Sluice(); asked[c] && live[c.Incarnation] {
			b.judge(ctx, c, v)
		}
	}
}

// changedOrder says that blocks may have got another home.
func changedOrder(old, now *sluice.View) bool {
	if old == nil || len(old.Workers) != len(now.Workers) {
		return true
	}
	for i := range now.Workers {
		if old.Workers[i].ID != now.Workers[i].ID || old.Workers[i].Weight != now.Workers[i].Weight {
			return true
		}
	}
	return false
}

// What a verdict says of a content.
const (
	verdictDead      = 1
	verdictPersisted = 2
)

// judge carries out a verdict. One of a master that knows less than another that
// answered before is passed over.
func (b *beats) judge(ctx context.Context, c sluice.ContentID, v *wire.ContentVerdict) {
	w := b.w
	b.mu.Lock()
	old := v.Index == 0 || v.Index < b.index
	b.index = max(b.index, v.Index)
	b.mu.Unlock()
	if old {
		return
	}
	var err error
	switch u := w.uploads.find(c); v.State {
	case verdictDead:
		w.log.Info("a content is dead and dropped", "content", c.String())
		if err := w.uploads.discard(ctx, c, errDiscarded); err != nil {
			w.log.Warn("a dead content was not removed from its store", "content", c.String(), "cause", err)
		}
		return
	case verdictPersisted:
		if u != nil {
			err = w.uploads.settle(ctx, u)
		}
		err = errors.Join(err, w.cfg.Store.SetPersisted(ctx, c))
	default:
		w.uploads.lives(c)
	}
	if pinned, known := w.pins.get(c); !v.Pinned && (pinned || !known) && w.uploads.find(c) == nil {
		w.pins.put(c, false)
		err = errors.Join(err, w.cfg.Store.Unpin(ctx, c))
	}
	if err != nil {
		w.log.Warn("what a master said of a content was not carried out", "content", c.String(), "cause", err)
	}
}

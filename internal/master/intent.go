package master

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// The bounds of carrying out intents.
const (
	maxRunning   = 256  // intents being carried out at once, per mount; others wait
	keptResults  = 4096 // ended intents whose answers are kept for who waits
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = 15 * time.Second
)

// intents carries out what the journal says is to be done in stores, and keeps at it
// until the store has done it or refused it for good. They need no order here: Apply
// opens none whose footprint overlaps that of another (namespace's Check).
type intents struct {
	m *Master

	mu    sync.Mutex
	runs  map[uint64]*run                  // guarded by mu: under way, and the last that ended
	ended []uint64                         // guarded by mu: in order of ending
	slots map[sluice.MountID]chan struct{} // guarded by mu: one element for each that runs
	wg    sync.WaitGroup
}

// run is one intent on its way.
type run struct {
	id   uint64
	done chan struct{} // closed when answer is set

	mu       sync.Mutex
	info     sluice.IntentInfo // guarded by mu
	over     bool              // guarded by mu
	diverged bool              // guarded by mu: a person is needed
	answer   *wire.Answer      // set before done is closed
}

func newIntents(m *Master) *intents {
	return &intents{m: m, runs: make(map[uint64]*run), slots: make(map[sluice.MountID]chan struct{})}
}

// start begins to carry out an intent, unless that was begun already.
func (x *intents) start(id uint64) *run {
	x.mu.Lock()
	defer x.mu.Unlock()
	if r := x.runs[id]; r != nil {
		return r
	}
	r := &run{id: id, done: make(chan struct{}), info: sluice.IntentInfo{ID: id, State: "waiting"}}
	x.runs[id] = r
	if x.m.ctx.Err() == nil {
		x.wg.Go(func() { x.carry(r) })
	}
	return r
}

// resume starts every intent that the state has open: those of before a start, and
// those that nobody waits for.
func (x *intents) resume() {
	for _, i := range x.m.openIntents() {
		x.start(i.ID)
	}
}

// wait returns when nothing is being carried out, after the master's context ended.
func (x *intents) wait() { x.wg.Wait() }

// result waits for an intent's end and returns the answer of who asked for it.
func (x *intents) result(ctx context.Context, id uint64) (*wire.Answer, error) {
	r := x.start(id)
	select {
	case <-r.done:
		if r.answer.Error != nil { // what was known of the store is not so
			for _, p := range r.paths() {
				x.m.asked.forget(p)
			}
		}
		return r.answer, nil
	case <-ctx.Done():
		return nil, &sluice.Error{Kind: sluice.UnknownOutcome, Err: errors.Join(errUnderWay, ctx.Err())}
	case <-x.m.ctx.Done():
		return nil, &sluice.Error{Kind: sluice.UnknownOutcome, Err: errors.Join(errUnderWay, errClosed())}
	}
}

var errUnderWay = errors.New("the store has not done it yet; the master goes on trying")

// waitEnd waits for an intent that is in the way, and says whether it has ended.
func (x *intents) waitEnd(ctx context.Context, id uint64) bool {
	x.mu.Lock()
	r := x.runs[id]
	x.mu.Unlock()
	if r == nil {
		if !x.m.intentOpen(id) {
			return true
		}
		r = x.start(id)
	}
	if r.stuck() {
		return false
	}
	select {
	case <-r.done:
		return true
	case <-ctx.Done():
	case <-x.m.ctx.Done():
	}
	return false
}

func (r *run) stuck() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.diverged
}

// paths returns what it is about.
func (r *run) paths() []sluice.Path {
	r.mu.Lock()
	defer r.mu.Unlock()
	return []sluice.Path{r.info.Path, r.info.To}
}

// note says how it stands, for reports.
func (r *run) note(state string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.info.State = state
	if err != nil {
		r.info.Message = err.Error()
	}
	r.diverged = state == stateDiverged
}

// end publishes the answer.
func (x *intents) end(r *run, a *wire.Answer) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r.answer = a
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	close(r.done)
	x.ended = append(x.ended, r.id)
	if len(x.ended) > keptResults {
		delete(x.runs, x.ended[0])
		x.ended = x.ended[1:]
	}
}

// slot waits for a place among the intents of a mount that are carried out.
func (x *intents) slot(ctx context.Context, id sluice.MountID) (release func(), err error) {
	x.mu.Lock()
	s := x.slots[id]
	if s == nil {
		s = make(chan struct{}, maxRunning)
		x.slots[id] = s
	}
	x.mu.Unlock()
	select {
	case s <- struct{}{}:
		return func() { <-s }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// carry carries one intent to its end.
func (x *intents) carry(r *run) {
	ctx := x.m.ctx
	t, ok := x.m.task(r.id)
	if !ok { // it ended before a restart of this run
		x.end(r, &wire.Answer{Error: wire.FromError(&sluice.Error{Kind: sluice.UnknownOutcome, Err: errors.New("the change has ended and its answer is not remembered")})})
		return
	}
	r.mu.Lock()
	r.info = t.Info(x.m.state.Tick())
	r.mu.Unlock()
	if t.Diverged {
		r.note(stateDiverged, nil)
		x.endDiverged(r, wire.FromError(&sluice.Error{Kind: sluice.Diverged, Err: errors.New(t.Message)}))
		return
	}
	if !x.fenced(ctx, t) {
		return
	}
	pause := firstBackoff
	for ctx.Err() == nil {
		began := time.Now()
		finish, err := x.attempt(ctx, r, t)
		if time.Since(began) > lastBackoff { // it was at work, as on a large tree
			pause = firstBackoff
		}
		if err == nil {
			a, err2 := x.m.batcher.propose(ctx, &wire.Command{Op: &wire.Command_FinishIntent{FinishIntent: finish}})
			if err2 == nil && !x.m.intentOpen(r.id) {
				x.end(r, a)
				return
			}
			if err2 == nil && !finish.Done { // it stays, to be shown
				r.note(stateDiverged, finish.Refused.Sluice())
				x.endDiverged(r, finish.Refused)
				return
			}
			if err = err2; err == nil {
				err = a.Error.Sluice()
			}
		}
		if !x.m.intentOpen(r.id) { // its mount was taken away by force
			x.end(r, &wire.Answer{Error: wire.FromError(&sluice.Error{Kind: sluice.UnknownOutcome, Err: errors.New("the mount was taken away meanwhile")})})
			return
		}
		r.note("waiting", err)
		if !sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, lastBackoff)
	}
}

// fenced waits until nothing of an earlier primary's attempts can arrive at the store any
// more, where the store cannot refuse it, and says whether the master goes on. Calls to
// a file system end with the process that made them, which our lock of the directory
// says is gone where there is one master; those of workers, and of other masters, do not.
func (x *intents) fenced(ctx context.Context, t *task) bool {
	e := x.m.mountTable.Load().byID(t.Mount)
	if !t.tried || e == nil || refuses(e) || e.features.NativeDirs && t.Attempt.Worker == 0 && x.m.member == nil {
		return true
	}
	left := x.m.started + max(t.Attempt.TimeLeft, x.m.attempt(e)) - x.m.cfg.Boot()
	return left <= 0 || sleep(ctx, left)
}

// refuses says whether a store itself refuses what comes too late.
func refuses(e *mountEntry) bool { return e.features.CreateIfAbsent && e.features.ReplaceIf }

// fencedAttempt is how long one try at a store may take where the next of several
// primaries has to wait it out: changes under way at a failover wait as long.
const fencedAttempt = 5 * time.Second

// attempt is how long one try at a store may take.
func (m *Master) attempt(e *mountEntry) time.Duration {
	if m.member != nil && e != nil && e.features.NativeDirs && !refuses(e) {
		return min(m.cfg.Attempt, fencedAttempt)
	}
	return m.cfg.Attempt
}

// endDiverged answers who waits for an intent that the store has refused and that
// cannot be undone.
func (x *intents) endDiverged(r *run, why *wire.Error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r.answer = &wire.Answer{Error: why}
	close(r.done)
}

// attempt journals an attempt and sends it. An error means that it is to be tried again.
func (x *intents) attempt(ctx context.Context, r *run, t *task) (*wire.FinishIntent, error) {
	release, err := x.slot(ctx, t.Mount)
	if err != nil {
		return nil, err
	}
	defer release()
	r.note("running", nil)
	e := x.m.mountTable.Load().byID(t.Mount)
	store, err := x.m.stores.Acquire(t.Mount)
	if err != nil {
		return nil, err
	}
	defer store.Release()
	if e == nil {
		return nil, errors.New("the mount is not there yet")
	}
	term, _ := x.m.journal.Leading()
	n, err := x.m.beginAttempt(ctx, t, uint64(term))
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.info.Attempts++
	r.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, x.m.attempt(e))
	defer cancel()
	c := &call{m: x.m, t: t, mount: e, store: store.Store, attempt: n, term: uint64(term)}
	o, err := c.run(limited)
	switch {
	case err == nil:
		return &wire.FinishIntent{Intent: r.id, Done: true, Object: o}, nil
	case again(err):
		return nil, err
	}
	return &wire.FinishIntent{Intent: r.id, Refused: wire.FromError(err)}, nil
}

// again says whether a store that answered err may do the same thing later.
func again(err error) bool {
	switch sluice.KindOf(err) {
	case sluice.Unavailable, sluice.Timeout, sluice.Cancelled, sluice.Busy, sluice.UnknownOutcome, sluice.Internal, sluice.NotPrimary:
		return true
	}
	return false
}

// list returns the intents that are open, oldest first.
func (x *intents) list() []sluice.IntentInfo {
	x.mu.Lock()
	runs := make([]*run, 0, len(x.runs))
	for _, r := range x.runs {
		runs = append(runs, r)
	}
	x.mu.Unlock()
	var out []sluice.IntentInfo
	for _, r := range runs {
		r.mu.Lock()
		if !r.over {
			out = append(out, r.info)
		}
		r.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b sluice.IntentInfo) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// ofMount counts the open intents of a mount.
func (x *intents) ofMount(id sluice.MountID) int {
	n := 0
	for _, i := range x.list() {
		if i.Mount == id {
			n++
		}
	}
	return n
}

// sleep waits, and says whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

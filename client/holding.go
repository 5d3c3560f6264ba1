package client

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// holding is what this client has of one worker's descriptors. The worker charges each
// until it is told that it was closed: with the next descriptor that is asked for, or
// with the request that waits at the worker while there are any. That request is answered
// with what the worker wants back.
type holding struct {
	c     *core
	id    sluice.WorkerID
	token uint64        // by which the worker knows this client
	wake  chan struct{} // has room for one: there is something to tell

	mu     sync.Mutex
	last   uint64                 // guarded by mu: the number of the descriptor asked for last
	coming map[uint64]bool        // guarded by mu: asked for; true where it is wanted back already
	open   map[uint64]*localBlock // guarded by mu: charged at the worker
	closed []uint64               // guarded by mu: let go of and not told
	urgent bool                   // guarded by mu: it is waited for
	armed  bool                   // guarded by mu: the loop's timer runs
	boot   uint64                 // guarded by mu: of the worker, as it said last
	life   uint64                 // guarded by mu: of what is held, likewise
	runs   bool                   // guarded by mu: the loop runs
	mute   bool                   // guarded by mu: the worker does not know the request
}

const (
	tellAfter  = 100 * time.Millisecond // what nobody asked for is told so late, with all that was closed meanwhile
	tellAtOnce = 256                    // or when there are so many
	tellAlong  = 64                     // at most so many with a descriptor that is asked for
)

func newHolding(c *core, id sluice.WorkerID) *holding {
	return &holding{c: c, id: id, token: c.dice.uint64() | 1, wake: make(chan struct{}, 1), coming: make(map[uint64]bool), open: make(map[uint64]*localBlock)}
}

// openBlock asks w, which is the holding's worker, for the descriptor of a block.
func (l *holding) openBlock(ctx context.Context, w *worker, g sluice.Grant, id sluice.BlockID) (*localBlock, error) {
	l.mu.Lock()
	l.last++
	n := l.last
	l.coming[n] = false
	k := min(len(l.closed), tellAlong)
	along := l.closed[:k:k]
	l.closed = l.closed[k:]
	l.mu.Unlock()
	f, a, err := w.openBlock(ctx, &wire.OpenBlockRequest{
		Grant: g, Block: wire.FromBlockID(id), Holder: l.token, Hold: n, Released: along,
	})
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.coming, n)
		l.closeLocked(along...) // once more: that does no harm
		if !answered(err) {
			l.closeLocked(n) // it may be on its way
		}
		return nil, err
	}
	b := l.c.locals.newBlock(id, f, a)
	b.from, b.number = l, n
	l.arrived(b, a.Boot, a.Life)
	return b, nil
}

// arrived notes that a descriptor has come.
func (l *holding) arrived(b *localBlock, boot, life uint64) {
	l.mu.Lock()
	b.wanted.Store(l.coming[b.number]) // then it is for this one read
	delete(l.coming, b.number)
	gone := l.renewLocked(boot, life)
	if boot == l.boot && life == l.life {
		l.open[b.number] = b
		l.runLocked()
	} else {
		b.wanted.Store(true) // it was slow: the worker has begun anew and does not charge it
	}
	l.mu.Unlock()
	l.c.locals.giveUp(gone)
}

// renewLocked takes in how the worker calls what is held. If it began anew, what was held
// before must go, and is returned.
func (l *holding) renewLocked(boot, life uint64) (gone []*localBlock) {
	if boot == l.boot && life <= l.life {
		return nil
	}
	l.mute = l.mute && boot == l.boot // another start may be another version
	l.boot, l.life = boot, life
	return l.forgottenLocked()
}

// forgottenLocked returns what is held, which the worker does not charge any more: nobody
// is to be told when it is closed.
func (l *holding) forgottenLocked() []*localBlock {
	gone := slices.Collect(maps.Values(l.open))
	clear(l.open)
	return gone
}

// letGo notes that the file of b is closed.
func (l *holding) letGo(b *localBlock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[b.number] != b {
		return
	}
	delete(l.open, b.number)
	l.urgent = l.urgent || b.wanted.Load()
	l.closeLocked(b.number)
}

// closeLocked notes what is to be told.
func (l *holding) closeLocked(numbers ...uint64) {
	if l.mute || len(numbers) == 0 {
		return
	}
	quiet := len(l.closed) > 0 && !l.urgent && len(l.closed)+len(numbers) < tellAtOnce
	l.closed = append(l.closed, numbers...)
	l.runLocked()
	if quiet {
		return // the timer runs
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// runLocked starts the loop if there is something for it to do.
func (l *holding) runLocked() {
	if !l.runs && !l.mute {
		l.runs = true
		l.c.background(l.run)
	}
}

// idle says whether nothing is held and there is nothing to tell.
func (l *holding) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.runs && len(l.open) == 0 && len(l.coming) == 0
}

// told is a request that waits, and how it has ended.
type told struct {
	released   []uint64
	boot, life uint64 // of what was held when it was sent
	answer     wire.RecallAnswer
	err        error
}

// run keeps a request waiting at the worker while anything is held. A second one goes
// when there is something to tell; the worker answers the first when it comes.
func (l *holding) run(ctx context.Context) {
	var (
		asks   sync.WaitGroup
		ended  = make(chan *told, 2)
		flying int
		again  bool // an answer was lost
		late   = time.NewTimer(0)
		pause  = firstPause
	)
	defer asks.Wait()
	defer late.Stop()
	for ctx.Err() == nil {
		t, over := l.next(flying, late)
		if over {
			return
		}
		if t != nil {
			flying++
			q := &wire.RecallRequest{Holder: l.token, Released: t.released, Again: again}
			asks.Go(func() {
				t.err = l.ask(ctx, q, &t.answer)
				ended <- t
			})
		}
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-late.C:
			l.hurry()
		case t := <-ended:
			flying--
			again = t.err != nil
			if l.heard(t) {
				pause = firstPause
			} else if sleep(ctx, l.c.dice.jitter(pause)) == nil {
				pause = min(2*pause, lastPause)
			}
		}
	}
}

// next returns the request that is to go now, or nil. over: there is nothing left to do.
// late is set for what can wait.
func (l *holding) next(flying int, late *time.Timer) (t *told, over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.mute, flying == 0 && len(l.open) == 0 && len(l.closed) == 0:
		l.runs = false
		return nil, true
	case flying == 0, flying == 1 && len(l.closed) > 0 && (l.urgent || len(l.closed) >= tellAtOnce):
		t = &told{released: l.closed, boot: l.boot, life: l.life}
		l.closed, l.urgent = nil, false
	case flying == 1 && len(l.closed) > 0 && !l.armed:
		l.armed = true
		late.Reset(tellAfter)
	}
	return t, false
}

// hurry makes what waits to be told go.
func (l *holding) hurry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed, l.urgent = false, len(l.closed) > 0
}

// ask makes one request.
func (l *holding) ask(ctx context.Context, q *wire.RecallRequest, a *wire.RecallAnswer) error {
	w := l.c.workers.get(l.id)
	if w == nil {
		return &sluice.Error{Kind: sluice.Unavailable, Err: errors.New("the worker is not there")}
	}
	return w.conn.Call(ctx, wire.MethodRecall, q, a)
}

// heard takes in how a request ended, and says whether the next may go at once.
func (l *holding) heard(t *told) bool {
	if t.err == nil {
		l.recalled(&t.answer)
		return true
	}
	l.mu.Lock()
	var gone []*localBlock
	known := answered(t.err)
	switch {
	case known && errors.Is(t.err, sluice.NotFound):
		// It was started again, or took us for dead, and charges nothing of what was held when
		// it was asked. A descriptor that came since told so already.
		if t.boot == l.boot && t.life == l.life {
			l.closed, gone = nil, l.forgottenLocked()
		}
	case known && errors.Is(t.err, sluice.Unsupported):
		l.mute, l.closed = true, nil
	default:
		known = false
		l.closed = append(l.closed, t.released...)
	}
	l.mu.Unlock()
	l.c.locals.giveUp(gone)
	return known
}

// recalled gives up what the worker wants, now or when those who read it are done.
func (l *holding) recalled(a *wire.RecallAnswer) {
	l.mu.Lock()
	gone := l.renewLocked(a.Boot, a.Life)
	for _, n := range a.Wanted {
		_, coming := l.coming[n]
		switch b := l.open[n]; {
		case b != nil:
			gone = append(gone, b)
		case coming:
			l.coming[n] = true
		default: // it never came, or is closed already
			l.urgent = true
			l.closeLocked(n)
		}
	}
	l.mu.Unlock()
	l.c.locals.giveUp(gone)
}

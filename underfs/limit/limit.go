// Package limit bounds the calls that one process has under way to an under store, and
// the bytes per second it moves; both may be changed while calls are waiting. It decides
// nothing about who goes first: callers are served in the order they came.
//
// A store that asks for fewer calls (underfs.ErrSlowDown) gets half as many, and one more
// after every round of calls that went well, as TCP does it (Chiu and Jain, additive
// increase, multiplicative decrease).
package limit

import (
	"container/list"
	"context"
	"errors"
	"io"
	"sync"

	"golang.org/x/time/rate"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// Stats says how full the limit is.
type Stats struct {
	InFlight, Waiting int // calls
	Concurrent        int // the bound of InFlight that was set; 0 is none
	Eased             int // the lower bound in force since the store asked for fewer; 0 is none
}

// Limit is an [underfs.Interceptor]. A read holds its place until its body is closed; a
// goroutine that opens several bodies at once may wait for itself.
type Limit struct {
	rate *rate.Limiter

	mu         sync.Mutex
	concurrent int        // guarded by mu
	inFlight   int        // guarded by mu
	waiting    *list.List // guarded by mu; of chan struct{}, closed when a place is given
	eased      int        // guarded by mu; bound below concurrent; 0 is none
	usual      int        // guarded by mu; calls that were under way when the store first asked for fewer
	good       int        // guarded by mu; calls that went well since eased last changed
	halved     uint64     // guarded by mu; how often eased was lowered
}

// New returns an interceptor; see [Limit.Set].
func New(concurrent int, bandwidth int64) *Limit {
	l := &Limit{rate: rate.NewLimiter(rate.Inf, 1), waiting: list.New()}
	l.Set(concurrent, bandwidth)
	return l
}

// Set changes the bounds: calls under way at once, and bytes per second in both
// directions together. 0 is no bound. Calls under way are not touched.
func (l *Limit) Set(concurrent int, bandwidth int64) {
	if bandwidth <= 0 {
		l.rate.SetLimit(rate.Inf)
	} else {
		l.rate.SetBurst(int(max(min(bandwidth/4, 8<<20), 64<<10))) // a quarter second
		l.rate.SetLimit(rate.Limit(bandwidth))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.concurrent = max(concurrent, 0)
	l.wakeLocked()
}

// Stats returns the state.
func (l *Limit) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{InFlight: l.inFlight, Waiting: l.waiting.Len(), Concurrent: l.concurrent, Eased: l.eased}
}

// freeLocked says whether another call may be under way.
func (l *Limit) freeLocked() bool {
	return (l.concurrent == 0 || l.inFlight < l.concurrent) && (l.eased == 0 || l.inFlight < l.eased)
}

// learn takes in how a call ended that was let in after the bound was lowered so many
// times. Of many calls under way that are all refused the first one halves the bound.
func (l *Limit) learn(err error, halved uint64) {
	slow := errors.Is(err, underfs.ErrSlowDown)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case slow && halved == l.halved:
		if l.eased == 0 {
			l.usual = l.inFlight
			l.eased = l.inFlight
		}
		l.eased = max(l.eased/2, 1)
		l.good = 0
		l.halved++
	case err == nil && l.eased > 0:
		if l.good++; l.good < l.eased {
			return
		}
		l.good = 0
		if l.eased++; l.eased > 2*l.usual || l.concurrent > 0 && l.eased >= l.concurrent {
			l.eased = 0
		}
		l.wakeLocked()
	}
}

// wakeLocked gives free places to those who wait.
func (l *Limit) wakeLocked() {
	for l.waiting.Len() > 0 && l.freeLocked() {
		l.inFlight++
		close(l.waiting.Remove(l.waiting.Front()).(chan struct{}))
	}
}

// enter waits for a place, and returns what learn wants to know.
func (l *Limit) enter(ctx context.Context, c underfs.Call) (uint64, error) {
	l.mu.Lock()
	if l.waiting.Len() == 0 && l.freeLocked() {
		l.inFlight++
		defer l.mu.Unlock()
		return l.halved, nil
	}
	place := make(chan struct{})
	e := l.waiting.PushBack(place)
	l.mu.Unlock()
	select {
	case <-place:
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.halved, nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-place: // given in the same moment: pass it on
		l.inFlight--
		l.wakeLocked()
	default:
		l.waiting.Remove(e)
	}
	return 0, underfs.Fail(c.Op.String(), c.Key, sluice.Unavailable, ctx.Err())
}

// leave gives a place back.
func (l *Limit) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inFlight--
	l.wakeLocked()
}

// spend waits until n bytes may be moved.
func (l *Limit) spend(ctx context.Context, n int64) error {
	if l.rate.Limit() == rate.Inf {
		return nil
	}
	for n > 0 {
		step := min(n, int64(l.rate.Burst()))
		if err := l.rate.WaitN(ctx, int(step)); err != nil {
			if e := ctx.Err(); e != nil {
				return e
			}
			return context.DeadlineExceeded // it would take longer than there is time
		}
		n -= step
	}
	return nil
}

// Call implements underfs.Interceptor. An Abort always passes: it frees what is held.
func (l *Limit) Call(ctx context.Context, c underfs.Call, next func(context.Context) error) error {
	if c.Op == underfs.OpAbort {
		return next(ctx)
	}
	if err := l.spend(ctx, c.Bytes); err != nil {
		return underfs.Fail(c.Op.String(), c.Key, sluice.Unavailable, err)
	}
	halved, err := l.enter(ctx, c)
	if err != nil {
		return err
	}
	defer l.leave()
	err = next(ctx)
	l.learn(err, halved)
	return err
}

// Open implements underfs.Interceptor.
func (l *Limit) Open(ctx context.Context, c underfs.Call, next underfs.Opener) (io.ReadCloser, error) {
	halved, err := l.enter(ctx, c)
	if err != nil {
		return nil, err
	}
	rc, err := next(ctx, c.Read)
	l.learn(err, halved)
	if err != nil {
		l.leave()
		return nil, err
	}
	return &body{ReadCloser: rc, ctx: ctx, l: l, c: c}, nil
}

// body pays for its bytes and gives its place back.
type body struct {
	io.ReadCloser
	ctx  context.Context // of the read
	l    *Limit
	c    underfs.Call
	once sync.Once
}

// Read implements io.Reader: bytes are paid for after they came.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if e := b.l.spend(b.ctx, int64(n)); e != nil && err == nil {
		err = underfs.Fail("read", b.c.Key, sluice.Unavailable, e)
	}
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error {
	defer b.once.Do(b.l.leave)
	return b.ReadCloser.Close()
}

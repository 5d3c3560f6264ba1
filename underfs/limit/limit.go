// Package limit bounds the calls that one process has under way to an under store, and
// the bytes per second it moves; both may be changed while calls are waiting. It decides
// nothing about who goes first: callers are served in the order they came.
package limit

import (
	"container/list"
	"context"
	"io"
	"sync"

	"golang.org/x/time/rate"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// Stats says how full the limit is.
type Stats struct {
	InFlight, Waiting int // calls
	Concurrent        int // the bound of InFlight; 0 is none
}

// Limit is an [underfs.Interceptor]. A read holds its place until its body is closed; a
// goroutine that opens several bodies at once may wait for itself.
type Limit struct {
	rate *rate.Limiter

	mu         sync.Mutex
	concurrent int        // guarded by mu
	inFlight   int        // guarded by mu
	waiting    *list.List // guarded by mu; of chan struct{}, closed when a place is given
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
	return Stats{InFlight: l.inFlight, Waiting: l.waiting.Len(), Concurrent: l.concurrent}
}

// wakeLocked gives free places to those who wait.
func (l *Limit) wakeLocked() {
	for l.waiting.Len() > 0 && (l.concurrent == 0 || l.inFlight < l.concurrent) {
		l.inFlight++
		close(l.waiting.Remove(l.waiting.Front()).(chan struct{}))
	}
}

// enter waits for a place.
func (l *Limit) enter(ctx context.Context, c underfs.Call) error {
	l.mu.Lock()
	if l.waiting.Len() == 0 && (l.concurrent == 0 || l.inFlight < l.concurrent) {
		l.inFlight++
		l.mu.Unlock()
		return nil
	}
	place := make(chan struct{})
	e := l.waiting.PushBack(place)
	l.mu.Unlock()
	select {
	case <-place:
		return nil
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
	return underfs.Fail(c.Op.String(), c.Key, sluice.Unavailable, ctx.Err())
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
	if err := l.enter(ctx, c); err != nil {
		return err
	}
	defer l.leave()
	return next(ctx)
}

// Open implements underfs.Interceptor.
func (l *Limit) Open(ctx context.Context, c underfs.Call, next underfs.Opener) (io.ReadCloser, error) {
	if err := l.enter(ctx, c); err != nil {
		return nil, err
	}
	rc, err := next(ctx, c.Read)
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

// Package retry repeats calls to an under store that failed as Unavailable, which by the
// contract means that nothing was done, and goes on with bodies that broke off. It waits
// with jittered exponential backoff and never longer than the caller's context. It does
// not repeat what has an unknown outcome, nor writes of an upload, whose bytes may have
// been taken in part.
package retry

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// Config sets a Retry. Zero values are useful.
type Config struct {
	Tries  int           // of one call, the first included; default 4
	First  time.Duration // longest wait before the second try; default 100ms; doubles from there
	Max    time.Duration // longest wait at all; default 5s
	Resume bool          // reads are conditional (underfs.Features.Conditional): a broken body is continued
	Seed   uint64        // of the jitter
}

// Stats counts since the start.
type Stats struct {
	Retries int64 // tries beyond the first
	Resumed int64 // bodies that were continued
	GaveUp  int64 // calls that failed after the last try
}

// Retry is an [underfs.Interceptor].
type Retry struct {
	cfg                      Config
	retries, resumed, gaveUp atomic.Int64

	mu  sync.Mutex
	rng *rand.Rand // guarded by mu
}

// New returns an interceptor.
func New(cfg Config) *Retry {
	if cfg.Tries <= 0 {
		cfg.Tries = 4
	}
	if cfg.First <= 0 {
		cfg.First = 100 * time.Millisecond
	}
	if cfg.Max <= 0 {
		cfg.Max = 5 * time.Second
	}
	return &Retry{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 2))}
}

// Stats returns what was counted.
func (r *Retry) Stats() Stats {
	return Stats{Retries: r.retries.Load(), Resumed: r.resumed.Load(), GaveUp: r.gaveUp.Load()}
}

// Call implements underfs.Interceptor.
func (r *Retry) Call(ctx context.Context, c underfs.Call, next func(context.Context) error) error {
	if c.Op == underfs.OpWrite || c.Op == underfs.OpPrepare {
		return next(ctx)
	}
	return r.try(ctx, next)
}

// try runs next until it succeeds, fails for good, or the tries are used up.
func (r *Retry) try(ctx context.Context, next func(context.Context) error) error {
	for n := 1; ; n++ {
		err := next(ctx)
		if err == nil || !errors.Is(err, sluice.Unavailable) {
			return err
		}
		if n == r.cfg.Tries || !r.wait(ctx, n) {
			r.gaveUp.Add(1)
			return err
		}
		r.retries.Add(1)
	}
}

// wait waits before try n+1 and says whether there is time for one.
func (r *Retry) wait(ctx context.Context, n int) bool {
	longest := min(r.cfg.First<<min(n-1, 30), r.cfg.Max)
	if longest <= 0 { // overflow
		longest = r.cfg.Max
	}
	r.mu.Lock()
	d := longest/2 + time.Duration(r.rng.Int64N(int64(longest/2)+1))
	r.mu.Unlock()
	if t, ok := ctx.Deadline(); ok && time.Until(t) <= d {
		return false // the failure says more than a timeout
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Open implements underfs.Interceptor.
func (r *Retry) Open(ctx context.Context, c underfs.Call, next underfs.Opener) (io.ReadCloser, error) {
	b := &body{ctx: ctx, r: r, req: c.Read, next: next}
	if err := r.try(ctx, b.open); err != nil {
		return nil, err
	}
	if !r.cfg.Resume || c.Read.Version == "" {
		return b.rc, nil
	}
	return b, nil
}

// body continues a conditional read where it broke off.
type body struct {
	ctx   context.Context // of the read
	r     *Retry
	req   underfs.ReadRequest // what is still to be read
	next  underfs.Opener
	rc    io.ReadCloser // nil after a failure
	fails int           // in a row, without a byte between
}

// open opens what is still to be read.
func (b *body) open(ctx context.Context) error {
	rc, err := b.next(ctx, b.req)
	if err == nil {
		b.rc = rc
	}
	return err
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	for {
		if b.req.Length == 0 {
			return 0, io.EOF
		}
		n, err := b.rc.Read(p)
		b.req.Offset += int64(n)
		b.req.Length -= int64(n)
		if n > 0 {
			b.fails = 0
		}
		if err == nil || !errors.Is(err, sluice.Unavailable) || b.req.Length == 0 {
			if b.req.Length == 0 && n > 0 {
				err = nil // every byte is there; the end comes with the next call
			}
			return n, err
		}
		if b.fails++; b.fails >= b.r.cfg.Tries || !b.r.wait(b.ctx, b.fails) {
			b.r.gaveUp.Add(1)
			return n, err
		}
		b.rc.Close()
		b.r.resumed.Add(1)
		if err := b.r.try(b.ctx, b.open); err != nil {
			b.rc = io.NopCloser(failed{err})
			return n, err
		}
		if n > 0 {
			return n, nil
		}
	}
}

// Close implements io.Closer.
func (b *body) Close() error { return b.rc.Close() }

// failed is a body that gives an error.
type failed struct{ err error }

// Read implements io.Reader.
func (f failed) Read([]byte) (int, error) { return 0, f.err }

// Package breaker stops calling an under store that does not answer. After a number of
// failures in a row (Unavailable, Timeout, UnknownOutcome) it opens: calls fail at once,
// as Unavailable. After a pause one call is let through; its success closes the breaker, its
// failure doubles the pause. Other errors are answers: the store is well.
package breaker

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// State is what a breaker does with calls.
type State uint8

// The states.
const (
	Closed   State = iota // calls pass
	Open                  // calls fail
	HalfOpen              // one call is under way to find out
)

// String returns closed, open or half-open.
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case Open:
		return "open"
	case HalfOpen:
		return "half-open"
	default:
		return "unknown"
	}
}

// Config sets a Breaker. Zero values are useful.
type Config struct {
	Failures int           // in a row, that open it; default 5
	Pause    time.Duration // before the first try; default 1s; doubles up to MaxPause
	MaxPause time.Duration // default 30s
	Mount    string        // named in the errors of calls that are not made
}

// Stats says how the store fares.
type Stats struct {
	State    State
	Since    time.Time // of the last change of State; zero if there was none
	Failures int       // in a row
	Refused  int64     // calls that were not made
	Opened   int64     // times it opened
	Last     string    // the last failure, empty if there was none
}

// Breaker is an [underfs.Interceptor].
type Breaker struct {
	cfg Config

	mu    sync.Mutex
	stats Stats         // guarded by mu
	pause time.Duration // guarded by mu
	retry time.Time     // guarded by mu; when an open breaker lets a call through
}

// New returns a closed breaker.
func New(cfg Config) *Breaker {
	if cfg.Failures <= 0 {
		cfg.Failures = 5
	}
	if cfg.Pause <= 0 {
		cfg.Pause = time.Second
	}
	if cfg.MaxPause <= 0 {
		cfg.MaxPause = max(30*time.Second, cfg.Pause)
	}
	return &Breaker{cfg: cfg, pause: cfg.Pause}
}

// Stats returns the state.
func (b *Breaker) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stats
}

// certain says whether a success of op proves that the store answers: an upload may take
// bytes without asking the store.
func certain(op underfs.Op) bool {
	switch op {
	case underfs.OpCreate, underfs.OpWrite, underfs.OpPrepare, underfs.OpAbort:
		return false
	default:
		return true
	}
}

// admit says whether a call may be made, and whether it is the one that finds out.
func (b *Breaker) admit(c underfs.Call) (probe bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.stats.State == Closed:
		return false, nil
	case b.stats.State == Open && certain(c.Op) && !time.Now().Before(b.retry):
		b.becomeLocked(HalfOpen)
		return true, nil
	}
	b.stats.Refused++
	where := ""
	if b.cfg.Mount != "" {
		where = " of " + b.cfg.Mount
	}
	return false, underfs.Fail(c.Op.String(), c.Key, sluice.Unavailable,
		fmt.Errorf("the store%s has not answered since %s (%s); the next try is in %s", where,
			b.stats.Since.Format(time.TimeOnly), b.stats.Last, max(time.Until(b.retry), 0).Round(100*time.Millisecond)))
}

// becomeLocked changes the state.
func (b *Breaker) becomeLocked(s State) {
	if s != HalfOpen && b.stats.State != HalfOpen {
		b.stats.Since = time.Now()
	} else if s == Closed {
		b.stats.Since = time.Now()
	}
	b.stats.State = s
}

// report notes how a call ended.
func (b *Breaker) report(op underfs.Op, probe bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	kind := sluice.Internal
	if err != nil {
		kind = sluice.KindOf(err)
	}
	switch {
	case kind == sluice.Unavailable || kind == sluice.Timeout || kind == sluice.UnknownOutcome:
		b.stats.Failures++
		b.stats.Last = err.Error()
		if probe {
			b.pause = min(2*b.pause, b.cfg.MaxPause)
		}
		if probe || b.stats.State == Closed && b.stats.Failures >= b.cfg.Failures {
			if !probe {
				b.stats.Opened++
			}
			b.becomeLocked(Open)
			b.retry = time.Now().Add(b.pause)
		}
	case kind == sluice.Cancelled: // says nothing; the next call finds out
		if probe {
			b.becomeLocked(Open)
		}
	case probe || b.stats.State == Closed && certain(op):
		b.stats.Failures, b.pause = 0, b.cfg.Pause
		if b.stats.State != Closed {
			b.becomeLocked(Closed)
		}
	}
}

// Call implements underfs.Interceptor. An Abort always passes: it frees what is held.
func (b *Breaker) Call(ctx context.Context, c underfs.Call, next func(context.Context) error) error {
	if c.Op == underfs.OpAbort {
		return next(ctx)
	}
	probe, err := b.admit(c)
	if err != nil {
		return err
	}
	err = next(ctx)
	b.report(c.Op, probe, err)
	return err
}

// Open implements underfs.Interceptor. A body that breaks off is a failure as well.
func (b *Breaker) Open(ctx context.Context, c underfs.Call, next underfs.Opener) (io.ReadCloser, error) {
	probe, err := b.admit(c)
	if err != nil {
		return nil, err
	}
	rc, err := next(ctx, c.Read)
	if err != nil {
		b.report(c.Op, probe, err)
		return nil, err
	}
	return &body{ReadCloser: rc, b: b, probe: probe}, nil
}

// body reports how the read went: at its first bytes or its first failure, and at every
// later failure.
type body struct {
	io.ReadCloser
	b        *Breaker
	probe    bool
	reported bool
}

// Read implements io.Reader.
func (r *body) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if failed := err != nil && err != io.EOF; failed || !r.reported {
		if !failed {
			r.b.report(underfs.OpRead, r.probe, nil)
		} else {
			r.b.report(underfs.OpRead, r.probe, err)
		}
		r.reported, r.probe = true, false
	}
	return n, err
}

// Close implements io.Closer. A body that was opened and not read is an answer.
func (r *body) Close() error {
	if !r.reported {
		r.reported = true
		r.b.report(underfs.OpRead, r.probe, nil)
	}
	return r.ReadCloser.Close()
}

// Package trace counts the calls to an under store: how many, how many failed, how long
// they took, how many bytes they moved. It changes nothing about them.
package trace

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// OpStats counts the calls of one operation since the start.
type OpStats struct {
	Op     underfs.Op
	Calls  int64
	Errors int64 // answers such as NotFound and Changed are no errors
	Bytes  int64 // read or written
	// Time is the sum of how long the calls took; of reads until the body was opened.
	Time time.Duration
}

// Stats counts since the start.
type Stats struct {
	Ops      []OpStats // of those that were called, in order
	InFlight int       // calls and open bodies
	Last     string    // the last error, empty if there was none
	LastAt   time.Time
}

// Trace is an [underfs.Interceptor].
type Trace struct {
	log      *slog.Logger
	ops      [underfs.OpProbe + 1]counters
	inFlight atomic.Int64
	last     atomic.Pointer[failure]
}

// counters are those of one operation.
type counters struct{ calls, errors, bytes, nanos atomic.Int64 }

// failure is the last error.
type failure struct {
	text string
	at   time.Time
}

// New returns an interceptor that logs each call at debug level; nil discards.
func New(log *slog.Logger) *Trace {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Trace{log: log}
}

// Stats returns what was counted.
func (t *Trace) Stats() Stats {
	s := Stats{InFlight: int(t.inFlight.Load())}
	for _, op := range underfs.Ops() {
		if c := &t.ops[op]; c.calls.Load() > 0 {
			s.Ops = append(s.Ops, OpStats{Op: op, Calls: c.calls.Load(), Errors: c.errors.Load(), Bytes: c.bytes.Load(), Time: time.Duration(c.nanos.Load())})
		}
	}
	if f := t.last.Load(); f != nil {
		s.Last, s.LastAt = f.text, f.at
	}
	return s
}

// answer says whether err is what a healthy store says.
func answer(err error) bool {
	switch sluice.KindOf(err) {
	case sluice.NotFound, sluice.Exists, sluice.Changed, sluice.NotEmpty, sluice.IsDirectory, sluice.NotDirectory, sluice.Cancelled, sluice.Archived:
		return true
	default:
		return false
	}
}

// done counts a call.
func (t *Trace) done(ctx context.Context, c underfs.Call, start time.Time, err error) {
	took := time.Since(start)
	o := &t.ops[c.Op]
	o.calls.Add(1)
	o.nanos.Add(int64(took))
	if err != nil {
		t.failed(c.Op, err)
	} else if c.Op == underfs.OpWrite {
		o.bytes.Add(c.Bytes)
	}
	if t.log.Enabled(ctx, slog.LevelDebug) {
		t.log.LogAttrs(ctx, slog.LevelDebug, "store call", slog.String("op", c.Op.String()), slog.String("key", string(c.Key)),
			slog.Int64("bytes", c.Bytes), slog.Duration("took", took), slog.Any("error", err))
	}
}

// failed notes an error.
func (t *Trace) failed(op underfs.Op, err error) {
	if answer(err) {
		return
	}
	t.ops[op].errors.Add(1)
	t.last.Store(&failure{err.Error(), time.Now()})
}

// Call implements underfs.Interceptor.
func (t *Trace) Call(ctx context.Context, c underfs.Call, next func(context.Context) error) error {
	t.inFlight.Add(1)
	defer t.inFlight.Add(-1)
	start := time.Now()
	err := next(ctx)
	t.done(ctx, c, start, err)
	return err
}

// Open implements underfs.Interceptor.
func (t *Trace) Open(ctx context.Context, c underfs.Call, next underfs.Opener) (io.ReadCloser, error) {
	t.inFlight.Add(1)
	start := time.Now()
	rc, err := next(ctx, c.Read)
	t.done(ctx, c, start, err)
	if err != nil {
		t.inFlight.Add(-1)
		return nil, err
	}
	return &body{ReadCloser: rc, t: t}, nil
}

// body counts bytes.
type body struct {
	io.ReadCloser
	t      *Trace
	closed atomic.Bool
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.t.ops[underfs.OpRead].bytes.Add(int64(n))
	if err != nil && err != io.EOF {
		b.t.failed(underfs.OpRead, err)
	}
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error {
	if !b.closed.Swap(true) {
		b.t.inFlight.Add(-1)
	}
	return b.ReadCloser.Close()
}

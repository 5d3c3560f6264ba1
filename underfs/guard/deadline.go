package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// slowFactor is how much longer calls may take that make the store move bytes.
const slowFactor = 4

// errSlow is the cause of a context that a deadline ended.
var errSlow = errors.New("the store did not answer in time")

// deadline bounds every call, and every Read of a body, by the mount's timeout. A call it
// ends is Unavailable and names the mount (a change that was sent is UnknownOutcome, as the
// driver says); the caller's own deadline stays a Timeout.
type deadline struct {
	limit time.Duration
	mount string
}

// of returns how long a call may take.
func (d *deadline) of(op underfs.Op) time.Duration {
	switch op {
	case underfs.OpPrepare, underfs.OpCommit, underfs.OpComplete, underfs.OpCopy, underfs.OpSweep:
		return slowFactor * d.limit
	default:
		return d.limit
	}
}

// blame turns the error of a call that the deadline ended into Unavailable.
func (d *deadline) blame(ctx context.Context, c underfs.Call, took time.Duration, err error) error {
	if err == nil || !errors.Is(context.Cause(ctx), errSlow) || errors.Is(err, sluice.UnknownOutcome) {
		return err
	}
	return &sluice.Error{Op: c.Op.String(), Kind: sluice.Unavailable, Err: d.text(took)}
}

// text says that the mount's store was too slow.
func (d *deadline) text(took time.Duration) error {
	if d.mount == "" {
		return fmt.Errorf("%w (%s)", errSlow, took)
	}
	return fmt.Errorf("mount %s: %w (%s)", d.mount, errSlow, took)
}

// Call implements underfs.Interceptor.
func (d *deadline) Call(ctx context.Context, c underfs.Call, next func(context.Context) error) error {
	limit := d.of(c.Op)
	inner, cancel := context.WithTimeoutCause(ctx, limit, errSlow)
	defer cancel()
	return d.blame(inner, c, limit, next(inner))
}

// Open implements underfs.Interceptor.
func (d *deadline) Open(ctx context.Context, c underfs.Call, next underfs.Opener) (io.ReadCloser, error) {
	inner, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(d.limit, func() { cancel(errSlow) })
	rc, err := next(inner, c.Read)
	timer.Stop()
	if err != nil {
		err = d.blame(inner, c, d.limit, err)
		cancel(nil)
		return nil, err
	}
	return &body{ReadCloser: rc, d: d, ctx: inner, c: c, cancel: cancel, timer: timer}, nil
}

// body bounds the wait of each Read, not the whole: a long body may be slow as long as
// it moves.
type body struct {
	io.ReadCloser
	d      *deadline
	ctx    context.Context // of the read
	c      underfs.Call
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	b.timer.Reset(b.d.limit)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && err != io.EOF {
		err = b.d.blame(b.ctx, b.c, b.d.limit, err)
	}
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

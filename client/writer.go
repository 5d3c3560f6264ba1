package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/blockstore"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// writer is a content on its way to one worker.
type writer struct {
	c       *Client
	s       *session
	path    sluice.Path
	file    sluice.FileID
	content sluice.ContentID
	grant   sluice.Grant
	empty   bool // the file is complete already: nothing may be written
	info    sluice.FileInfo

	replaced []sluice.Extent // the content that the path had, if that was known

	to     *worker // nil until the first bytes are sent
	sent   int64   // bytes handed to the sender, in order
	sum    uint32  // CRC-32C of them
	buf    []byte  // bytes not sent yet: buf[:n]
	n      int
	over   bool
	failed error // the first failure; nothing is sent after it

	flight  sync.WaitGroup
	slots   chan struct{} // one element for each piece in flight
	last    chan struct{} // closed when the last piece in flight has been taken; nil: none is
	sending context.Context
	stop    context.CancelFunc

	mu  sync.Mutex
	err error // guarded by mu: the first failure of a piece in flight
}

var (
	_ sluice.Writer      = (*writer)(nil)
	_ sluice.EntryWriter = (*writer)(nil)
)

// piecesInFlight is how many pieces of one file are on their way at once.
const piecesInFlight = 6

// Create implements [sluice.Contents].
func (c *Client) Create(ctx context.Context, path sluice.Path, opts sluice.CreateOptions) (sluice.Writer, error) {
	w, err := c.create(ctx, path, opts)
	if err != nil {
		return nil, sluice.Wrap("create", path, err)
	}
	return w, nil
}

func (c *Client) create(ctx context.Context, path sluice.Path, opts sluice.CreateOptions) (*writer, error) {
	if opts.Mode == 0 {
		opts.Mode = 0o644
	}
	var (
		a   wire.CreateAnswer
		s   *session
		err error
	)
	for range 3 {
		if s, err = c.sessions.get(ctx); err != nil {
			return nil, err
		}
		a.Reset()
		err = c.mutateIn(ctx, s, wire.MethodCreate, func(h *wire.CallHeader) rpc.Message {
			return &wire.CreateRequest{Call: h, Path: string(path), Options: wire.FromCreateOptions(opts), View: c.workers.version()}
		}, &a)
		if !errors.Is(err, errLost) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	replaced := c.grants.forget(path)
	c.workers.learn(a.View.Sluice())
	w := &writer{
		c: c, s: s, path: path, replaced: replaced, file: sluice.FileID(a.Info.GetId()), content: a.Content.Sluice(), grant: a.Grant,
		empty: opts.Empty, info: a.Info.Sluice(), slots: make(chan struct{}, piecesInFlight),
	}
	w.sending, w.stop = context.WithCancel(c.alive)
	return w, nil
}

// Entry implements [sluice.EntryWriter].
func (w *writer) Entry() sluice.FileInfo { return w.info }

// Write implements [sluice.Writer]. It returns before the bytes have reached their
// worker; a failure on the way is returned by a later Write or by Close.
func (w *writer) Write(ctx context.Context, p []byte) (int, error) {
	switch {
	case w.over:
		return 0, w.fail(&sluice.Error{Kind: sluice.Invalid, Err: errors.New("the file is closed")})
	case w.empty && len(p) > 0:
		return 0, w.fail(&sluice.Error{Kind: sluice.Invalid, Err: errors.New("the file was created as empty; create it without that option")})
	}
	n := 0
	for n < len(p) {
		if err := w.broken(ctx); err != nil {
			return n, w.fail(err)
		}
		m, err := w.put(ctx, p[n:])
		n += m
		if err != nil {
			w.failed = err
			return n, w.fail(err)
		}
	}
	return n, nil
}

func (w *writer) fail(err error) error { return sluice.Wrap("write", w.path, err) }

// broken returns why nothing can be written any more.
func (w *writer) broken(ctx context.Context) error {
	if w.failed == nil {
		w.mu.Lock()
		w.failed = w.err
		w.mu.Unlock()
	}
	if w.failed != nil {
		return w.failed
	}
	if err := ctx.Err(); err != nil {
		return &sluice.Error{Kind: sluice.KindOf(err), Err: err}
	}
	return nil
}

// put takes some of p: into the buffer, which is sent when it is full, or straight to
// the worker where there is no buffer to be had.
func (w *writer) put(ctx context.Context, p []byte) (int, error) {
	if w.n == len(w.buf) && !w.grow() {
		n := min(len(p), pieceSize)
		if err := w.sendNow(ctx, p[:n]); err != nil {
			return 0, err
		}
		return n, nil
	}
	n := copy(w.buf[w.n:], p)
	w.n += n
	if w.n == pieceSize {
		return n, w.flush(ctx)
	}
	return n, nil
}

// grow makes room in the buffer; false where no memory is to be had. Then the buffer is
// empty.
func (w *writer) grow() bool {
	pool := w.c.writes
	if w.buf == nil && w.sent == 0 {
		pool = w.c.small
	}
	next := pool.try()
	if next == nil && pool == w.c.small {
		pool = w.c.writes
		next = pool.try()
	}
	if next == nil {
		return false
	}
	copy(next, w.buf[:w.n])
	w.release(w.buf)
	w.buf = next
	return true
}

// release gives a buffer back to where it came from.
func (w *writer) release(buf []byte) {
	if cap(buf) >= pieceSize {
		w.c.writes.put(buf)
	} else {
		w.c.small.put(buf)
	}
}

// flush sends the buffer, pipelined behind what is in flight. The first piece is waited
// for: until one was taken another worker can be chosen.
func (w *writer) flush(ctx context.Context) error {
	buf, n := w.buf, w.n
	w.buf, w.n = nil, 0
	if n == 0 {
		w.release(buf)
		return nil
	}
	if w.to == nil {
		defer w.release(buf)
		return w.sendNow(ctx, buf[:n])
	}
	select {
	case w.slots <- struct{}{}:
	case <-ctx.Done():
		w.release(buf)
		return &sluice.Error{Kind: sluice.KindOf(ctx.Err()), Err: ctx.Err()}
	}
	off, p := w.sent, summed(buf[:n])
	w.count(p)
	before, done := w.last, make(chan struct{})
	w.last = done
	w.flight.Go(func() {
		defer func() { <-w.slots }()
		defer w.release(buf)
		defer close(done)
		err := w.transmit(w.sending, w.to, off, p)
		if before != nil && errors.Is(err, sluice.Invalid) {
			// It overtook the one before it, and this worker does not wait for that.
			<-before
			err = w.transmit(w.sending, w.to, off, p)
		}
		if err != nil {
			w.mu.Lock()
			if w.err == nil {
				w.err = err
			}
			w.mu.Unlock()
			w.stop()
		}
	})
	return nil
}

// parcel is some bytes of a content with their CRC-32C, whole and of each chunk of them:
// computed once, for the wire, the worker and the content.
type parcel struct {
	data []byte
	sum  uint32
	sums []uint32
}

func summed(p []byte) parcel {
	sums := blockstore.Sums(p)
	return parcel{p, blockstore.CombineChunks(sums, int64(len(p))), sums}
}

// count adds p to what was handed to the sender.
func (w *writer) count(p parcel) {
	w.sum = blockstore.Combine(w.sum, p.sum, int64(len(p.data)))
	w.sent += int64(len(p.data))
}

// sendNow sends p behind what was sent before and waits until it was taken.
func (w *writer) sendNow(ctx context.Context, data []byte) error {
	p := summed(data)
	if w.n > 0 {
		if err := w.flush(ctx); err != nil {
			return err
		}
	}
	if w.to != nil {
		w.flight.Wait()
		if err := w.broken(ctx); err != nil {
			return err
		}
		if err := w.transmit(ctx, w.to, w.sent, p); err != nil {
			return err
		}
		w.count(p)
		return nil
	}
	return w.choose(ctx, func(to *worker) error {
		if err := w.transmit(ctx, to, 0, p); err != nil {
			return err
		}
		w.count(p)
		return nil
	})
}

// Close implements [sluice.Writer].
func (w *writer) Close(ctx context.Context) (sluice.FileInfo, error) {
	if w.over {
		return sluice.FileInfo{}, w.fail(&sluice.Error{Kind: sluice.Invalid, Err: errors.New("the file is closed")})
	}
	if w.empty {
		w.over = true
		w.stop()
		return w.info, nil
	}
	info, err := w.publish(ctx)
	if err != nil {
		if sluice.KindOf(err) != sluice.UnknownOutcome {
			w.drop(ctx)
		}
		w.end()
		return sluice.FileInfo{}, sluice.Wrap("close", w.path, err)
	}
	w.end()
	w.c.locals.forget(append(w.replaced, w.c.grants.forget(w.path)...))
	return info, nil
}

// end gives everything back.
func (w *writer) end() {
	w.over = true
	w.stop()
	w.flight.Wait()
	w.release(w.buf)
	w.buf, w.n = nil, 0
}

// publish seals the content at its worker and commits it.
func (w *writer) publish(ctx context.Context) (sluice.FileInfo, error) {
	if err := w.broken(ctx); err != nil {
		return sluice.FileInfo{}, err
	}
	sealed, err := w.finish(ctx)
	if err != nil {
		return sluice.FileInfo{}, err
	}
	if sealed.Length != w.sent || sealed.Checksum != w.sum {
		return sluice.FileInfo{}, &sluice.Error{Kind: sluice.Corrupt, Err: fmt.Errorf(
			"the worker has %d bytes with checksum %08x, sent were %d with %08x; write the file again", sealed.Length, sealed.Checksum, w.sent, w.sum)}
	}
	var a wire.StatAnswer
	err = w.c.mutateIn(ctx, w.s, wire.MethodCommit, func(h *wire.CallHeader) rpc.Message {
		return &wire.CommitRequest{Call: h, File: uint64(w.file), Sealed: wire.FromSealed(sealed)}
	}, &a)
	if err == nil {
		return a.Info.Sluice(), nil
	}
	switch kind := sluice.KindOf(err); {
	case (kind == sluice.Cancelled || kind == sluice.Timeout) && ctx.Err() != nil:
		return sluice.FileInfo{}, &sluice.Error{Kind: sluice.UnknownOutcome, Err: fmt.Errorf("%w while the file was being published", ctx.Err())}
	default:
		return sluice.FileInfo{}, err
	}
}

// Abort implements [sluice.Writer].
func (w *writer) Abort(ctx context.Context) error {
	if w.over {
		return nil
	}
	w.stop()
	w.flight.Wait()
	err := w.drop(ctx)
	w.end()
	return sluice.Wrap("abort", w.path, err)
}

// cleanupFor bounds what tidying up may take after the caller's context has ended.
const cleanupFor = 5 * time.Second

// drop tells worker and master that nothing comes of this content. What does not reach
// them ends with the session.
func (w *writer) drop(ctx context.Context) error {
	w.flight.Wait()
	if w.empty {
		return nil
	}
	if w.to != nil {
		w.discardAt(ctx, w.to)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupFor)
	defer cancel()
	err := w.c.mutateIn(ctx, w.s, wire.MethodAbandon, func(h *wire.CallHeader) rpc.Message {
		return &wire.AbandonRequest{Call: h, File: uint64(w.file), Content: wire.FromContentID(w.content)}
	}, nil)
	if errors.Is(err, sluice.NotFound) || errors.Is(err, errLost) {
		return nil // gone already, with its session or by somebody's remove
	}
	return err
}

func (w *writer) discardAt(ctx context.Context, to *worker) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupFor)
	defer cancel()
	if err := to.Discard(ctx, w.grant); err != nil {
		w.c.log.Debug("content not discarded; the worker drops it by itself", "content", w.content.String(), "err", err)
	}
}

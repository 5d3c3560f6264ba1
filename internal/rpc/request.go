package rpc

import (
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
)

// Request is one request as its handler sees it. It must not be used after Serve has
// returned, and by one goroutine at a time.
type Request struct {
	Method Method
	Peer   Peer

	c       *session
	id      uint64
	ctx     callContext
	body    []byte
	pooled  bool // body goes back to the pool
	inline  bool // runs on the connection's reader
	payload []byte
	sums    []uint32 // of the chunks of payload[:got]; nil where pieces end inside of chunks
	got     int      // of payload, while it comes
	room    int64    // payload bytes the caller has room for
	size    int64    // what it counts for in the limits
	damaged bool     // the payload failed a checksum
	file    *os.File
}

// Decode reads the request's message into m. Kind Invalid: it is not one.
func (r *Request) Decode(m Message) error {
	if err := m.UnmarshalVT(r.body); err != nil {
		return fail(sluice.Invalid, "decode the request: %w", err)
	}
	return nil
}

// Payload returns the bytes sent with the request, checked. They are valid until Serve
// returns.
func (r *Request) Payload() []byte { return r.payload }

// PayloadSums returns the CRC-32C of each 64 KiB of the payload, against which it was
// checked, valid as long as the payload; nil where the pieces it came in ended inside of
// those.
func (r *Request) PayloadSums() []uint32 {
	if len(r.sums) != sumsFor(int64(len(r.payload))) {
		return nil
	}
	return r.sums
}

// RecvLen returns how many payload bytes the caller still has room for.
func (r *Request) RecvLen() int { return int(r.room) }

// Over returns a channel that is closed when the caller's connection is over. It may be
// kept beyond Serve: what a handler holds for its caller can end with it.
func (r *Request) Over() <-chan struct{} { return r.c.quit }

// Stopping returns a channel that is closed when the server begins to shut down: a
// request that waits for something to happen is to be answered then.
func (r *Request) Stopping() <-chan struct{} { return r.c.server.quit }

// PassFile passes a descriptor of f with the answer. It takes a duplicate: f is the
// handler's to close when PassFile returns. Kind Unsupported: the peer is not on a unix
// socket; Unavailable: the process has no descriptor left.
func (r *Request) PassFile(f *os.File) error {
	if !r.c.line.raw.passes() {
		return fail(sluice.Unsupported, "descriptors pass over unix sockets only")
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fail(sluice.Unavailable, "duplicate a descriptor: %v", err)
	}
	r.dropFile()
	r.file = os.NewFile(uintptr(fd), f.Name())
	return nil
}

// dropFile closes the descriptor that was to be passed.
func (r *Request) dropFile() {
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}

// SendBytes sends p as the next payload bytes of the answer; p is the handler's again
// when it returns. sums holds the CRC-32C of each 64 KiB of p (the last may be of
// less); nil: they are computed here. Kind Cancelled or Timeout: the caller gave up.
// TooLarge: the caller has no room for it. Unavailable: its connection is lost.
func (r *Request) SendBytes(p []byte, sums []uint32) error {
	if err := r.begin(int64(len(p)), sums); err != nil {
		return err
	}
	for len(p) > 0 {
		n := min(len(p), PieceSize)
		var part []uint32
		if sums != nil {
			part, sums = sums[:sumsFor(int64(n))], sums[sumsFor(int64(n)):]
		}
		if err := r.sendPiece(p[:n], part); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// begin checks a payload of n bytes before the first of them is sent.
func (r *Request) begin(n int64, sums []uint32) error {
	switch {
	case n < 0 || sums != nil && len(sums) != sumsFor(n):
		panic(fmt.Sprintf("rpc: %d checksums for %d bytes", len(sums), n))
	case n > r.room:
		return fail(sluice.TooLarge, "the caller has room for %d bytes, not for %d", r.room, n)
	case r.ctx.Err() != nil:
		return ended(&r.ctx)
	}
	r.room -= n
	return nil
}

// lend takes n bytes of the client's window, waiting for credit if it is used up.
func (r *Request) lend(n int) error {
	c := r.c
	if !c.credit.TryAcquire(int64(n)) {
		if err := c.credit.Acquire(&r.ctx, int64(n)); err != nil {
			return ended(&r.ctx)
		}
	}
	c.lent.Add(int64(n))
	return nil
}

// sendPiece sends one piece from memory. Small ones wait in the queue for the answer
// that follows them.
func (r *Request) sendPiece(p []byte, sums []uint32) error {
	if err := r.lend(len(p)); err != nil {
		return err
	}
	l := r.c.line
	if len(p) <= MetadataPayload {
		n, err := l.putPiece(r.id, p, sums)
		if err != nil || n < queueHigh {
			return r.gone(err)
		}
	}
	if err := l.acquire(&r.ctx); err != nil {
		if len(p) > MetadataPayload {
			r.unlend(len(p))
		}
		return ended(&r.ctx)
	}
	defer l.release()
	if len(p) <= MetadataPayload {
		return r.gone(l.drain())
	}
	return r.gone(l.writePiece(r.id, p, sums))
}

func (r *Request) gone(err error) error {
	if err == nil {
		return nil
	}
	return fail(sluice.Unavailable, "the caller's connection is lost: %w", err)
}

// SendFile is [Request.SendBytes] of n bytes of f from off, by sendfile where sums are
// given and the connection can. Its file offset is neither used nor moved. A failed
// or short read ends this call (with the returned error) and not the connection.
func (r *Request) SendFile(f *os.File, off, n int64, sums []uint32) error {
	if err := r.begin(n, sums); err != nil {
		return err
	}
	if sums == nil || n <= MetadataPayload || !r.c.line.raw.sendfile() {
		return r.copyFile(f, off, n, sums)
	}
	return r.streamFile(f, off, n, sums)
}

// copyFile sends a file by way of a buffer.
func (r *Request) copyFile(f *os.File, off, n int64, sums []uint32) error {
	buf := r.c.line.buffers.get(int(min(n, PieceSize)))
	defer r.c.line.buffers.put(buf)
	for n > 0 {
		p := buf[:min(n, PieceSize)]
		if _, err := f.ReadAt(p, off); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fail(sluice.KindOf(err), "read the bytes to send: %w", err)
		}
		var part []uint32
		if sums != nil {
			k := sumsFor(int64(len(p)))
			part, sums = sums[:k], sums[k:]
		}
		if err := r.sendPiece(p, part); err != nil {
			return err
		}
		off += int64(len(p))
		n -= int64(len(p))
	}
	return nil
}

// streamFile sends a file by sendfile. It keeps the line from piece to piece while
// nobody else wants it, so that a trailer leaves together with the next header.
func (r *Request) streamFile(f *os.File, off, n int64, sums []uint32) error {
	l, held := r.c.line, false
	var small [2 * (prefixSize + 64 + maxTrailer)]byte
	edge := small[:0] // the trailer that has not been sent
	defer func() {
		if held {
			l.release()
		}
	}()
	for n > 0 {
		size := int(min(n, PieceSize))
		if err := r.lendHeld(size, l, &held, &edge); err != nil {
			return err
		}
		if !held {
			if err := l.acquire(&r.ctx); err != nil {
				r.unlend(size)
				return ended(&r.ctx)
			}
			held = true
			if err := l.drain(); err != nil {
				return r.gone(err)
			}
		}
		k := sumsFor(int64(size))
		h := header{call: r.id, payload: uint32(size), sums: uint32(k)}
		edge = appendPrefix(edge, framePiece, &h, size+h.trailer())
		status, srcErr, err := l.writeFile(edge, f, off, size)
		if err != nil {
			return r.gone(err)
		}
		edge = appendTrailer(small[:0], status, sums[:k])
		n, off, sums = n-int64(size), off+int64(size), sums[k:]
		last := n == 0 || srcErr != nil
		if last || l.contended() || r.ctx.Err() != nil {
			l.releaseWith(edge) // it leaves with what follows, the answer most likely
			edge, held = small[:0], false
		}
		if srcErr != nil {
			return fail(sluice.KindOf(srcErr), "read the bytes to send: %w", srcErr)
		}
	}
	return nil
}

// lendHeld is lend for a sender that may hold the line with a trailer unsent: before it
// waits for credit it sends that and gives the line back.
func (r *Request) lendHeld(n int, l *line, held *bool, edge *[]byte) error {
	if r.ctx.Err() == nil && r.c.credit.TryAcquire(int64(n)) {
		r.c.lent.Add(int64(n))
		return nil
	}
	if *held {
		l.releaseWith(*edge)
		*edge, *held = (*edge)[:0], false
		l.flush(false)
	}
	return r.lend(n)
}

// unlend takes back what was lent and not sent.
func (r *Request) unlend(n int) {
	r.c.lent.Add(-int64(n))
	r.c.credit.Release(int64(n))
}

// writeFile sends b and then size bytes of f. What the file does not give is padded
// with zeros and told by the status, so that the connection goes on. The caller holds
// the line and sends the trailer.
func (l *line) writeFile(b []byte, f *os.File, off int64, size int) (status byte, srcErr, err error) {
	err = l.watch(func() error {
		if err := l.raw.sendMore(b); err != nil {
			return err
		}
		sent, failed, err := l.raw.sendFile(f, off, size)
		srcErr = failed
		if err != nil || sent == size {
			return err
		}
		status = pieceFailed
		zeros := make([]byte, size-sent)
		_, err = l.conn.Write(zeros)
		return err
	})
	return status, srcErr, err
}

// serve runs the handler and answers.
func (r *Request) serve() {
	var m Message
	var err error
	if r.damaged {
		err = fail(sluice.Corrupt, "the payload fails its checksum on arrival; send it again")
	} else {
		m, err = r.c.server.handler.Serve(&r.ctx, r)
	}
	r.answer(m, err)
	r.finish()
}

// answer sends the end of the call.
func (r *Request) answer(m Message, err error) {
	h := header{call: r.id}
	if err == nil {
		if n := messageSize(m); n > r.c.most {
			err = fail(sluice.TooLarge, "the answer has %d bytes, at most %d are sent", n, r.c.most)
		}
	}
	if err != nil {
		h.failed, m = true, toFault(err)
		r.dropFile()
	}
	l := r.c.line
	if r.file != nil {
		r.answerFile(&h, m)
		return
	}
	if r.inline {
		if _, err := l.put(frameAnswer, &h, m); err != nil {
			r.encodeFailed(h, err)
		}
		return
	}
	if err := l.send(&r.ctx, frameAnswer, &h, m, r.c.busy.Load() > 1); err != nil {
		r.encodeFailed(h, err)
	}
}

// encodeFailed tells the caller that its answer could not be made, if the connection
// lives.
func (r *Request) encodeFailed(h header, err error) {
	if err == errNotSent {
		return
	}
	r.c.server.cfg.Log.Error("answer not encoded", "method", int(r.Method), "err", err)
	h.failed = true
	r.c.line.send(context.Background(), frameAnswer, &h, toFault(err), false)
}

// answerFile sends the answer with a descriptor.
func (r *Request) answerFile(h *header, m Message) {
	h.file = true
	b, err := appendMessage(nil, frameAnswer, h, m, messageSize(m))
	if err != nil {
		r.encodeFailed(header{call: r.id}, err)
		return
	}
	l := r.c.line
	if l.acquire(context.Background()) != nil {
		return
	}
	defer l.release()
	if l.drain() == nil {
		l.watch(func() error { return l.raw.sendDescriptor(b, r.file) })
	}
}

// finish gives back everything the request held.
func (r *Request) finish() {
	c := r.c
	r.ctx.end(context.Canceled)
	c.mu.Lock()
	delete(c.requests, r.id)
	leave := c.draining && len(c.requests) == 0
	c.mu.Unlock()
	if r.pooled {
		c.line.buffers.put(r.body)
	}
	if r.payload != nil {
		c.line.buffers.put(r.payload)
	}
	r.dropFile()
	r.body, r.payload = nil, nil
	c.limit.release(r.size)
	c.server.limit.release(r.size)
	c.busy.Add(-1)
	if leave {
		c.leaveIfIdle()
	}
}

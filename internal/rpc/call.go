package rpc

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"time"

	sluice "github.com/sluicefs/sluice"
)

// call makes one call on this connection. errNotSent: the server has seen nothing of
// it, another connection may be tried.
func (c *conn) call(ctx context.Context, m Method, req, resp Message, io *Payload) (int, error) {
	cl, busy, err := c.register(io, resp)
	if err != nil {
		return 0, err
	}
	n, err := c.roundTrip(ctx, cl, m, req, io, busy)
	if cl.file != nil {
		if io.File != nil && err == nil {
			*io.File = cl.file
		} else {
			cl.file.Close()
		}
	}
	c.recycle(cl)
	return n, err
}

func (c *conn) roundTrip(ctx context.Context, cl *call, m Method, req Message, io *Payload, busy bool) (int, error) {
	h := header{call: cl.id, method: m, send: uint64(len(io.Send)), recv: uint64(len(io.Recv))}
	if c.owed.Load() > 0 {
		h.credit = uint64(c.owed.Swap(0))
	}
	if deadline, ok := ctx.Deadline(); ok {
		h.timeout = uint64(max(1, time.Until(deadline).Microseconds()))
	}
	if err := c.check(req, io); err != nil {
		c.withdraw(cl, h.credit)
		return 0, err
	}
	var err error
	if len(io.Send) == 0 {
		err = c.line.send(ctx, frameRequest, &h, req, busy)
	} else {
		err = c.upload(ctx, cl, &h, req, io.Send, io.Sums)
	}
	switch {
	case err == nil:
		err = c.wait(ctx, cl)
	case ctx.Err() != nil && !errors.Is(err, errNotSent):
		err = c.abandon(ctx, cl)
	default:
		c.withdraw(cl, h.credit)
		return 0, err
	}
	if err != nil {
		return 0, err
	}
	return c.result(cl)
}

// check refuses what the server would refuse by ending the connection.
func (c *conn) check(req Message, io *Payload) error {
	if io.Sums != nil && len(io.Sums) != sumsFor(int64(len(io.Send))) {
		panic(fmt.Sprintf("rpc: %d checksums for %d bytes", len(io.Sums), len(io.Send)))
	}
	most := uint64(c.dec.maxMessage)
	if c.server.maxMessage > 0 {
		most = min(most, c.server.maxMessage)
	}
	if n := messageSize(req); uint64(n) > most {
		return fail(sluice.TooLarge, "the request has %d bytes, at most %d are accepted", n, most)
	}
	if c.server.maxPayload > 0 && uint64(len(io.Send)) > c.server.maxPayload {
		return fail(sluice.TooLarge, "the payload has %d bytes, at most %d are accepted", len(io.Send), c.server.maxPayload)
	}
	return nil
}

// upload sends a request and its payload.
func (c *conn) upload(ctx context.Context, cl *call, h *header, req Message, p []byte, sums []uint32) error {
	if _, err := c.line.put(frameRequest, h, req); err != nil {
		return err
	}
	if len(p) <= MetadataPayload {
		_, err := c.line.putPiece(cl.id, p, sums)
		if err == nil {
			c.line.flush(false)
		}
		return lostNow(err)
	}
	if ctx.Done() != nil {
		// A peer that takes nothing must not keep the caller for long. Cutting a piece off
		// costs the connection, so it gets some time to finish.
		stop := context.AfterFunc(ctx, func() { c.nc.SetWriteDeadline(time.Now().Add(uploadGrace)) })
		defer func() {
			if !stop() {
				c.nc.SetWriteDeadline(time.Time{})
			}
		}()
	}
	for len(p) > 0 {
		n := min(len(p), PieceSize)
		if err := c.line.acquire(ctx); err != nil {
			return err
		}
		var part []uint32
		if sums != nil {
			part, sums = sums[:sumsFor(int64(n))], sums[sumsFor(int64(n)):]
		}
		err := c.line.writePiece(cl.id, p[:n], part)
		c.line.release()
		if err != nil {
			return lostNow(err)
		}
		p = p[n:]
	}
	return nil
}

// uploadGrace is how long a cancelled caller may wait for a peer to accept the rest of
// a piece.
const uploadGrace = time.Second

// lostNow makes the error of a connection that failed while a request was being sent
// one that is not tried again: the server may have seen part of it.
func lostNow(err error) error {
	if err == nil {
		return nil
	}
	return fail(sluice.Unavailable, "connection lost while sending: %v", err)
}

// sumsOf returns the CRC-32C of each chunk of p in the memory of sums.
func sumsOf(p []byte, sums []uint32) []uint32 {
	for len(p) > 0 {
		n := min(len(p), chunkSize)
		sums = append(sums, crc32.Checksum(p[:n], crcTable))
		p = p[n:]
	}
	return sums
}

// putPiece queues p, at most a piece, without sending it.
func (l *line) putPiece(call uint64, p []byte, sums []uint32) (int, error) {
	var mem [maxSums]uint32
	if sums == nil {
		sums = sumsOf(p, mem[:0])
	}
	h := header{call: call, payload: uint32(len(p)), sums: uint32(len(sums))}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, errNotSent
	}
	l.queue = grow(l.queue, prefixSize+maxHeader+len(p)+maxTrailer)
	l.queue = appendPrefix(l.queue, framePiece, &h, len(p)+h.trailer())
	l.queue = append(l.queue, p...)
	l.queue = appendTrailer(l.queue, pieceGood, sums)
	return len(l.queue), nil
}

// writePiece sends p, at most a piece, without copying it where the connection can. The
// caller holds the line.
func (l *line) writePiece(call uint64, p []byte, sums []uint32) error {
	var mem [maxSums]uint32
	if sums == nil {
		sums = sumsOf(p, mem[:0])
	}
	if err := l.drain(); err != nil {
		return err
	}
	h := header{call: call, payload: uint32(len(p)), sums: uint32(len(sums))}
	var small [prefixSize + 64 + maxTrailer]byte
	head := appendPrefix(small[:0], framePiece, &h, len(p)+h.trailer())
	tail := appendTrailer(head[len(head):], pieceGood, sums)
	if l.raw.sendfile() {
		return l.watch(func() error {
			b := net.Buffers{head, p, tail}
			_, err := b.WriteTo(l.conn)
			return err
		})
	}
	buf := l.buffers.get(len(head) + len(p) + len(tail))
	defer l.buffers.put(buf)
	b := append(append(append(buf[:0], head...), p...), tail...)
	return l.write(b)
}

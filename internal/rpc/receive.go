package rpc

import (
	"fmt"
	"time"

	sluice "github.com/sluicefs/sluice"
)

// step reads on by one frame, or by one part of it, for whichever call it is. own is
// the leader's call, nil for none. The caller leads.
func (c *conn) step(own *call) error {
	err := c.advance(own)
	if interrupted(err) {
		// Whoever wanted the leader to look up has its attention.
		c.nc.SetReadDeadline(time.Time{})
	}
	return err
}

func (c *conn) advance(own *call) error {
	switch c.dec.phase {
	case phasePayload:
		return c.fill()
	case phaseTrailer:
		return c.seal()
	}
	if err := c.dec.head(); err != nil {
		return err
	}
	switch c.dec.kind {
	case framePiece:
		return nil
	case frameAnswer:
		return c.answer(own)
	case frameGoaway:
		c.mu.Lock()
		c.draining = true
		c.mu.Unlock()
		return nil
	default:
		return fmt.Errorf("%w: type %d from a server", errFrame, c.dec.kind)
	}
}

// fill reads a piece's payload into the buffer of its call, if that still waits for it.
func (c *conn) fill() error {
	n := int(c.dec.h.payload)
	c.mu.Lock()
	cl := c.calls[c.dec.h.call]
	var dst []byte
	switch {
	case cl == nil || cl.left():
		cl = nil
	case n > len(cl.recv)-cl.got:
		cl.bad = fail(sluice.Internal, "the server sends more than the %d bytes there is room for", len(cl.recv))
		cl = nil
	default:
		dst = cl.recv[cl.got : cl.got+n]
		c.filling = cl
	}
	c.mu.Unlock()
	err := c.dec.payload(dst)
	if cl != nil {
		c.mu.Lock()
		c.filling = nil
		if done := cl.detached; done != nil {
			cl.detached = nil
			close(done) // cl is its caller's from here on
		}
		c.mu.Unlock()
	}
	return err
}

// seal reads the end of a piece and credits it.
func (c *conn) seal() error {
	if err := c.dec.trailer(); err != nil {
		return err
	}
	n := int64(c.dec.h.payload)
	c.mu.Lock()
	if cl := c.calls[c.dec.h.call]; cl != nil && !cl.left() && cl.bad == nil {
		switch {
		case c.dec.why == pieceFailed:
			cl.bad = fail(sluice.Corrupt, "the server could not read what it was sending")
		case c.dec.bad:
			cl.bad = fail(sluice.Corrupt, "the bytes from %d to %d fail their checksum", cl.got, cl.got+int(n))
		default:
			cl.got += int(n)
		}
	}
	c.mu.Unlock()
	if owed := c.owed.Add(n); owed >= window/2 {
		h := header{credit: uint64(c.owed.Swap(0))}
		if _, err := c.line.put(frameCredit, &h, nil); err == nil {
			c.line.flush(false)
		}
	}
	return nil
}

// answer ends a call.
func (c *conn) answer(own *call) error {
	h := &c.dec.h
	file := c.dec.in.claimIf(h.file)
	if h.file && file == nil {
		return fmt.Errorf("%w: a descriptor is announced and none came", errFrame)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	cl := c.calls[h.call]
	delete(c.calls, h.call)
	if cl == nil || cl.left() {
		if cl != nil {
			c.orphans--
		}
		if file != nil {
			file.Close()
		}
		return nil
	}
	cl.file = file
	switch {
	case h.failed:
		var f fault
		if cl.err = f.UnmarshalVT(c.dec.body); cl.err == nil {
			cl.err = f.toError()
		}
	case cl.bad != nil:
		cl.err = cl.bad
	case cl == own:
		cl.err = decode(cl.resp, c.dec.body) // nobody else uses it: no copy is needed
	case cl.resp != nil:
		cl.body = c.line.buffers.get(len(c.dec.body))
		copy(cl.body, c.dec.body)
	}
	c.completeLocked(cl)
	return nil
}

// result takes what came for a call that wait has returned for.
func (c *conn) result(cl *call) (int, error) {
	if cl.body != nil {
		if cl.err == nil {
			cl.err = decode(cl.resp, cl.body)
		}
		c.line.buffers.put(cl.body)
		cl.body = nil
	}
	return cl.got, cl.err
}

func decode(m Message, b []byte) error {
	if m == nil {
		return nil
	}
	if err := m.UnmarshalVT(b); err != nil {
		return fail(sluice.Internal, "decode the answer: %w", err)
	}
	return nil
}

func lost(addr string, err error) error {
	return fmt.Errorf("connection to %s lost: %w", addr, err)
}

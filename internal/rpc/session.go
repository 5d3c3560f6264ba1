package rpc

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	sluice "github.com/sluicefs/sluice"
)

// session is the server's end of one connection.
type session struct {
	id      uint64 // counts the server's sessions
	server  *Server
	nc      net.Conn
	line    *line
	peer    Peer
	most    int                 // bytes of the largest answer the client takes
	credit  *semaphore.Weighted // payload bytes that may be sent ahead of the client's credit
	limit   limiter
	quit    chan struct{} // closed when the connection is over
	wg      sync.WaitGroup
	busy    atomic.Int32 // requests in flight
	leaving atomic.Bool  // the connection is being closed after the last answer
	lent    atomic.Int64 // payload bytes sent and not credited yet

	dec     decoder             // used by the reader
	uploads map[uint64]*Request // used by the reader: those whose payload is still coming
	queued  bool                // used by the reader: inline answers stand in the queue

	mu       sync.Mutex
	requests map[uint64]*Request // guarded by mu: in flight, for cancellation
	draining bool                // guarded by mu: the server shuts down
}

// maxWindow bounds the window a client may ask for.
const maxWindow = 64 << 20

func newSession(s *Server, nc net.Conn) *session {
	c := &session{
		server: s, nc: nc, quit: make(chan struct{}),
		uploads: make(map[uint64]*Request), requests: make(map[uint64]*Request),
	}
	c.limit.maxRequests, c.limit.maxBytes = s.cfg.MaxRequestsPerConn, s.cfg.MaxBytesPerConn
	c.dec = newDecoder(nc.Read, s.cfg.MaxMessage)
	c.line = newLine(nc, &s.buffers, func(error) { nc.Close() }, s.wg.Go)
	return c
}

// run reads requests until the connection ends, then waits for their handlers.
func (c *session) run() {
	err := c.read()
	c.server.cfg.Log.Debug("connection over", "from", c.peer.Address, "err", err)
	close(c.quit)
	c.nc.Close()
	c.line.close(err)
	for _, id := range slices.Sorted(maps.Keys(c.uploads)) {
		c.uploads[id].finish()
	}
	c.mu.Lock()
	for _, id := range slices.Sorted(maps.Keys(c.requests)) {
		c.requests[id].ctx.end(context.Canceled)
	}
	c.mu.Unlock()
	c.wg.Wait()
}

func (c *session) read() error {
	for {
		if c.queued && !c.dec.ready() {
			c.queued = false
			c.line.flush(false)
		}
		if err := c.frame(); err != nil {
			return err
		}
	}
}

// frame reads one frame and acts on it.
func (c *session) frame() error {
	if err := c.dec.head(); err != nil {
		return err
	}
	h := &c.dec.h
	switch c.dec.kind {
	case frameRequest:
		if err := c.take(h.credit); err != nil {
			return err
		}
		return c.request(h)
	case framePiece:
		return c.piece(h.call)
	case frameCancel:
		c.cancel(h.call)
		return nil
	case frameCredit:
		return c.take(h.credit)
	default:
		return fmt.Errorf("%w: type %d from a client", errFrame, c.dec.kind)
	}
}

// take books credit that the client gives.
func (c *session) take(n uint64) error {
	if n == 0 {
		return nil
	}
	if n > maxWindow || c.lent.Add(-int64(n)) < 0 {
		return fmt.Errorf("%w: credit for %d bytes that were not sent", errFrame, n)
	}
	c.credit.Release(int64(n))
	return nil
}

// request starts a request, or gathers its payload first.
func (c *session) request(h *header) error {
	r := &Request{Method: h.method, Peer: c.peer, c: c, id: h.call, room: int64(min(h.recv, 1<<40)), size: int64(len(c.dec.body)) + int64(h.send)}
	if h.timeout > 0 {
		r.ctx.deadline = time.Now().Add(time.Duration(min(h.timeout, 1<<52)) * time.Microsecond)
	}
	if err := c.admit(r, h); err != nil {
		c.refuse(h.call, err)
		return nil
	}
	if h.send == 0 && c.server.cfg.Inline(h.method) {
		r.body = c.dec.body
		r.inline = true
		r.serve()
		c.queued = true
		return c.relieve()
	}
	if len(c.dec.own) > 0 {
		r.body = c.dec.body // a buffer of its own
	} else {
		r.body = append(c.line.buffers.get(max(1, len(c.dec.body)))[:0], c.dec.body...)
		r.pooled = true
	}
	if h.send > 0 {
		r.payload = c.line.buffers.get(int(h.send))
		c.uploads[r.id] = r
		return nil
	}
	c.start(r)
	return nil
}

// relieve makes the reader wait while the queue of inline answers is above its bound.
func (c *session) relieve() error {
	c.line.mu.Lock()
	n := len(c.line.queue)
	c.line.mu.Unlock()
	if n < queueHigh {
		return nil
	}
	if err := c.line.acquire(context.Background()); err != nil {
		return err
	}
	defer c.line.release()
	return c.line.drain()
}

// admit refuses what is too large and makes the rest wait for room, for a while.
func (c *session) admit(r *Request, h *header) error {
	cfg := &c.server.cfg
	c.mu.Lock()
	draining, twice := c.draining, c.requests[h.call] != nil || c.uploads[h.call] != nil
	c.mu.Unlock()
	switch {
	case draining:
		return fail(sluice.Unavailable, "the server is shutting down")
	case twice:
		return fail(sluice.Invalid, "the call id %d is in use", h.call)
	case h.send > uint64(cfg.MaxPayload):
		return fail(sluice.TooLarge, "the payload has %d bytes, at most %d are accepted", h.send, cfg.MaxPayload)
	}
	if !c.limit.acquire(r.size, cfg.LimitWait, c.server.quit) {
		return fail(sluice.Busy, "too many requests in flight on this connection (limits: %d requests, %d bytes); try again later", cfg.MaxRequestsPerConn, cfg.MaxBytesPerConn)
	}
	if !c.server.limit.acquire(r.size, cfg.LimitWait, c.server.quit) {
		c.limit.release(r.size)
		return fail(sluice.Busy, "too many requests in flight on this server (limits: %d requests, %d bytes); try again later", cfg.MaxRequests, cfg.MaxBytes)
	}
	c.busy.Add(1)
	c.mu.Lock()
	c.requests[r.id] = r
	c.mu.Unlock()
	return nil
}

// refuse answers a request that is not served.
func (c *session) refuse(call uint64, err error) {
	h := header{call: call, failed: true}
	if _, err := c.line.put(frameAnswer, &h, toFault(err)); err == nil {
		c.line.flush(false)
	}
}

// piece reads a part of a request's payload.
func (c *session) piece(call uint64) error {
	n := int(c.dec.h.payload)
	r := c.uploads[call]
	var dst []byte
	if r != nil && n <= len(r.payload)-r.got {
		dst = r.payload[r.got : r.got+n]
	}
	if err := c.dec.payload(dst); err != nil {
		return err
	}
	if err := c.dec.trailer(); err != nil {
		return err
	}
	switch {
	case r == nil: // refused, or cancelled
		return nil
	case dst == nil:
		return fmt.Errorf("%w: more payload than announced", errFrame)
	case c.dec.bad:
		r.damaged = true
	}
	if r.got%chunkSize == 0 {
		r.sums = append(r.sums, c.dec.sums[:c.dec.h.sums]...)
	}
	if r.got += n; r.got == len(r.payload) {
		delete(c.uploads, call)
		c.start(r)
	}
	return nil
}

func (c *session) start(r *Request) { c.wg.Go(r.serve) }

// cancel ends the context of a request, or forgets one whose payload is still coming.
func (c *session) cancel(call uint64) {
	if r := c.uploads[call]; r != nil {
		delete(c.uploads, call)
		r.finish()
		c.refuse(call, fail(sluice.Cancelled, "the caller gave up"))
		return
	}
	c.mu.Lock()
	r := c.requests[call]
	c.mu.Unlock()
	if r != nil {
		r.ctx.end(context.Canceled)
	}
}

// drain tells the client that no further requests are served and ends the connection
// when none is in flight.
func (c *session) drain() {
	c.mu.Lock()
	c.draining = true
	c.mu.Unlock()
	c.line.put(frameGoaway, &header{}, nil)
	c.line.flush(false)
	c.leaveIfIdle()
}

func (c *session) leaveIfIdle() {
	c.mu.Lock()
	over := c.draining && len(c.requests) == 0
	c.mu.Unlock()
	if over && !c.leaving.Swap(true) {
		c.server.wg.Go(func() { // whoever calls must not wait for the peer
			ctx, cancel := context.WithTimeout(context.Background(), leaveWait)
			defer cancel()
			if c.line.acquire(ctx) == nil { // everything queued before has been written
				c.line.release()
			}
			c.nc.Close()
		})
	}
}

// leaveWait bounds how long a server that shuts down waits for a peer to take its last
// answers.
const leaveWait = time.Second

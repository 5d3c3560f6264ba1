package rpc

import (
	"context"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	sluice "github.com/sluicefs/sluice"
)

// conn is the client's end of one connection. It has no goroutine of its own: one of
// the callers that wait for an answer reads for all of them (it leads) until its own
// answer is there, and hands the lead to another. So a lone caller writes and reads
// without a switch of goroutines. Whenever an answer is outstanding somebody leads: if
// only cancelled calls are left, a goroutine made for it.
type conn struct {
	nc     net.Conn
	line   *line
	peer   Peer
	server *serverHello
	hold   func(func()) // runs a goroutine that the client's Close waits for
	owed   atomic.Int64 // payload bytes taken off the wire and not yet credited
	used   atomic.Int64 // when the last call ended, unix ns

	dec decoder // used by whoever leads

	mu       sync.Mutex
	calls    map[uint64]*call // guarded by mu: outstanding; orphan for those whose caller left
	last     uint64           // guarded by mu: the last call id
	orphans  int              // guarded by mu: Invariant: how often orphan stands in calls
	leading  bool             // guarded by mu: somebody leads, or the connection is over
	filling  *call            // guarded by mu: whose buffer the leader writes into
	parked   call             // guarded by mu: ring of the calls that wait to be woken
	free     *call            // guarded by mu: call values to use again, linked by next
	draining bool             // guarded by mu: the server takes no further calls here
	err      error            // guarded by mu: why the connection is over
}

// call is one call in flight.
type call struct {
	id   uint64
	ch   chan signal // has room for one
	recv []byte
	resp Message

	// Set by the leader before it signals.
	got  int      // payload bytes received
	body []byte   // the answer's message, pooled
	file *os.File // descriptor that came with the answer
	err  error
	bad  error // what was wrong with a piece

	done       bool          // guarded by conn.mu: the answer is there
	detached   chan struct{} // guarded by conn.mu: closed when the leader has let go of recv
	prev, next *call         // guarded by conn.mu: in conn.parked
}

type signal uint8

const (
	signalDone signal = iota
	signalLead
)

// window is how many payload bytes the server may send ahead of our credit, on one
// connection.
const window = 4 << 20

// idleCheck is how long a connection may lie unused before it is looked at first.
const idleCheck = time.Second

func newConn(nc net.Conn, maxMessage int, bulk bool, buffers *pool, hold func(func())) *conn {
	c := &conn{nc: nc, hold: hold, calls: make(map[uint64]*call)}
	c.dec = newDecoder(nil, maxMessage)
	c.dec.in.read = receiver(nc, &c.dec.in)
	if bulk {
		c.dec.ahead = bulkAhead
	}
	c.line = newLine(nc, buffers, c.fail, hold)
	c.parked.next, c.parked.prev = &c.parked, &c.parked
	c.used.Store(time.Now().UnixNano())
	return c
}

// usable says whether new calls may be made here.
func (c *conn) usable() bool {
	c.mu.Lock()
	ok, idle := c.err == nil && !c.draining, len(c.calls) == 0
	c.mu.Unlock()
	if !ok || !idle {
		return ok
	}
	if time.Now().UnixNano()-c.used.Load() < int64(idleCheck) {
		return true
	}
	closed, pending := peek(c.nc)
	if closed {
		c.fail(errNotSent)
		return false
	}
	return !pending || c.look()
}

// look reads what a server sent to an idle connection, a goaway most likely, and says
// whether the connection is still usable.
func (c *conn) look() bool {
	c.mu.Lock()
	if c.leading {
		ok := c.err == nil && !c.draining
		c.mu.Unlock()
		return ok
	}
	c.leading = true
	c.mu.Unlock()
	c.nc.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	err := c.step(nil)
	c.nc.SetReadDeadline(time.Time{})
	if err != nil && !interrupted(err) {
		c.finish(err)
		return false
	}
	c.hand()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil && !c.draining
}

// retire closes a connection that takes no further calls, once none is in flight.
func (c *conn) retire() {
	c.mu.Lock()
	over := c.draining && len(c.calls) == 0
	c.mu.Unlock()
	if over {
		c.fail(errNotSent)
	}
}

// inFlight returns how many calls wait for an answer here.
func (c *conn) inFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls)
}

// register enters a call, before it is sent.
func (c *conn) register(io *Payload, resp Message) (*call, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.draining {
		return nil, false, errNotSent
	}
	cl := c.free
	if cl != nil {
		c.free, cl.next = cl.next, nil
	} else {
		cl = &call{ch: make(chan signal, 1)}
	}
	c.last++
	cl.id, cl.recv, cl.resp = c.last, io.Recv, resp
	c.calls[cl.id] = cl
	return cl, len(c.calls) > 2, nil
}

// recycle gives a call value back. No signal is on its way to it.
func (c *conn) recycle(cl *call) {
	*cl = call{ch: cl.ch}
	c.mu.Lock()
	idle := len(c.calls) == 0
	if c.err == nil {
		cl.next, c.free = c.free, cl
	}
	retire := idle && c.draining && c.err == nil
	c.mu.Unlock()
	if idle {
		c.used.Store(time.Now().UnixNano())
	}
	if retire {
		c.retire()
	}
}

// withdraw takes back a call of which nothing was sent.
func (c *conn) withdraw(cl *call, credit uint64) {
	c.owed.Add(int64(credit))
	c.mu.Lock()
	delete(c.calls, cl.id)
	c.mu.Unlock()
}

// wait returns when the call's answer is in cl, or its context is over; then nobody
// touches its buffer any more.
func (c *conn) wait(ctx context.Context, cl *call) error {
	c.mu.Lock()
	if cl.done {
		c.mu.Unlock()
		return nil
	}
	if !c.leading {
		c.leading = true
		c.mu.Unlock()
		return c.lead(ctx, cl)
	}
	c.park(cl)
	c.mu.Unlock()
	select {
	case s := <-cl.ch:
		if s == signalLead {
			return c.lead(ctx, cl)
		}
		return nil
	case <-ctx.Done():
		return c.abandon(ctx, cl)
	}
}

func (c *conn) park(cl *call) {
	cl.prev, cl.next = c.parked.prev, &c.parked
	cl.prev.next, cl.next.prev = cl, cl
}

// unpark takes cl out of the ring and says whether it was in it.
func (c *conn) unpark(cl *call) bool {
	if cl.next == nil {
		return false
	}
	cl.prev.next, cl.next.prev = cl.next, cl.prev
	cl.prev, cl.next = nil, nil
	return true
}

// lead reads for everybody until the answer to cl is there or ctx is over.
func (c *conn) lead(ctx context.Context, cl *call) error {
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, c.interrupt)
		defer stop()
	}
	for {
		err := c.step(cl)
		c.mu.Lock()
		done := cl.done
		c.mu.Unlock()
		switch {
		case done && err == nil && c.dec.ready():
			continue // what is here already is delivered before the lead goes on
		case err != nil && !interrupted(err):
			c.finish(err)
			return nil
		case done:
			c.hand()
			return nil
		case err == nil:
			continue
		}
		if ctx.Err() != nil {
			c.hand()
			return c.abandon(ctx, cl)
		}
	}
}

// sweep leads while only callers that left have answers outstanding.
func (c *conn) sweep() {
	for {
		c.mu.Lock()
		over := c.orphans == 0
		c.mu.Unlock()
		if over && c.dec.phase == phaseHead {
			c.hand()
			return
		}
		if err := c.step(nil); err != nil && !interrupted(err) {
			c.finish(err)
			return
		}
	}
}

// hand gives the lead to a waiting call, or to nobody if none is outstanding.
func (c *conn) hand() {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch cl := c.parked.next; {
	case cl != &c.parked:
		c.unpark(cl)
		cl.ch <- signalLead
	case c.orphans > 0 && c.err == nil:
		c.hold(c.sweep)
	case c.err != nil:
		err := c.err
		c.hold(func() { c.finish(err) })
	default:
		c.leading = false
	}
}

// interrupt makes the leader look up from its read.
func (c *conn) interrupt() { c.nc.SetReadDeadline(time.Unix(1, 0)) }

// abandon ends a call whose caller gives up and which does not lead. If the answer
// came meanwhile, it stands.
func (c *conn) abandon(ctx context.Context, cl *call) error {
	c.mu.Lock()
	if !c.unpark(cl) {
		select {
		case s := <-cl.ch:
			if s == signalLead {
				defer c.hand()
			}
		default: // it led until now
		}
	}
	if cl.done {
		c.mu.Unlock()
		select {
		case <-cl.ch:
		default:
		}
		return nil
	}
	c.calls[cl.id] = orphan()
	c.orphans++
	var detached chan struct{}
	if c.filling == cl {
		detached = make(chan struct{})
		cl.detached = detached
		c.interrupt()
	}
	sweep := !c.leading
	c.leading = true
	c.mu.Unlock()
	if sweep {
		c.hold(c.sweep)
	}
	if detached != nil {
		<-detached
	}
	h := header{call: cl.id}
	if _, err := c.line.put(frameCancel, &h, nil); err == nil {
		c.line.flush(false)
	}
	return ended(ctx)
}

// orphan stands in for a call whose caller left. It is told by having no channel.
func orphan() *call { return &call{} }

func (cl *call) left() bool { return cl.ch == nil }

// fail ends the connection. Whoever leads, now or next, finishes the calls.
func (c *conn) fail(err error) {
	c.line.close(err)
	c.nc.Close()
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	lead := !c.leading
	c.leading = true
	c.mu.Unlock()
	if lead {
		c.finish(err)
	}
}

// finish ends every call after the connection is lost. The caller leads, for ever.
func (c *conn) finish(err error) {
	c.line.close(err)
	c.nc.Close()
	c.dec.in.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	for _, id := range slices.Sorted(maps.Keys(c.calls)) {
		cl := c.calls[id]
		delete(c.calls, id)
		if cl.left() {
			continue
		}
		cl.err = &sluice.Error{Kind: sluice.Unavailable, Err: lost(c.peer.Address, c.err)}
		c.completeLocked(cl)
	}
	c.orphans = 0
}

// completeLocked marks a call as answered and wakes its caller if it sleeps.
func (c *conn) completeLocked(cl *call) {
	cl.done = true
	if c.unpark(cl) {
		cl.ch <- signalDone
	}
}

package hdfs

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/colinmarc/hdfs/v2"
)

// maxIdleClients is how many of the library's clients wait for the next file; each has a
// connection and renews its leases once a second. idleClient is how long they wait.
const (
	maxIdleClients = 8
	idleClient     = 20 * time.Second
)

// errDropped is what a client gets that was given up.
var errDropped = errors.New("the call was given up")

// client is one client of the library, which moves one file at a time. The library knows
// no contexts and sets no deadlines: its connections are ours, and closing them ends
// whatever waits on them.
type client struct {
	*hdfs.Client
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	idle *time.Timer // closes the client when nobody wanted it; set while it is idle

	mu    sync.Mutex
	ctx   context.Context // guarded by mu; of the call under way, for dialling; nil between calls
	conns []*wire         // guarded by mu
	dead  bool            // guarded by mu; nothing is dialled any more
	last  message         // guarded by mu; the CompleteRequestProto of the file being closed
	lost  atomic.Bool     // a connection broke: not for the next file
	once  sync.Once       // of the library's Close, which does not bear a second
}

// newClient connects to the first of addresses that can be reached.
func newClient(ctx context.Context, opts hdfs.ClientOptions, dial func(context.Context, string, string) (net.Conn, error)) (*client, error) {
	c := &client{dial: dial}
	defer c.bind(ctx)()
	opts.NamenodeDialFunc = func(_ context.Context, network, addr string) (net.Conn, error) {
		return c.connect(network, addr, false)
	}
	opts.DatanodeDialFunc = func(_ context.Context, network, addr string) (net.Conn, error) { return c.connect(network, addr, true) }
	var err error
	if c.Client, err = hdfs.NewClient(opts); err != nil {
		c.interrupt()
		return nil, err
	}
	return c, nil
}

// bind ties the client to the context of one call until the returned function is called:
// when it ends, so do the client's connections.
func (c *client) bind(ctx context.Context) (unbind func()) {
	c.mu.Lock()
	c.ctx = ctx
	c.mu.Unlock()
	stop := context.AfterFunc(ctx, c.interrupt)
	return func() {
		stop()
		c.mu.Lock()
		c.ctx = nil
		c.mu.Unlock()
	}
}

// interrupt gives up whatever the client does, for good.
func (c *client) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
	c.lost.Store(true)
	for _, w := range c.conns {
		w.fail()
	}
	c.conns = nil
}

// connect dials for the library. Between calls it renews leases only, and dials the name
// node again for that as long as the client is not idle.
func (c *client) connect(network, addr string, data bool) (net.Conn, error) {
	c.mu.Lock()
	ctx, dead := c.ctx, c.dead
	c.mu.Unlock()
	if ctx == nil {
		ctx = context.Background()
	}
	if dead {
		return nil, errDropped
	}
	ctx, cancel := context.WithTimeout(ctx, longestTry)
	defer cancel()
	raw, err := c.dial(ctx, network, addr)
	if err != nil {
		c.lost.Store(true)
		return nil, err
	}
	w := &wire{Conn: raw, c: c, data: data}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		raw.Close()
		return nil, errDropped
	}
	c.conns = append(c.conns, w)
	return w, nil
}

// release ends the connections to data nodes that the library left open.
func (c *client) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := c.conns[:0]
	for _, w := range c.conns {
		if w.data {
			w.fail()
		} else {
			keep = append(keep, w)
		}
	}
	c.conns = keep
}

// close ends the client.
func (c *client) close() {
	c.interrupt()
	c.once.Do(func() { _ = c.Client.Close() }) // its connection is closed already, which is all it could say
}

// clients is the pool of a mount.
type clients struct {
	opts      hdfs.ClientOptions
	addresses func() []string // name nodes, the active one first
	dial      func(context.Context, string, string) (net.Conn, error)

	mu     sync.Mutex
	idle   []*client        // guarded by mu; those used last at the end
	all    map[*client]bool // guarded by mu
	closed bool             // guarded by mu
}

// get returns a client that is nobody else's.
func (p *clients) get(ctx context.Context) (*client, error) {
	for {
		c, err := p.take()
		if err != nil {
			return nil, err
		}
		if c == nil {
			break
		}
		if c.idle.Stop() && !c.lost.Load() {
			return c, nil
		}
		p.forget(c)
	}
	opts := p.opts
	opts.Addresses = p.addresses()
	c, err := newClient(ctx, opts, p.dial)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	closed := p.closed
	p.all[c] = true
	p.mu.Unlock()
	if closed {
		p.forget(c)
		return nil, errClosed
	}
	return c, nil
}

// take takes an idle client out of the pool, nil where there is none.
func (p *clients) take() (*client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	if len(p.idle) == 0 {
		return nil, nil
	}
	c := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	return c, nil
}

// forget closes a client that is in nobody's hands.
func (p *clients) forget(c *client) {
	p.mu.Lock()
	delete(p.all, c)
	p.mu.Unlock()
	c.close()
}

// put gives a client back. One that lost a connection is dropped.
func (p *clients) put(c *client) {
	c.release()
	p.mu.Lock()
	if !p.closed && !c.lost.Load() && len(p.idle) < maxIdleClients {
		p.idle = append(p.idle, c)
		c.idle = time.AfterFunc(idleClient, func() { p.expire(c) })
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	p.forget(c)
}

// expire closes a client that nobody wanted.
func (p *clients) expire(c *client) {
	p.mu.Lock()
	i := slices.Index(p.idle, c)
	if i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
	}
	p.mu.Unlock()
	if i >= 0 {
		p.forget(c)
	}
}

// Close ends all clients; what they do fails.
func (p *clients) Close() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	var busy []*client
	for c := range p.all {
		busy = append(busy, c)
	}
	p.mu.Unlock()
	for _, c := range busy {
		c.close() // what it does fails, and whoever has it gives it back
	}
	for _, c := range idle {
		c.idle.Stop()
		p.forget(c)
	}
}

// noteClose keeps the request that closes a file, the first one: it names the last block,
// which the library leaves out when it is asked to close again.
func (c *client) noteClose(request message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		c.last = request
	}
}

// takeClose returns the request that closes the file, and forgets it.
func (c *client) takeClose() message {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.last
	c.last = nil
	return m
}

// isDead says whether the client was given up.
func (c *client) isDead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead
}

// dropped says whether the client was given up or lost a connection to a data node.
func (c *client) dropped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return true
	}
	for _, w := range c.conns {
		if w.data && w.broken.Load() {
			return true
		}
	}
	return false
}

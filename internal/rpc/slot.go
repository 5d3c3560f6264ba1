package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	sluice "github.com/sluicefs/sluice"
)

// slot is the place of one connection, which is made when it is first wanted and again
// after it was lost.
type slot struct {
	client *Client
	bulk   bool // for large payloads

	mu      sync.Mutex
	conn    *conn         // guarded by mu: nil while there is none
	dialing chan struct{} // guarded by mu: closed when the dial under way has ended; nil: none is
	err     error         // guarded by mu: why the last dial failed
	again   time.Time     // guarded by mu: no dial before
	pause   time.Duration // guarded by mu: grows with each failure
	over    bool          // guarded by mu: the client is closed
}

// The pause before the next dial after one that failed; calls made meanwhile get the
// same error at once, so that callers can turn to another server.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = time.Second
)

// load returns how many calls are in flight and whether there is a connection.
func (s *slot) load() (int, bool) {
	s.mu.Lock()
	c := s.conn
	s.mu.Unlock()
	if c == nil {
		return 0, false
	}
	return c.inFlight(), true
}

// get returns the slot's connection, making one if need be.
func (s *slot) get(ctx context.Context) (*conn, error) {
	for {
		s.mu.Lock()
		c, over := s.conn, s.over
		s.mu.Unlock()
		if over {
			return nil, fail(sluice.Unavailable, "the client is closed")
		}
		if c != nil {
			if c.usable() {
				return c, nil
			}
			s.drop(c)
		}
		done, err := s.dial()
		if err != nil {
			return nil, err
		}
		if done == nil {
			continue
		}
		select {
		case <-done:
		case <-ctx.Done():
			return nil, ended(ctx)
		}
		s.mu.Lock()
		c, err = s.conn, s.err
		s.mu.Unlock()
		if c == nil && err != nil {
			return nil, err
		}
	}
}

// drop forgets a connection that takes no further calls. Those in flight end by
// themselves.
func (s *slot) drop(c *conn) {
	s.mu.Lock()
	if s.conn == c {
		s.conn = nil
	}
	s.mu.Unlock()
	c.retire()
}

// dial starts to connect, unless that is under way or too soon. Nil and nil: there is
// a connection already.
func (s *slot) dial() (<-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.conn != nil:
		return nil, nil
	case s.dialing != nil:
		return s.dialing, nil
	case s.err != nil && time.Now().Before(s.again):
		return nil, s.err
	}
	done := make(chan struct{})
	s.dialing = done
	s.client.hold(func() {
		conn, err := s.client.connect(s.client.closed, s.bulk)
		s.dialed(conn, err)
		close(done)
	})
	return done, nil
}

func (s *slot) dialed(c *conn, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dialing = nil
	s.conn, s.err = c, err
	if err != nil {
		s.conn = nil
		s.pause = min(lastPause, max(firstPause, 2*s.pause))
		// Half of the pause is chance, so that many clients do not come at once.
		s.again = time.Now().Add(s.pause/2 + s.client.chance(s.pause/2))
		return
	}
	s.pause = 0
	if s.over {
		s.conn = nil
		s.client.hold(func() { c.fail(errClosed) })
	}
}

var errClosed = errors.New("the client was closed")

// shut ends the slot's connection for good.
func (s *slot) shut() {
	s.mu.Lock()
	s.over = true
	c := s.conn
	s.conn = nil
	s.mu.Unlock()
	if c != nil {
		c.fail(errClosed)
	}
}

// connect makes a connection: over the unix socket if there is one, else to the
// address.
func (c *Client) connect(ctx context.Context, bulk bool) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialWait)
	defer cancel()
	var first error
	if c.target.Socket != "" {
		conn, err := c.connectTo(ctx, "unix", c.target.Socket, bulk)
		if err == nil {
			return conn, nil
		}
		first = err
		if c.target.Address == "" || !unreached(err) {
			return nil, first
		}
	}
	if c.target.Address == "" {
		return nil, fail(sluice.Invalid, "no address to connect to")
	}
	conn, err := c.connectTo(ctx, "tcp", c.target.Address, bulk)
	if err != nil && first != nil {
		c.cfg.Log.Debug("socket not reached", "socket", c.target.Socket, "err", first)
	}
	return conn, err
}

// unreached says whether nobody answered, so that another way may be tried.
func unreached(err error) bool { return errors.Is(err, sluice.Unavailable) }

func (c *Client) connectTo(ctx context.Context, network, addr string, bulk bool) (*conn, error) {
	nc, err := c.cfg.Dial(ctx, network, addr)
	if err != nil {
		return nil, &sluice.Error{Kind: sluice.Unavailable, Err: err}
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	conn, err := c.establish(ctx, nc, network, addr, bulk)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		return conn, nil
	}
	nc.Close()
	if ctx.Err() != nil {
		err = fail(sluice.Unavailable, "%s did not complete the handshake in %v", addr, c.cfg.DialWait)
	}
	if _, ok := errors.AsType[*sluice.Error](err); !ok {
		err = fail(sluice.Unavailable, "shake hands with %s: %w", addr, err)
	}
	return nil, err
}

func (c *Client) establish(ctx context.Context, nc net.Conn, network, addr string, bulk bool) (*conn, error) {
	if network == "tcp" && c.cfg.TLS != nil {
		t := tls.Client(nc, c.tlsFor(addr))
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, fail(sluice.Unavailable, "TLS with %s: %w", addr, err)
		}
		nc = t
	}
	conn := newConn(nc, c.cfg.MaxMessage, bulk, &c.buffers, c.hold)
	peer, server, err := c.cfg.greet(nc, &conn.dec.in, network == "unix")
	if err != nil {
		return nil, err
	}
	peer.Address = addr
	conn.peer, conn.server = peer, server
	c.peer.Store(&peer)
	return conn, nil
}

func (c *Client) tlsFor(addr string) *tls.Config {
	if c.cfg.TLS.ServerName != "" || c.cfg.TLS.InsecureSkipVerify {
		return c.cfg.TLS
	}
	t := c.cfg.TLS.Clone()
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	t.ServerName = host
	return t
}

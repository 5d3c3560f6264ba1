package rpc

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	sluice "github.com/sluicefs/sluice"
)

// Target is where a server listens. The unix socket is tried first, the address if
// that fails or is empty.
type Target struct {
	Address string // host:port
	Socket  string // path of a unix socket
}

// ClientConfig configures a [Client]. The zero value is useful on a unix socket.
type ClientConfig struct {
	// Dial opens connections, network being "unix" or "tcp"; nil means net.Dialer.
	Dial       func(ctx context.Context, network, addr string) (net.Conn, error)
	Credential Credential
	Cluster    string        // the cluster expected at the other end; "" means any
	TLS        *tls.Config   // for addresses, never for sockets; nil means plain TCP
	BulkConns  int           // at most so many connections for payloads above 64 KiB; 0 means 4
	MaxMessage int           // the largest message sent or accepted, in bytes; 0 means DefaultMaxMessage
	MaxCalls   int           // calls in flight at once, others wait; 0 means 16384
	DialWait   time.Duration // for a connection and its handshake; 0 means 5 s
	// Random spreads the pauses between attempts to connect; nil means a source of its own
	// seed. Only this client may use it.
	Random rand.Source
	Log    *slog.Logger
}

// withDefaults fills in what is not set.
func (c ClientConfig) withDefaults() ClientConfig {
	if c.Dial == nil {
		d := &net.Dialer{KeepAliveConfig: keepAlive()}
		c.Dial = d.DialContext
	}
	if c.Credential.Role == 0 {
		c.Credential.Role = RoleClient
	}
	c.BulkConns = cmp.Or(c.BulkConns, 4)
	c.MaxMessage = cmp.Or(c.MaxMessage, DefaultMaxMessage)
	c.MaxCalls = cmp.Or(c.MaxCalls, 16384)
	if c.Random == nil {
		c.Random = rand.NewPCG(rand.Uint64(), rand.Uint64())
	}
	c.DialWait = cmp.Or(c.DialWait, 5*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// keepAlive finds a host that vanished without a word within some 20 seconds.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 3 * time.Second, Count: 3}
}

// Client makes calls to one server. It connects when it is first needed and again,
// after a growing pause, when a connection is lost. It may be used by any number of
// goroutines.
type Client struct {
	cfg    ClientConfig
	target Target
	calls  chan struct{} // one element for each call in flight
	closed context.Context
	close  context.CancelFunc
	meta   *slot
	bulk   []*slot
	peer   atomic.Pointer[Peer]

	buffers pool

	mu     sync.Mutex
	active int           // guarded by mu: calls and goroutines
	over   bool          // guarded by mu: Close was called
	idle   chan struct{} // guarded by mu: closed when over and active is 0
}

// NewClient returns a client that has not connected yet.
func NewClient(cfg ClientConfig, target Target) *Client {
	c := &Client{cfg: cfg.withDefaults(), target: target, idle: make(chan struct{})}
	c.closed, c.close = context.WithCancel(context.Background())
	c.calls = make(chan struct{}, c.cfg.MaxCalls)
	c.meta = &slot{client: c}
	for range c.cfg.BulkConns {
		c.bulk = append(c.bulk, &slot{client: c, bulk: true})
	}
	return c
}

// Call sends req and decodes the answer into resp (nil: the answer is not decoded).
// The handler's error comes back as a *sluice.Error with its operation, path, kind,
// primary and text. Kind Unavailable: there is no connection or it was lost, and the
// handler may or may not have run. Timeout, Cancelled: ctx ended; the handler's context
// is cancelled, and resp is not touched afterwards. Busy: the server is at a limit.
func (c *Client) Call(ctx context.Context, m Method, req, resp Message) error {
	_, err := c.CallPayload(ctx, m, req, resp, Payload{})
	return err
}

// CallPayload is [Client.Call] with raw bytes either way. It returns how many bytes
// were received; they stand in io.Recv, each chunk checked. Kind Corrupt: a checksum
// did not fit, only this call is affected. With an error the content of io.Recv is
// undefined. On every return the connection has let go of both slices.
func (c *Client) CallPayload(ctx context.Context, m Method, req, resp Message, io Payload) (int, error) {
	select {
	case c.calls <- struct{}{}:
	default:
		select {
		case c.calls <- struct{}{}:
		case <-ctx.Done():
			return 0, ended(ctx)
		}
	}
	defer func() { <-c.calls }()
	if !c.enter() {
		return 0, fail(sluice.Unavailable, "the client is closed")
	}
	defer c.leave()
	for attempt := 0; ; attempt++ {
		if ctx.Err() != nil {
			return 0, ended(ctx)
		}
		conn, err := c.slot(&io).get(ctx)
		if err != nil {
			return 0, err
		}
		n, err := conn.call(ctx, m, req, resp, &io)
		if !errors.Is(err, errNotSent) {
			return n, err
		}
		if attempt == 2 {
			return 0, &sluice.Error{Kind: sluice.Unavailable, Err: err}
		}
	}
}

// slot picks the connection for a call: the metadata connection, or for large payloads
// the bulk connection with the fewest calls; an idle one before one yet to be made.
func (c *Client) slot(io *Payload) *slot {
	if !io.Bulk && len(io.Recv) <= MetadataPayload && len(io.Send) <= MetadataPayload {
		return c.meta
	}
	best, least := c.bulk[0], 1<<30
	for _, s := range c.bulk {
		n, made := s.load()
		if n == 0 && made {
			return s
		}
		if n < least {
			best, least = s, n
		}
	}
	return best
}

// Connect makes sure the metadata connection stands, and returns why it cannot.
func (c *Client) Connect(ctx context.Context) error {
	if !c.enter() {
		return fail(sluice.Unavailable, "the client is closed")
	}
	defer c.leave()
	_, err := c.meta.get(ctx)
	return err
}

// Local says whether the last connection went over a unix socket, so that descriptors
// can be passed.
func (c *Client) Local() bool { return c.Peer().Local }

// Peer returns the server as the last handshake showed it; zero before the first.
func (c *Client) Peer() Peer {
	if p := c.peer.Load(); p != nil {
		return *p
	}
	return Peer{}
}

// Close ends all connections and calls (kind Unavailable) and waits until no call and
// no goroutine of the client is left.
func (c *Client) Close() error {
	c.mu.Lock()
	if !c.over {
		c.over = true
		if c.active == 0 {
			close(c.idle)
		}
	}
	c.mu.Unlock()
	c.close()
	for _, s := range append([]*slot{c.meta}, c.bulk...) {
		s.shut()
	}
	<-c.idle
	return nil
}

// chance returns a duration of up to most.
func (c *Client) chance(most time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(rand.New(c.cfg.Random).Int64N(int64(most) + 1))
}

func (c *Client) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false
	}
	c.active++
	return true
}

func (c *Client) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active--
	if c.over && c.active == 0 {
		close(c.idle)
	}
}

// hold runs f in a goroutine that Close waits for. It is called by calls and by such
// goroutines only, while Close cannot have returned.
func (c *Client) hold(f func()) {
	c.mu.Lock()
	c.active++
	c.mu.Unlock()
	go func() {
		defer c.leave()
		f()
	}()
}

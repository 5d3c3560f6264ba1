package rpc

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/sluicefs/sluice/internal/auth"

	sluice "github.com/sluicefs/sluice"
)

// Handler answers requests.
type Handler interface {
	// Serve answers one request; any number run at once. ctx ends with the caller's
	// deadline, its cancellation, or its connection. The message may be nil (an empty
	// answer); an error reaches the caller as a *sluice.Error of its kind.
	Serve(ctx context.Context, r *Request) (Message, error)
}

// Identity is what a server says of itself in the handshake.
type Identity struct {
	Cluster     string // empty while it is not known yet
	Incarnation sluice.Incarnation
}

// ServerConfig configures a [Server]. Zero limits mean the defaults named beside them.
type ServerConfig struct {
	Role     Role
	Identity func() Identity // asked at every handshake; nil means unknown
	Keys     *auth.Keyring   // the cluster key; nil only on unix sockets and loopback

	TLS             *tls.Config    // for every listener that is not a unix socket
	Plaintext       bool           // allow listeners beyond loopback without TLS, for TrustedNetworks only
	TrustedNetworks []netip.Prefix // callers from here may come without TLS if Plaintext is set
	// Anonymous accepts callers without credential on loopback, in-memory connections
	// and TrustedNetworks; they are who they say, and never the superuser.
	Anonymous bool

	// Inline names the methods whose handlers never wait (no lock held long, no disk, no
	// network, no payload): they run on the connection's reader, and a whole buffer of
	// them is answered with one write. nil means none.
	Inline func(Method) bool

	MaxMessage         int           // bytes of one message; 0 means DefaultMaxMessage
	MaxPayload         int           // bytes of one request's payload; 0 means DefaultMaxPayload
	MaxConns           int           // connections; 0 means 16384
	MaxRequests        int           // requests in flight on the server; 0 means 65536
	MaxRequestsPerConn int           // 0 means 4096
	MaxBytes           int64         // bytes of requests in flight on the server; 0 means 1 GiB
	MaxBytesPerConn    int64         // 0 means 128 MiB
	LimitWait          time.Duration // how long a request above a limit slows its connection before it is refused as busy; 0 means 1 s
	StallWait          time.Duration // how long a peer may accept no byte before it is cut off; 0 means 60 s

	Superuser  *uint32                                         // uid of the superuser on unix sockets; nil means this process's
	LookupUser func(uid uint32) (user string, groups []string) // nil means the host's user database; "" means unknown
	Now        func() time.Time                                // judges tokens; nil means time.Now
	Log        *slog.Logger
}

// withDefaults fills in what is not set.
func (c ServerConfig) withDefaults() ServerConfig {
	c.MaxMessage = cmp.Or(c.MaxMessage, DefaultMaxMessage)
	c.MaxPayload = cmp.Or(c.MaxPayload, DefaultMaxPayload)
	c.MaxConns = cmp.Or(c.MaxConns, 16384)
	c.MaxRequests = cmp.Or(c.MaxRequests, 65536)
	c.MaxRequestsPerConn = cmp.Or(c.MaxRequestsPerConn, 4096)
	c.MaxBytes = cmp.Or(c.MaxBytes, 1<<30)
	c.MaxBytesPerConn = cmp.Or(c.MaxBytesPerConn, 128<<20)
	c.LimitWait = cmp.Or(c.LimitWait, time.Second)
	c.StallWait = cmp.Or(c.StallWait, time.Minute)
	if c.Superuser == nil {
		c.Superuser = new(uint32(os.Geteuid()))
	}
	if c.LookupUser == nil {
		c.LookupUser = hostUser
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Inline == nil {
		c.Inline = func(Method) bool { return false }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Server accepts connections and hands requests to a [Handler].
type Server struct {
	cfg     ServerConfig
	handler Handler
	limit   limiter
	buffers pool
	quit    chan struct{} // closed by Shutdown: stop listening
	wg      sync.WaitGroup

	mu        sync.Mutex
	listeners map[net.Listener]struct{} // guarded by mu
	greeting  map[net.Conn]struct{}     // guarded by mu: connections that shake hands
	sessions  map[*session]struct{}     // guarded by mu
	last      uint64                    // guarded by mu: the last session's id
	conns     int                       // guarded by mu: with those that shake hands
	over      bool                      // guarded by mu: quit is closed
	idle      chan struct{}             // guarded by mu: closed when over and conns is 0
}

// handshakeWait bounds a handshake, so that strangers hold nothing for long.
const handshakeWait = 10 * time.Second

// NewServer returns a server that listens nowhere yet.
func NewServer(cfg ServerConfig, h Handler) *Server {
	s := &Server{
		cfg: cfg.withDefaults(), handler: h, quit: make(chan struct{}), idle: make(chan struct{}),
		listeners: make(map[net.Listener]struct{}), sessions: make(map[*session]struct{}), greeting: make(map[net.Conn]struct{}),
	}
	s.limit.maxRequests, s.limit.maxBytes = s.cfg.MaxRequests, s.cfg.MaxBytes
	return s
}

func (s *Server) identity() Identity {
	if s.cfg.Identity == nil {
		return Identity{}
	}
	return s.cfg.Identity()
}

// Serve accepts connections from l until it is closed or the server shut down (then it
// returns nil). Any number of listeners may be served at once. Kind Invalid: the
// configuration does not allow this listener. It closes l.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	if err := s.cfg.checkListener(l.Addr()); err != nil {
		return sluice.Wrap("listen", "", err)
	}
	if !s.listen(l) {
		return nil
	}
	defer s.wg.Done()
	pause := time.Duration(0)
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			s.accept(nc)
		case s.quitting():
			return nil
		case errors.Is(err, net.ErrClosed):
			return sluice.Wrap("accept", "", err)
		default: // such as too many open files
			pause = min(time.Second, max(5*time.Millisecond, 2*pause))
			s.cfg.Log.Warn("connection not accepted", "err", err)
			select {
			case <-time.After(pause):
			case <-s.quit:
				return nil
			}
		}
	}
}

func (s *Server) quitting() bool {
	select {
	case <-s.quit:
		return true
	default:
		return false
	}
}

func (s *Server) listen(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false
	}
	if len(s.listeners) == 0 && s.conns == 0 {
		s.wg.Go(s.watch)
	}
	s.listeners[l] = struct{}{}
	s.wg.Add(1)
	return true
}

func (s *Server) accept(nc net.Conn) {
	s.mu.Lock()
	if s.over || s.conns >= s.cfg.MaxConns {
		full := !s.over
		s.mu.Unlock()
		nc.Close()
		if full {
			s.cfg.Log.Warn("connection refused: too many", "limit", s.cfg.MaxConns)
		}
		return
	}
	s.conns++
	s.wg.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.wg.Done()
		s.converse(nc)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.conns--
		if s.over && s.conns == 0 {
			close(s.idle)
		}
	}()
}

// converse serves one connection to its end.
func (s *Server) converse(nc net.Conn) {
	defer nc.Close()
	if t, ok := nc.(*net.TCPConn); ok {
		t.SetKeepAliveConfig(keepAlive())
	}
	c, err := s.establish(nc)
	if err != nil {
		s.cfg.Log.Info("connection refused", "from", nc.RemoteAddr().String(), "err", err)
		return
	}
	s.mu.Lock()
	s.last++
	c.id = s.last
	s.sessions[c] = struct{}{}
	over := s.over
	s.mu.Unlock()
	if over {
		c.drain()
	}
	c.run()
	s.mu.Lock()
	delete(s.sessions, c)
	s.mu.Unlock()
}

func (s *Server) establish(nc net.Conn) (*session, error) {
	ctx, cancel := context.WithTimeout(context.Background(), handshakeWait)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	if !s.greet(nc) {
		return nil, errShutdown
	}
	defer s.greeted(nc)
	raw := nc
	if _, local := nc.(*net.UnixConn); s.cfg.TLS != nil && !local {
		t := tls.Server(nc, s.cfg.TLS)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		raw = t
	}
	c := newSession(s, raw)
	peer, hello, err := s.receive(raw, &c.dec.in)
	if err != nil {
		return nil, err
	}
	c.peer = peer
	c.most = int(min(uint64(s.cfg.MaxMessage), cmp.Or(hello.maxMessage, DefaultMaxMessage)))
	c.credit = semaphore.NewWeighted(int64(min(hello.window, maxWindow)))
	return c, nil
}

var errShutdown = errors.New("the server is shutting down")

// greet notes a connection that shakes hands, for Shutdown to close.
func (s *Server) greet(nc net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.greeting[nc] = struct{}{}
	}
	return !s.over
}

func (s *Server) greeted(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.greeting, nc)
}

// Stats is what a server is doing at one moment.
type Stats struct {
	Conns    int   // connections, with those that shake hands
	Requests int   // requests in flight
	Bytes    int64 // what these hold
}

// Stats returns what the server is doing now.
func (s *Server) Stats() Stats {
	requests, bytes := s.limit.used()
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Conns: s.conns, Requests: requests, Bytes: bytes}
}

// orderedLocked returns the sessions in the order they began.
func (s *Server) orderedLocked() []*session {
	return slices.SortedFunc(maps.Keys(s.sessions), func(a, b *session) int { return cmp.Compare(a.id, b.id) })
}

// watch cuts off peers that have accepted no byte for too long.
func (s *Server) watch() {
	tick := time.NewTicker(s.cfg.StallWait / 4)
	defer tick.Stop()
	for {
		select {
		case <-s.quit:
			return
		case <-tick.C:
		}
		before := time.Now().Add(-s.cfg.StallWait)
		s.mu.Lock()
		for c := range s.sessions {
			if c.line.stalled(before) {
				s.cfg.Log.Warn("connection cut: the peer accepts nothing", "from", c.peer.Address)
				c.nc.Close()
			}
		}
		s.mu.Unlock()
	}
}

// Shutdown stops listening, lets the requests in flight finish until ctx ends, then
// cancels them, closes every connection and waits for every goroutine. It returns
// ctx's error if it had to cancel. Only the first call does the work.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.over {
		s.over = true
		close(s.quit)
		if s.conns == 0 {
			close(s.idle)
		}
	}
	for l := range s.listeners {
		l.Close()
	}
	for nc := range s.greeting {
		nc.Close()
	}
	sessions := s.orderedLocked()
	s.mu.Unlock()
	for _, c := range sessions {
		c.drain()
	}
	var err error
	select {
	case <-s.idle:
	case <-ctx.Done():
		err = ended(ctx)
		s.mu.Lock()
		for _, c := range s.orderedLocked() {
			c.nc.Close()
		}
		s.mu.Unlock()
	}
	s.wg.Wait()
	return err
}

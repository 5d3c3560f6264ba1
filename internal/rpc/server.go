package rpc

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

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

// Validate says what to change if the server must not listen on one of the addresses
// (host:port, or unix:path) with this configuration.
func (c ServerConfig) Validate(listen ...string) error { panic("not built") }

// Server accepts connections and hands requests to a [Handler].
type Server struct{ cfg ServerConfig }

// NewServer returns a server that listens nowhere yet.
func NewServer(cfg ServerConfig, h Handler) *Server { return &Server{cfg: cfg} }

// Serve accepts connections from l until it is closed or the server shut down (then it
// returns nil). Any number of listeners may be served at once. Kind Invalid: the
// configuration does not allow this listener. It closes l.
func (s *Server) Serve(l net.Listener) error { panic("not built") }

// Shutdown stops listening, lets the requests in flight finish until ctx ends, then
// cancels them, closes every connection and waits for every goroutine.
func (s *Server) Shutdown(ctx context.Context) error { panic("not built") }

// Request is one request as its handler sees it. It must not be used after Serve has
// returned.
type Request struct {
	Method Method
	Peer   Peer
}

// Decode reads the request's message into m. Kind Invalid: it is not one.
func (r *Request) Decode(m Message) error { panic("not built") }

// Payload returns the bytes sent with the request, checked. They are valid until Serve
// returns.
func (r *Request) Payload() []byte { panic("not built") }

// RecvLen returns how many payload bytes the caller still has room for.
func (r *Request) RecvLen() int { panic("not built") }

// SendBytes sends p as the next payload bytes of the answer; p is the handler's again
// when it returns. sums holds the CRC-32C of each 64 KiB of p (the last may be of
// less); nil: they are computed here. Kind Cancelled or Timeout: the caller gave up.
// TooLarge: the caller has no room for it.
func (r *Request) SendBytes(p []byte, sums []uint32) error { panic("not built") }

// SendFile is [Request.SendBytes] of n bytes of f from off, by sendfile where sums are
// given and the connection can. Its file offset is neither used nor moved. A failed
// or short read ends this call (with the returned error) and not the connection.
func (r *Request) SendFile(f *os.File, off, n int64, sums []uint32) error { panic("not built") }

// PassFile passes a descriptor of f with the answer; f must stay open until Serve has
// returned and is not closed. Kind Unsupported: the peer is not on a unix socket.
func (r *Request) PassFile(f *os.File) error { panic("not built") }

package rpc

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"time"
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
	Log        *slog.Logger
}

// Client makes calls to one server. It connects when it is first needed and again,
// after a growing pause, when a connection is lost. It may be used by any number of
// goroutines.
type Client struct {
	cfg    ClientConfig
	target Target
}

// NewClient returns a client that has not connected yet.
func NewClient(cfg ClientConfig, target Target) *Client { return &Client{cfg: cfg, target: target} }

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
func (c *Client) CallPayload(ctx context.Context, m Method, req, resp Message, io Payload) (n int, err error) {
	panic("not built")
}

// Connect makes sure the metadata connection stands, and returns why it cannot.
func (c *Client) Connect(ctx context.Context) error { panic("not built") }

// Local says whether the last connection went over a unix socket, so that descriptors
// can be passed.
func (c *Client) Local() bool { panic("not built") }

// Peer returns the server as the last handshake showed it; zero before the first.
func (c *Client) Peer() Peer { panic("not built") }

// Close ends all connections and calls (kind Unavailable) and waits until no goroutine
// of the client is left.
func (c *Client) Close() error { panic("not built") }

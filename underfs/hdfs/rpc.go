package hdfs

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sluicefs/sluice/underfs/namenode"
)

// Hadoop's RPC (RpcHeader.proto, IpcConnectionContext.proto, version 9).
const (
	rpcVersion   = 9
	protocol     = "org.apache.hadoop.hdfs.protocol.ClientProtocol"
	contextCall  = -3        // the call id of the connection context
	maxAnswer    = 256 << 20 // bytes of an answer; a listing with locations is a few MiB
	statusOK     = 0
	statusFatal  = 2 // the server closes the connection
	maxIdleConns = 16
	idleTime     = 8 * time.Second // a name node closes what idles for longer than 10 s
)

// conn is a connection to a name node. It carries one call at a time.
type conn struct {
	net.Conn
	in   *bufio.Reader
	host int // index of the address
	used time.Time
}

// handshake introduces us. It is where Kerberos would speak SASL: after the first write.
func (c *conn) handshake(user string, clientID []byte) error {
	head := []byte{'h', 'r', 'p', 'c', rpcVersion, 0, 0} // service class 0, authentication none
	who := message(nil).text(1, user)
	packet := frame(requestHeader(clientID, contextCall, -1), message(nil).text(2, string(who)).text(3, protocol))
	_, err := c.Write(append(head, packet...))
	return err
}

// requestHeader is an RpcRequestHeaderProto.
func requestHeader(clientID []byte, call int32, retry int) message {
	const protobuf, final = 2, 0
	return message(nil).number(1, protobuf).number(2, final).signed(3, int64(call)).text(4, string(clientID)).signed(5, int64(retry))
}

// frame makes a packet: its length, and each message behind its own.
func frame(messages ...message) []byte {
	b := make([]byte, 4, 256)
	for _, m := range messages {
		b = protowire.AppendBytes(b, m)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// roundTrip sends a call and waits for its answer. sent says whether the name node may have
// the call. An *namenode.Exception is an answer; after any other error the connection is
// of no use.
func (c *conn) roundTrip(clientID []byte, call int32, retry int, method string, req message) (resp []byte, sent bool, err error) {
	head := message(nil).text(1, method).text(2, protocol).number(3, 1)
	if _, err := c.Write(frame(requestHeader(clientID, call, retry), head, req)); err != nil {
		return nil, true, err
	}
	var size [4]byte
	if _, err := io.ReadFull(c.in, size[:]); err != nil {
		return nil, true, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxAnswer {
		return nil, true, fmt.Errorf("an answer of %d bytes", n)
	}
	packet := make([]byte, n)
	if _, err := io.ReadFull(c.in, packet); err != nil {
		return nil, true, err
	}
	header, k := protowire.ConsumeBytes(packet)
	if k < 0 {
		return nil, true, errGarbled
	}
	var id, status uint64
	var e namenode.Exception
	err = fields(header, func(field protowire.Number, bytes []byte, number uint64) error {
		switch field {
		case 1:
			id = number
		case 2:
			status = number
		case 4:
			e.Class = string(bytes)
		case 5:
			e.Message = string(bytes)
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, true, err
	case status == statusFatal:
		return nil, false, &fatalError{&e}
	case int32(uint32(id)) != call:
		return nil, true, fmt.Errorf("the answer to call %d came for call %d", int32(uint32(id)), call)
	case status != statusOK:
		return nil, true, &e
	}
	body, n2 := protowire.ConsumeBytes(packet[k:])
	if n2 < 0 {
		return nil, true, errGarbled
	}
	return body, true, nil
}

// fatalError is an exception after which the name node closes the connection: it did not
// take the call.
type fatalError struct{ *namenode.Exception }

// Unwrap implements errors.Unwrap.
func (e *fatalError) Unwrap() error { return e.Exception }

// conns are the connections to the name nodes of a cluster.
type conns struct {
	hosts []string
	user  string
	id    []byte // of the client; with the call's number it names a call for the retry cache
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)

	mu     sync.Mutex
	active int     // guarded by mu; index of the host that answered last
	idle   []*conn // guarded by mu; at most maxIdleConns, those used last at the end
	open   map[*conn]bool
	closed bool // guarded by mu
}

// errClosed is what calls of a closed store get.
var errClosed = errors.New("the store is closed")

// get returns a connection to host.
func (p *conns) get(ctx context.Context, host int) (*conn, error) {
	p.mu.Lock()
	for len(p.idle) > 0 {
		c := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		if c.host == host && time.Since(c.used) < idleTime {
			p.mu.Unlock()
			return c, nil
		}
		delete(p.open, c)
		c.Close()
	}
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	raw, err := p.dial(ctx, "tcp", p.hosts[host])
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, in: bufio.NewReaderSize(raw, 64<<10), host: host}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		raw.Close()
		return nil, errClosed
	}
	p.open[c] = true
	p.mu.Unlock()
	if err := c.handshake(p.user, p.id); err != nil {
		p.drop(c)
		return nil, err
	}
	return c, nil
}

// put gives a connection back that is well.
func (p *conns) put(c *conn) {
	c.used = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active = c.host
	if p.closed || len(p.idle) == maxIdleConns || c.SetDeadline(time.Time{}) != nil {
		delete(p.open, c)
		c.Close()
		return
	}
	p.idle = append(p.idle, c)
}

// drop closes a connection.
func (p *conns) drop(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
	c.Close()
}

// first returns the host to try first.
func (p *conns) first() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.active
}

// addresses returns the hosts, the active one first.
func (p *conns) addresses() []string {
	n := p.first()
	return append(append([]string(nil), p.hosts[n:]...), p.hosts[:n]...)
}

// Close closes all connections; calls under way fail.
func (p *conns) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for c := range p.open {
		c.Close()
	}
	clear(p.open)
	p.idle = nil
}

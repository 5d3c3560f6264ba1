package rpc

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice/internal/auth"

	sluice "github.com/sluicefs/sluice"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// text is a message of raw bytes.
type text []byte

func (t text) SizeVT() int { return len(t) }

func (t text) MarshalToSizedBufferVT(b []byte) (int, error) { return copy(b, t), nil }

func (t *text) UnmarshalVT(b []byte) error {
	*t = append((*t)[:0], b...)
	return nil
}

func say(s string) *text { return new(text(s)) }

// The methods of the test server.
const (
	methodEcho    Method = iota + 1 // answers the request's message
	methodInline                    // the same, inline
	methodFail                      // an error
	methodBlock                     // waits until its context ends, or release is closed
	methodPattern                   // sends RecvLen bytes of a pattern by SendBytes
	methodFile                      // sends RecvLen bytes of the file by SendFile with sums
	methodCopy                      // the same without sums
	methodPass                      // passes the file
	methodSum                       // answers the CRC of the payload
	methodPast                      // sends beyond the end of the file
	methodWho                       // answers who is calling
	methodStored                    // methodFile with the sums of the handler
)

type testHandler struct {
	file    *os.File
	sums    []uint32
	data    []byte
	started chan struct{} // one element for each methodBlock that runs, if not nil
	release chan struct{}
}

func (h *testHandler) Serve(ctx context.Context, r *Request) (Message, error) {
	var req text
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	switch r.Method {
	case methodEcho, methodInline:
		return &req, nil
	case methodFail:
		return nil, &sluice.Error{Op: "open", Path: "/a/b", Kind: sluice.NotPrimary, Primary: "host:1", Err: errors.New("ask there")}
	case methodBlock:
		if h.started != nil {
			h.started <- struct{}{}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-h.release:
			return &req, nil
		}
	case methodPattern:
		return say("end"), r.SendBytes(h.data[:r.RecvLen()], nil)
	case methodFile:
		n := int64(r.RecvLen())
		return nil, r.SendFile(h.file, 0, n, sumsOf(h.data[:n], nil))
	case methodStored:
		n := int64(r.RecvLen())
		return nil, r.SendFile(h.file, 0, n, h.sums[:sumsFor(n)])
	case methodCopy:
		return nil, r.SendFile(h.file, 100, int64(r.RecvLen()), nil)
	case methodPass:
		return nil, r.PassFile(h.file)
	case methodSum:
		return say(fmt.Sprint(sumsOf(r.Payload(), nil), len(r.Payload()))), nil
	case methodPast:
		off := int64(len(h.data)) - 100<<10
		return nil, r.SendFile(h.file, off, int64(r.RecvLen()), make([]uint32, sumsFor(int64(r.RecvLen()))))
	case methodWho:
		return say(fmt.Sprintf("%s %s %s super=%t local=%t speak=%t", r.Peer.Role, r.Peer.Kind, r.Peer.Principal.User, r.Peer.Principal.Super, r.Peer.Local, r.Peer.SpeakFor)), nil
	}
	return nil, &sluice.Error{Op: "serve", Kind: sluice.Unsupported}
}

func newTestHandler(t testing.TB, size int) *testHandler {
	t.Helper()
	h := &testHandler{data: make([]byte, size), release: make(chan struct{})}
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; i+8 <= size; i += 8 {
		binary.LittleEndian.PutUint64(h.data[i:], r.Uint64())
	}
	name := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(name, h.data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	h.file = f
	return h
}

// pair is a server and a client in one process.
type pair struct {
	*Client
	server  *Server
	handler *testHandler
	target  Target
}

type setting struct {
	network string
	server  func(*ServerConfig)
	client  func(*ClientConfig)
	size    int
	handler *testHandler
}

func start(t testing.TB, s setting) *pair {
	t.Helper()
	if s.size == 0 {
		s.size = 1 << 20
	}
	h := s.handler
	if h == nil {
		h = newTestHandler(t, s.size)
	}
	sc := ServerConfig{Role: RoleMaster, Anonymous: true, Inline: func(m Method) bool { return m == methodInline }}
	if s.server != nil {
		s.server(&sc)
	}
	cc := ClientConfig{Credential: Credential{User: "tester"}}
	if s.client != nil {
		s.client(&cc)
	}
	var target Target
	var l net.Listener
	var err error
	if s.network == "unix" {
		target.Socket = filepath.Join(t.TempDir(), "s")
		l, err = net.Listen("unix", target.Socket)
	} else {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			target.Address = l.Addr().String()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(sc, h)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Serve(l); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	c := NewClient(cc, target)
	t.Cleanup(func() {
		c.Close()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		server.Shutdown(ctx)
		wg.Wait()
	})
	return &pair{Client: c, server: server, handler: h, target: target}
}

func TestCalls(t *testing.T) {
	keys, err := auth.NewKeyring(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			p := start(t, setting{network: network, server: func(c *ServerConfig) { c.Keys = keys }, client: func(c *ClientConfig) { c.Credential.Keys = keys }})
			ctx := t.Context()
			for _, m := range []Method{methodEcho, methodInline} {
				for _, n := range []int{0, 1, 100, 5000, 70000, 1 << 20} {
					req, resp := text(strings.Repeat("x", n)), text("old")
					if err := p.Call(ctx, m, &req, &resp); err != nil || !bytes.Equal(req, resp) {
						t.Fatalf("echo %d: got %d bytes, %v", n, len(resp), err)
					}
				}
			}
			for _, m := range []Method{methodPattern, methodFile, methodCopy} {
				off := 0
				if m == methodCopy {
					off = 100
				}
				for _, n := range []int{1, 4096, 64 << 10, 64<<10 + 1, 256 << 10, 256<<10 + 1, 1<<20 - 100} {
					buf := make([]byte, n)
					got, err := p.CallPayload(ctx, m, say("q"), nil, Payload{Recv: buf})
					if err != nil || got != n || !bytes.Equal(buf, p.handler.data[off:off+n]) {
						t.Fatalf("method %d, %d bytes: got %d, %v, equal %t", m, n, got, err, bytes.Equal(buf, p.handler.data[off:off+n]))
					}
				}
			}
			for _, n := range []int{1, 64 << 10, 64<<10 + 1, 1 << 20} {
				var resp text
				want := fmt.Sprint(sumsOf(p.handler.data[:n], nil), n)
				if _, err := p.CallPayload(ctx, methodSum, say("q"), &resp, Payload{Send: p.handler.data[:n]}); err != nil || string(resp) != want {
					t.Fatalf("send %d: got %s, %v, want %s", n, resp, err, want)
				}
			}
		})
	}
}

func TestError(t *testing.T) {
	p := start(t, setting{})
	err := p.Call(t.Context(), methodFail, say("q"), nil)
	e, ok := errors.AsType[*sluice.Error](err)
	if !ok || e.Op != "open" || e.Path != "/a/b" || e.Kind != sluice.NotPrimary || e.Primary != "host:1" || e.Err.Error() != "ask there" {
		t.Fatalf("got %#v", err)
	}
}

func TestPassFile(t *testing.T) {
	p := start(t, setting{network: "unix"})
	for range 20 {
		var f *os.File
		if _, err := p.CallPayload(t.Context(), methodPass, say("q"), nil, Payload{File: &f}); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		if f.Close(); err != nil {
			t.Fatal(err)
		}
		if len(got) > 0 && !bytes.Equal(got, p.handler.data) {
			t.Fatalf("read %d bytes that differ", len(got))
		}
		p.handler.file.Seek(0, io.SeekStart)
	}
	q := start(t, setting{})
	if _, err := q.CallPayload(t.Context(), methodPass, say("q"), nil, Payload{}); !errors.Is(err, sluice.Unsupported) {
		t.Fatalf("over TCP: got %v, want unsupported", err)
	}
}

func TestManyCalls(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		p := start(t, setting{network: network})
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				for j := range 5 {
					m := methodEcho
					if (i+j)%3 == 0 {
						m = methodInline
					}
					req, resp := say(fmt.Sprintf("%d/%d", i, j)), text(nil)
					if err := p.Call(t.Context(), m, req, &resp); err != nil || string(resp) != string(*req) {
						t.Errorf("got %q, %v, want %q", resp, err, *req)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}

func TestDeadlineAndCancel(t *testing.T) {
	h := newTestHandler(t, 1<<10)
	h.started = make(chan struct{}, 100)
	p := start(t, setting{handler: h})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := p.Call(ctx, methodBlock, say("q"), nil); !errors.Is(err, sluice.Timeout) {
		t.Fatalf("got %v, want timeout", err)
	}
	<-h.started
	var wg sync.WaitGroup
	cctx, stop := context.WithCancel(t.Context())
	for range 50 {
		wg.Go(func() {
			if err := p.Call(cctx, methodBlock, say("q"), nil); !errors.Is(err, sluice.Cancelled) {
				t.Errorf("got %v, want cancelled", err)
			}
		})
	}
	for range 50 {
		<-h.started
	}
	stop()
	wg.Wait()
	if err := p.Call(t.Context(), methodEcho, say("q"), nil); err != nil {
		t.Fatal(err)
	}
}

// TestIdle lets a server go and come back while a client is idle: the next call finds
// out before it is sent, and does not fail.
func TestIdle(t *testing.T) {
	for _, graceful := range []bool{true, false} {
		for _, network := range []string{"tcp", "unix"} {
			p := start(t, setting{network: network, size: 16})
			if err := p.Call(t.Context(), methodEcho, say("q"), nil); err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			if !graceful {
				ctx = cancelled()
			}
			p.server.Shutdown(ctx)
			address := cmp.Or(p.target.Address, p.target.Socket)
			l, err := net.Listen(network, address)
			if err != nil {
				t.Fatal(err)
			}
			s := NewServer(ServerConfig{Anonymous: true}, p.handler)
			done := make(chan error, 1)
			go func() { done <- s.Serve(l) }()
			p.meta.conn.used.Store(0) // long ago
			if err := p.Call(t.Context(), methodEcho, say("q"), nil); err != nil {
				t.Errorf("%s, graceful %t: %v", network, graceful, err)
			}
			p.Close()
			s.Shutdown(t.Context())
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
}

// TestClose ends calls in flight and refuses later ones.
func TestClose(t *testing.T) {
	h := newTestHandler(t, 16)
	h.started = make(chan struct{}, 1)
	p := start(t, setting{handler: h})
	got := make(chan error, 1)
	go func() { got <- p.Call(t.Context(), methodBlock, say("q"), nil) }()
	<-h.started
	p.Close()
	if err := <-got; !errors.Is(err, sluice.Unavailable) {
		t.Errorf("in flight: got %v, want unavailable", err)
	}
	if err := p.Call(t.Context(), methodEcho, say("q"), nil); !errors.Is(err, sluice.Unavailable) {
		t.Errorf("afterwards: got %v, want unavailable", err)
	}
	p.Close()
}

// TestCallContext compares the context of a request with that of the standard library.
func TestCallContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &callContext{deadline: time.Now().Add(time.Second)}
		child, cancel := context.WithCancel(c)
		defer cancel()
		if c.Err() != nil || child.Err() != nil {
			t.Fatal("ended at once")
		}
		<-c.Done()
		<-child.Done()
		if !errors.Is(c.Err(), context.DeadlineExceeded) || !errors.Is(child.Err(), context.DeadlineExceeded) {
			t.Errorf("got %v and %v", c.Err(), child.Err())
		}
		c.end(context.Canceled)
		if !errors.Is(c.Err(), context.DeadlineExceeded) {
			t.Errorf("ended twice: %v", c.Err())
		}
		d := &callContext{}
		ran := make(chan struct{})
		stop := d.AfterFunc(func() { t.Error("ran after stop") })
		d.AfterFunc(func() { close(ran) })
		if !stop() || stop() {
			t.Error("stop must say true once")
		}
		d.end(context.Canceled)
		<-ran
		<-d.Done()
	})
}

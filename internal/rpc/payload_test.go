package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	sluice "github.com/sluicefs/sluice"
)

// gated passes bytes from a server to a client until some number has passed, then
// waits for the gate.
type gated struct {
	left  int
	gate  chan struct{}
	stuck chan struct{} // closed when the gate is reached
}

func (g *gated) dial(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		server, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		client, inner := net.Pipe()
		go func() {
			io.Copy(server, inner)
			server.Close()
		}()
		go func() {
			defer inner.Close()
			if _, err := io.CopyN(inner, server, int64(g.left)); err != nil {
				return
			}
			close(g.stuck)
			<-g.gate
			io.Copy(inner, server)
		}()
		return client, nil
	}
}

// TestCancelMidPayload cancels a call while the reader is in the middle of its buffer.
// The call returns at once, its buffer stays as it is, and other calls on the same
// connection get their own bytes.
func TestCancelMidPayload(t *testing.T) {
	for _, victim := range []string{"leads", "follows"} {
		t.Run(victim, func(t *testing.T) {
			h := newTestHandler(t, 1<<20)
			synctest.Test(t, func(t *testing.T) {
				h.release = make(chan struct{})
				var m memory
				stop := m.serve(t, ServerConfig{}, h)
				g := &gated{left: 300 << 10, gate: make(chan struct{}), stuck: make(chan struct{})}
				c := NewClient(ClientConfig{Dial: g.dial(m.dial), Credential: Credential{User: "u"}, BulkConns: 1}, Target{Address: "x:1"})
				var wg sync.WaitGroup
				if victim == "follows" { // then somebody else leads
					wg.Go(func() {
						if _, err := c.CallPayload(context.Background(), methodBlock, say("q"), nil, Payload{Bulk: true}); err != nil {
							t.Error(err)
						}
					})
					synctest.Wait()
				}
				ctx, cancel := context.WithCancel(context.Background())
				buf := make([]byte, 1<<20)
				first := make(chan error, 1)
				go func() {
					_, err := c.CallPayload(ctx, methodPattern, say("q"), nil, Payload{Recv: buf})
					first <- err
				}()
				<-g.stuck
				synctest.Wait() // nothing moves any more
				cancel()
				if err := <-first; !errors.Is(err, sluice.Cancelled) {
					t.Errorf("got %v, want cancelled", err)
				}
				clear(buf)
				other := make([]byte, 1<<20)
				wg.Go(func() {
					n, err := c.CallPayload(context.Background(), methodFile, say("q"), nil, Payload{Recv: other})
					if err != nil || n != len(other) || !bytes.Equal(other, h.data) {
						t.Errorf("the other call: %d bytes, %v", n, err)
					}
				})
				synctest.Wait()
				close(g.gate)
				close(h.release)
				wg.Wait()
				if !bytes.Equal(buf, make([]byte, len(buf))) {
					t.Error("the buffer was written to after the call had returned")
				}
				c.Close()
				stop(context.Background())
			})
		})
	}
}

// TestBadBytes lets reads fail and checksums not fit: one call ends, the connection
// goes on.
func TestBadBytes(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		h := newTestHandler(t, 1<<20)
		p := start(t, setting{network: network, handler: h, client: func(c *ClientConfig) { c.BulkConns = 1 }})
		good := func() {
			t.Helper()
			buf := make([]byte, 1<<20)
			if n, err := p.CallPayload(t.Context(), methodFile, say("q"), nil, Payload{Recv: buf}); err != nil || n != len(buf) || !bytes.Equal(buf, h.data) {
				t.Fatalf("got %d, %v", n, err)
			}
		}
		good()
		conn := p.bulk[0].conn
		for _, n := range []int{80 << 10, 300 << 10, 1 << 20} {
			_, err := p.CallPayload(t.Context(), methodPast, say("q"), nil, Payload{Recv: make([]byte, n)})
			if n > 100<<10 && (err == nil || errors.Is(err, sluice.Unavailable)) {
				t.Fatalf("past the end, %d bytes: got %v", n, err)
			}
			if n < 100<<10 && !errors.Is(err, sluice.Corrupt) {
				t.Fatalf("wrong checksums: got %v, want corrupt", err)
			}
			good()
		}
		if p.bulk[0].conn != conn {
			t.Error("the connection was replaced")
		}
	}
}

// TestDamagedUpload flips a byte on the way to the server.
func TestDamagedUpload(t *testing.T) {
	h := newTestHandler(t, 1<<10)
	p := start(t, setting{handler: h})
	if err := p.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := p.meta.conn
	cl, _, err := c.register(&Payload{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.line.put(frameRequest, &header{call: cl.id, method: methodSum, send: 4}, nil)
	c.line.putPiece(cl.id, []byte("abcd"), []uint32{1})
	c.line.flush(false)
	c.wait(t.Context(), cl)
	if _, err := c.result(cl); !errors.Is(err, sluice.Corrupt) {
		t.Fatalf("got %v, want corrupt", err)
	}
}

// TestUploadRefused sends more than the server takes; with a client that checks, and
// with one that does not know the limit.
func TestUploadRefused(t *testing.T) {
	p := start(t, setting{server: func(c *ServerConfig) { c.MaxPayload = 1 << 20 }})
	send := make([]byte, 3<<20)
	for _, check := range []bool{true, false} {
		if !check {
			p.bulk[0].mu.Lock()
			for _, s := range p.bulk {
				if s.conn != nil {
					s.conn.server.maxPayload = 0
				}
			}
			p.bulk[0].mu.Unlock()
		}
		if _, err := p.CallPayload(t.Context(), methodSum, say("q"), nil, Payload{Send: send}); !errors.Is(err, sluice.TooLarge) {
			t.Fatalf("check %t: got %v, want too large", check, err)
		}
	}
	if _, err := p.CallPayload(t.Context(), methodSum, say("q"), nil, Payload{Send: send[:1<<20]}); err != nil {
		t.Fatal(err)
	}
}

// TestSlowReader asks for much and reads nothing: the server sends no more than the
// window, and lets go of it all when the connection ends.
func TestSlowReader(t *testing.T) {
	h := newTestHandler(t, 1<<20)
	synctest.Test(t, func(t *testing.T) {
		var m memory
		s := NewServer(ServerConfig{Anonymous: true}, h)
		l := m.listen()
		done := make(chan error, 1)
		go func() { done <- s.Serve(l) }()
		nc, err := m.dial(context.Background(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		cfg := ClientConfig{Credential: Credential{User: "u"}}.withDefaults()
		in := inlet{read: nc.Read, buf: make([]byte, inletStart)}
		if _, _, err := cfg.greet(nc, &in, false); err != nil {
			t.Fatal(err)
		}
		// What is read is thrown away and never credited.
		go io.Copy(io.Discard, nc)
		for i := range 50 {
			h := header{call: uint64(i + 1), method: methodPattern, recv: 1 << 20}
			if _, err := nc.Write(appendPrefix(nil, frameRequest, &h, 0)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		s.mu.Lock()
		for c := range s.sessions {
			if lent := c.lent.Load(); lent != window {
				t.Errorf("%d bytes are lent, want %d", lent, window)
			}
		}
		s.mu.Unlock()
		nc.Close()
		synctest.Wait()
		if got := s.Stats(); got != (Stats{}) {
			t.Errorf("after the connection ended: %+v", got)
		}
		s.Shutdown(context.Background())
		<-done
	})
}

// TestOddReplies: no room, a message too large for the client, a descriptor nobody
// asked for.
func TestOddReplies(t *testing.T) {
	p := start(t, setting{network: "unix", client: func(c *ClientConfig) { c.MaxMessage = 1000 }})
	if _, err := p.CallPayload(t.Context(), methodPast, say("q"), nil, Payload{Recv: make([]byte, 0)}); err != nil {
		t.Fatalf("nothing asked for: %v", err)
	}
	if err := p.Call(t.Context(), methodEcho, new(make(text, 1001)), nil); !errors.Is(err, sluice.TooLarge) {
		t.Fatalf("request: got %v, want too large", err)
	}
	before := countFiles(t)
	for range 10 {
		if err := p.Call(t.Context(), methodPass, say("q"), nil); err != nil {
			t.Fatal(err)
		}
	}
	if after := countFiles(t); after > before {
		t.Errorf("%d descriptors before, %d after: they leak", before, after)
	}
}

func countFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(d)
}

// TestPayloadSums: checksums that the caller has computed travel with the payload and
// reach the handler; bytes that do not fit them are refused on arrival.
func TestPayloadSums(t *testing.T) {
	p := make([]byte, 600_001)
	for i := range p {
		p[i] = byte(i * i)
	}
	synctest.Test(t, func(t *testing.T) {
		var got []uint32
		var m memory
		stop := m.serve(t, ServerConfig{}, serveFunc(func(_ context.Context, r *Request) (Message, error) {
			got = append([]uint32(nil), r.PayloadSums()...)
			return nil, nil
		}))
		c := NewClient(ClientConfig{Dial: m.dial, Credential: Credential{User: "u"}}, Target{Address: "x:1"})
		for _, n := range []int{1, 50_000, chunkSize, PieceSize + 1, len(p)} {
			sums := sumsOf(p[:n], nil)
			if _, err := c.CallPayload(t.Context(), methodBlock, say("q"), nil, Payload{Send: p[:n], Sums: sums}); err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
			if !slices.Equal(got, sums) {
				t.Errorf("%d bytes: the handler sees %08x, sent were %08x", n, got, sums)
			}
			sums[len(sums)-1]++
			if _, err := c.CallPayload(t.Context(), methodBlock, say("q"), nil, Payload{Send: p[:n], Sums: sums}); !errors.Is(err, sluice.Corrupt) {
				t.Errorf("%d bytes with a wrong checksum: %v, want kind corrupt", n, err)
			}
		}
		c.Close()
		stop(t.Context())
	})
}

// serveFunc is a handler of one function.
type serveFunc func(context.Context, *Request) (Message, error)

func (f serveFunc) Serve(ctx context.Context, r *Request) (Message, error) { return f(ctx, r) }

package rpc

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	sluice "github.com/sluicefs/sluice"
)

// memory is a network of one listener, made of pipes.
type memory struct {
	mu     sync.Mutex
	accept chan net.Conn // guarded by mu: nil while nobody listens
	done   chan struct{}
}

type memoryListener struct {
	m      *memory
	accept chan net.Conn
	once   sync.Once
	done   chan struct{}
}

func (m *memory) listen() *memoryListener {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := &memoryListener{m: m, accept: make(chan net.Conn), done: make(chan struct{})}
	m.accept, m.done = l.accept, l.done
	return l
}

func (m *memory) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	m.mu.Lock()
	accept, done := m.accept, m.done
	m.mu.Unlock()
	a, b := net.Pipe()
	select {
	case accept <- b:
		return a, nil
	case <-done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *memoryListener) Addr() net.Addr { return memoryAddr{} }

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "memory" }

// serve starts a server on m and returns its end.
func (m *memory) serve(t *testing.T, cfg ServerConfig, h Handler) (stop func(context.Context) error) {
	t.Helper()
	cfg.Anonymous = true
	s := NewServer(cfg, h)
	l := m.listen()
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	return func(ctx context.Context) error {
		err := s.Shutdown(ctx)
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		return err
	}
}

func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// TestServerDeath lets a server die under waiting calls and come back.
func TestServerDeath(t *testing.T) {
	h := newTestHandler(t, 1<<10)
	synctest.Test(t, func(t *testing.T) {
		h.started = make(chan struct{}, 10)
		h.release = make(chan struct{})
		var m memory
		stop := m.serve(t, ServerConfig{}, h)
		c := NewClient(ClientConfig{Dial: m.dial, Credential: Credential{User: "u"}}, Target{Address: "x:1"})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := c.Call(context.Background(), methodBlock, say("q"), nil); !errors.Is(err, sluice.Unavailable) {
					t.Errorf("got %v, want unavailable", err)
				}
			})
		}
		for range 10 {
			<-h.started
		}
		if err := stop(cancelled()); !errors.Is(err, sluice.Cancelled) {
			t.Errorf("Shutdown: %v, want cancelled: calls were in flight", err)
		}
		wg.Wait()
		if err := c.Call(context.Background(), methodEcho, say("q"), nil); !errors.Is(err, sluice.Unavailable) {
			t.Fatalf("nobody listens: got %v, want unavailable", err)
		}
		stop = m.serve(t, ServerConfig{}, h)
		began, tries := time.Now(), 1
		for ; ; tries++ {
			err := c.Call(context.Background(), methodEcho, say("q"), nil)
			if err == nil {
				break
			}
			if !errors.Is(err, sluice.Unavailable) || time.Since(began) > time.Minute {
				t.Fatalf("try %d: %v", tries, err)
			}
			time.Sleep(time.Millisecond)
		}
		if d := time.Since(began); d > 2*lastPause {
			t.Errorf("connected again after %v, want at most %v", d, 2*lastPause)
		}
		c.Close()
		stop(context.Background())
	})
}

// TestShutdown lets the call in flight finish and refuses what comes after it.
func TestShutdown(t *testing.T) {
	h := newTestHandler(t, 1<<10)
	synctest.Test(t, func(t *testing.T) {
		h.started = make(chan struct{}, 10)
		h.release = make(chan struct{})
		var m memory
		stop := m.serve(t, ServerConfig{}, h)
		c := NewClient(ClientConfig{Dial: m.dial, Credential: Credential{User: "u"}}, Target{Address: "x:1"})
		first := make(chan error, 1)
		go func() { first <- c.Call(context.Background(), methodBlock, say("q"), nil) }()
		<-h.started
		stopped := make(chan error, 1)
		go func() { stopped <- stop(context.Background()) }()
		synctest.Wait()
		if err := c.Call(context.Background(), methodEcho, say("q"), nil); !errors.Is(err, sluice.Unavailable) {
			t.Errorf("while shutting down: got %v, want unavailable", err)
		}
		close(h.release)
		if err := <-first; err != nil {
			t.Errorf("the call in flight: %v", err)
		}
		if err := <-stopped; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		c.Close()
	})
}

// TestPipe runs calls of all kinds over pipes, which have no buffer at all: whatever
// waits for the other end to read would never end.
func TestPipe(t *testing.T) {
	h := newTestHandler(t, 1<<20)
	synctest.Test(t, func(t *testing.T) {
		h.release = make(chan struct{})
		var m memory
		stop := m.serve(t, ServerConfig{Inline: func(m Method) bool { return m == methodInline }}, h)
		c := NewClient(ClientConfig{Dial: m.dial, Credential: Credential{User: "u"}, BulkConns: 1}, Target{Address: "x:1"})
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+i%7)*time.Millisecond)
				defer cancel()
				switch i % 6 {
				case 0:
					if err := c.Call(ctx, methodBlock, say("q"), nil); !errors.Is(err, sluice.Timeout) {
						t.Errorf("got %v, want timeout", err)
					}
				case 1, 2:
					if err := c.Call(context.Background(), methodInline, say("q"), nil); err != nil {
						t.Error(err)
					}
				case 3:
					if _, err := c.CallPayload(context.Background(), methodFile, say("q"), nil, Payload{Recv: make([]byte, 1<<20)}); err != nil {
						t.Error(err)
					}
				case 4:
					if _, err := c.CallPayload(context.Background(), methodSum, say("q"), nil, Payload{Send: make([]byte, 1<<20)}); err != nil {
						t.Error(err)
					}
				case 5:
					c.CallPayload(ctx, methodPattern, say("q"), nil, Payload{Recv: make([]byte, 1<<20)})
				}
			})
		}
		wg.Wait()
		c.Close()
		stop(context.Background())
	})
}

// TestLimits fills a connection's limit: what is above it waits a while and is refused.
func TestLimits(t *testing.T) {
	h := newTestHandler(t, 1<<10)
	for _, cfg := range []ServerConfig{{MaxRequestsPerConn: 2}, {MaxRequests: 2}, {MaxBytesPerConn: 2000}, {MaxBytes: 2000}} {
		cfg.LimitWait = time.Second
		synctest.Test(t, func(t *testing.T) {
			h.started = make(chan struct{}, 10)
			h.release = make(chan struct{})
			var m memory
			stop := m.serve(t, cfg, h)
			c := NewClient(ClientConfig{Dial: m.dial, Credential: Credential{User: "u"}}, Target{Address: "x:1"})
			var wg sync.WaitGroup
			req := make(text, 900)
			for range 2 {
				wg.Go(func() {
					if err := c.Call(context.Background(), methodBlock, &req, nil); err != nil {
						t.Errorf("below the limit: %v", err)
					}
				})
				<-h.started
			}
			began := time.Now()
			if err := c.Call(context.Background(), methodEcho, &req, nil); !errors.Is(err, sluice.Busy) {
				t.Errorf("above the limit: got %v, want busy", err)
			}
			if d := time.Since(began); d != cfg.LimitWait {
				t.Errorf("refused after %v, want %v", d, cfg.LimitWait)
			}
			if err := c.Call(context.Background(), methodEcho, &req, nil); !errors.Is(err, sluice.Busy) || time.Since(began) != cfg.LimitWait {
				t.Errorf("the next one: %v after %v, want busy at once", err, time.Since(began)-cfg.LimitWait)
			}
			close(h.release)
			wg.Wait()
			if err := c.Call(context.Background(), methodEcho, &req, nil); err != nil {
				t.Errorf("after the others: %v", err)
			}
			c.Close()
			stop(context.Background())
		})
	}
}

// TestConnectionLimit refuses connections above MaxConns and serves the others.
func TestConnectionLimit(t *testing.T) {
	h := newTestHandler(t, 1<<10)
	synctest.Test(t, func(t *testing.T) {
		var m memory
		stop := m.serve(t, ServerConfig{MaxConns: 1}, h)
		a := NewClient(ClientConfig{Dial: m.dial, Credential: Credential{User: "u"}}, Target{Address: "x:1"})
		b := NewClient(ClientConfig{Dial: m.dial, Credential: Credential{User: "u"}}, Target{Address: "x:1"})
		if err := a.Connect(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := b.Connect(context.Background()); !errors.Is(err, sluice.Unavailable) {
			t.Fatalf("got %v, want unavailable", err)
		}
		a.Close()
		synctest.Wait()
		time.Sleep(time.Second)
		if err := b.Connect(context.Background()); err != nil {
			t.Fatalf("after the other left: %v", err)
		}
		b.Close()
		stop(context.Background())
	})
}

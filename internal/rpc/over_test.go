package rpc

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluicefs/sluice/internal/auth"
)

// overHandler hands out what tells it that its caller's connection is over.
type overHandler chan (<-chan struct{})

func (h overHandler) Serve(_ context.Context, r *Request) (Message, error) {
	h <- r.Over()
	return nil, nil
}

// A request that waits for something to happen is answered when the server shuts down, so
// that this need not cut it off.
func TestStopping(t *testing.T) {
	keys, err := auth.NewKeyring(nil)
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan struct{})
	s := NewServer(ServerConfig{Role: RoleWorker, Keys: keys}, waitHandler(begun))
	target := Target{Socket: filepath.Join(t.TempDir(), "s")}
	l, err := net.Listen("unix", target.Socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	c := NewClient(ClientConfig{}, target)
	defer c.Close()
	answered := make(chan error, 1)
	go func() { answered <- c.Call(t.Context(), methodEcho, nil, nil) }()
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if err := <-answered; err != nil {
		t.Errorf("the request that waited: %v", err)
	}
	<-served
}

// waitHandler waits until its server stops; it closes the channel when it has begun.
type waitHandler chan struct{}

func (h waitHandler) Serve(ctx context.Context, r *Request) (Message, error) {
	close(h)
	select {
	case <-r.Stopping():
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A handler may keep the end of its caller's connection: it stays open while that lives,
// answered requests or not, and is closed with it.
func TestOver(t *testing.T) {
	keys, err := auth.NewKeyring(nil)
	if err != nil {
		t.Fatal(err)
	}
	h := make(overHandler, 2)
	s := NewServer(ServerConfig{Role: RoleWorker, Keys: keys}, h)
	target := Target{Socket: filepath.Join(t.TempDir(), "s")}
	l, err := net.Listen("unix", target.Socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	defer func() {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s.Shutdown(ctx)
		<-served
	}()
	c := NewClient(ClientConfig{}, target)
	defer c.Close()
	for range 2 {
		if err := c.Call(t.Context(), methodEcho, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	first, second := <-h, <-h
	if first != second {
		t.Error("two requests of one connection have two ends")
	}
	select {
	case <-first:
		t.Fatal("over while the connection lives")
	default:
	}
	c.Close()
	select {
	case <-first:
	case <-time.After(10 * time.Second):
		t.Fatal("not over although the client has closed its connections")
	}
}

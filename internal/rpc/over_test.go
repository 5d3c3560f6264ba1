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

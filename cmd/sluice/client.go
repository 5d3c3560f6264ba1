package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/internal/auth"
	"github.com/sluicefs/sluice/internal/shell"
)

// connect makes the client that a command works with.
func (p *program) connect(ctx context.Context) (shell.System, func(), error) {
	cfg, err := p.read()
	if err != nil {
		return nil, nil, err
	}
	c, err := newClient(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	release := func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		_ = c.Close(ctx) // the session ends by itself where this fails
	}
	return c, release, nil
}

// startTime is how long a command waits for a master that was started a moment before it,
// on a machine that is busy.
const startTime = 5 * time.Second

// waitForSocket waits until the socket of a master is there, at most for patience. A
// socket that nobody answers on is the client's to repeat on.
func waitForSocket(ctx context.Context, socket string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(socket); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no master answers at %s: start one with `sluice up`, or set client.masters", socket)
		case <-tick.C:
		}
	}
}

func newClient(ctx context.Context, cfg config) (*client.Client, error) {
	cc, err := clientOf(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return client.New(ctx, cc)
}

// clientOf is how the configuration says a client is made.
func clientOf(ctx context.Context, cfg config) (client.Config, error) {
	masters := cfg.masters(cfg.Client.Masters)
	if len(cfg.Client.Masters) == 0 {
		if err := waitForSocket(ctx, cfg.socket("master"), min(cfg.Client.Retry, startTime)); err != nil {
			return client.Config{}, err
		}
	}
	cc := client.Config{
		Masters: client.Static(masters...), Token: cfg.Client.Token, Stores: stores(), Memory: int64(cfg.Client.Memory), Retry: cfg.Client.Retry,
	}
	var err error
	if cc.TLS, err = cfg.callTLS(masters); err != nil {
		return client.Config{}, err
	}
	return cc, nil
}

// callTLS is how addresses are called, nil for plain TCP: with TLS where the authorities
// are named, or an address lies beyond this machine and plaintext is not allowed. It is
// the mirror of what listeners demand; sockets are never called with it.
func (c *config) callTLS(addresses []string) (*tls.Config, error) {
	beyond := slices.ContainsFunc(addresses, func(a string) bool {
		host, _, err := net.SplitHostPort(a)
		ip := net.ParseIP(host)
		return !strings.HasPrefix(a, "unix:") && err == nil && host != "localhost" && (ip == nil || !ip.IsLoopback())
	})
	if c.Auth.CA == "" && (!beyond || c.Auth.Plaintext) {
		return nil, nil
	}
	return auth.TLSFiles{CA: c.Auth.CA}.Client()
}

package main

import (
	"context"
	"fmt"
	"os"
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

// startTime is how long a command waits for a master that was started a moment before it.
const startTime = 2 * time.Second

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
	masters := cfg.masters(cfg.Client.Masters)
	if len(cfg.Client.Masters) == 0 {
		if err := waitForSocket(ctx, cfg.socket("master"), min(cfg.Client.Retry, startTime)); err != nil {
			return nil, err
		}
	}
	cc := client.Config{
		Masters: client.Static(masters...), Token: cfg.Client.Token, Stores: stores(), Memory: int64(cfg.Client.Memory), Retry: cfg.Client.Retry,
	}
	if cfg.Auth.CA != "" {
		tlsConfig, err := auth.TLSFiles{CA: cfg.Auth.CA}.Client()
		if err != nil {
			return nil, err
		}
		cc.TLS = tlsConfig
	}
	return client.New(ctx, cc)
}

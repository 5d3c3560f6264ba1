package main

import (
	"context"
	"fmt"
	"os"

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

func newClient(ctx context.Context, cfg config) (*client.Client, error) {
	masters := cfg.masters(cfg.Client.Masters)
	if len(cfg.Client.Masters) == 0 {
		if _, err := os.Stat(cfg.socket("master")); err != nil {
			return nil, fmt.Errorf("no master answers at %s: start one with `sluice up`, or set client.masters", cfg.socket("master"))
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

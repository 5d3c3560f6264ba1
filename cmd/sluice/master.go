package main

import (
	"context"
	"fmt"
	"os/user"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/internal/master"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/hdfs"
	"github.com/sluicefs/sluice/underfs/local"
	"github.com/sluicefs/sluice/underfs/s3"
	"github.com/sluicefs/sluice/underfs/swift"
	"github.com/sluicefs/sluice/underfs/webhdfs"
)

// stores are the drivers this binary has.
func stores() *underfs.Registry {
	return underfs.NewRegistry(
		local.Driver{},
		s3.Driver{},
		hdfs.Driver{},
		webhdfs.Driver{},
		swift.Driver{},
	)
}

func (p *program) master() *cobra.Command {
	return &cobra.Command{
		Use: "master", Short: "Serve the namespace", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := p.host(true)
			if err != nil {
				return err
			}
			m, err := h.startMaster(cmd.Context())
			var http string
			if err == nil {
				http, err = h.listenHTTP("master", h.cfg.Master.HTTP, func() []metric { return masterMetrics(m.Stats()) }, m.Ready)
			}
			if err != nil {
				return joined(err, h.stop())
			}
			h.log.Info("master serves", "socket", h.cfg.socket("master"), "listen", h.cfg.Master.Listen, "http", http)
			return h.wait(cmd.Context())
		},
	}
}

// startMaster opens the master and its listeners.
func (h *host) startMaster(ctx context.Context) (*master.Master, error) {
	me, err := user.Current()
	if err != nil {
		return nil, fmt.Errorf("who runs this process: %w", err)
	}
	group := me.Username
	if g, err := user.LookupGroupId(me.Gid); err == nil {
		group = g.Name
	}
	c := h.cfg.Master
	address := c.Listen
	if address == "" {
		address = "unix:" + h.cfg.socket("master")
	}
	m, err := master.Open(ctx, master.Config{
		Dir: h.cfg.masterDir(), Address: address, Registry: stores(), Keys: h.keys, Superuser: me.Username, Group: group,
		Log: h.log.With("part", "master"), Version: versionText(), CacheBytes: int64(c.CacheSize),
		SessionLease: c.SessionLease, WorkerTimeout: c.WorkerTimeout, Warnings: h.warnings,
	})
	if err != nil {
		return nil, err
	}
	h.onStop(func(context.Context) error { return m.Close() })
	err = h.listenRPC("master", c.Listen, rpc.ServerConfig{
		Role: rpc.RoleMaster, Identity: m.Identity, Inline: m.Inline, MaxMessage: master.MaxMessage,
	}, m.Handler())
	return m, err
}

// warnings are what stays visible in every report.
func (h *host) warnings() []string {
	var all []string
	if h.cfg.Auth.Plaintext {
		all = append(all, fmt.Sprintf("plaintext listeners are allowed for %v: whoever can read that network can read the data", h.cfg.Auth.Trusted))
	}
	return all
}

package main

import (
	"context"
	"fmt"
	"os/user"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/internal/master"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/shell"
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

// desk is a master, alone or one of several.
type desk interface {
	Stats() master.Stats
	Ready() error
}

func (p *program) master() *cobra.Command {
	var peers string
	var id uint64
	var join bool
	cmd := &cobra.Command{
		Use: "master", Short: "Serve the namespace", Args: cobra.NoArgs,
		Long: `Serve the namespace.

Alone, or with --peers as one of several that elect a primary and lose nothing when one of them does: see ha.md.
The first of them makes the cluster's key; copy its file to the others before they are started.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if peers != "" {
				p.set = append(p.set, "master.peers="+peers)
			}
			if id != 0 {
				p.set = append(p.set, "master.id="+strconv.FormatUint(id, 10))
			}
			if join {
				p.set = append(p.set, "master.join=true")
			}
			cfg, err := p.read()
			if err != nil {
				return err
			}
			seat, err := cfg.seat()
			if err != nil {
				return &shell.Usage{Err: err}
			}
			h, err := p.host(seat.makesKey())
			if err != nil {
				return err
			}
			var m desk
			if seat == nil {
				m, err = h.startMaster(cmd.Context())
			} else {
				m, err = h.startMember(cmd.Context(), *seat)
			}
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
	cmd.Flags().StringVar(&peers, "peers", "", "all masters, as ID=ADDRESS,..., the same on every one (setting master.peers)")
	cmd.Flags().Uint64Var(&id, "id", 0, "which of them this one is (setting master.id)")
	cmd.Flags().BoolVar(&join, "join", false, "come into a cluster that is there, after sluice admin masters add (setting master.join)")
	return cmd
}

// startMaster opens the master and its listeners.
func (h *host) startMaster(ctx context.Context) (*master.Master, error) {
	c := h.cfg.Master
	address := c.Listen
	if address == "" {
		address = "unix:" + h.cfg.socket("master")
	}
	mc, err := h.masterConfig()
	if err != nil {
		return nil, err
	}
	mc.Dir, mc.Address = h.cfg.masterDir(), address
	m, err := master.Open(ctx, mc)
	if err != nil {
		return nil, err
	}
	h.onStop(func(context.Context) error { return m.Close() })
	err = h.listenRPC("master", c.Listen, rpc.ServerConfig{
		Role: rpc.RoleMaster, Identity: m.Identity, Inline: m.Inline, MaxMessage: master.MaxMessage,
	}, m.Handler())
	return m, err
}

// masterConfig is what every master is opened with.
func (h *host) masterConfig() (master.Config, error) {
	me, err := user.Current()
	if err != nil {
		return master.Config{}, fmt.Errorf("who runs this process: %w", err)
	}
	group := me.Username
	if g, err := user.LookupGroupId(me.Gid); err == nil {
		group = g.Name
	}
	c := h.cfg.Master
	return master.Config{
		Registry: stores(), Keys: h.keys, Superuser: me.Username, Group: group,
		Log: h.log.With("part", "master"), Version: versionText(), CacheBytes: int64(c.CacheSize),
		SessionLease: c.SessionLease, WorkerTimeout: c.WorkerTimeout, Warnings: h.warnings,
	}, nil
}

// warnings are what stays visible in every report.
func (h *host) warnings() []string {
	var all []string
	if h.cfg.Auth.Plaintext {
		all = append(all, fmt.Sprintf("plaintext listeners are allowed for %v: whoever can read that network can read the data", h.cfg.Auth.Trusted))
	}
	return all
}

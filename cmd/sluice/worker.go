package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/internal/blockstore"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/worker"
	"github.com/sluicefs/sluice/underfs/mounts"
)

func (p *program) worker() *cobra.Command {
	return &cobra.Command{
		Use: "worker", Short: "Serve blocks", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := p.host(false)
			if err != nil {
				return err
			}
			w, err := h.startWorker(cmd.Context())
			var http string
			if err == nil {
				http, err = h.listenHTTP("worker", h.cfg.Worker.HTTP, func() []metric { return workerMetrics(w.Stats()) }, w.Ready)
			}
			if err != nil {
				return joined(err, h.stop())
			}
			h.log.Info("worker serves", "socket", h.cfg.socket("worker"), "listen", h.cfg.Worker.Listen, "http", http)
			err = h.wait(cmd.Context())
			for _, dir := range h.tmpfs {
				h.log.Info("the cache stays on its tmpfs; sluice up --clear removes it", "path", dir)
			}
			return err
		},
	}
}

// startWorker opens the block store and the worker over it.
func (h *host) startWorker(ctx context.Context) (*worker.Worker, error) {
	tiers, err := h.tiers()
	if err != nil {
		return nil, err
	}
	id, err := h.cfg.workerID()
	if err != nil {
		return nil, err
	}
	store, err := blockstore.Open(ctx, blockstore.Config{Tiers: tiers, Worker: id, Log: h.log.With("part", "blockstore")})
	if err != nil {
		return nil, err
	}
	h.onStop(func(context.Context) error { return store.Close() })
	table := mounts.New(mounts.Config{Registry: stores(), Log: h.log.With("part", "stores")})
	h.onStop(table.Close)
	info, err := h.workerInfo(tiers)
	if err != nil {
		return nil, err
	}
	masters := h.cfg.masters(h.cfg.Worker.Masters)
	callTLS, err := h.cfg.callTLS(masters)
	if err != nil {
		return nil, err
	}
	w, err := worker.New(worker.Config{
		Store: store, Stores: table, Masters: client.Static(masters...), RPC: rpc.ClientConfig{TLS: callTLS}, Keys: h.keys, Info: info,
		MemoryPool: int64(h.cfg.Worker.Memory), Interval: h.cfg.Worker.Beat, Log: h.log.With("part", "worker"),
	})
	if err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	h.serve(func() error { defer close(ended); return w.Run(running) })
	h.onStop(func(context.Context) error { cancel(); <-ended; return nil })
	return w, h.listenRPC("worker", h.cfg.Worker.Listen, rpc.ServerConfig{Role: rpc.RoleWorker}, w.Handler())
}

// workerID is the random number by which this worker is known, drawn at its first start.
func (c *config) workerID() (sluice.WorkerID, error) {
	file := filepath.Join(c.Data, "worker", "id")
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		text = fmt.Appendf(nil, "%016x\n", rand.Uint64())
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return 0, err
		}
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		return 0, fmt.Errorf("the worker's id: %w", err)
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(text)), 16, 64)
	if err != nil {
		return 0, fmt.Errorf("%s does not hold a worker's id: remove it to get a new one, which loses what is cached here", file)
	}
	return sluice.WorkerID(id), nil
}

// workerInfo is what the masters and clients are told.
func (h *host) workerInfo(tiers []blockstore.TierConfig) (sluice.WorkerInfo, error) {
	name := h.cfg.Worker.Host
	if name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return sluice.WorkerInfo{}, fmt.Errorf("worker.host is not set and the host's name is not known: %w", err)
		}
	}
	var capacity int64
	for _, t := range tiers {
		for _, d := range t.Dirs {
			capacity += d.Quota
		}
	}
	return sluice.WorkerInfo{Host: name, Address: h.cfg.Worker.Listen, Socket: h.cfg.socket("worker"), Weight: float64(capacity) / (1 << 30)}, nil
}

// memDir is where the default MEM tier lies.
func (c *config) memDir() string { return filepath.Join(c.Data, "worker", "mem") }

// tierConfigs are the tiers as set, or the default one.
func (c *config) tierConfigs() ([]tierConfig, error) {
	if len(c.Worker.Tiers) > 0 {
		return c.Worker.Tiers, nil
	}
	quota := c.Worker.MemSize
	if quota == 0 {
		total, err := memoryLimit()
		if err != nil {
			return nil, fmt.Errorf("worker.mem_size is not set and the machine's memory is not known: %w", err)
		}
		quota = size(total/4) &^ (2<<20 - 1)
	}
	return []tierConfig{{Name: "MEM", Dirs: []dirConfig{{Path: c.memDir(), Quota: quota, Tmpfs: true}}}}, nil
}

// tiers makes the directories and mounts what is to be a tmpfs, where that is permitted.
func (h *host) tiers() ([]blockstore.TierConfig, error) {
	set, err := h.cfg.tierConfigs()
	if err != nil {
		return nil, err
	}
	var all []blockstore.TierConfig
	for _, t := range set {
		tier := blockstore.TierConfig{Name: t.Name}
		for _, d := range t.Dirs {
			if err := os.MkdirAll(d.Path, 0o700); err != nil {
				return nil, fmt.Errorf("tier %s: %w", t.Name, err)
			}
			if d.Tmpfs {
				if tier.Note, err = blockstore.MountTmpfs(d.Path, int64(d.Quota)); err != nil {
					return nil, fmt.Errorf("tier %s: %w", t.Name, err)
				}
				if mounted, err := blockstore.IsMountPoint(d.Path); err == nil && mounted {
					h.tmpfs = append(h.tmpfs, d.Path)
				}
				if tier.Note != "" {
					h.log.Warn("the memory tier is not what it could be", "path", d.Path, "note", tier.Note)
				}
			}
			tier.Dirs = append(tier.Dirs, blockstore.DirConfig{Path: d.Path, Quota: int64(d.Quota)})
		}
		all = append(all, tier)
	}
	return all, nil
}

// memoryLimit is the machine's memory or the cgroup's limit, whichever is less, in bytes.
func memoryLimit() (int64, error) {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return 0, err
	}
	limit := int64(info.Totalram) * int64(info.Unit)
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the other version of cgroups
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 {
			limit = min(limit, n)
		}
	}
	return limit, nil
}

// clear drops the cache of a stopped worker, after listing what exists nowhere else.
func (p *program) clear(ctx context.Context, yes bool) error {
	h, err := p.hostWithoutKey()
	if err != nil {
		return err
	}
	set, err := h.cfg.tierConfigs()
	if err != nil {
		return err
	}
	if !yes {
		if err := h.nothingIsOnlyHere(ctx, set); err != nil {
			return err
		}
	}
	for _, t := range set {
		for _, d := range t.Dirs {
			if d.Tmpfs {
				if err := blockstore.Unmount(d.Path); err != nil {
					return fmt.Errorf("%w; stop the worker that uses it first", err)
				}
			}
			if err := os.RemoveAll(d.Path); err != nil {
				return err
			}
			fmt.Fprintf(h.out, "cleared %s\n", d.Path)
		}
	}
	return nil
}

// nothingIsOnlyHere lists contents that exist in no store and refuses if there are any.
func (h *host) nothingIsOnlyHere(ctx context.Context, set []tierConfig) error {
	var tiers []blockstore.TierConfig
	for _, t := range set {
		tier := blockstore.TierConfig{Name: t.Name}
		for _, d := range t.Dirs {
			if _, err := os.Stat(d.Path); err == nil {
				tier.Dirs = append(tier.Dirs, blockstore.DirConfig{Path: d.Path, Quota: int64(d.Quota)})
			}
		}
		if len(tier.Dirs) > 0 {
			tiers = append(tiers, tier)
		}
	}
	if len(tiers) == 0 {
		return nil
	}
	store, err := blockstore.Open(ctx, blockstore.Config{Tiers: tiers, Log: h.log})
	if err != nil {
		return err
	}
	defer store.Close()
	n := 0
	for c := range store.Contents() {
		if c.Unpersisted {
			fmt.Fprintf(h.out, "exists only here: content %s, %d bytes\n", c.Content, c.Bytes)
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("%d contents exist nowhere else and would be lost; start the cluster, see what they are with `sluice fs find / --cache-only`, and `persist` or `get` them; or repeat with --yes", n)
	}
	return nil
}

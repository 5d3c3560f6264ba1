package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/internal/blockstore"
	"github.com/sluicefs/sluice/internal/master"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/worker"
	"github.com/sluicefs/sluice/underfs/mounts"
)

// stopGrace is what requests in flight get where a part is stopped and not killed.
const stopGrace = 2 * time.Second

// server is a listener with what answers there.
type server struct {
	rpc     *rpc.Server
	serving sync.WaitGroup
	err     error // of Serve; read after serving ended
}

// listen serves h on a unix socket.
func (c *Cluster) listen(name string, cfg rpc.ServerConfig, h rpc.Handler, wrap func(net.Listener) net.Listener) (*server, error) {
	path := c.socket(name)
	if len(path) > 100 {
		return nil, fmt.Errorf("%s is too long for a socket: set TMPDIR to a shorter one", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if wrap != nil {
		l = wrap(l)
	}
	cfg.Keys, cfg.Log = c.Keys, c.logger(name+"-rpc")
	s := &server{rpc: rpc.NewServer(cfg, h)}
	s.serving.Go(func() { s.err = s.rpc.Serve(l) })
	return s, nil
}

// stop gives requests in flight so much time, then cuts every connection; 0 cuts at once.
func (s *server) stop(grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	err := s.rpc.Shutdown(ctx)
	s.serving.Wait()
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil // somebody waits for notices for ever
	}
	return errors.Join(err, s.err)
}

// StartMaster starts the master, again on what it left. It does nothing while one runs.
func (c *Cluster) StartMaster() {
	c.t.Helper()
	if c.master != nil {
		return
	}
	m, err := master.Open(c.t.Context(), c.MasterConfig())
	if err != nil {
		c.t.Fatalf("start the master: %v", err)
	}
	c.desk = m
	c.master, err = c.listen("m", rpc.ServerConfig{
		Role: rpc.RoleMaster, Identity: m.Identity, Inline: m.Inline, MaxMessage: master.MaxMessage,
	}, m.Handler(), c.opts.Listen)
	if err != nil {
		c.t.Fatalf("start the master: %v", errors.Join(err, m.Close()))
	}
}

// MasterConfig is what the master is opened with, for tests that open a second one.
func (c *Cluster) MasterConfig() master.Config {
	cfg := master.Config{
		Dir: filepath.Join(c.dir, "master"), Address: c.Address(), Registry: c.stores, Keys: c.Keys,
		Superuser: c.who.Username, Log: c.logger("master"), Version: "test",
	}
	if c.opts.Master != nil {
		c.opts.Master(&cfg)
	}
	return cfg
}

// Master is the one that runs, nil where none does: for its Stats.
func (c *Cluster) Master() *master.Master {
	if c.master == nil {
		return nil
	}
	return c.desk
}

// StopMaster ends the master as SIGTERM does.
func (c *Cluster) StopMaster() { c.t.Helper(); c.stopMaster(stopGrace) }

// KillMaster cuts every connection of the master at once, answers under way included,
// and lets go of its files. What the kernel would do to a dead process beyond that (no
// last flush) only real processes show.
func (c *Cluster) KillMaster() { c.t.Helper(); c.stopMaster(0) }

func (c *Cluster) stopMaster(grace time.Duration) {
	c.t.Helper()
	if c.master == nil {
		return
	}
	err := errors.Join(c.master.stop(grace), c.desk.Close())
	c.master, c.desk = nil, nil
	if err != nil {
		c.t.Errorf("stop the master: %v", err)
	}
}

// RestartMaster kills and starts it and waits until everything is live again.
func (c *Cluster) RestartMaster() {
	c.t.Helper()
	c.KillMaster()
	c.StartMaster()
	c.Ready()
}

// KillWorker drops worker n's connections and contexts without grace. Its directories
// stay. It does nothing where it does not run.
func (c *Cluster) KillWorker(n int) { c.t.Helper(); c.workers[n].stop(0) }

// StartWorker starts worker n again on its directories, and waits until it is live.
func (c *Cluster) StartWorker(n int) {
	c.t.Helper()
	c.workers[n].start()
	c.Ready()
}

// Worker is worker n where it runs, else nil: for its Stats.
func (c *Cluster) Worker(n int) *worker.Worker { return c.workers[n].worker }

// Blocks is the store of worker n where it runs, else nil.
func (c *Cluster) Blocks(n int) *blockstore.Store { return c.workers[n].blocks }

// workerServer is one worker, running or not.
type workerServer struct {
	c      *Cluster
	number int
	id     sluice.WorkerID // kept through all its lives

	server *server // nil: it does not run
	worker *worker.Worker
	blocks *blockstore.Store
	table  *mounts.Table
	cancel context.CancelFunc
	ended  chan struct{} // closed when Run has returned
	err    error         // of Run; read after ended
}

// start starts it on its directories. It does nothing while it runs.
func (w *workerServer) start() {
	w.c.t.Helper()
	if w.server != nil {
		return
	}
	if err := w.open(); err != nil {
		w.c.t.Fatalf("start worker %d: %v", w.number, err)
	}
}

func (w *workerServer) open() error {
	c, name := w.c, workerName(w.number)
	tiers, err := w.tiers(name)
	if err != nil {
		return err
	}
	w.blocks, err = blockstore.Open(context.Background(), blockstore.Config{
		Tiers: tiers, Worker: w.id, Log: c.logger(name + "-blocks"),
	})
	if err != nil {
		return err
	}
	w.table = mounts.New(mounts.Config{Registry: c.stores, Log: c.logger(name + "-stores")})
	cfg := worker.Config{
		Store: w.blocks, Stores: w.table, Masters: client.Static(c.Address()), Keys: c.Keys,
		Info:       sluice.WorkerInfo{Host: name, Socket: c.socket(name), Weight: 1},
		MemoryPool: 64 << 20, Interval: 100 * time.Millisecond, Log: c.logger(name),
	}
	if c.opts.Worker != nil {
		c.opts.Worker(w.number, &cfg)
	}
	if w.worker, err = worker.New(cfg); err != nil {
		return errors.Join(err, w.close())
	}
	if w.server, err = c.listen(name, rpc.ServerConfig{Role: rpc.RoleWorker}, w.worker.Handler(), nil); err != nil {
		return errors.Join(err, w.close())
	}
	running, cancel := context.WithCancel(context.Background())
	w.cancel, w.ended = cancel, make(chan struct{})
	go func() {
		defer close(w.ended)
		w.err = w.worker.Run(running)
	}()
	return nil
}

// tiers makes the directories.
func (w *workerServer) tiers(name string) ([]blockstore.TierConfig, error) {
	var all []blockstore.TierConfig
	for _, t := range []struct {
		name  string
		quota int64
	}{{"MEM", w.c.opts.Mem}, {"SSD", w.c.opts.SSD}} {
		if t.quota < 0 {
			continue
		}
		dir := filepath.Join(w.c.dir, name, t.name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		all = append(all, blockstore.TierConfig{Name: t.name, Dirs: []blockstore.DirConfig{{Path: dir, Quota: cmp.Or(t.quota, 256<<20)}}})
	}
	return all, nil
}

// stop ends it: its connections after a grace time, then everything else.
func (w *workerServer) stop(grace time.Duration) {
	w.c.t.Helper()
	if w.server == nil {
		return
	}
	if grace == 0 {
		w.cancel()
	}
	err := w.server.stop(grace)
	w.cancel()
	<-w.ended
	if !errors.Is(w.err, context.Canceled) {
		err = errors.Join(err, w.err)
	}
	err = errors.Join(err, w.close())
	w.server, w.worker, w.blocks = nil, nil, nil
	if err != nil {
		w.c.t.Errorf("stop worker %d: %v", w.number, err)
	}
}

// close lets go of the stores and of the blocks.
func (w *workerServer) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return errors.Join(w.table.Close(ctx), w.blocks.Close())
}

package cluster

import (
	"context"
	"crypto/rand"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/internal/auth"
	"github.com/sluicefs/sluice/internal/master"
	"github.com/sluicefs/sluice/internal/worker"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/local"
	"github.com/sluicefs/sluice/underfs/s3"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// patience is how long the cluster waits for its own parts before a test fails. It is
// no measure of speed: the machine may be busy.
const patience = 60 * time.Second

// Options modify [Start]. The zero value is a master and one worker.
type Options struct {
	Workers int   // 0 is one; negative is none
	Mem     int64 // quota of each worker's MEM directory in bytes; 0 is 256 MiB
	SSD     int64 // quota of its SSD directory in bytes; 0 is 256 MiB, negative is no such tier

	Master func(*master.Config)            // changes the settings of every start; may be nil
	Worker func(n int, cfg *worker.Config) // likewise, of worker n
	Client func(*client.Config)            // likewise, of every client
	Listen func(net.Listener) net.Listener // wraps the master's listener; may be nil
}

// Cluster is a running cluster. Its methods are for the goroutine of the test, except
// those of the clients it gives out.
type Cluster struct {
	// Mem holds the stores mem://name, for faults and for changes behind the cluster's back.
	Mem *underfstest.Driver
	// Keys is the cluster key.
	Keys *auth.Keyring

	t       testing.TB
	opts    Options
	dir     string // short: sockets lie in it
	who     *user.User
	log     *logBook
	stores  *underfs.Registry
	master  *server
	desk    *master.Master
	workers []*workerServer
	mounted *client.Client // made when it is first needed
}

// Start starts a cluster that ends with the test, and returns when it has a primary and
// all its workers are live. Parts that do not start or end cleanly fail the test; the log
// of all parts is shown when it fails.
func Start(t testing.TB, opts Options) *Cluster {
	t.Helper()
	// t.TempDir has the test's name in it, too long for a socket.
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatalf("make the cluster's directory: %v", err)
	}
	c := &Cluster{Mem: &underfstest.Driver{}, t: t, opts: opts, dir: dir, log: &logBook{}}
	t.Cleanup(c.end)
	c.stores = underfs.NewRegistry(local.Driver{}, s3.Driver{}, c.Mem)
	if c.who, err = user.Current(); err != nil {
		t.Fatalf("who runs this test: %v", err)
	}
	if c.Keys, err = auth.CreateKeyring(filepath.Join(dir, "cluster.key"), rand.Reader); err != nil {
		t.Fatal(err)
	}
	c.StartMaster()
	n := opts.Workers
	if n == 0 {
		n = 1
	}
	for i := range max(n, 0) {
		c.workers = append(c.workers, &workerServer{c: c, number: i, id: sluice.WorkerID(mathrand.Uint64() | 1)})
		c.workers[i].start()
	}
	c.Ready()
	return c
}

// end takes everything down, clients having ended before (they were started later).
func (c *Cluster) end() {
	for _, w := range c.workers {
		w.stop(stopGrace)
	}
	c.StopMaster()
	if c.t.Failed() {
		c.t.Logf("what the cluster in %s logged last:\n%s", c.dir, c.log.String())
	}
	if err := os.RemoveAll(c.dir); err != nil {
		c.t.Errorf("remove the cluster's directory: %v", err)
	}
}

// Dir is where the cluster keeps everything: master/, w0/, w1/, ..., and stores/.
func (c *Cluster) Dir() string { return c.dir }

// Address is the master's, as clients take it.
func (c *Cluster) Address() string { return "unix:" + c.socket("m") }

// Log is what all parts logged so far, the last 256 KiB of it.
func (c *Cluster) Log() string { return c.log.String() }

func (c *Cluster) socket(name string) string { return filepath.Join(c.dir, name+".sock") }

// logger returns the log of one part.
func (c *Cluster) logger(part string) *slog.Logger {
	return slog.New(slog.NewTextHandler(c.log, &slog.HandlerOptions{Level: slog.LevelDebug})).With("part", part)
}

// Client returns a client of its own that is closed at the end of t, which may be a
// subtest of the cluster's. It acts as the superuser.
func (c *Cluster) Client(t testing.TB) *client.Client {
	t.Helper()
	cfg := client.Config{Masters: client.Static(c.Address()), Stores: c.stores, Log: c.logger("client")}
	if c.opts.Client != nil {
		c.opts.Client(&cfg)
	}
	cl, err := client.New(context.Background(), cfg)
	if err != nil {
		t.Fatalf("make a client: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := cl.Close(ctx); err != nil {
			t.Errorf("close a client: %v", err)
		}
	})
	return cl
}

// admin is the cluster's own client.
func (c *Cluster) admin() *client.Client {
	if c.mounted == nil {
		c.mounted = c.Client(c.t)
	}
	return c.mounted
}

// Mount mounts a store and fails the test if that does not work.
func (c *Cluster) Mount(path sluice.Path, uri string, opts sluice.MountOptions, secrets sluice.Secrets) sluice.MountInfo {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	info, err := c.admin().Mount(ctx, path, uri, opts, secrets)
	if err != nil {
		c.t.Fatalf("mount %s at %s: %v", uri, path, err)
	}
	return info
}

// MountLocal makes a directory, mounts it, and returns where it is.
func (c *Cluster) MountLocal(path sluice.Path, opts sluice.MountOptions) string {
	c.t.Helper()
	dir, err := os.MkdirTemp(c.dir, "store")
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		c.t.Fatal(err)
	}
	c.Mount(path, "file://"+dir, opts, nil)
	return dir
}

// Ready waits until there is a primary and every worker that runs is live in its eyes.
func (c *Cluster) Ready() {
	c.t.Helper()
	want := 0
	for _, w := range c.workers {
		if w.server != nil {
			want++
		}
	}
	c.Until("the cluster gets ready", func(ctx context.Context) bool {
		r, err := c.admin().Report(ctx)
		if err != nil {
			return false
		}
		live := 0
		for _, w := range r.Workers {
			if w.Live {
				live++
			}
		}
		return live >= want
	})
}

// Until asks again and again until it is so, and fails the test after a minute.
func (c *Cluster) Until(what string, is func(ctx context.Context) bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !is(ctx) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			c.t.Fatalf("%s: it did not within %v", what, patience)
		}
	}
}

// logBook keeps the last lines that were logged. It may be written by many.
type logBook struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

const logKept = 256 << 10

// Write implements io.Writer.
func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.text)+len(p) > 2*logKept {
		b.text = append(b.text[:0], b.text[len(b.text)-min(len(b.text), logKept):]...)
	}
	b.text = append(b.text, p...)
	return len(p), nil
}

// String returns what is kept.
func (b *logBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text[max(0, len(b.text)-logKept):])
}

// workerName is that of worker n in files and logs.
func workerName(n int) string { return "w" + strconv.Itoa(n) }

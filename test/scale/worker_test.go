//go:build e2e

package scale

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
)

// TestWorker: a worker with many small blocks is back at once after kill -9, with all of
// them, and needs little memory for each.
func TestWorker(t *testing.T) {
	n := 10_000
	if soak() {
		n = 100_000
	}
	s := newSite(t)
	s.launch("master", "master.session_lease=10m")
	c := s.connect(client.Config{})
	s.until("the key", func() error { _, err := os.Stat(filepath.Join(s.data, "cluster.key")); return err })
	s.launch("worker", "worker.mem_size=2GiB")
	s.worker(c)
	idle := s.resident("worker")
	const callers = 16
	failed := make([]error, callers)
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			for i := caller; i < n && failed[caller] == nil; i += callers {
				failed[caller] = writeOne(t.Context(), c, sluice.Root.Join(key(i)), []byte(key(i)))
			}
		})
	}
	all.Wait()
	if err := errors.Join(failed...); err != nil {
		t.Fatal(err)
	}
	s.end("worker", syscall.SIGKILL)
	begin := time.Now()
	s.launch("worker", "worker.mem_size=2GiB")
	last := sluice.Root.Join(key(n - 1))
	s.until("the worker serves again", func() error { return readOne(t.Context(), c, last, []byte(key(n-1))) })
	t.Logf("%d blocks: from kill -9 and start to the first answer %v", n, time.Since(begin))
	grown := s.resident("worker") - idle
	t.Logf("%d blocks: %d MiB more than without, %d bytes a block", n, grown>>20, grown/int64(n))
	for range 200 {
		i := rand.IntN(n)
		if err := readOne(t.Context(), c, sluice.Root.Join(key(i)), []byte(key(i))); err != nil {
			t.Fatal(err)
		}
	}
	if blocks := s.worker(c).Tiers[0].Blocks; blocks != int64(n) {
		t.Errorf("%d blocks are there, %d were written", blocks, n)
	}
}

func writeOne(ctx context.Context, c *client.Client, p sluice.Path, data []byte) error {
	w, err := c.Create(ctx, p, sluice.CreateOptions{Write: sluice.MustCache})
	if err != nil {
		return err
	}
	if _, err := w.Write(ctx, data); err != nil {
		return errors.Join(err, w.Abort(ctx))
	}
	_, err = w.Close(ctx)
	return err
}

func readOne(ctx context.Context, c *client.Client, p sluice.Path, want []byte) error {
	h, err := c.Open(ctx, p, sluice.OpenOptions{})
	if err != nil {
		return err
	}
	defer h.Close()
	got, err := io.ReadAll(sluice.NewReader(ctx, h, 0))
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%s holds %q instead of %q", p, got, want)
	}
	return err
}

// maxClient is what a client may use, in bytes, the test itself included.
const maxClient = 64 << 20

// TestClientMemory: a client that reads far more than its memory, in order and at
// random, without caching, stays small.
func TestClientMemory(t *testing.T) {
	sequential, randoms := int64(512<<20), 5_000
	if soak() {
		sequential, randoms = 4<<30, 100_000
	}
	s := newSite(t)
	store := filepath.Join(filepath.Dir(s.data), "store")
	if err := os.Mkdir(store, 0o755); err != nil {
		t.Fatal(err)
	}
	const length = 100 << 30
	f, err := os.Create(filepath.Join(store, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(length), f.Close()); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(f.Name(), past, past); err != nil {
		t.Fatal(err)
	}
	s.launch("master")
	c := s.connect(client.Config{})
	s.until("the key", func() error { _, err := os.Stat(filepath.Join(s.data, "cluster.key")); return err })
	s.launch("worker", "worker.mem_size=256MiB")
	s.worker(c)
	if _, err := c.Mount(t.Context(), "/store", "file://"+store, sluice.MountOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	h, err := c.Open(t.Context(), "/store/sparse", sluice.OpenOptions{Read: sluice.NoCache})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	debug.FreeOSMemory()
	var most int64
	buf := make([]byte, 1<<20)
	read := func(p []byte, off int64, look bool) {
		if n, err := h.ReadAt(t.Context(), p, off); err != nil || n != len(p) {
			t.Fatalf("read at %d: %d, %v", off, n, err)
		}
		for _, b := range p {
			if b != 0 {
				t.Fatalf("a hole at %d holds something", off)
			}
		}
		if look {
			most = max(most, residentOf(t, os.Getpid()))
		}
	}
	for off := int64(0); off < sequential; off += int64(len(buf)) {
		read(buf, off, off%(16<<20) == 0)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range randoms {
		read(buf[:4096], r.Int64N(length/4096)*4096, i%256 == 0)
	}
	t.Logf("%d MiB in order and %d random reads: at most %d MiB resident", sequential>>20, randoms, most>>20)
	if most > maxClient {
		t.Errorf("the client had up to %d MiB in memory, at most %d", most>>20, maxClient>>20)
	}
}

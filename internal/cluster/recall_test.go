package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/cluster"
)

// unlinked adds up what the files below dir take that this process has open and that have
// no name any more. Worker and client are both in this process.
func unlinked(t *testing.T, dir string) (n int64) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("no /proc: %v", err)
	}
	seen := map[uint64]bool{}
	for _, e := range all {
		name := filepath.Join("/proc/self/fd", e.Name())
		to, err := os.Readlink(name)
		if err != nil || !strings.HasPrefix(to, dir) || !strings.HasSuffix(to, "(deleted)") {
			continue
		}
		var s syscall.Stat_t
		if syscall.Stat(name, &s) == nil && !seen[s.Ino] {
			seen[s.Ino] = true
			n += s.Blocks * 512
		}
	}
	return n
}

// One client writes, reads and deletes ten times what the only tier holds: what it still
// has open is asked back and never stands in the way, and nothing stays open uncounted.
func TestWriteReadDelete(t *testing.T) {
	const mem = 64 << 20
	for _, how := range []string{"delete", "replace", "through"} {
		t.Run(how, func(t *testing.T) {
			c := cluster.Start(t, cluster.Options{Mem: mem, SSD: -1})
			cl := c.Client(t)
			opts := sluice.CreateOptions{Write: sluice.MustCache}
			dir := sluice.Path("/")
			if how == "through" {
				c.MountLocal("/m", sluice.MountOptions{})
				dir, opts.Write = "/m", sluice.CacheThrough
			}
			for i := range 40 {
				p := dir.Join(fmt.Sprintf("f%d", i))
				if how == "replace" {
					p = dir.Join(fmt.Sprintf("f%d", i%2))
				}
				data := bytes.Repeat([]byte{byte(i), 1, byte(i >> 1)}, 16<<20/3)
				put(t, cl, p, data, opts)
				if got := get(t, cl, p); !bytes.Equal(got, data) {
					t.Fatalf("%s: other bytes", p)
				}
				if how == "delete" {
					if err := cl.Remove(t.Context(), p, sluice.RemoveOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				if err := c.Blocks(0).Check(); err != nil {
					t.Fatal(err)
				}
				c.Until("all that is open without a name is charged", func(context.Context) bool {
					open := unlinked(t, c.Dir())
					return open <= c.Worker(0).Stats().Store.Tiers[0].Held
				})
			}
			s := c.Worker(0).Stats()
			if s.Opened < 40 {
				t.Errorf("%d descriptors were passed: the test reads by frames", s.Opened)
			}
			if n := s.Store.Tiers[0].Quota; n != mem {
				t.Errorf("the quota is %d by now, want %d: the disk was full before it", n, mem)
			}
			c.Until("nothing dead is held", func(context.Context) bool {
				return c.Worker(0).Stats().Store.Tiers[0].Held == 0 && unlinked(t, c.Dir()) == 0
			})
		})
	}
}

// A worker that is killed takes its table of holders with it: what the client held of the
// former one is not charged by the next, and does not stay open.
func TestHolderOfKilledWorker(t *testing.T) {
	c := cluster.Start(t, cluster.Options{SSD: -1})
	cl := c.Client(t)
	data := bytes.Repeat([]byte("sluice"), 1<<20)
	for i := range 3 {
		p := sluice.Path(fmt.Sprintf("/f%d", i))
		put(t, cl, p, data, sluice.CreateOptions{Write: sluice.MustCache})
		get(t, cl, p)
	}
	c.KillWorker(0)
	c.StartWorker(0)
	other := c.Client(t)
	if err := other.Remove(t.Context(), "/f0", sluice.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := get(t, cl, "/f1"); !bytes.Equal(got, data) {
		t.Error("after the worker was killed: other bytes")
	}
	c.Until("the dead file is closed", func(context.Context) bool { return unlinked(t, c.Dir()) == 0 })
	s := c.Worker(0).Stats()
	if s.Store.Tiers[0].Held != 0 {
		t.Errorf("%d bytes are held", s.Store.Tiers[0].Held)
	}
}

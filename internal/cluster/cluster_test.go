package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/internal/cluster"
	"github.com/sluicefs/sluice/internal/master"
)

func TestMain(m *testing.M) {
	cluster.UseMemory()
	goleak.VerifyTestMain(m)
}

func put(t *testing.T, c *client.Client, p sluice.Path, data []byte, opts sluice.CreateOptions) {
	t.Helper()
	w, err := c.Create(t.Context(), p, opts)
	if err != nil {
		t.Fatalf("create %s: %v", p, err)
	}
	defer w.Abort(context.Background())
	if _, err := w.Write(t.Context(), data); err != nil {
		t.Fatalf("write %s: %v", p, err)
	}
	if _, err := w.Close(t.Context()); err != nil {
		t.Fatalf("close %s: %v", p, err)
	}
}

func get(t *testing.T, c *client.Client, p sluice.Path) []byte {
	t.Helper()
	h, err := c.Open(t.Context(), p, sluice.OpenOptions{})
	if err != nil {
		t.Fatalf("open %s: %v", p, err)
	}
	defer h.Close()
	b, err := io.ReadAll(sluice.NewReader(t.Context(), h, 0))
	if err != nil {
		t.Fatalf("read %s: %v", p, err)
	}
	return b
}

// Two clusters live in one process without knowing of each other, and each survives the
// loss of its parts.
func TestTwoClusters(t *testing.T) {
	a, b := cluster.Start(t, cluster.Options{Workers: 2}), cluster.Start(t, cluster.Options{})
	data := map[*cluster.Cluster][]byte{a: bytes.Repeat([]byte("a"), 3<<20+7), b: bytes.Repeat([]byte("b"), 70_000)}
	for _, c := range []*cluster.Cluster{a, b} {
		cl := c.Client(t)
		c.MountLocal("/m", sluice.MountOptions{})
		put(t, cl, "/m/through", data[c], sluice.CreateOptions{})
		put(t, cl, "/cached", data[c], sluice.CreateOptions{Write: sluice.MustCache})
	}
	for _, c := range []*cluster.Cluster{a, b} {
		cl := c.Client(t)
		check := func(when string) {
			t.Helper()
			for _, p := range []sluice.Path{"/m/through", "/cached"} {
				if got := get(t, cl, p); !bytes.Equal(got, data[c]) {
					t.Errorf("%s: %s has %d bytes, want the %d written", when, p, len(got), len(data[c]))
				}
			}
		}
		check("at first")
		c.RestartMaster()
		check("after the master was killed")
		c.KillWorker(0)
		c.StartWorker(0)
		check("after a worker was killed")
	}
}

// A master's directory belongs to one master.
func TestSecondMaster(t *testing.T) {
	c := cluster.Start(t, cluster.Options{Workers: -1})
	if m, err := master.Open(t.Context(), c.MasterConfig()); !errors.Is(err, sluice.Busy) {
		if err == nil {
			m.Close()
		}
		t.Errorf("a second master on the same directory: %v, want kind busy", err)
	}
	if _, err := c.Client(t).Mkdir(t.Context(), "/d", sluice.MkdirOptions{}); err != nil {
		t.Errorf("the first master after that: %v", err)
	}
}

// Who has a file open reads on when it is renamed through Sluice, also what is not cached:
// content and bytes are the same, only their place in the store is another.
func TestReaderFollowsRename(t *testing.T) {
	c := cluster.Start(t, cluster.Options{})
	c.MountLocal("/m", sluice.MountOptions{})
	fs := c.Client(t)
	data := make([]byte, 6<<20)
	for i := range data {
		data[i] = byte(i >> 12)
	}
	put(t, fs, "/m/a", data, sluice.CreateOptions{Write: sluice.Through}) // not cached
	if _, err := fs.Mkdir(t.Context(), "/m/d", sluice.MkdirOptions{}); err != nil {
		t.Fatal(err)
	}
	h, err := fs.Open(t.Context(), "/m/a", sluice.OpenOptions{Read: sluice.NoCache})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	p := make([]byte, 1000)
	from := sluice.Path("/m/a")
	for i, to := range []sluice.Path{"/m/b", "/m/d/c"} {
		if err := fs.Rename(t.Context(), from, to, sluice.RenameOptions{}); err != nil {
			t.Fatal(err)
		}
		off := int64(i) * 5 << 20
		if _, err := h.ReadAt(t.Context(), p, off); err != nil || !bytes.Equal(p, data[off:off+1000]) {
			t.Fatalf("read after the rename to %s: %v", to, err)
		}
		from = to
	}
	if err := fs.Remove(t.Context(), from, sluice.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.ReadAt(t.Context(), p, 3<<20); !errors.Is(err, sluice.Changed) {
		t.Errorf("read after it was removed: %v, want kind changed", err)
	}
}

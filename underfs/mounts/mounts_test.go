package mounts_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/mounts"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// driver counts the stores that are open.
type driver struct {
	underfstest.Driver
	mu     sync.Mutex
	opened int
	closed int
	got    []sluice.Secrets
}

type store struct {
	underfs.Store
	d *driver
}

func (s store) Close() error {
	s.d.mu.Lock()
	s.d.closed++
	s.d.mu.Unlock()
	return s.Store.Close()
}

func (d *driver) Open(cfg underfs.Config) (underfs.Store, error) {
	s, err := d.Driver.Open(cfg)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opened++
	d.got = append(d.got, cfg.Secrets)
	return store{s, d}, nil
}

func (d *driver) counts() (opened, closed int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.opened, d.closed
}

func row(id sluice.MountID, name string, epoch uint64) mounts.Row {
	return mounts.Row{Mount: sluice.Mount{ID: id, Path: sluice.Path("/" + name), URI: "mem://" + name}, Epoch: epoch}
}

func TestTable(t *testing.T) {
	d := &driver{}
	table := mounts.New(mounts.Config{Registry: underfs.NewRegistry(d)})
	if _, _, err := table.Get(1); !errors.Is(err, sluice.NotFound) {
		t.Errorf("no mount: %v, want kind not found", err)
	}
	table.Update([]mounts.Row{row(1, "a", 1), row(2, "b", 1)})
	if n, _ := d.counts(); n != 0 {
		t.Errorf("%d stores were opened that nobody needed", n)
	}
	for range 2 {
		if _, m, err := table.Get(1); err != nil || m.Path != "/a" {
			t.Fatalf("mount %v, %v", m, err)
		}
	}
	if n, _ := d.counts(); n != 1 {
		t.Errorf("%d stores were opened, want one", n)
	}
	if h := table.Health(1); h.Checked != "conditional" || h.Breaker != "closed" {
		t.Errorf("health: %+v", h)
	}
	held, err := table.Acquire(1)
	if err != nil {
		t.Fatal(err)
	}
	table.Update([]mounts.Row{row(1, "a", 2), row(2, "b", 1)})
	if e, _ := table.Epoch(1); e != 2 {
		t.Errorf("epoch %d, want 2", e)
	}
	d.Memory("a").Put("k", []byte("x"))
	body, err := held.Read(t.Context(), underfs.ReadRequest{Key: "k", Length: 1})
	if err != nil {
		t.Fatalf("a store that is held while its mount changes: %v", err)
	}
	if p, err := io.ReadAll(body); string(p) != "x" || err != nil {
		t.Errorf("%q, %v", p, err)
	}
	body.Close()
	if _, n := d.counts(); n != 0 {
		t.Error("a store was closed while it was held")
	}
	held.Release()
	held.Release()
	if err := table.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if o, c := d.counts(); o != c {
		t.Errorf("%d stores opened, %d closed", o, c)
	}
	table.Update([]mounts.Row{row(3, "c", 1)})
	if _, err := table.Acquire(3); !errors.Is(err, sluice.NotFound) {
		t.Errorf("after Close: %v, want kind not found", err)
	}
}

// References are resolved here; what cannot be opened names its mount and shows no value.
func TestSecrets(t *testing.T) {
	d := &driver{}
	table := mounts.New(mounts.Config{Registry: underfs.NewRegistry(d)})
	defer table.Close(context.Background())
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	good, bad := row(1, "a", 1), row(2, "b", 1)
	name := d.Settings()[len(d.Settings())-1].Name
	for _, s := range d.Settings() {
		if s.Secret {
			name = s.Name
		}
	}
	good.Secrets = sluice.Secrets{name: "file:" + file}
	bad.Secrets = sluice.Secrets{name: "file:" + file + ".missing"}
	table.Update([]mounts.Row{good, bad})
	if _, _, err := table.Get(1); err != nil {
		t.Fatal(err)
	}
	if got := d.got[0][name]; got != "hush" {
		t.Errorf("the driver got %d bytes of secret", len(got))
	}
	_, _, err := table.Get(2)
	if e, ok := errors.AsType[*sluice.Error](err); !ok || e.Kind != sluice.Unavailable || e.Path != "/b" {
		t.Errorf("%v, want kind unavailable with the mount's path", err)
	}
	if h := table.Health(2); h.OK || h.Message == "" {
		t.Errorf("health: %+v", h)
	}
}

// While one mount's store hangs another's answers.
func TestNothingIsShared(t *testing.T) {
	d := &driver{}
	table := mounts.New(mounts.Config{Registry: underfs.NewRegistry(d)})
	defer table.Close(context.Background())
	table.Update([]mounts.Row{row(1, "a", 1), row(2, "b", 1)})
	d.Memory("a").Inject(underfs.OpStat, underfstest.Fault{Hang: true})
	d.Memory("b").Put("k", nil)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 200 {
		s, _, err := table.Get(1)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() { s.Stat(ctx, "k") })
	}
	s, _, err := table.Get(2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "k"); err != nil {
		t.Errorf("the well store: %v", err)
	}
	cancel()
	all.Wait()
}

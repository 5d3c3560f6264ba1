package client

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/local"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// TestDirect: where no worker serves and the mount allows it, the client reads the store
// itself, and only the version it opened.
func TestDirect(t *testing.T) {
	f := newFake(t, 1, 0)
	dir := t.TempDir()
	registry := underfs.NewRegistry(local.Driver{})
	store, err := registry.Open(underfs.Config{URI: "file://" + dir})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	data := noise(1, 9<<20)
	put := func(data []byte) {
		if err := os.WriteFile(filepath.Join(dir, "f"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		o, err := store.Stat(t.Context(), "f")
		if err != nil {
			t.Fatal(err)
		}
		f.write("/m/f", data)
		f.mu.Lock()
		defer f.mu.Unlock()
		i := f.files["/m/f"].info
		i.Mount, i.Key, i.Store = 5, "f", string(o.Version)
	}
	put(data)
	f.mounts = []sluice.MountInfo{{Mount: sluice.Mount{ID: 5, Path: "/m", URI: "file://" + dir, Options: sluice.MountOptions{Direct: true}}}}
	f.workers[0].down.Store(true)

	c := f.client(func(cfg *Config) { cfg.Stores = registry })
	if got := readFile(t, c, "/m/f"); !bytes.Equal(got, data) {
		t.Fatal("other bytes")
	}
	// The store has a version that nobody was told of.
	h, err := c.Open(t.Context(), "/m/f", sluice.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := os.WriteFile(filepath.Join(dir, "f"), noise(2, 9<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	_, err = h.ReadAt(t.Context(), p, 3<<20)
	isKind(t, err, sluice.Changed)
	// A mount that does not allow it is not read.
	f.mu.Lock()
	f.mounts[0].Options.Direct = false
	f.mu.Unlock()
	put(data)
	other := f.client(func(cfg *Config) { cfg.Stores, cfg.Retry = registry, time.Millisecond })
	h2, err := other.Open(t.Context(), "/m/f", sluice.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer h2.Close()
	_, err = h2.ReadAt(t.Context(), p, 0)
	isKind(t, err, sluice.Unavailable)
}

// TestDirectSick: a store that hangs ends a direct read at its mount's deadline and is named.
func TestDirectSick(t *testing.T) {
	f := newFake(t, 0, 0)
	driver := &underfstest.Driver{}
	mem := underfstest.NewMemory(underfstest.Options{})
	driver.Add("m", mem)
	data := noise(1, 100_000)
	o := mem.Put("f", data)
	f.write("/m/f", data)
	i := f.files["/m/f"].info
	i.Mount, i.Key, i.Store = 5, "f", string(o.Version)
	f.mounts = []sluice.MountInfo{{Mount: sluice.Mount{ID: 5, Path: "/m", URI: "mem://m", Options: sluice.MountOptions{Direct: true}}}}
	c := f.client(func(cfg *Config) { cfg.Stores = underfs.NewRegistry(driver) })
	read := func() error {
		h, err := c.Open(t.Context(), "/m/f", sluice.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		_, err = h.ReadAt(t.Context(), make([]byte, 10), 0)
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	if n := f.count(wire.MethodMounts); n != 1 {
		t.Errorf("the mounts were asked for %d times, want once", n)
	}
	f.mu.Lock()
	f.mounts[0].Options.Timeout = 20 * time.Millisecond
	f.mu.Unlock()
	c.stores.forget()
	mem.Inject(underfs.OpRead, underfstest.Fault{Hang: true})
	err := read()
	isKind(t, err, sluice.Unavailable)
	if err != nil && !strings.Contains(err.Error(), "mount /m") {
		t.Errorf("%v does not name the mount", err)
	}
}

package underfstest

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// Driver makes stores of the scheme "mem". The contents live in the driver by name, so
// that several processes in one test that share the driver see one store. The zero value
// is ready; it must not be copied after use.
type Driver struct {
	Options Options // of the contents made from here on

	mu    sync.Mutex
	named map[string]*Memory // guarded by mu
}

// Memory returns the content called name, which mem://name opens, and makes it first if
// it is not there.
func (d *Driver) Memory(name string) *Memory {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.named[name]
	if m == nil {
		if d.named == nil {
			d.named = make(map[string]*Memory)
		}
		m = NewMemory(d.Options)
		d.named[name] = m
	}
	return m
}

// Add puts m under name, in place of what was there.
func (d *Driver) Add(name string, m *Memory) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.named == nil {
		d.named = make(map[string]*Memory)
	}
	d.named[name] = m
}

// Schemes implements underfs.Driver.
func (d *Driver) Schemes() []string { return []string{"mem"} }

// Settings implements underfs.Driver. The secret is there for tests of secrets.
func (d *Driver) Settings() []underfs.Setting {
	return []underfs.Setting{
		{Name: "comment", Help: "has no effect"},
		{Name: "key", Help: "has no effect", Secret: true},
	}
}

// Open implements underfs.Driver.
func (d *Driver) Open(cfg underfs.Config) (underfs.Store, error) {
	name, ok := strings.CutPrefix(cfg.URI, "mem://")
	if !ok || name == "" {
		return nil, underfs.Failf("open store", "", sluice.Invalid, "%q is not mem://name", cfg.URI)
	}
	return d.Memory(name).Store(), nil
}

// Baseline implements underfs.Driver.
func (d *Driver) Baseline(cfg underfs.Config) (underfs.Baseline, error) {
	if _, err := d.Open(cfg); err != nil {
		return nil, err
	}
	return baseline{d.Memory(strings.TrimPrefix(cfg.URI, "mem://"))}, nil
}

// baseline is plain access to a Memory.
type baseline struct{ m *Memory }

// Get implements underfs.Baseline.
func (b baseline) Get(_ context.Context, key underfs.Key, w io.Writer) (int64, error) {
	data, ok := b.m.Get(key)
	if !ok {
		return 0, underfs.Failf("get", key, sluice.NotFound, "nothing lies there")
	}
	return io.Copy(w, bytes.NewReader(data))
}

// Put implements underfs.Baseline.
func (b baseline) Put(_ context.Context, key underfs.Key, r io.Reader, _ int64) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return underfs.Fail("put", key, sluice.KindOf(err), err)
	}
	b.m.Put(key, data)
	return nil
}

// Close implements underfs.Baseline.
func (b baseline) Close() error { return nil }

package namenode

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
)

// memory is a small HDFS: names in a name node's order, a few to a page.
type memory struct {
	page int // entries of a listing

	mu    sync.Mutex
	files map[string]*inode // guarded by mu
	ids   uint64
	lists int
	fault func(op, path string) error // nil: none
}

// inode is a file or directory of a memory.
type inode struct {
	st   Status
	data []byte
}

// newMemory makes an empty one.
func newMemory() *memory {
	m := &memory{page: 4, files: make(map[string]*inode)}
	m.add("/", Status{Dir: true, Mode: 0o755})
	return m
}

// add makes an inode. mu is held or nobody else knows m.
func (m *memory) add(name string, st Status) *inode {
	m.ids++
	st.ID, st.Owner, st.Group, st.BlockSize = m.ids, "me", "us", 1<<20
	n := &inode{st: st}
	m.touch(&n.st)
	m.files[name] = n
	if up := m.files[path.Dir(name)]; up != nil {
		m.touch(&up.st)
	}
	return n
}

// touch gives a status the time, never the same twice.
func (m *memory) touch(st *Status) { st.Mtime = max(st.Mtime+1, time.Now().UnixMilli()) }

// kind makes an error.
func kind(k sluice.Kind) error { return &sluice.Error{Kind: k, Err: errors.New(k.String())} }

// find returns what lies at name. mu is held.
func (m *memory) find(op, name string) (*inode, error) {
	if m.fault != nil {
		if err := m.fault(op, name); err != nil {
			return nil, err
		}
	}
	for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
		if n := m.files[dir]; n != nil && !n.st.Dir {
			return nil, kind(sluice.NotDirectory)
		}
	}
	if n := m.files[name]; n != nil {
		return n, nil
	}
	return nil, kind(sluice.NotFound)
}

func (m *memory) Stat(_ context.Context, name string) (Status, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("stat", name)
	if err != nil {
		return Status{}, err
	}
	return n.st, nil
}

func (m *memory) List(_ context.Context, dir, after string) ([]Status, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lists++
	n, err := m.find("list", dir)
	if err != nil {
		return nil, false, err
	}
	if !n.st.Dir {
		return nil, false, kind(sluice.NotDirectory)
	}
	var all []Status
	for name, n := range m.files {
		if path.Dir(name) == dir && name != dir && (after == "" || less(after, path.Base(name))) {
			st := n.st
			st.Name = path.Base(name)
			all = append(all, st)
		}
	}
	slices.SortFunc(all, func(a, b Status) int {
		if less(a.Name, b.Name) {
			return -1
		}
		return 1
	})
	return all[:min(m.page, len(all))], len(all) > m.page, nil
}

func (m *memory) Mkdirs(_ context.Context, name string, mode sluice.Mode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("mkdirs", name)
	switch {
	case err == nil && !n.st.Dir:
		return kind(sluice.NotDirectory)
	case !errors.Is(err, sluice.NotFound):
		return err
	}
	for _, dir := range above(name) {
		if m.files[dir] == nil {
			m.add(dir, Status{Dir: true, Mode: mode})
		}
	}
	return nil
}

// above returns name and what is above it, from the top.
func above(name string) []string {
	all := []string{name}
	for name != "/" {
		name = path.Dir(name)
		all = append(all, name)
	}
	slices.Reverse(all)
	return all
}

func (m *memory) Rename(_ context.Context, from, to string, overwrite bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("rename", from)
	if err != nil {
		return err
	}
	up, err := m.find("rename to", path.Dir(to))
	if err != nil {
		return err
	}
	if !up.st.Dir {
		return kind(sluice.NotDirectory)
	}
	if old := m.files[to]; old != nil {
		switch {
		case !overwrite:
			return kind(sluice.Exists)
		case old.st.Dir != n.st.Dir:
			return kind(sluice.Unavailable) // an IOException
		}
	}
	for name, n := range m.files {
		if rest, below := strings.CutPrefix(name, from+"/"); below {
			delete(m.files, name)
			m.files[to+"/"+rest] = n
		}
	}
	delete(m.files, from)
	m.files[to] = n
	m.touch(&up.st)
	m.touch(&m.files[path.Dir(from)].st)
	return nil
}

func (m *memory) Delete(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.find("delete", name); err != nil {
		return err
	}
	for other := range m.files {
		if strings.HasPrefix(other, name+"/") {
			return kind(sluice.NotEmpty)
		}
	}
	delete(m.files, name)
	m.touch(&m.files[path.Dir(name)].st)
	return nil
}

// set changes a status.
func (m *memory) set(name string, f func(*Status)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("set", name)
	if err == nil {
		f(&n.st)
	}
	return err
}

func (m *memory) SetMode(_ context.Context, name string, mode sluice.Mode) error {
	return m.set(name, func(st *Status) { st.Mode = mode })
}

func (m *memory) SetOwner(_ context.Context, name, owner, group string) error {
	return m.set(name, func(st *Status) { st.Owner, st.Group = owner, group })
}

func (m *memory) SetTimes(_ context.Context, name string, mtime, _ *time.Time) error {
	return m.set(name, func(st *Status) {
		if mtime != nil {
			st.Mtime = mtime.UnixMilli()
		}
	})
}

func (m *memory) Open(_ context.Context, name string, off, n int64, accept func(Status) error) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.find("open", name)
	if err == nil {
		err = accept(f.st)
	}
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(f.data[off : off+n])), nil
}

func (m *memory) Create(_ context.Context, name string, mode sluice.Mode) (Writer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.find("create", path.Dir(name)); err != nil {
		return nil, err
	}
	if m.files[name] != nil {
		return nil, kind(sluice.Exists)
	}
	return &memoryWriter{m, m.add(name, Status{Mode: mode, Open: true})}, nil
}

func (m *memory) Close() error { return nil }

// memoryWriter writes a file of a memory.
type memoryWriter struct {
	m *memory
	n *inode
}

func (w *memoryWriter) Write(_ context.Context, p []byte) error {
	w.n.data = append(w.n.data, p...)
	return nil
}

func (w *memoryWriter) Finish(context.Context) error {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	w.n.st.Open, w.n.st.Length = false, int64(len(w.n.data))
	w.m.touch(&w.n.st)
	return nil
}

func (w *memoryWriter) Abort() {}

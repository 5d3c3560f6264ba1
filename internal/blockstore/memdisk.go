package blockstore

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"sync"

	"github.com/sluicefs/sluice"
)

// MemDisk is a disk in memory that forgets what was not synced when it crashes, for
// tests and for the simulation. Make one with [NewMemDisk].
type MemDisk struct {
	cfg MemDiskConfig

	mu    sync.Mutex
	dirs  map[string]*memDir
	locks map[string]bool
	used  int64 // allocated bytes, unlinked files included while they are open
}

// MemDiskConfig says what the disk is like. The zero value is 1 TiB of flash.
type MemDiskConfig struct {
	Capacity int64 // bytes; 0 is 1 TiB. Beyond it writes fail with ENOSPC.
	Volatile bool  // as a tmpfs
	Huge     bool  // as a tmpfs with huge=within_size
	// Before is asked before every operation: an error fails it. It may call
	// [MemDisk.Clone]. op is the name of the method, in lower case.
	Before func(op, name string) error
}

// memPage is the unit of allocation.
const memPage = 4096

type memDir struct{ names, durable map[string]*memInode }

// memInode is a file's contents. Pages are never changed, only replaced, so that the
// durable state and clones share them.
type memInode struct {
	pages, durablePages map[int64]*[memPage]byte
	size, durableSize   int64
	links, opens        int
}

// NewMemDisk returns an empty disk.
func NewMemDisk(cfg MemDiskConfig) *MemDisk {
	if cfg.Capacity == 0 {
		cfg.Capacity = 1 << 40
	}
	return &MemDisk{cfg: cfg, dirs: map[string]*memDir{}, locks: map[string]bool{}}
}

var _ Disk = (*MemDisk)(nil)

// Clone returns the disk as a new process finds it after a crash at this moment. With
// chance nil only the process died (kill -9): everything written is there. Otherwise
// the power went: what was synced is there, and of every page, length and name that
// was not, chance decides. The clone takes no locks and no Before along.
func (m *MemDisk) Clone(chance *rand.Rand) *MemDisk {
	m.mu.Lock()
	defer m.mu.Unlock()
	cfg := m.cfg
	cfg.Before = nil
	c := NewMemDisk(cfg)
	copies := map[*memInode]*memInode{}
	for _, dirName := range slices.Sorted(maps.Keys(m.dirs)) {
		d := m.dirs[dirName]
		names := maps.Clone(d.names)
		if chance != nil {
			names = survivors(d, chance)
		}
		fresh := &memDir{names: map[string]*memInode{}}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			from := names[name]
			if copies[from] == nil {
				copies[from] = from.clone(chance)
				c.used += int64(len(copies[from].pages)) * memPage
			}
			copies[from].links++
			fresh.names[name] = copies[from]
		}
		fresh.durable = maps.Clone(fresh.names)
		c.dirs[dirName] = fresh
	}
	return c
}

// survivors chooses which changes of a directory's names outlive a power failure.
func survivors(d *memDir, chance *rand.Rand) map[string]*memInode {
	names := map[string]*memInode{}
	all := maps.Clone(d.durable)
	maps.Copy(all, d.names)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		from := d.names
		if chance.IntN(2) == 0 {
			from = d.durable
		}
		if i := from[name]; i != nil {
			names[name] = i
		}
	}
	return names
}

func (i *memInode) clone(chance *rand.Rand) *memInode {
	pages, size := maps.Clone(i.pages), i.size
	if chance != nil {
		if chance.IntN(2) == 0 {
			size = i.durableSize
		}
		all := maps.Clone(i.durablePages)
		maps.Copy(all, i.pages)
		clear(pages)
		for _, n := range slices.Sorted(maps.Keys(all)) {
			from := i.pages
			if chance.IntN(2) == 0 {
				from = i.durablePages
			}
			if p := from[n]; p != nil && n*memPage < size {
				pages[n] = p
			}
		}
	}
	return &memInode{pages: pages, size: size, durablePages: maps.Clone(pages), durableSize: size}
}

func (m *MemDisk) before(op, name string) error {
	if m.cfg.Before == nil {
		return nil
	}
	return m.cfg.Before(op, name)
}

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// dirLocked returns the directory of name and its last element.
func (m *MemDisk) dirLocked(name string) (*memDir, string) {
	dir, base := path.Split(path.Clean(name))
	return m.dirs[path.Clean(dir)], base
}

// Open implements [Disk].
func (m *MemDisk) Open(name string, mode OpenMode) (File, error) {
	if err := m.before("open", name); err != nil {
		return nil, pathError("open", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base := m.dirLocked(name)
	if d == nil {
		return nil, pathError("open", name, fs.ErrNotExist)
	}
	i := d.names[base]
	switch {
	case mode == CreateNew && i != nil:
		return nil, pathError("open", name, fs.ErrExist)
	case mode != CreateNew && i == nil:
		return nil, pathError("open", name, fs.ErrNotExist)
	case i == nil:
		i = &memInode{pages: map[int64]*[memPage]byte{}, durablePages: map[int64]*[memPage]byte{}, links: 1}
		d.names[base] = i
	}
	i.opens++
	return &memFile{disk: m, name: name, inode: i, readOnly: mode == ReadOnly}, nil
}

// Rename implements [Disk].
func (m *MemDisk) Rename(from, to string) error {
	if err := m.before("rename", from); err != nil {
		return pathError("rename", from, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	fd, fb := m.dirLocked(from)
	td, tb := m.dirLocked(to)
	if fd == nil || td == nil || fd.names[fb] == nil {
		return pathError("rename", from, fs.ErrNotExist)
	}
	if old := td.names[tb]; old != nil {
		old.links--
		m.reapLocked(old)
	}
	td.names[tb] = fd.names[fb]
	delete(fd.names, fb)
	return nil
}

// Remove implements [Disk].
func (m *MemDisk) Remove(name string) error {
	if err := m.before("remove", name); err != nil {
		return pathError("remove", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base := m.dirLocked(name)
	if d == nil || d.names[base] == nil {
		return pathError("remove", name, fs.ErrNotExist)
	}
	i := d.names[base]
	delete(d.names, base)
	i.links--
	m.reapLocked(i)
	return nil
}

// reapLocked frees the space of a file that has neither a name nor a user.
func (m *MemDisk) reapLocked(i *memInode) {
	if i.links == 0 && i.opens == 0 {
		m.used -= i.allocated()
	}
}

func (i *memInode) allocated() int64 { return int64(len(i.pages)) * memPage }

// List implements [Disk], in order of names.
func (m *MemDisk) List(dir string, each func(name string) error) error {
	if err := m.before("list", dir); err != nil {
		return pathError("list", dir, err)
	}
	m.mu.Lock()
	d := m.dirs[path.Clean(dir)]
	if d == nil {
		m.mu.Unlock()
		return pathError("list", dir, fs.ErrNotExist)
	}
	names := slices.Sorted(maps.Keys(d.names))
	m.mu.Unlock()
	for _, name := range names {
		if err := each(name); err != nil {
			return err
		}
	}
	return nil
}

// MakeDir implements [Disk]; directories are durable at once.
func (m *MemDisk) MakeDir(dir string) error {
	if err := m.before("makedir", dir); err != nil {
		return pathError("mkdir", dir, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for dir = path.Clean(dir); m.dirs[dir] == nil; dir = path.Dir(dir) {
		m.dirs[dir] = &memDir{names: map[string]*memInode{}, durable: map[string]*memInode{}}
	}
	return nil
}

// RemoveDir makes a directory vanish with all that is below it, as when a device is
// pulled: open files stay readable, names are not found.
func (m *MemDisk) RemoveDir(dir string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir = path.Clean(dir)
	for name := range m.dirs {
		if name == dir || len(name) > len(dir) && name[:len(dir)+1] == dir+"/" {
			delete(m.dirs, name)
		}
	}
}

// SyncDir implements [Disk].
func (m *MemDisk) SyncDir(dir string) error {
	if err := m.before("syncdir", dir); err != nil {
		return pathError("sync", dir, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.dirs[path.Clean(dir)]
	if d == nil {
		return pathError("sync", dir, fs.ErrNotExist)
	}
	d.durable = maps.Clone(d.names)
	return nil
}

// Lock implements [Disk].
func (m *MemDisk) Lock(name string) (io.Closer, error) {
	if err := m.before("lock", name); err != nil {
		return nil, pathError("lock", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locks[name] {
		return nil, fail("lock "+name, sluice.Busy, errors.New("another process uses this directory"))
	}
	m.locks[name] = true
	return &memLock{disk: m, name: name}, nil
}

type memLock struct {
	disk *MemDisk
	name string
}

func (l *memLock) Close() error {
	l.disk.mu.Lock()
	defer l.disk.mu.Unlock()
	delete(l.disk.locks, l.name)
	return nil
}

// Usage implements [Disk].
func (m *MemDisk) Usage(dir string) (Usage, error) {
	if err := m.before("usage", dir); err != nil {
		return Usage{}, pathError("usage", dir, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirs[path.Clean(dir)] == nil {
		return Usage{}, pathError("usage", dir, fs.ErrNotExist)
	}
	return Usage{Total: m.cfg.Capacity, Free: m.cfg.Capacity - m.used, Unit: memPage, Huge: m.cfg.Huge, Volatile: m.cfg.Volatile}, nil
}

// Used is the number of bytes allocated.
func (m *MemDisk) Used() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// SetCapacity changes the capacity, in bytes.
func (m *MemDisk) SetCapacity(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cfg.Capacity = n
}

// Flip flips one bit of a file, as a medium that rots.
func (m *MemDisk) Flip(name string, bit int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base := m.dirLocked(name)
	if d == nil || d.names[base] == nil {
		return false
	}
	i := d.names[base]
	old := i.pages[bit/8/memPage]
	if old == nil {
		return false
	}
	page := *old
	page[bit/8%memPage] ^= 1 << (bit % 8)
	i.pages[bit/8/memPage] = &page
	return true
}

package blockstore

import (
	"io"
	"io/fs"
	"maps"

	"golang.org/x/sys/unix"
)

// memFile is an open file of a [MemDisk].
type memFile struct {
	disk     *MemDisk
	name     string
	inode    *memInode
	readOnly bool
	closed   bool // guarded by disk.mu
}

// begin starts an operation: it takes the disk's lock unless it fails.
func (f *memFile) begin(op string, write bool) error {
	if err := f.disk.before(op, f.name); err != nil {
		return pathError(op, f.name, err)
	}
	f.disk.mu.Lock()
	if f.closed || write && f.readOnly {
		f.disk.mu.Unlock()
		return pathError(op, f.name, fs.ErrClosed)
	}
	return nil
}

// ReadAt implements [File].
func (f *memFile) ReadAt(p []byte, off int64) (n int, err error) {
	if err := f.begin("readat", false); err != nil {
		return 0, err
	}
	defer f.disk.mu.Unlock()
	for n < len(p) && off < f.inode.size {
		in := off % memPage
		k := min(int64(len(p)-n), memPage-in, f.inode.size-off)
		if page := f.inode.pages[off/memPage]; page != nil {
			copy(p[n:n+int(k)], page[in:])
		} else {
			clear(p[n : n+int(k)])
		}
		n += int(k)
		off += k
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements [File]. On a full disk it writes what fits.
func (f *memFile) WriteAt(p []byte, off int64) (n int, err error) {
	if err := f.begin("writeat", true); err != nil {
		return 0, err
	}
	defer f.disk.mu.Unlock()
	i := f.inode
	for n < len(p) {
		in := off % memPage
		k := min(int64(len(p)-n), memPage-in)
		fresh := new([memPage]byte)
		if old := i.pages[off/memPage]; old != nil {
			*fresh = *old
		} else if f.disk.used+memPage > f.disk.cfg.Capacity {
			return n, pathError("write", f.name, unix.ENOSPC)
		} else {
			f.disk.used += memPage
		}
		copy(fresh[in:], p[n:n+int(k)])
		i.pages[off/memPage] = fresh
		n += int(k)
		off += k
		i.size = max(i.size, off)
	}
	return n, nil
}

// Truncate implements [File].
func (f *memFile) Truncate(size int64) error {
	if err := f.begin("truncate", true); err != nil {
		return err
	}
	defer f.disk.mu.Unlock()
	i := f.inode
	for n := range i.pages {
		if n*memPage >= size {
			delete(i.pages, n)
			f.disk.used -= memPage
		}
	}
	if old := i.pages[size/memPage]; old != nil && size < i.size {
		fresh := *old
		clear(fresh[size%memPage:])
		i.pages[size/memPage] = &fresh
	}
	i.size = size
	return nil
}

// Sync implements [File].
func (f *memFile) Sync() error {
	if err := f.begin("sync", false); err != nil {
		return err
	}
	defer f.disk.mu.Unlock()
	f.inode.durablePages, f.inode.durableSize = maps.Clone(f.inode.pages), f.inode.size
	return nil
}

// Size implements [File].
func (f *memFile) Size() (int64, error) {
	if err := f.begin("size", false); err != nil {
		return 0, err
	}
	defer f.disk.mu.Unlock()
	return f.inode.size, nil
}

// Close implements [File].
func (f *memFile) Close() error {
	if err := f.begin("close", false); err != nil {
		return err
	}
	defer f.disk.mu.Unlock()
	f.closed = true
	f.inode.opens--
	f.disk.reapLocked(f.inode)
	return nil
}

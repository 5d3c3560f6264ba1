// Package local is the driver of a directory of this machine: a disk, a RAM disk, an NFS
// mount. Everything stays below that directory (os.Root); symbolic links are shown as
// such and never followed out of it. It keeps nothing in memory but the names of
// listings under way, and it never deletes what it did not make, except by Delete.
//
// What it promises: a commit is durable (file and directory are synced) and visible in one
// step; a create that expects nothing there is atomic (link(2)). A replacement that
// expects a version is checked and then renamed: a writer behind our back who replaces the
// file between the two (some ten microseconds) loses its file. Reads are bound to inode,
// length, mtime and ctime, checked before the first and after the last byte; two writes
// within one tick of the file system's clock look equal, hence Features.Settle.
package local

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// Driver makes stores of the scheme "file".
type Driver struct{}

// Schemes returns "file", which a plain absolute path stands for as well.
func (Driver) Schemes() []string { return []string{"file"} }

// Settings describes the one property.
func (Driver) Settings() []underfs.Setting {
	return []underfs.Setting{{
		Name: "sync", Default: "true",
		Help: "whether a commit, rename or delete waits until the disk has it; false only for data that may be lost with the machine",
	}}
}

// Open opens the directory. Kind NotFound or NotDirectory where there is none.
func (Driver) Open(cfg underfs.Config) (underfs.Store, error) {
	dir, err := directory(cfg.URI)
	if err != nil {
		return nil, err
	}
	durable := true
	switch cfg.Properties["sync"] {
	case "", "true":
	case "false":
		durable = false
	default:
		return nil, underfs.Failf("open store", "", sluice.Invalid, "property sync is true or false, not %q", cfg.Properties["sync"])
	}
	return open(dir, durable)
}

// Baseline opens plain file reads and writes below the directory.
func (Driver) Baseline(cfg underfs.Config) (underfs.Baseline, error) {
	dir, err := directory(cfg.URI)
	if err != nil {
		return nil, err
	}
	return baseline{dir}, nil
}

// directory returns the directory that uri names.
func directory(uri string) (string, error) {
	dir := uri
	if !strings.HasPrefix(uri, "/") {
		u, err := url.Parse(uri)
		switch {
		case err != nil:
			return "", underfs.Fail("open store", "", sluice.Invalid, err)
		case u.Host != "" && u.Host != "localhost":
			return "", underfs.Failf("open store", "", sluice.Invalid,
				"%q names the host %q; a directory of this machine is file:///path", uri, u.Host)
		case u.RawQuery != "" || u.Fragment != "":
			return "", underfs.Failf("open store", "", sluice.Invalid, "%q: write ? and # as %%3F and %%23", uri)
		}
		dir = u.Path
	}
	if !filepath.IsAbs(dir) {
		return "", underfs.Failf("open store", "", sluice.Invalid, "%q is not an absolute path", dir)
	}
	return filepath.Clean(dir), nil
}

// Store is one directory.
type Store struct {
	dir     string
	root    *os.Root
	durable bool
	entries bool // an fsync of a new file makes its name durable too
	serial  atomic.Uint64
	owners  owners
	syncs   syncs
	settled time.Duration // see defaultSettled; tests shorten it

	mu       sync.Mutex
	closed   bool        // guarded by mu
	listings []*snapshot // guarded by mu; at most maxSnapshots, newest last
}

// open opens dir as a store.
func open(dir string, durable bool) (*Store, error) {
	if fi, err := os.Stat(dir); err == nil && !fi.IsDir() {
		return nil, underfs.Failf("open store", "", sluice.NotDirectory, "%s is a file", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fail("open store", "", err)
	}
	s := &Store{dir: dir, root: root, durable: durable, settled: defaultSettled}
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) == nil {
		switch int64(fs.Type) {
		case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC:
			s.entries = true
		}
	}
	return s, nil
}

// Features says what a directory can promise.
func (s *Store) Features() underfs.Features {
	return underfs.Features{
		CreateIfAbsent: true,
		NativeDirs:     true,
		AtomicRename:   true,
		Settle:         true,
		PartSize:       4 << 20,
	}
}

// Close lets go of the directory. The directory of temporary files goes with it if it is
// empty.
func (s *Store) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed, s.listings = true, nil
	s.mu.Unlock()
	if closed {
		return nil
	}
	_ = s.root.Remove(tempDir) // fails where uploads are under way, as it should
	return s.root.Close()
}

// Probe says whether the directory can still be read.
func (s *Store) Probe(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return underfs.Fail("probe", "", sluice.Unavailable, err)
	}
	f, err := s.root.Open(".")
	if err != nil {
		return fail("probe", "", err)
	}
	defer f.Close()
	if _, err := f.ReadDir(1); err != nil && err != io.EOF {
		return fail("probe", "", fmt.Errorf("read directory %s: %w", s.dir, err))
	}
	return nil
}

// baseline is plain file I/O.
type baseline struct{ dir string }

// Get implements underfs.Baseline.
func (b baseline) Get(_ context.Context, key underfs.Key, w io.Writer) (int64, error) {
	f, err := os.Open(filepath.Join(b.dir, string(key)))
	if err != nil {
		return 0, fail("get", key, err)
	}
	defer f.Close()
	n, err := io.Copy(w, f)
	return n, fail("get", key, err)
}

// Put implements underfs.Baseline: write, sync the file, sync the directory.
func (b baseline) Put(_ context.Context, key underfs.Key, r io.Reader, _ int64) error {
	name := filepath.Join(b.dir, string(key))
	f, err := os.Create(name)
	if err != nil {
		return fail("put", key, err)
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Sync()
	}
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if err != nil {
		return fail("put", key, err)
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return fail("put", key, err)
	}
	defer d.Close()
	return fail("put", key, d.Sync())
}

// Close implements underfs.Baseline.
func (b baseline) Close() error { return nil }

// The optional capabilities of a directory.
var (
	_ underfs.Store       = (*Store)(nil)
	_ underfs.Completer   = (*Store)(nil)
	_ underfs.Renamer     = (*Store)(nil)
	_ underfs.Copier      = (*Store)(nil)
	_ underfs.Directories = (*Store)(nil)
	_ underfs.Attributer  = (*Store)(nil)
	_ underfs.Sweeper     = (*Store)(nil)
	_ underfs.Prober      = (*Store)(nil)
)

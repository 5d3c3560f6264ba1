package local

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// Bounds of listings.
const (
	bestLimit    = 1000    // objects of a page where the caller has no wish
	maxSnapshots = 2       // directories whose names are kept for the next page
	snapshotMin  = 5000    // smaller directories are read again
	snapshotMax  = 4 << 20 // larger ones too: the memory is worth more
)

// defaultSettled is how old a directory's times must be for its names to be kept: a change
// within the same tick of the file system's clock would not be seen.
const defaultSettled = 2 * time.Second

// entry is one name of a directory, as a key's last part: directories end in "/".
type entry struct {
	name    string
	special bool // a socket, device or pipe
}

// snapshot is the sorted content of a directory, for the pages of one listing. It is
// used only while the directory's version is unchanged.
type snapshot struct {
	dir     string
	version sluice.Version
	entries []entry
}

// List returns a page. A file system has no order and no place to start at, so each page
// reads all names of its directory, sorts them and asks for the attributes of those in
// the page only. The names of a large directory are kept between pages as long as its
// mtime and ctime say that nothing was added or removed: 24 bytes and the name for each
// entry. Sockets, devices and pipes are left out and counted in Skipped.
func (s *Store) List(ctx context.Context, req underfs.ListRequest) (underfs.ListPage, error) {
	if req.Prefix != "" && !strings.HasSuffix(string(req.Prefix), "/") {
		return underfs.ListPage{}, underfs.Failf("list", req.Prefix, sluice.Invalid, "a prefix ends in a slash")
	}
	n, err := find("list", req.Prefix)
	if err != nil {
		return underfs.ListPage{}, err
	}
	l := &lister{ctx: ctx, s: s, req: req, limit: req.Limit}
	if l.limit <= 0 {
		l.limit = bestLimit
	}
	err = l.walk(n, req.Prefix)
	if errors.Is(err, syscall.ENOTDIR) {
		err = underfs.Failf("list", req.Prefix, sluice.NotFound, "it is no directory")
	}
	if err != nil && err != errFull {
		return underfs.ListPage{}, fail("list", req.Prefix, err)
	}
	l.page.More = err == errFull
	return l.page, nil
}

// errFull ends a walk whose page is full and that has found one more.
var errFull = errors.New("the page is full")

// lister fills one page.
type lister struct {
	ctx   context.Context
	s     *Store
	req   underfs.ListRequest
	limit int
	page  underfs.ListPage
}

// walk adds what lies under the directory n, whose key is prefix.
func (l *lister) walk(n string, prefix underfs.Key) error {
	entries, err := l.s.names(l.ctx, n)
	if err != nil {
		return err
	}
	for _, e := range entries[l.start(entries, prefix):] {
		if err := l.ctx.Err(); err != nil {
			return err
		}
		if e.special {
			l.page.Skipped++
			continue
		}
		if err := l.add(n, prefix, e); err != nil {
			return err
		}
	}
	return nil
}

// start returns the index of the first entry that the listing can want: the first behind
// After, or the directory that After lies in.
func (l *lister) start(entries []entry, prefix underfs.Key) int {
	after, below := strings.CutPrefix(string(l.req.After), string(prefix))
	if !below {
		if l.req.After < prefix {
			return 0
		}
		return len(entries)
	}
	i, found := slices.BinarySearchFunc(entries, after, func(e entry, s string) int { return cmp.Compare(e.name, s) })
	if found {
		if l.req.Recursive && strings.HasSuffix(after, "/") {
			return i // its children sort behind it
		}
		return i + 1
	}
	if dir, _, deep := strings.Cut(after, "/"); deep && l.req.Recursive && i > 0 && entries[i-1].name == dir+"/" {
		return i - 1
	}
	return i
}

// add adds one entry, and in a recursive listing what lies below it.
func (l *lister) add(dir string, prefix underfs.Key, e entry) error {
	key := prefix + underfs.Key(e.name)
	n := strings.TrimSuffix(e.name, "/")
	if dir != "." {
		n = dir + "/" + n
	}
	if key > l.req.After {
		if len(l.page.Objects) == l.limit {
			return errFull
		}
		o, err := l.s.lstat(key, n)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // gone since its name was read
		case err != nil && sluice.KindOf(err) != sluice.Unsupported:
			return err
		case err != nil || o.Key != key: // became something else since
			return nil
		}
		if !underfs.ValidKey(key) {
			l.page.Skipped++
		}
		l.page.Objects = append(l.page.Objects, o)
	}
	if !l.req.Recursive || !strings.HasSuffix(e.name, "/") {
		return nil
	}
	err := l.walk(n, key)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	return err
}

// names returns the entries of directory n in order of their keys.
func (s *Store) names(ctx context.Context, n string) ([]entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, err := s.root.Open(n)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	st, err := fstat(d)
	if err != nil {
		return nil, err
	}
	v := version(st)
	if entries := s.recall(n, v); entries != nil {
		return entries, nil
	}
	// Both times, because a file system whose clock is ahead must not look settled.
	age := min(time.Since(time.Unix(st.Mtim.Unix())), time.Since(time.Unix(st.Ctim.Unix())))
	entries, err := readNames(ctx, d)
	if err != nil {
		return nil, err
	}
	if age > s.settled && len(entries) >= snapshotMin && len(entries) <= snapshotMax {
		s.remember(&snapshot{dir: n, version: v, entries: entries})
	}
	return entries, nil
}

// readNames reads and sorts the entries of an open directory.
func readNames(ctx context.Context, d *os.File) ([]entry, error) {
	var entries []entry
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		batch, err := d.ReadDir(4096)
		for _, e := range batch {
			if strings.HasPrefix(e.Name(), tempPrefix) {
				continue
			}
			switch e.Type() {
			case fs.ModeDir:
				entries = append(entries, entry{name: e.Name() + "/"})
			case 0, fs.ModeSymlink:
				entries = append(entries, entry{name: e.Name()})
			default:
				entries = append(entries, entry{name: e.Name(), special: true})
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	return entries, nil
}

// recall returns the kept entries of directory n if it still has version v.
func (s *Store) recall(n string, v sluice.Version) []entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listings {
		if l.dir == n && l.version == v {
			return l.entries
		}
	}
	return nil
}

// remember keeps a snapshot in place of an older one of the same directory, or of the
// oldest.
func (s *Store) remember(l *snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.listings = slices.DeleteFunc(s.listings, func(o *snapshot) bool { return o.dir == l.dir })
	if len(s.listings) == maxSnapshots {
		s.listings = slices.Delete(s.listings, 0, 1)
	}
	s.listings = append(s.listings, l)
}

package namenode

import (
	"container/heap"
	"context"
	"errors"
	"strings"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// bestLimit is the number of objects of a page where the caller has no wish.
const bestLimit = 1000

// List implements underfs.Store.
//
// A name node lists a directory by its names as signed bytes; a page is in order of keys,
// unsigned, with the "/" of a directory. So an entry is held back until no later one can
// sort before it: a directory "a" until the names "a-b" and "a.b" have passed, a name with
// a byte above 127 until everything has passed that shares what stands before that byte
// (in the worst case the whole directory). Where the next page starts is remembered for as
// long as the directory does not change, see cursors.
func (s *Store) List(ctx context.Context, req underfs.ListRequest) (underfs.ListPage, error) {
	if req.Prefix != "" && !isDirKey(req.Prefix) {
		return underfs.ListPage{}, underfs.Failf("list", req.Prefix, sluice.Invalid, "a prefix ends in a slash")
	}
	if err := s.begin(ctx, "list", req.Prefix); err != nil {
		return underfs.ListPage{}, err
	}
	l := &lister{ctx: ctx, s: s, req: req, limit: req.Limit}
	if l.limit <= 0 {
		l.limit = bestLimit
	}
	err := l.walk(req.Prefix)
	if errors.Is(err, sluice.NotDirectory) {
		err = &sluice.Error{Kind: sluice.NotFound, Err: errNoDirectory}
	}
	if err != nil && err != errFull {
		return underfs.ListPage{}, fail("list", req.Prefix, err)
	}
	l.page.More = err == errFull
	return l.page, nil
}

// errNoDirectory refuses to list a file.
var errNoDirectory = errors.New("it is no directory")

// errFull ends a walk whose page is full and that has found one more.
var errFull = errors.New("the page is full")

// lister fills one page.
type lister struct {
	ctx   context.Context // of the one call of List
	s     *Store
	req   underfs.ListRequest
	limit int
	page  underfs.ListPage
}

// walk adds what lies under the directory prefix.
func (l *lister) walk(prefix underfs.Key) error {
	dir := l.s.path(prefix)
	scan, err := l.s.cursors.begin(l.ctx, l.s.cfg.Node, dir, prefix, l.req.After, l.req.Recursive)
	if err != nil {
		return err
	}
	var held entries
	for more := true; more; {
		var batch []Status
		if batch, more, err = l.s.cfg.Node.List(l.ctx, dir, scan.at); err != nil {
			return err
		}
		more = more && len(batch) > 0
		for i := range batch {
			st := &batch[i]
			for len(held) > 0 && held[0].passed(st.Name) {
				if err := l.add(prefix, heap.Pop(&held).(entry), scan); err != nil {
					return err
				}
			}
			if len(held) == 0 {
				scan.from = scan.at // everything up to here was handed out
			}
			scan.at = st.Name
			if strings.HasPrefix(st.Name, tempDir) {
				continue
			}
			heap.Push(&held, newEntry(prefix, st))
		}
	}
	for len(held) > 0 {
		if err := l.add(prefix, heap.Pop(&held).(entry), scan); err != nil {
			return err
		}
	}
	return nil
}

// add adds one entry of the directory that scan reads, and in a recursive listing what
// lies below it.
func (l *lister) add(prefix underfs.Key, e entry, scan *scan) error {
	err := l.put(e)
	if err == nil && l.req.Recursive && e.st.Dir && l.below(e.key) {
		err = l.walk(e.key)
		if errors.Is(err, sluice.NotFound) || errors.Is(err, sluice.NotDirectory) {
			err = nil // gone since its name was read
		}
	}
	switch {
	case err == errFull:
		l.s.cursors.keep(scan)
	case err == nil:
		scan.last = e.key
	}
	return err
}

// put adds one object to the page if it is behind After.
func (l *lister) put(e entry) error {
	if e.key <= l.req.After {
		return nil
	}
	if len(l.page.Objects) == l.limit {
		return errFull
	}
	if !underfs.ValidKey(e.key) {
		l.page.Skipped++
	}
	l.page.Objects = append(l.page.Objects, object(e.key, &e.st))
	return nil
}

// below says whether the listing can want anything under the directory key.
func (l *lister) below(key underfs.Key) bool {
	return key > l.req.After || strings.HasPrefix(string(l.req.After), string(key))
}

// entry is an entry that waits for its turn.
type entry struct {
	key underfs.Key
	st  Status
	odd int // index of the first byte of the name that is above 127, or -1
}

// newEntry makes an entry of the directory prefix.
func newEntry(prefix underfs.Key, st *Status) entry {
	e := entry{key: prefix + underfs.Key(st.Name), st: *st, odd: -1}
	if st.Dir {
		e.key += "/"
	}
	for i := range len(st.Name) {
		if st.Name[i] >= 0x80 {
			e.odd = i
			break
		}
	}
	return e
}

// passed says whether nothing that the name node lists from name on sorts before e.
func (e *entry) passed(name string) bool {
	switch {
	case e.odd >= 0:
		return !strings.HasPrefix(name, e.st.Name[:e.odd])
	case e.st.Dir:
		return less(e.st.Name+"/", name)
	}
	return true
}

// less compares names as a name node does, by signed bytes.
func less(a, b string) bool {
	for i := range min(len(a), len(b)) {
		if x, y := int8(a[i]), int8(b[i]); x != y {
			return x < y
		}
	}
	return len(a) < len(b)
}

// entries is a heap in order of keys.
type entries []entry

func (h entries) Len() int           { return len(h) }
func (h entries) Less(i, j int) bool { return h[i].key < h[j].key }
func (h entries) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *entries) Push(x any) { *h = append(*h, x.(entry)) }

// Pop implements heap.Interface.
func (h *entries) Pop() any {
	n := len(*h) - 1
	e := (*h)[n]
	(*h)[n] = entry{}
	*h = (*h)[:n]
	return e
}

package namespace

import (
	"bytes"
	"slices"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/keyvalue"
)

// view is a consistent state to read rows of. get returns nil for an absent row; the
// key is not kept. scan calls f for the rows of [lo, hi) in order until it says false.
type view interface {
	get(key []byte) (row, error)
	scan(lo, hi []byte, f func(key string, r row) (bool, error)) error
	table() *mountTable
}

// as returns a row as its type, nil for an absent one.
func as[T any](r row, err error) (*T, error) {
	if r == nil || err != nil {
		return nil, err
	}
	t, ok := any(r).(*T)
	if !ok {
		return nil, &sluice.Error{Op: "read state", Kind: sluice.Corrupt}
	}
	return t, nil
}

// child returns the node of an entry, nil for none.
func child(v view, parent sluice.FileID, name string) (*node, error) {
	var buf [128]byte
	return as[node](v.get(appendChild(buf[:0], tagNode, parent, name)))
}

// memoryView reads what is cached, under the state's read lock. What it lacks it notes.
type memoryView struct {
	s       *State
	lacks   string // the first key that was not in memory
	version uint64 // of its shard
}

// missed is the error of a read that memory cannot answer.
type missed struct{}

func (missed) Error() string { return "not in memory" }

func (v *memoryView) get(key []byte) (row, error) {
	r, ok, version := v.s.cache.get(key)
	if ok {
		return r, nil
	}
	if r, ok = v.s.pending[string(key)]; ok {
		return r, nil
	}
	v.lacks, v.version = string(key), version
	return nil, missed{}
}

func (v *memoryView) scan([]byte, []byte, func(string, row) (bool, error)) error {
	v.lacks = ""
	return missed{}
}

func (v *memoryView) table() *mountTable { return v.s.mounts }

// snapshotView reads a snapshot with the entry that was being committed over it.
type snapshotView struct {
	s       *State
	base    keyvalue.Snapshot
	pending map[string]row
	mounts  *mountTable
	meta    *metaRow
}

func (v *snapshotView) get(key []byte) (row, error) {
	if r, ok := v.pending[string(key)]; ok {
		return r, nil
	}
	return v.s.read(v.base, key)
}

func (v *snapshotView) scan(lo, hi []byte, f func(key string, r row) (bool, error)) error {
	return v.s.scan(v.base, lo, hi, f, v.pending)
}

func (v *snapshotView) table() *mountTable { return v.mounts }

// read returns a row of the store itself.
func (s *State) read(r keyvalue.Reader, key []byte) (row, error) {
	value, found, err := r.Get(key)
	if err != nil || !found {
		return nil, err
	}
	return decode(string(key), value, s.perm)
}

// snapshot returns the visible state, to be closed by the caller.
func (s *State) snapshot() *snapshotView {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return &snapshotView{s: s, base: s.db.Snapshot(), pending: s.pending, mounts: s.mounts, meta: s.meta}
}

// close ends the snapshot. Its error says nothing about what was read.
func (v *snapshotView) close() { _ = v.base.Close() }

// tries is how often a read is begun anew with what it lacked in the cache before it
// goes on on a snapshot.
const tries = 20

// look runs f on the visible state: in memory where everything is there. f may run
// several times and must not keep what it learned before the last.
func (s *State) look(f func(v view) error) error {
	for range tries {
		v := memoryView{s: s}
		s.mu.RLock()
		err := f(&v)
		s.mu.RUnlock()
		if _, ok := err.(missed); !ok {
			return err
		}
		if v.lacks == "" {
			break
		}
		r, err := s.read(s.db, []byte(v.lacks))
		if err != nil {
			return err
		}
		s.cache.fill(v.lacks, r, v.version)
	}
	return s.lookAt(f)
}

// lookAt runs f on a snapshot.
func (s *State) lookAt(f func(v view) error) error {
	v := s.snapshot()
	defer v.close()
	return f(v)
}

// scan walks the rows of [lo, hi) of base with the changes of each layer over it, the
// first layer hiding the later ones.
func (s *State) scan(base keyvalue.Reader, lo, hi []byte, f func(key string, r row) (bool, error), layers ...map[string]row) error {
	keys := changedKeys(lo, hi, layers)
	it := base.Scan(lo, hi)
	defer func() { _ = it.Close() }()
	more := it.Next()
	for more || len(keys) > 0 {
		order := 1
		if more {
			order = -1
			if len(keys) > 0 {
				order = bytes.Compare(it.Key(), []byte(keys[0]))
			}
		}
		var key string
		var r row
		if order < 0 {
			key = string(it.Key())
			var err error
			if r, err = decode(key, it.Value(), s.perm); err != nil {
				return err
			}
		} else {
			key, r = keys[0], topmost(keys[0], layers)
			keys = keys[1:]
		}
		if order <= 0 {
			more = it.Next()
		}
		if r == nil {
			continue
		}
		if on, err := f(key, r); err != nil || !on {
			return err
		}
	}
	return it.Err()
}

// changedKeys returns the keys of the layers within [lo, hi), in order, each once.
func changedKeys(lo, hi []byte, layers []map[string]row) []string {
	var keys []string
	l, h := string(lo), string(hi)
	for _, m := range layers {
		for k := range m {
			if k >= l && (hi == nil || k < h) {
				keys = append(keys, k)
			}
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func topmost(key string, layers []map[string]row) row {
	for _, m := range layers {
		if r, ok := m[key]; ok {
			return r
		}
	}
	return nil
}

// children calls f for the entries of a directory behind after ("" is all), in order.
func children(v view, dir sluice.FileID, after string, f func(name string, n *node) (bool, error)) error {
	lo := childKey(tagNode, dir, after)
	hi := prefixEnd(childKey(tagNode, dir, ""))
	return v.scan(lo, hi, func(key string, r row) (bool, error) {
		name := key[9:]
		if name <= after {
			return true, nil
		}
		n, err := as[node](r, nil)
		if err != nil {
			return false, err
		}
		return f(name, n)
	})
}

// empty says whether a directory has no entries.
func empty(v view, dir sluice.FileID) (bool, error) {
	none := true
	err := children(v, dir, "", func(string, *node) (bool, error) {
		none = false
		return false, nil
	})
	return none, err
}

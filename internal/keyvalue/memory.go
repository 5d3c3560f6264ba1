package keyvalue

import (
	"bytes"
	"errors"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/sluicefs/sluice"
)

// OpenMemory returns an empty store in memory, for tests and tools. It keeps nothing.
func OpenMemory() DB { return &memory{seed: maphash.MakeSeed()} }

// memory keeps a treap whose nodes never change, so that a snapshot is its root.
type memory struct {
	seed maphash.Seed // of the priorities; they shape the tree, never the answers
	mu   sync.Mutex   // held by a commit
	root atomic.Pointer[node]
}

// node is one key. Invariant: left < key < right, priority >= that of both children.
type node struct {
	left, right *node
	key, value  []byte
	priority    uint64
	size        int
}

func (m *memory) Get(key []byte) ([]byte, bool, error) { return view{m.root.Load()}.Get(key) }

func (m *memory) Scan(lo, hi []byte) Iterator { return view{m.root.Load()}.Scan(lo, hi) }

func (m *memory) Batch() Batch { return newOverlay(m, m.apply) }

func (m *memory) Snapshot() Snapshot { return view{m.root.Load()} }

func (m *memory) Flush() error { return nil }

func (m *memory) Compact() error { return nil }

func (m *memory) Close() error { return nil }

func (m *memory) Checkpoint(string) error {
	return &sluice.Error{Op: "checkpoint", Kind: sluice.Unsupported, Err: errors.New("the store is in memory")}
}

func (m *memory) Stats() Stats {
	if r := m.root.Load(); r != nil {
		return Stats{Keys: int64(r.size)}
	}
	return Stats{}
}

// apply commits a batch: readers see the old root or the new one.
func (m *memory) apply(o *overlay) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	root := m.root.Load()
	for k, c := range o.rows {
		key := []byte(k)
		left, right := root.split(key)
		_, right = right.splitAfter(key)
		if !c.deleted {
			n := &node{key: key, value: bytes.Clone(c.value), priority: maphash.Bytes(m.seed, key), size: 1}
			left = merge(left, n)
		}
		root = merge(left, right)
	}
	m.root.Store(root)
	return nil
}

// with returns a copy of n with other children.
func (n *node) with(left, right *node) *node {
	c := *n
	c.left, c.right = left, right
	c.size = 1 + left.count() + right.count()
	return &c
}

func (n *node) count() int {
	if n == nil {
		return 0
	}
	return n.size
}

// split cuts into the keys below key and the others.
func (n *node) split(key []byte) (below, rest *node) {
	if n == nil {
		return nil, nil
	}
	if bytes.Compare(n.key, key) < 0 {
		below, rest = n.right.split(key)
		return n.with(n.left, below), rest
	}
	below, rest = n.left.split(key)
	return below, n.with(rest, n.right)
}

// splitAfter cuts into the keys up to key, itself included, and the others.
func (n *node) splitAfter(key []byte) (upTo, rest *node) {
	if n == nil {
		return nil, nil
	}
	if bytes.Compare(n.key, key) <= 0 {
		upTo, rest = n.right.splitAfter(key)
		return n.with(n.left, upTo), rest
	}
	upTo, rest = n.left.splitAfter(key)
	return upTo, n.with(rest, n.right)
}

// merge joins two trees, every key of a below every key of b.
func merge(a, b *node) *node {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority >= b.priority:
		return a.with(a.left, merge(a.right, b))
	default:
		return b.with(merge(a, b.left), b.right)
	}
}

// view is a state in memory: a Snapshot, and what the store reads through.
type view struct{ root *node }

func (v view) Get(key []byte) ([]byte, bool, error) {
	for n := v.root; n != nil; {
		switch c := bytes.Compare(key, n.key); {
		case c == 0:
			return append([]byte{}, n.value...), true, nil
		case c < 0:
			n = n.left
		default:
			n = n.right
		}
	}
	return nil, false, nil
}

func (v view) Scan(lo, hi []byte) Iterator {
	it := &memoryIterator{hi: bytes.Clone(hi)}
	for n := v.root; n != nil; {
		if bytes.Compare(n.key, lo) >= 0 {
			it.path = append(it.path, n)
			n = n.left
		} else {
			n = n.right
		}
	}
	return it
}

func (v view) Close() error { return nil }

// memoryIterator walks a tree; path holds the nodes still to visit, the next one last.
type memoryIterator struct {
	path []*node
	hi   []byte
	cur  *node
}

func (it *memoryIterator) Next() bool {
	if len(it.path) == 0 {
		return false
	}
	n := it.path[len(it.path)-1]
	if it.hi != nil && bytes.Compare(n.key, it.hi) >= 0 {
		it.path = nil
		return false
	}
	it.path = it.path[:len(it.path)-1]
	for c := n.right; c != nil; c = c.left {
		it.path = append(it.path, c)
	}
	it.cur = n
	return true
}

func (it *memoryIterator) Key() []byte   { return it.cur.key }
func (it *memoryIterator) Value() []byte { return it.cur.value }
func (it *memoryIterator) Err() error    { return nil }

func (it *memoryIterator) Close() error {
	it.path = nil
	return nil
}

package keyvalue

import (
	"bytes"
	"slices"
)

// arenaChunk is how much a batch reserves at a time for the bytes of its values.
const arenaChunk = 64 << 10

// keepRows is the number of rows above which an emptied batch gives its map back.
const keepRows = 1 << 14

// change is what a batch does to one key: a new value, or its removal.
type change struct {
	value   []byte // in the batch's arena, never written again
	deleted bool
}

// row is a change with its key.
type row struct {
	key string
	change
}

// overlay is the Batch of both forms: the last change of each key in a map, and the
// keys in order, brought up to date only when somebody scans. An indexed Pebble batch
// keeps every key in a skip list at once and measures slower for the state machine,
// which gets and sets much and scans little (BenchmarkBatch).
type overlay struct {
	base   Reader
	commit func(*overlay) error
	rows   map[string]change
	sorted []string // keys in order
	fresh  []string // keys not yet in sorted, in order of arrival
	arena  []byte
	bytes  int // of keys and values now in rows and of replaced values
}

func newOverlay(base Reader, commit func(*overlay) error) *overlay {
	return &overlay{base: base, commit: commit, rows: make(map[string]change)}
}

// Get returns the batch's own value of key, else the store's.
func (o *overlay) Get(key []byte) ([]byte, bool, error) {
	if c, ok := o.rows[string(key)]; ok {
		if c.deleted {
			return nil, false, nil
		}
		return bytes.Clone(c.value), true, nil
	}
	return o.base.Get(key)
}

// Set puts value under key.
func (o *overlay) Set(key, value []byte) { o.put(key, change{value: o.keep(value)}) }

// Delete removes key.
func (o *overlay) Delete(key []byte) { o.put(key, change{deleted: true}) }

// Len returns the number of keys changed.
func (o *overlay) Len() int { return len(o.rows) }

// Commit hands the changes to the store.
func (o *overlay) Commit() error {
	if len(o.rows) == 0 {
		return nil
	}
	if err := o.commit(o); err != nil {
		return err
	}
	o.Discard()
	return nil
}

// Discard empties the batch.
func (o *overlay) Discard() {
	if len(o.rows) > keepRows {
		o.rows = make(map[string]change)
		o.sorted, o.fresh, o.arena = nil, nil, nil
	}
	clear(o.rows)
	clear(o.sorted)
	clear(o.fresh)
	o.sorted, o.fresh = o.sorted[:0], o.fresh[:0]
	o.bytes = 0
	// The arena is not rewound: an open iterator may still point into it.
}

func (o *overlay) put(key []byte, c change) {
	if len(key) == 0 {
		panic("keyvalue: empty key") // Pebble's tables cannot hold it
	}
	o.bytes += len(key) + len(c.value)
	if _, ok := o.rows[string(key)]; ok {
		o.rows[string(key)] = c
		return
	}
	k := string(key)
	o.rows[k] = c
	o.fresh = append(o.fresh, k)
}

// keep copies value into the arena.
func (o *overlay) keep(value []byte) []byte {
	if len(value) > cap(o.arena)-len(o.arena) {
		o.arena = make([]byte, 0, max(arenaChunk, len(value)))
	}
	n := len(o.arena)
	o.arena = append(o.arena, value...)
	return o.arena[n:len(o.arena):len(o.arena)]
}

// Scan walks the store and the batch's own changes together.
func (o *overlay) Scan(lo, hi []byte) Iterator {
	own := o.between(lo, hi)
	it := o.base.Scan(lo, hi)
	if len(own) == 0 {
		return it
	}
	return &overlayIterator{base: it, own: own}
}

// between returns the batch's changes in [lo, hi), in order.
func (o *overlay) between(lo, hi []byte) []row {
	o.order()
	i, _ := slices.BinarySearch(o.sorted, string(lo))
	j := len(o.sorted)
	if hi != nil {
		j, _ = slices.BinarySearch(o.sorted, string(hi))
	}
	if i >= j {
		return nil
	}
	own := make([]row, 0, j-i)
	for _, k := range o.sorted[i:j] {
		own = append(own, row{k, o.rows[k]})
	}
	return own
}

// order brings fresh keys into sorted: a few one by one, many by sorting anew.
func (o *overlay) order() {
	if len(o.fresh) > 16 {
		o.sorted = append(o.sorted, o.fresh...)
		slices.Sort(o.sorted)
	} else {
		for _, k := range o.fresh {
			i, _ := slices.BinarySearch(o.sorted, k)
			o.sorted = slices.Insert(o.sorted, i, k)
		}
	}
	clear(o.fresh)
	o.fresh = o.fresh[:0]
}

// overlayIterator merges a batch's changes into a walk of its store.
type overlayIterator struct {
	base   Iterator
	own    []row
	primed bool // base stands on a key, or has ended
	baseOK bool
	useOwn bool // the current row is own[0], already taken
	cur    row
	keyBuf []byte
}

// Next moves to the next key of either.
func (it *overlayIterator) Next() bool {
	if !it.primed || !it.useOwn {
		it.baseOK = it.base.Next()
		it.primed = true
	}
	it.useOwn = false
	for {
		if !it.baseOK && it.base.Err() != nil {
			it.own = nil
			return false
		}
		if len(it.own) == 0 {
			return it.baseOK
		}
		order := -1
		if it.baseOK {
			order = compareString(it.own[0].key, it.base.Key())
		}
		if order > 0 {
			return true
		}
		it.cur, it.own = it.own[0], it.own[1:]
		if order == 0 {
			it.baseOK = it.base.Next()
		}
		if !it.cur.deleted {
			it.useOwn = true
			it.keyBuf = append(it.keyBuf[:0], it.cur.key...)
			return true
		}
	}
}

// Key returns the current key.
func (it *overlayIterator) Key() []byte {
	if it.useOwn {
		return it.keyBuf
	}
	return it.base.Key()
}

// Value returns the current value.
func (it *overlayIterator) Value() []byte {
	if it.useOwn {
		return it.cur.value
	}
	return it.base.Value()
}

// Err returns the error of the store's walk.
func (it *overlayIterator) Err() error { return it.base.Err() }

// Close ends the walk.
func (it *overlayIterator) Close() error {
	it.own = nil
	return it.base.Close()
}

// compareString is bytes.Compare without turning one into the other.
func compareString(a string, b []byte) int {
	switch {
	case a < string(b):
		return -1
	case a == string(b):
		return 0
	default:
		return 1
	}
}

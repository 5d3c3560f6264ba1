// Package underfstest holds what every driver of an under store is measured by: the
// conformance suite [Run], and [Memory], a store in memory whose faults are injected by
// the test and which passes the suite itself. It is not for production.
package underfstest

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// Options make a [Memory]. The zero value is like S3 with an 8 MiB limit of small uploads.
type Options struct {
	// Local makes it like a directory: native directories, renames, attributes, reads that
	// are checked after the last byte. Else it is like S3: flat keys, conditional reads.
	Local bool
	// SmallUpload overrides Features.SmallUpload of a store like S3, in bytes; -1 is none.
	SmallUpload int64
	// NoConditions takes Features.CreateIfAbsent and ReplaceIf away; the checks stay.
	NoConditions bool
	// LateListings says so in the Features; [Memory.Unlist] makes listings late.
	LateListings bool
	// NoTags forgets the tags of uploads, as some stores do.
	NoTags bool
	// Seed decides which calls a Fault with a Rate hits.
	Seed uint64
}

// Memory is the content of a store: what a bucket or a disk is. Several stores, of
// several processes in one test, may look at it at once; see [Memory.Store].
type Memory struct {
	opts Options

	mu      sync.Mutex
	rng     *rand.Rand             // guarded by mu
	objects map[underfs.Key]*blob  // guarded by mu; blobs are not changed, only replaced
	keys    []underfs.Key          // guarded by mu; sorted, nil when it must be made again
	pending map[string]*blob       // guarded by mu; prepared uploads
	faults  map[underfs.Op][]Fault // guarded by mu
	calls   map[underfs.Op]int     // guarded by mu
	hidden  map[underfs.Key]bool   // guarded by mu; not listed
	serial  uint64                 // guarded by mu
}

// blob is an object's state.
type blob struct {
	obj  underfs.Object
	data []byte
}

// NewMemory returns an empty store.
func NewMemory(opts Options) *Memory {
	return &Memory{
		opts:    opts,
		rng:     rand.New(rand.NewPCG(opts.Seed, 1)),
		objects: make(map[underfs.Key]*blob),
		pending: make(map[string]*blob),
		faults:  make(map[underfs.Op][]Fault),
		calls:   make(map[underfs.Op]int),
	}
}

// Store returns a view that has the capabilities that the options ask for. Closing it
// keeps the content.
func (m *Memory) Store() underfs.Store {
	s := &memStore{m: m}
	if m.opts.Local {
		return &localStore{s}
	}
	return s
}

// Put puts an object there as a stranger would, without counting a call. In a store like
// a directory it makes the parents, and a key that ends in "/" is a directory.
func (m *Memory) Put(key underfs.Key, data []byte) underfs.Object {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.putLocked(key, slices.Clone(data), underfs.CreateOptions{}).obj
}

// Unlist keeps keys out of listings, until it is called again.
func (m *Memory) Unlist(keys ...underfs.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hidden = make(map[underfs.Key]bool, len(keys))
	for _, key := range keys {
		m.hidden[key] = true
	}
}

// Remove takes an object away as a stranger would.
func (m *Memory) Remove(key underfs.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dropLocked(key)
}

// Get returns the content of key and whether there is one.
func (m *Memory) Get(key underfs.Key) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.objects[key]
	if !ok {
		return nil, false
	}
	return slices.Clone(b.data), true
}

// Keys returns every key in order.
func (m *Memory) Keys() []underfs.Key {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.sortedLocked())
}

// Pending returns how many uploads are prepared and neither completed nor aborted.
func (m *Memory) Pending() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.pending)
}

// Calls returns how often op was called since the start.
func (m *Memory) Calls(op underfs.Op) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[op]
}

// putLocked stores data under key.
func (m *Memory) putLocked(key underfs.Key, data []byte, opts underfs.CreateOptions) *blob {
	b := &blob{data: data, obj: underfs.Object{Length: int64(len(data)), Tag: opts.Tag}}
	if m.opts.NoTags {
		b.obj.Tag = ""
	}
	if m.opts.Local {
		b.obj.Native, b.obj.Mode, b.obj.Owner, b.obj.Group = true, cmp.Or(opts.Mode, 0o644), cmp.Or(opts.Owner, "owner"), cmp.Or(opts.Group, "group")
		m.parentsLocked(key)
	}
	m.placeLocked(key, b)
	return b
}

// placeLocked gives b the key and a version of its own.
func (m *Memory) placeLocked(key underfs.Key, b *blob) {
	m.serial++
	b.obj.Key, b.obj.Mtime = key, time.Now()
	if strings.HasSuffix(string(key), "/") {
		b.obj.Dir = m.opts.Local || len(b.data) == 0
		b.obj.Marker = !m.opts.Local
	}
	if !m.opts.Local || !b.obj.Dir {
		b.obj.Version = sluice.Version("v" + number(m.serial))
	}
	if _, ok := m.objects[key]; !ok {
		m.keys = nil
	}
	m.objects[key] = b
}

// dropLocked removes key.
func (m *Memory) dropLocked(key underfs.Key) {
	if _, ok := m.objects[key]; ok {
		delete(m.objects, key)
		m.keys = nil
	}
}

// parentsLocked makes the directories above key.
func (m *Memory) parentsLocked(key underfs.Key) {
	for i, c := range string(key[:max(len(key)-1, 0)]) {
		if dir := key[:i+1]; c == '/' && m.objects[dir] == nil {
			m.placeLocked(dir, &blob{obj: underfs.Object{Dir: true, Native: true, Mode: 0o755, Owner: "owner", Group: "group"}})
		}
	}
}

// sortedLocked returns the keys in order.
func (m *Memory) sortedLocked() []underfs.Key {
	if m.keys == nil {
		m.keys = make([]underfs.Key, 0, len(m.objects))
		for k := range m.objects {
			m.keys = append(m.keys, k)
		}
		slices.Sort(m.keys)
	}
	return m.keys
}

// belowLocked says whether anything lies under the prefix, itself not counted.
func (m *Memory) belowLocked(prefix underfs.Key) bool {
	keys := m.sortedLocked()
	i, found := slices.BinarySearch(keys, prefix)
	if found {
		i++
	}
	return i < len(keys) && strings.HasPrefix(string(keys[i]), string(prefix))
}

// checkLocked holds cond against what lies under key.
func (m *Memory) checkLocked(op string, key underfs.Key, cond underfs.Condition) error {
	b := m.objects[key]
	switch {
	case cond.Absent && b != nil:
		return underfs.Fail(op, key, sluice.Exists, errors.New("something lies there"))
	case cond.Version != "" && (b == nil || b.obj.Version != cond.Version):
		return underfs.Fail(op, key, sluice.Changed, errors.New("another version lies there"))
	}
	if m.opts.Local && !strings.HasSuffix(string(key), "/") && m.objects[key+"/"] != nil {
		return underfs.Fail(op, key, sluice.IsDirectory, errors.New("a directory lies there"))
	}
	return nil
}

// Probe implements underfs.Prober.
func (s *memStore) Probe(ctx context.Context) error {
	_, err := call(ctx, s, underfs.OpProbe, "", func() (struct{}, error) { return struct{}{}, nil })
	return err
}

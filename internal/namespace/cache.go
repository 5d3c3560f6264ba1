package namespace

import (
	"hash/maphash"
	"sync"
)

// shards is how many parts the cache has; each has a lock of its own.
const shards = 64

// cache holds decoded rows, and keys known to be absent, by key. It forgets in two
// steps: when a shard's young half is full, it becomes the old half and the old half is
// dropped; what is used in the old half comes back to the young one.
type cache struct {
	seed  maphash.Seed // of the sharding only: no answer depends on it
	half  int          // rows in a half of a shard
	shard [shards]shard
}

type shard struct {
	mu         sync.Mutex
	version    uint64         // guarded by mu: grows with each change by Apply
	young, old map[string]row // guarded by mu
	hits, miss int64          // guarded by mu
}

func newCache(rows int) *cache {
	return &cache{seed: maphash.MakeSeed(), half: max(8, rows/shards/2)}
}

func (c *cache) of(key []byte) *shard { return &c.shard[maphash.Bytes(c.seed, key)%shards] }

// get returns a row (nil: known to be absent), and if it is not cached the version that
// a fill must carry.
func (c *cache) get(key []byte) (r row, ok bool, version uint64) {
	s := c.of(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hits++
	if r, ok = s.young[string(key)]; ok {
		return r, true, 0
	}
	if r, ok = s.old[string(key)]; ok {
		c.put(s, string(key), r)
		return r, true, 0
	}
	s.hits--
	s.miss++
	return nil, false, s.version
}

// fill puts a row that was read from the store, unless a row of its shard was changed
// since the read began.
func (c *cache) fill(key string, r row, version uint64) {
	s := c.of([]byte(key))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.version == version {
		c.put(s, key, r)
	}
}

// change puts what Apply made of a row. What went leaves the cache: in a tree whose files
// come and go, absent rows would crowd out those that are there. So would the names of
// inodes that nobody looks up by their id; only what was looked up is kept up to date.
func (c *cache) change(key string, r row) {
	s := c.of([]byte(key))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	keep := r != nil && cached(key[0])
	if keep && key[0] == tagName {
		_, young := s.young[key]
		_, old := s.old[key]
		keep = young || old
	}
	if keep {
		c.put(s, key, r)
		return
	}
	delete(s.young, key)
	delete(s.old, key)
}

// cached says whether a changed row of a table is worth keeping in memory: it is not
// where it is written once and seldom read.
func cached(tag byte) bool {
	switch tag {
	case tagAnswer, tagPerm, tagTTL, tagSessionOf, tagTomb:
		return false
	default:
		return true
	}
}

func (c *cache) put(s *shard, key string, r row) {
	if s.young == nil || len(s.young) >= c.half {
		s.old, s.young = s.young, make(map[string]row, min(c.half, len(s.young)))
	}
	s.young[key] = r
}

// stats returns the number of rows cached (those in both halves count twice), and of
// lookups that found their row and that did not.
func (c *cache) stats() (rows int, hits, misses int64) {
	for i := range c.shard {
		s := &c.shard[i]
		s.mu.Lock()
		rows += len(s.young) + len(s.old)
		hits += s.hits
		misses += s.miss
		s.mu.Unlock()
	}
	return rows, hits, misses
}

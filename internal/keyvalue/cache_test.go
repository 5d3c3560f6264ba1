package keyvalue

import (
	"fmt"
	"testing"
)

// TestCacheBesideMemtables: while memtables are at their full size, blocks that are read
// again and again are read from disk once.
func TestCacheBesideMemtables(t *testing.T) {
	db, err := OpenPebble(PebbleConfig{Dir: t.TempDir(), CacheBytes: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	put := func(from, n int) {
		b := db.Batch()
		for i := from; i < from+n; i++ {
			b.Set(fmt.Appendf(nil, "%09d", i), make([]byte, 100))
		}
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	const n = 10_000
	for i := 0; i < 80*n; i += n { // memtables grow to their full size step by step
		put(i, n)
	}
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	put(80*n, 1)
	read := func() {
		for i := range 100 {
			if _, ok, err := db.Get(fmt.Appendf(nil, "%09d", i)); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
	}
	read()
	before := db.Stats()
	for range 10 {
		read()
	}
	if after := db.Stats(); after.CacheMisses-before.CacheMisses > 100 {
		t.Errorf("1000 lookups of the same few blocks read %d blocks from disk; the cache holds %d bytes", after.CacheMisses-before.CacheMisses, after.CacheBytes)
	}
}

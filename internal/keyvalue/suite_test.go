package keyvalue

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// forms opens a new store of each form.
func forms(t testing.TB) map[string]func() DB {
	return map[string]func() DB{
		"memory": OpenMemory,
		"pebble": func() DB {
			db, err := OpenPebble(PebbleConfig{FS: vfs.NewMem(), Dir: "state", CacheBytes: 1 << 20})
			if err != nil {
				t.Fatalf("OpenPebble: %v", err)
			}
			return db
		},
	}
}

// each runs a test of the shared suite on every form.
func each(t *testing.T, test func(t *testing.T, db DB)) {
	for name, open := range forms(t) {
		t.Run(name, func(t *testing.T) {
			db := open()
			test(t, db)
			must(t, db.Close())
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put commits key=value pairs.
func put(t testing.TB, db DB, pairs ...string) {
	t.Helper()
	b := db.Batch()
	for i := 0; i < len(pairs); i += 2 {
		b.Set([]byte(pairs[i]), []byte(pairs[i+1]))
	}
	must(t, b.Commit())
}

// list returns the rows of [lo, hi) as "key=value" strings.
func list(t testing.TB, r Reader, lo, hi []byte) []string {
	t.Helper()
	got := []string{}
	it := r.Scan(lo, hi)
	for it.Next() {
		got = append(got, string(it.Key())+"="+string(it.Value()))
	}
	if it.Next() {
		t.Error("Next says true after it said false")
	}
	must(t, it.Err())
	must(t, it.Close())
	must(t, it.Close())
	return got
}

func want(t testing.TB, r Reader, lo, hi []byte, rows ...string) {
	t.Helper()
	if got := list(t, r, lo, hi); !slices.Equal(got, rows) {
		t.Errorf("scan [%q, %q): got %q, want %q", lo, hi, got, rows)
	}
}

func TestGetAndScan(t *testing.T) {
	each(t, func(t *testing.T, db DB) {
		want(t, db, nil, nil)
		put(t, db, "b", "2", "a", "1", "d", "", "c\x00", "3", "\xff", "9")
		want(t, db, nil, nil, "a=1", "b=2", "c\x00=3", "d=", "\xff=9")
		want(t, db, []byte("a"), []byte("c"), "a=1", "b=2")
		want(t, db, []byte("b"), []byte("b"))
		want(t, db, []byte("z"), []byte("b"))
		want(t, db, []byte("b\x00"), nil, "c\x00=3", "d=", "\xff=9")
		want(t, db, nil, []byte{})
		v, found, err := db.Get([]byte("d"))
		if err != nil || !found || v == nil || len(v) != 0 {
			t.Errorf("empty value: got %q, %v, %v; want an empty one, true, nil", v, found, err)
		}
		if _, found, _ := db.Get([]byte("c")); found {
			t.Error("an absent key was found")
		}
	})
}

func TestValueIsTheCallers(t *testing.T) {
	each(t, func(t *testing.T, db DB) {
		key, value := []byte("k"), []byte("v")
		b := db.Batch()
		b.Set(key, value)
		key[0], value[0] = 'x', 'x'
		got, _, _ := b.Get([]byte("k"))
		got[0] = 'y'
		must(t, b.Commit())
		got, _, _ = db.Get([]byte("k"))
		got[0] = 'z'
		want(t, db, nil, nil, "k=v")
	})
}

func TestBatchReadsItsOwnWrites(t *testing.T) {
	each(t, func(t *testing.T, db DB) {
		put(t, db, "a", "1", "c", "3", "e", "5")
		b := db.Batch()
		b.Set([]byte("b"), []byte("2"))
		b.Delete([]byte("c"))
		b.Set([]byte("e"), []byte("five"))
		b.Set([]byte("f"), []byte("6"))
		b.Delete([]byte("nothing"))
		want(t, b, nil, nil, "a=1", "b=2", "e=five", "f=6")
		want(t, b, []byte("b"), []byte("f"), "b=2", "e=five")
		want(t, db, nil, nil, "a=1", "c=3", "e=5")
		if b.Len() != 5 {
			t.Errorf("Len: got %d, want 5", b.Len())
		}
		if _, found, _ := b.Get([]byte("c")); found {
			t.Error("a deleted key was found")
		}
		b.Set([]byte("c"), []byte("again"))
		want(t, b, []byte("c"), []byte("d"), "c=again")

		it := b.Scan(nil, nil)
		b.Set([]byte("aa"), []byte("later"))
		n := 0
		for it.Next() {
			n++
		}
		must(t, it.Close())
		if n != 5 {
			t.Errorf("a scan saw %d rows, want the 5 of the moment it began", n)
		}
		must(t, b.Commit())
		want(t, db, nil, nil, "a=1", "aa=later", "b=2", "c=again", "e=five", "f=6")
		if b.Len() != 0 {
			t.Errorf("Len after Commit: got %d, want 0", b.Len())
		}
		b.Set([]byte("g"), []byte("7"))
		b.Discard()
		must(t, b.Commit())
		want(t, db, []byte("f"), nil, "f=6")
	})
}

func TestSnapshotStays(t *testing.T) {
	each(t, func(t *testing.T, db DB) {
		put(t, db, "a", "1", "b", "2")
		s := db.Snapshot()
		it := db.Scan(nil, nil)
		b := db.Batch()
		b.Delete([]byte("a"))
		b.Set([]byte("b"), []byte("two"))
		b.Set([]byte("c"), []byte("3"))
		must(t, b.Commit())
		must(t, db.Flush())
		must(t, db.Compact())
		want(t, s, nil, nil, "a=1", "b=2")
		want(t, db, nil, nil, "b=two", "c=3")
		n := 0
		for it.Next() {
			n++
		}
		if n != 2 {
			t.Errorf("an open scan saw %d rows, want the 2 of the moment it began", n)
		}
		must(t, it.Close())
		must(t, s.Close())
	})
}

// TestAgainstModel compares both forms with a map under random operations.
func TestAgainstModel(t *testing.T) {
	for name, open := range forms(t) {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { againstModel(t, open()) })
		})
	}
}

func againstModel(t *rapid.T, db DB) {
	defer func() { _ = db.Close() }() // also when rapid gives a run up
	key := rapid.SliceOfN(rapid.SampledFrom([]byte("abc\xff\x00")), 0, 4)
	full := rapid.SliceOfN(rapid.SampledFrom([]byte("abc\xff\x00")), 1, 4)
	committed, pending := map[string]string{}, map[string]string{}
	b := db.Batch()
	check := func(r Reader, model map[string]string, lo, hi []byte) {
		var rows []string
		for _, k := range slices.Sorted(maps.Keys(model)) {
			if bytes.Compare([]byte(k), lo) >= 0 && (hi == nil || bytes.Compare([]byte(k), hi) < 0) {
				rows = append(rows, k+"="+model[k])
			}
		}
		it := r.Scan(lo, hi)
		var got []string
		for it.Next() {
			got = append(got, string(it.Key())+"="+string(it.Value()))
		}
		if err := it.Close(); err != nil || !slices.Equal(got, rows) {
			t.Fatalf("scan [%q, %q): got %q, %v, want %q", lo, hi, got, err, rows)
		}
	}
	t.Repeat(map[string]func(*rapid.T){
		"set": func(t *rapid.T) {
			k, v := full.Draw(t, "key"), fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "value"))
			b.Set(k, []byte(v))
			pending[string(k)] = v
		},
		"delete": func(t *rapid.T) {
			k := full.Draw(t, "key")
			b.Delete(k)
			delete(pending, string(k))
		},
		"commit": func(t *rapid.T) {
			if err := b.Commit(); err != nil {
				t.Fatal(err)
			}
			committed = maps.Clone(pending)
		},
		"discard": func(t *rapid.T) {
			b.Discard()
			pending = maps.Clone(committed)
		},
		"flush": func(t *rapid.T) {
			if err := db.Flush(); err != nil {
				t.Fatal(err)
			}
		},
		"": func(t *rapid.T) {
			lo, hi := key.Draw(t, "lo"), key.Draw(t, "hi")
			check(db, committed, lo, hi)
			check(b, pending, lo, hi)
			check(b, pending, nil, nil)
			k := key.Draw(t, "get")
			v, found, err := b.Get(k)
			w, ok := pending[string(k)]
			if err != nil || found != ok || string(v) != w {
				t.Fatalf("get %q: got %q, %v, %v, want %q, %v", k, v, found, err, w, ok)
			}
		},
	})
}

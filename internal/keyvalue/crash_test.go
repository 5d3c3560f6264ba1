package keyvalue

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/sluicefs/sluice"
)

// wreck is what a crash at one moment leaves.
type wreck struct {
	op      string
	flushed int // batches that a Flush had seen
	fs      *vfs.MemFS
}

// wrecker takes a wreck before some of the changes of the disk.
type wrecker struct {
	fs      *vfs.MemFS
	rng     *rand.Rand
	flushed atomic.Int64
	mu      sync.Mutex
	ops     int
	off     bool
	wrecks  []wreck
}

func (w *wrecker) String() string { return "wrecker" }

func (w *wrecker) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || op.Kind == errorfs.OpFileClose || op.Kind == errorfs.OpLock {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ops++; w.off || w.ops%3 != 0 {
		return nil
	}
	x := wreck{op: fmt.Sprintf("%d: kind %d of %s", w.ops, op.Kind, op.Path), flushed: int(w.flushed.Load())}
	x.fs = w.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: w.rng.IntN(2) * 50, RNG: w.rng})
	w.wrecks = append(w.wrecks, x)
	return nil
}

// TestCrash cuts the power at many moments: what a Flush saw is there, and whatever is
// there is a number of whole batches from the first on.
func TestCrash(t *testing.T) {
	w := &wrecker{fs: vfs.NewCrashableMem(), rng: rand.New(rand.NewPCG(7, 7))}
	open := func(fs vfs.FS) DB {
		db, err := OpenPebble(PebbleConfig{FS: fs, Dir: "state", CacheBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	db := open(errorfs.Wrap(w.fs, w))
	const rows = 5
	b := db.Batch()
	for i := 1; i <= 60; i++ {
		for r := range rows {
			b.Set(fmt.Appendf(nil, "row%d", r), []byte(strconv.Itoa(i)))
			b.Set(fmt.Appendf(nil, "batch%03d/%d", i, r), make([]byte, 500))
		}
		if i > 3 {
			for r := range rows {
				b.Delete(fmt.Appendf(nil, "batch%03d/%d", i-3, r))
			}
		}
		must(t, b.Commit())
		if i%4 == 0 {
			must(t, db.Flush())
			w.flushed.Store(int64(i))
		}
		if i%20 == 0 {
			must(t, db.Compact())
		}
	}
	must(t, db.Close())
	w.mu.Lock()
	w.off = true
	w.mu.Unlock()
	t.Logf("%d crashes", len(w.wrecks))
	for _, x := range w.wrecks {
		db := open(x.fs)
		n := 0
		if v, found, err := db.Get([]byte("row0")); err != nil {
			t.Fatal(err)
		} else if found {
			n, _ = strconv.Atoi(string(v))
		}
		if n < x.flushed {
			t.Fatalf("crash before %s: batch %d is the last there, %d were flushed", x.op, n, x.flushed)
		}
		got := len(list(t, db, nil, nil))
		want := rows + rows*min(n, 3)
		if n == 0 {
			want = 0
		}
		if got != want {
			t.Fatalf("crash before %s: %d rows after batch %d, want %d", x.op, got, n, want)
		}
		for r := range rows {
			if v, _, _ := db.Get(fmt.Appendf(nil, "row%d", r)); n > 0 && string(v) != strconv.Itoa(n) {
				t.Fatalf("crash before %s: row %d is of batch %s, row 0 of batch %d", x.op, r, v, n)
			}
		}
		must(t, db.Close())
	}
}

// TestWithoutFlush: the store has no log of its own; what was not flushed is gone after
// a stop, and nothing else is.
func TestWithoutFlush(t *testing.T) {
	fs := vfs.NewMem()
	cfg := PebbleConfig{FS: fs, Dir: "state"}
	db, err := OpenPebble(cfg)
	must(t, err)
	put(t, db, "a", "1")
	must(t, db.Flush())
	put(t, db, "a", "2", "b", "2")
	must(t, db.Close())
	db, err = OpenPebble(cfg)
	must(t, err)
	if got := list(t, db, nil, nil); fmt.Sprint(got) != "[a=1]" {
		t.Errorf("got %q, want what was flushed", got)
	}
	must(t, db.Close())
}

func TestCheckpoint(t *testing.T) {
	fs := vfs.NewMem()
	db, err := OpenPebble(PebbleConfig{FS: fs, Dir: "state"})
	must(t, err)
	put(t, db, "a", "1")
	must(t, db.Flush())
	must(t, db.Checkpoint("copy"))
	put(t, db, "a", "2")
	must(t, db.Flush())
	copied, err := OpenPebble(PebbleConfig{FS: fs, Dir: "copy"})
	must(t, err)
	want(t, copied, nil, nil, "a=1")
	must(t, copied.Close())
	if err := db.Checkpoint("copy"); !errors.Is(err, sluice.Exists) {
		t.Errorf("a checkpoint over another: got %v, want exists", err)
	}
	if st := db.Stats(); st.DiskBytes == 0 || st.Flushes < 2 {
		t.Errorf("Stats: got %+v", st)
	}
	must(t, db.Close())
	if err := OpenMemory().Checkpoint("x"); !errors.Is(err, sluice.Unsupported) {
		t.Errorf("a checkpoint of memory: got %v, want unsupported", err)
	}
}

// full makes writes fail for want of room while it is on.
type full struct{ on atomic.Bool }

func (f *full) String() string { return "full" }

func (f *full) MaybeError(op errorfs.Op) error {
	if f.on.Load() && (op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpCreate) {
		return syscall.ENOSPC
	}
	return nil
}

// TestFullDisk: Flush fails with NoSpace instead of waiting for ever, reads and commits
// go on, and a later Flush works.
func TestFullDisk(t *testing.T) {
	f := &full{}
	db, err := OpenPebble(PebbleConfig{FS: errorfs.Wrap(vfs.NewMem(), f), Dir: "state"})
	must(t, err)
	put(t, db, "a", "1")
	f.on.Store(true)
	if err := db.Flush(); !errors.Is(err, sluice.NoSpace) {
		t.Errorf("Flush on a full disk: got %v, want no space", err)
	}
	put(t, db, "b", "2")
	want(t, db, nil, nil, "a=1", "b=2")
	f.on.Store(false)
	for db.Flush() != nil {
	}
	want(t, db, nil, nil, "a=1", "b=2")
	must(t, db.Close())
}

func TestSecondOpener(t *testing.T) {
	cfg := PebbleConfig{FS: vfs.NewMem(), Dir: "state"}
	db, err := OpenPebble(cfg)
	must(t, err)
	if _, err := OpenPebble(cfg); !errors.Is(err, sluice.Busy) {
		t.Errorf("a second opener: got %v, want busy", err)
	}
	must(t, db.Close())
	if _, err := OpenPebble(PebbleConfig{}); !errors.Is(err, sluice.Invalid) {
		t.Errorf("no directory: got %v, want invalid", err)
	}
}

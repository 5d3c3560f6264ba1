package journal

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// wreck is what a crash at one moment leaves, and what was promised by then.
type wreck struct {
	op     string
	acked  []string
	synced *vfs.MemFS // exactly what was synced
	part   *vfs.MemFS // and a random half of the blocks and names that were not
	m      *tape
}

// wrecker takes a wreck before every change of the disk.
type wrecker struct {
	fs  *vfs.MemFS
	m   *tape
	rng *rand.Rand

	mu     sync.Mutex
	off    bool
	acked  []string
	wrecks []wreck
}

func (w *wrecker) String() string { return "wrecker" }

func (w *wrecker) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || op.Kind == errorfs.OpFileClose || op.Kind == errorfs.OpLock {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.off {
		return nil
	}
	x := wreck{op: fmt.Sprintf("%d: kind %d of %s at %d", len(w.wrecks), op.Kind, op.Path, op.Offset), acked: slices.Clone(w.acked)}
	x.m = w.m.crashed()
	x.synced = w.fs.CrashClone(vfs.CrashCloneCfg{})
	x.part = w.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: w.rng})
	w.wrecks = append(w.wrecks, x)
	return nil
}

func (w *wrecker) ack(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked = append(w.acked, s)
}

// TestCrashAtEveryStep cuts the power before every change of the disk, under load,
// with files that fill and are cut, and starts again from what is left.
func TestCrashAtEveryStep(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { crashAtEveryStep(t, seed) })
	}
}

func crashAtEveryStep(t *testing.T, seed uint64) {
	m := &tape{lag: 3}
	w := &wrecker{fs: vfs.NewCrashableMem(), m: m, rng: rand.New(rand.NewPCG(seed, 9))}
	cfg := config(errorfs.Wrap(w.fs, w), m)
	cfg.FlushEntries = 10
	j := mustOpen(t, cfg)
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(c)))
			for i := range 25 {
				s := fmt.Sprintf("%d/%d %0*d", c, i, 1+rng.IntN(2500), 0)
				propose(t, j, s)
				w.ack(s)
			}
		})
	}
	wg.Wait()
	must(t, j.Close())
	w.mu.Lock()
	w.off = true
	w.mu.Unlock()
	if first := j.Status().First; first == 1 {
		t.Error("the log was never cut")
	}
	t.Logf("%d crashes", len(w.wrecks))
	for _, x := range w.wrecks {
		start(t, x, x.synced, m.data)
		start(t, x, x.part, m.data)
	}
}

// start opens what a crash left. order is how the entries were ordered.
func start(t *testing.T, x wreck, fs *vfs.MemFS, order []string) {
	t.Helper()
	m := x.m.crashed()
	j, err := Open(context.Background(), config(fs, m))
	if err != nil {
		t.Fatalf("crash before %s: Open: %v", x.op, err)
	}
	if len(m.data) > len(order) || !slices.Equal(m.data, order[:len(m.data)]) {
		t.Fatalf("crash before %s: the entries are not a start of those proposed", x.op)
	}
	for _, s := range x.acked {
		if !slices.Contains(m.data, s) {
			t.Fatalf("crash before %s: an acknowledged entry is lost", x.op)
		}
	}
	propose(t, j, "after")
	had := slices.Clone(m.data)
	must(t, j.Close())
	again := x.m.crashed()
	j = mustOpen(t, config(fs, again))
	again.check(t, had)
	must(t, j.Close())
}

// TestFlippedBytes flips each byte of the files in turn: a start either refuses or has
// everything that was acknowledged.
func TestFlippedBytes(t *testing.T) {
	fs, m := vfs.NewMem(), &tape{}
	cfg := config(fs, m)
	j := mustOpen(t, cfg)
	for i := range 30 {
		propose(t, j, fmt.Sprintf("%d %0900d", i, i))
	}
	st := j.Status()
	must(t, j.Close())
	if st.Segments < 2 {
		t.Fatalf("want several segments, got %d", st.Segments)
	}
	seqs, err := listSegments(fs, cfg.Dir)
	must(t, err)
	refused, whole := 0, 0
	for _, seq := range seqs {
		path := fs.PathJoin(cfg.Dir, segmentName(seq))
		b, err := readFile(fs, path)
		must(t, err)
		step := 1
		for off := 0; off < len(b); off += step {
			if off > 1200 {
				step = 61
			}
			flipped := slices.Clone(b)
			flipped[off] ^= 1 << (off % 8)
			copyFS := copyOf(t, fs, cfg.Dir, path, flipped)
			got := &tape{}
			j, err := Open(context.Background(), config(copyFS, got))
			if err != nil {
				refused++
				continue
			}
			whole++
			must(t, j.Close())
			if len(got.data) != len(m.data) {
				t.Fatalf("byte %d of %s flipped: a start went on with %d of %d acknowledged entries", off, path, len(got.data), len(m.data))
			}
		}
	}
	t.Logf("%d flips refused, %d without harm", refused, whole)
	if refused == 0 || whole == 0 {
		t.Error("want some flips refused and some without harm")
	}
}

// copyOf copies dir into a new file system with one file replaced.
func copyOf(t testing.TB, fs vfs.FS, dir, path string, replaced []byte) *vfs.MemFS {
	t.Helper()
	c := vfs.NewMem()
	must(t, c.MkdirAll(dir, 0o700))
	names, err := fs.List(dir)
	must(t, err)
	for _, name := range names {
		b := replaced
		if p := fs.PathJoin(dir, name); p != path {
			b, err = readFile(fs, p)
			must(t, err)
		}
		f, err := c.Create(c.PathJoin(dir, name), vfs.WriteCategoryUnspecified)
		must(t, err)
		_, err = f.Write(slices.Clone(b))
		must(t, err)
		must(t, f.Close())
	}
	return c
}

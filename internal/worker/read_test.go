package worker

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/policy"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// stores are the two sorts of stores: conditional reads, and reads that are confirmed.
func stores() map[string]underfstest.Options {
	return map[string]underfstest.Options{"conditional": {}, "confirmed": {Local: true}}
}

// old makes the store's versions look settled.
func old(b *bench) { b.cfg.Wall = func() time.Time { return time.Now().Add(time.Minute) } }

func TestRead(t *testing.T) {
	for name, opts := range stores() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, opts, old)
			for i, n := range []int{1, 100, sluice.ChunkSize, sluice.PageSize - 1, sluice.PageSize, sluice.PageSize + 1, 4 << 20, 4<<20 + 1, 9<<20 + 12345} {
				data := pattern(uint64(i), n)
				c := b.file(uint64(i+1), "f", data)
				for range 3 { // cold, warm, warm
					b.wantRead(c, data)
				}
				for _, r := range [][2]int{{0, 1}, {n - 1, 1}, {n / 3, n / 3}, {max(0, n-70000), min(n, 70000)}, {n / 2, 0}} {
					got, err := b.read(t.Context(), c, int64(r[0]), int64(r[1]), sluice.Cache)
					if err != nil || !bytes.Equal(got, data[r[0]:r[0]+r[1]]) {
						t.Errorf("%d bytes: [%d, +%d): %v", n, r[0], r[1], err)
					}
				}
			}
			s := b.w.Stats()
			if s.Hits == 0 || s.Misses == 0 || s.Uncached != 0 || s.FetchedBytes != s.Store.Counters.FilledBytes {
				t.Errorf("stats: %+v", s)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old)
	data := pattern(1, 5<<20)
	c := b.file(1, "f", data)
	id := c.Content.Sluice()
	block := func(i uint32) *wire.BlockID { return wire.FromBlockID(sluice.BlockID{Content: id, Index: i}) }
	write := clone(c)
	write.Write = true
	for name, x := range map[string]struct {
		q    *wire.ReadBlockRequest
		want sluice.Kind
	}{
		"behind the file":  {&wire.ReadBlockRequest{Grant: b.grant(c), Block: block(1), Offset: 1 << 20, Length: 1}, sluice.Invalid},
		"behind the block": {&wire.ReadBlockRequest{Grant: b.grant(c), Block: block(0), Offset: 4<<20 - 1, Length: 2}, sluice.Invalid},
		"no such block":    {&wire.ReadBlockRequest{Grant: b.grant(c), Block: block(9), Length: 1}, sluice.Invalid},
		"negative":         {&wire.ReadBlockRequest{Grant: b.grant(c), Block: block(0), Offset: -1, Length: 1}, sluice.Invalid},
		"overflow":         {&wire.ReadBlockRequest{Grant: b.grant(c), Block: block(0), Offset: 1, Length: 1<<63 - 1}, sluice.Invalid},
		"other content":    {&wire.ReadBlockRequest{Grant: b.grant(c), Block: wire.FromBlockID(sluice.BlockID{Content: content(99)}), Length: 1}, sluice.Permission},
		"a write grant":    {&wire.ReadBlockRequest{Grant: b.grant(write), Block: block(0), Length: 1}, sluice.Permission},
		"no grant":         {&wire.ReadBlockRequest{Block: block(0), Length: 1}, sluice.Unauthenticated},
	} {
		_, err := b.conn.CallPayload(t.Context(), wire.MethodReadBlock, x.q, nil, rpc.Payload{Recv: make([]byte, 10)})
		if !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want kind %v", name, err, x.want)
		}
	}
	p, _ := c.MarshalVT()
	q := wire.ReadBlockRequest{Grant: b.keys.SignGrant(p, time.Now().Add(-time.Hour)), Block: block(0), Length: 1}
	if _, err := b.conn.CallPayload(t.Context(), wire.MethodReadBlock, &q, nil, rpc.Payload{Recv: make([]byte, 1)}); err == nil {

		t.Error("an expired grant was taken")
	}
}

// A hundred readers of the same bytes cost the store one read of each.
func TestOneFlight(t *testing.T) {
	for name, opts := range stores() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, opts, old)
			data := pattern(1, 3<<20)
			c := b.file(1, "f", data)
			b.memory().Inject(underfs.OpRead, underfstest.Fault{Latency: 50 * time.Millisecond})
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() {
					got, err := b.read(t.Context(), c, 0, int64(len(data)), sluice.Cache)
					if err != nil || !bytes.Equal(got, data) {
						t.Errorf("read: %v", err)
					}
				})
			}
			all.Wait()
			if s := b.w.Stats(); s.FetchedBytes != int64(len(data)) {
				t.Errorf("%d bytes were read from the store, want %d", s.FetchedBytes, len(data))
			}
		})
	}
}

// A version that the store has no more is told; no byte of another one is.
func TestChanged(t *testing.T) {
	for name, opts := range stores() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, opts, old)
			c := b.file(1, "f", pattern(1, 3<<20))
			b.memory().Put("f", pattern(2, 3<<20))
			if _, err := b.read(t.Context(), c, 0, 3<<20, sluice.Cache); !errors.Is(err, sluice.Changed) {
				t.Errorf("replaced: %v, want kind changed", err)
			}
			gone := b.file(2, "g", pattern(1, 1000))
			b.memory().Remove("g")
			if _, err := b.read(t.Context(), gone, 0, 1000, sluice.Cache); !errors.Is(err, sluice.Changed) {
				t.Errorf("removed: %v, want kind changed", err)
			}
			during := b.file(3, "h", pattern(3, 3<<20))
			b.memory().Inject(underfs.OpRead, underfstest.Fault{Flip: true, Times: 1})
			got, err := b.read(t.Context(), during, 0, 3<<20, sluice.Cache)
			if err == nil && !bytes.Equal(got, pattern(3, 3<<20)) || err != nil && !errors.Is(err, sluice.Changed) {
				t.Errorf("replaced while it was read: %v, and bytes of another version: %v", err, err == nil)
			}
			if !opts.Local {
				return
			}
			if pages, _ := b.store.Has(sluice.BlockID{Content: content(3)}); pages != nil && err != nil {
				t.Error("pages of an unconfirmed read were kept")
			}
		})
	}
}

func TestSettle(t *testing.T) {
	var mu sync.Mutex
	var ahead time.Duration
	b := newBench(t, underfstest.Options{Local: true}, func(b *bench) {
		b.cfg.Wall = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(ahead)
		}
	})
	data := pattern(1, 200_000)
	c := b.file(1, "f", data)
	b.wantRead(c, data)
	if pages, _ := b.store.Has(sluice.BlockID{Content: content(1)}); pages != nil {
		t.Error("a version that may still change unseen was cached")
	}
	mu.Lock()
	ahead = time.Minute
	mu.Unlock()
	b.wantRead(c, data)
	b.until("a settled version is cached", func() bool { // a reader does not wait for it
		pages, _ := b.store.Has(sluice.BlockID{Content: content(1)})
		return pages != nil
	})
}

func TestLost(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old)
	c := b.file(1, "f", pattern(1, 1000))
	c.Unpersisted = true
	if _, err := b.read(t.Context(), c, 0, 1000, sluice.Cache); !errors.Is(err, sluice.Lost) {
		t.Errorf("%v, want kind lost", err)
	}
	if n := b.memory().Calls(underfs.OpRead); n != 0 {
		t.Errorf("the store was asked %d times for what is not in it", n)
	}
}

func TestNoCache(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old)
	data := pattern(1, 9<<20)
	c := b.file(1, "f", data)
	got, err := b.read(t.Context(), c, 0, int64(len(data)), sluice.NoCache)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("read: %v", err)
	}
	if s := b.w.Stats(); s.Store.Blocks != 0 {
		t.Errorf("%d blocks were kept", s.Store.Blocks)
	}
}

// Where the cache has no room the bytes are served all the same.
func TestNoRoom(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old, func(b *bench) { b.quota = 4 << 20; b.cfg.MemoryPool = MinMemoryPool })
	data := pattern(1, 20<<20)
	c := b.file(1, "f", data)
	c.BlockSize = 16 << 20
	b.wantRead(c, data)
	b.wantRead(c, data)
	if s := b.w.Stats(); s.Uncached == 0 {
		t.Error("nothing was served uncached")
	}
}

// Damage on the medium is noticed, dropped and fetched again.
func TestCorrupt(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old)
	data := pattern(1, 3<<20)
	c := b.file(1, "f", data)
	b.wantRead(c, data)
	b.stop()
	n := 0
	filepath.WalkDir(filepath.Join(b.dir, "blocks"), func(name string, d os.DirEntry, err error) error {
		if info, _ := d.Info(); err == nil && !d.IsDir() && info.Size() == int64(len(data)) {
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			f.WriteAt([]byte("damage"), 1<<20+70_000)
			f.Close()
			n++
		}
		return nil
	})
	if n != 1 {
		t.Fatalf("found %d block files", n)
	}
	b.start()
	// Less than a chunk: the worker finds it itself.
	got, err := b.read(t.Context(), c, 1<<20+70_000, 100, sluice.Cache)
	if err != nil || !bytes.Equal(got, data[1<<20+70_000:1<<20+70_100]) {
		t.Errorf("small read: %v", err)
	}
	b.wantRead(c, data)
	if s := b.w.Stats(); s.Corrupt != 1 || s.FetchedBytes != sluice.PageSize {
		t.Errorf("%d corrupt chunks, %d bytes fetched again; want 1 and one page", s.Corrupt, s.FetchedBytes)
	}
}

// Whole chunks are checked by who receives them; told so, the worker looks, drops what is
// damaged and fetches it again, however soon after the last time.
func TestCorruptInTransit(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old)
	data := pattern(1, 3<<20)
	c := b.file(1, "f", data)
	b.wantRead(c, data)
	for i, at := range []int64{2 << 20, 100_000, 2<<20 + 5} {
		h, err := b.store.OpenBlock(t.Context(), sluice.BlockID{Content: content(1)})
		if err != nil {
			t.Fatal(err)
		}
		file, _ := h.OS()
		f, err := os.OpenFile(file.Name(), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteAt([]byte("damage"), at)
		f.Close()
		h.Close()
		b.wantRead(c, data)
		if b.damaged != i+1 {
			t.Errorf("%d damaged answers were noticed by their reader, want %d", b.damaged, i+1)
		}
		b.wantRead(c, data)
	}
	if s := b.w.Stats(); s.Corrupt != 3 || s.FetchedBytes != int64(len(data))+3*sluice.PageSize {
		t.Errorf("%d corrupt chunks, %d bytes fetched; want 3 and three pages more than the file", s.Corrupt, s.FetchedBytes)
	}
}

// A hanging store harms only its mount.
func TestHangingStore(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old, func(b *bench) { b.mount(2, "b") })
	data := pattern(1, 100_000)
	c := b.file(1, "f", data)
	sick := clone(c)
	sick.Mount, sick.Content = 2, wire.FromContentID(content(2))
	o := b.driver.Memory("b").Put("f", data)
	sick.Version = string(o.Version)
	b.driver.Memory("b").Inject(underfs.OpRead, underfstest.Fault{Hang: true})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			s := clone(sick)
			s.Content = wire.FromContentID(content(uint64(10 + i)))
			if _, err := b.read(ctx, s, 0, 1000, sluice.Cache); err == nil {
				t.Error("a read of a hanging store ended well")
			}
		})
	}
	for i := range 20 {
		k := clone(c)
		k.Content = wire.FromContentID(content(uint64(100 + i)))
		b.wantRead(k, data)
	}
	cancel()
	all.Wait()
}

// Reading in order is ahead of its reader; a reader that goes away stops it.
func TestAhead(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old, func(b *bench) { b.cfg.Prefetch = policy.PrefetchConfig{} })
	data := pattern(1, 12<<20)
	c := b.file(1, "f", data)
	c.BlockSize = 16 << 20
	for at := 0; at < len(data); at += 256 << 10 {
		got, err := b.read(t.Context(), c, int64(at), 256<<10, sluice.Cache)
		if err != nil || !bytes.Equal(got, data[at:at+256<<10]) {
			t.Fatalf("at %d: %v", at, err)
		}
	}
	if s := b.w.Stats(); s.Ahead == 0 || s.FetchedBytes != int64(len(data)) {
		t.Errorf("%d pages ahead, %d bytes fetched of %d", s.Ahead, s.FetchedBytes, len(data))
	}
}

// A mount that the worker has not heard of is asked for; one that nobody knows is stale.
func TestMountArrives(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old, func(b *bench) { b.cfg.Interval = time.Hour })
	b.until("a first beat", func() bool { return b.w.Ready() == nil })
	b.mount(2, "b")
	data := pattern(1, 1000)
	o := b.driver.Memory("b").Put("f", data)
	c := b.file(1, "f", data)
	c.Mount, c.Version = 2, string(o.Version)
	b.wantRead(c, data)
	c.Mount, c.Content = 3, wire.FromContentID(content(3))
	if _, err := b.read(t.Context(), c, 0, 10, sluice.Cache); !errors.Is(err, sluice.Stale) {
		t.Errorf("%v, want kind stale", err)
	}
}

func TestOpenBlock(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old)
	data := pattern(1, 3<<20)
	c := b.file(1, "f", data)
	q := &wire.OpenBlockRequest{Grant: b.grant(c), Block: wire.FromBlockID(sluice.BlockID{Content: content(1)})}
	if err := b.conn.Call(t.Context(), wire.MethodOpenBlock, q, nil); !errors.Is(err, sluice.Unsupported) {
		t.Errorf("of nobody it could be asked back from: %v, want kind unsupported", err)
	}
	q.Holder, q.Hold = 1, 1
	if err := b.conn.Call(t.Context(), wire.MethodOpenBlock, q, nil); !errors.Is(err, sluice.NotFound) {
		t.Errorf("nothing cached: %v, want kind not found", err)
	}
	if _, err := b.read(t.Context(), c, 1<<20, 10, sluice.Cache); err != nil {
		t.Fatal(err)
	}
	b.until("the page is kept", func() bool { return b.w.Stats().Store.Counters.Filled == 1 })
	var a wire.OpenBlockAnswer
	var f *os.File
	if _, err := b.conn.CallPayload(t.Context(), wire.MethodOpenBlock, q, &a, rpc.Payload{File: &f}); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, sluice.PageSize)
	if _, err := f.ReadAt(got, 1<<20); err != nil || !bytes.Equal(got, data[1<<20:2<<20]) {
		t.Errorf("the passed descriptor reads other bytes: %v", err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("the passed descriptor can write")
	}
	if a.Length != 3<<20 || len(a.Pages) != 1 || a.Pages[0] != 2 || len(a.Sums) != 4*48 {
		t.Errorf("length %d, pages %v, %d bytes of sums", a.Length, a.Pages, len(a.Sums))
	}
}

package worker

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/blockstore"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// writeGrant is what a grant for a new content says.
func writeGrant(n uint64, key string, wt sluice.WriteType) *wire.Claims {
	c := &wire.Claims{Content: wire.FromContentID(content(n)), Write: true, BlockSize: 4 << 20, WriteType: uint32(wt), Unpersisted: wt == sluice.MustCache}
	if wt != sluice.MustCache {
		c.Mount, c.MountEpoch, c.Key = 1, 1, key
	}
	return c
}

// readGrant is what a grant for the content says once it is published.
func readGrant(c *wire.Claims, n int, version sluice.Version) *wire.Claims {
	r := clone(c)
	r.Write, r.Length, r.Version = false, int64(n), string(version)
	return r
}

// writeAll writes data in pieces of odd sizes, several at once, out of order and some of
// them twice.
func (b *bench) writeAll(c *wire.Claims, data []byte, seed uint64) {
	b.t.Helper()
	type piece struct{ off, end int }
	var pieces []piece
	dice := rand.New(rand.NewPCG(seed, 1))
	for at := 0; at < len(data); {
		end := min(len(data), at+1+dice.IntN(sluice.MaxWrite))
		pieces = append(pieces, piece{at, end})
		at = end
	}
	for i := range pieces { // disorder within a small window, as a pipelining client makes it
		j := min(len(pieces)-1, i+dice.IntN(4))
		pieces[i], pieces[j] = pieces[j], pieces[i]
	}
	pieces = append(pieces, pieces[:min(3, len(pieces))]...)
	var all sync.WaitGroup
	for _, p := range pieces {
		all.Go(func() {
			if err := b.write(b.t.Context(), c, int64(p.off), data[p.off:p.end]); err != nil {
				b.t.Errorf("write [%d, %d): %v", p.off, p.end, err)
			}
		})
	}
	all.Wait()
}

func TestWrite(t *testing.T) {
	for name, opts := range map[string]underfstest.Options{"inline": {}, "prepared": {SmallUpload: 1 << 20}, "local": {Local: true}} {
		for _, wt := range []sluice.WriteType{sluice.CacheThrough, sluice.Through, sluice.MustCache} {
			t.Run(name+" "+wt.String(), func(t *testing.T) {
				b := newBench(t, opts, old)
				for i, n := range []int{0, 1, 70_000, 4 << 20, 6<<20 + 4321} {
					b.writeOne(uint64(i+1), wt, pattern(uint64(n), n))
				}
				if n := b.memory().Pending(); n != 0 {
					t.Errorf("%d uploads are pending in the store", n)
				}
			})
		}
	}
}

func (b *bench) writeOne(n uint64, wt sluice.WriteType, data []byte) {
	t := b.t
	t.Helper()
	c := writeGrant(n, "k", wt)
	b.writeAll(c, data, n)
	s, err := b.seal(c, int64(len(data)))
	if err != nil {
		t.Fatalf("%d bytes: seal: %v", len(data), err)
	}
	again, err := b.seal(c, int64(len(data)))
	if err != nil || again.Checksum != s.Checksum || again.Prepared.Upload != s.Prepared.Upload {
		t.Errorf("sealed again: %+v, %v; want %+v", again, err, s)
	}
	if s.Checksum != blockstore.Sum(data) || s.Length != int64(len(data)) || s.Worker != 5 {
		t.Errorf("sealed: %+v", s)
	}
	if cached := wt != sluice.Through && len(data) > 0; cached != (len(s.Holders) == 1) {
		t.Errorf("%v: holders %v", wt, s.Holders)
	}
	version := sluice.Version("")
	if wt != sluice.MustCache {
		if _, ok := b.memory().Get("k"); ok && n == 1 {
			t.Error("visible in the store before it was committed")
		}
		o := &wire.Order{Id: n, Intent: n, Attempt: 1, TimeLeft: int64(time.Minute), Content: c.Content, Key: "k", Mount: 1, Put: true}
		r := b.order(o)
		if err := r.Error.Sluice(); err != nil {
			t.Fatalf("put: %v", err)
		}
		if got, _ := b.memory().Get("k"); !bytes.Equal(got, data) {
			t.Errorf("%d bytes: the store has others", len(data))
		}
		version = sluice.Version(r.Object.Version)
		calls := b.memory().Calls(underfs.OpCommit)
		o.Id += 1000
		if r := b.order(o); r.Error != nil || r.Object.Version != string(version) {
			t.Errorf("the same order again: %v", r)
		}
		if n := b.memory().Calls(underfs.OpCommit); n != calls {
			t.Errorf("the same order again made %d more commits", n-calls)
		}
	}
	if len(data) > 0 {
		fetched := b.w.Stats().FetchedBytes
		b.wantRead(readGrant(c, len(data), version), data)
		if b.w.Stats().FetchedBytes != fetched && wt != sluice.Through {
			t.Error("bytes just written were fetched from the store")
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old)
	c := writeGrant(1, "k", sluice.CacheThrough)
	if err := b.write(t.Context(), c, 0, pattern(1, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := b.write(t.Context(), c, 500, pattern(2, 1000)); !errors.Is(err, sluice.Invalid) {
		t.Errorf("a piece that overlaps: %v, want kind invalid", err)
	}
	_, err := b.conn.CallPayload(t.Context(), wire.MethodWrite, &wire.WriteRequest{Grant: b.grant(c), Offset: 1000, Checksum: 1}, nil, rpc.Payload{Send: []byte("x")})
	if !errors.Is(err, sluice.Corrupt) {
		t.Errorf("a wrong checksum: %v, want kind corrupt", err)
	}
	if _, err := b.seal(c, 999); !errors.Is(err, sluice.Invalid) {
		t.Errorf("sealed shorter than written: %v, want kind invalid", err)
	}
	if _, err := b.seal(writeGrant(2, "k", sluice.MustCache), 10); !errors.Is(err, sluice.Lost) {
		t.Errorf("sealed what is not here: %v, want kind lost", err)
	}
	if err := b.conn.Call(t.Context(), wire.MethodDiscard, &wire.DiscardRequest{Grant: b.grant(c)}, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.write(t.Context(), c, 1000, []byte("x")); !errors.Is(err, sluice.Stale) {
		t.Errorf("written after it was discarded: %v, want kind stale", err)
	}
	if n := b.w.Stats(); n.Uploads != 0 || n.Store.Blocks != 0 {
		t.Errorf("%d uploads, %d blocks are left", n.Uploads, n.Store.Blocks)
	}
}

// A put holds its condition, and one that comes late does nothing.
func TestOrderRefuses(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old)
	c := writeGrant(1, "k", sluice.CacheThrough)
	b.writeAll(c, pattern(1, 1000), 1)
	if _, err := b.seal(c, 1000); err != nil {
		t.Fatal(err)
	}
	b.memory().Put("k", []byte("a stranger's"))
	put := &wire.Order{Id: 1, Intent: 1, Attempt: 1, Content: c.Content, Key: "k", Put: true, Absent: true, TimeLeft: int64(time.Minute)}
	if r := b.order(put); sluice.KindOf(r.Error.Sluice()) != sluice.Exists && sluice.KindOf(r.Error.Sluice()) != sluice.Changed {
		t.Errorf("put over a stranger's object: %v", r.Error)
	}
	late := &wire.Order{Id: 2, Intent: 1, Attempt: 2, Content: c.Content, Key: "k", Put: true, TimeLeft: 1}
	if r := b.order(late); sluice.KindOf(r.Error.Sluice()) != sluice.Unavailable {
		t.Errorf("a late put: %v, want kind unavailable", r.Error)
	}
	if got, _ := b.memory().Get("k"); string(got) != "a stranger's" {
		t.Errorf("the stranger's object is %q", got)
	}
	if r := b.order(&wire.Order{Id: 3, Drop: true, Content: c.Content}); r.Error != nil {
		t.Errorf("drop: %v", r.Error)
	}
	if r := b.order(&wire.Order{Id: 4, Intent: 1, Attempt: 3, Content: c.Content, Key: "k", Put: true}); sluice.KindOf(r.Error.Sluice()) != sluice.Lost {
		t.Errorf("put of what was dropped: %v, want kind lost", r.Error)
	}
}

// What exists only here survives a restart and no eviction takes it; where it has no
// room it is refused with the reason.
func TestMustCache(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old, func(b *bench) { b.quota = 16 << 20 })
	data := pattern(1, 9<<20)
	c := writeGrant(1, "", sluice.MustCache)
	b.writeAll(c, data, 1)
	if _, err := b.seal(c, int64(len(data))); err != nil {
		t.Fatal(err)
	}
	read := readGrant(c, len(data), "")
	more := writeGrant(2, "", sluice.MustCache)
	var err error
	for off := int64(0); err == nil && off < 16<<20; off += 1 << 20 {
		err = b.write(t.Context(), more, off, pattern(2, 1<<20))
	}
	if space, _ := errors.AsType[*sluice.Error](err); !errors.Is(err, sluice.NoSpace) || space.Err == nil {
		t.Errorf("without room: %v, want kind no space with a reason", err)
	}
	b.stop()
	b.start()
	b.wantRead(read, data)
	b.desk.mu.Lock()
	b.desk.verdicts[content(1)] = &wire.ContentVerdict{State: verdictDead, Index: 10}
	b.desk.mu.Unlock()
	b.w.cfg.Store.Stats()
	if _, err := b.read(t.Context(), read, 0, 10, sluice.Cache); err != nil && !errors.Is(err, sluice.Lost) {
		t.Error(err)
	}
	b.stop()
	b.start() // looks for what to ask about at once
	b.until("the dead content is dropped", func() bool { return len(b.store.Blocks(content(1))) == 0 })
	if _, err := b.read(t.Context(), read, 0, 10, sluice.Cache); !errors.Is(err, sluice.Lost) {
		t.Errorf("read of a dead content: %v, want kind lost", err)
	}
}

// What a deleted file held is room for the next one at once: a writer that finds none
// has the masters asked what has died.
func TestWriteReclaims(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old, func(b *bench) { b.quota = 16 << 20 })
	data := pattern(1, 9<<20)
	dead := writeGrant(1, "", sluice.MustCache)
	b.writeAll(dead, data, 1)
	if _, err := b.seal(dead, int64(len(data))); err != nil {
		t.Fatal(err)
	}
	b.until("the content was asked about, and lives", func() bool {
		b.desk.mu.Lock()
		defer b.desk.mu.Unlock()
		return slices.ContainsFunc(b.desk.beats, func(q *wire.Heartbeat) bool { return len(q.Unpersisted) > 0 })
	})
	b.desk.mu.Lock()
	b.desk.verdicts[content(1)] = &wire.ContentVerdict{State: verdictDead, Index: 10}
	b.desk.mu.Unlock()
	next := writeGrant(2, "", sluice.MustCache)
	b.writeAll(next, data, 2)
	if _, err := b.seal(next, int64(len(data))); err != nil {
		t.Fatal(err)
	}
}

// CACHE_THROUGH without room in the cache goes on uncached.
func TestWriteNoRoom(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old, func(b *bench) { b.quota = 4 << 20 })
	data := pattern(1, 9<<20)
	c := writeGrant(1, "k", sluice.CacheThrough)
	c.BlockSize = 64 << 20
	b.writeAll(c, data, 1)
	if _, err := b.seal(c, int64(len(data))); err != nil {
		t.Fatal(err)
	}
	if r := b.order(&wire.Order{Id: 1, Intent: 1, Attempt: 1, Content: c.Content, Key: "k", Put: true}); r.Error != nil {
		t.Fatal(r.Error)
	}
	if got, _ := b.memory().Get("k"); !bytes.Equal(got, data) {
		t.Error("the store has other bytes")
	}
}

// A writer that dies leaves nothing.
func TestIdleUpload(t *testing.T) {
	var clock atomic.Int64 // stands still until the test moves it
	clock.Store(int64(time.Hour))
	b := newBench(t, underfstest.Options{Local: true}, old, func(b *bench) {
		b.cfg.Idle = 50 * time.Millisecond
		b.cfg.Boot = func() time.Duration { return time.Duration(clock.Load()) }
	})
	c := writeGrant(1, "k", sluice.CacheThrough)
	b.writeAll(c, pattern(1, 5<<20), 1)
	clock.Add(int64(time.Second))
	b.until("the content is given up", func() bool { s := b.w.Stats(); return s.Discarded == 1 && s.Uploads == 0 && s.Store.Blocks == 0 })
	if err := b.write(t.Context(), c, 5<<20, []byte("x")); !errors.Is(err, sluice.Stale) {
		t.Errorf("%v, want kind stale", err)
	}
}

// A worker that stops removes what was being written and keeps what a master can commit.
func TestStopWhileWriting(t *testing.T) {
	b := newBench(t, underfstest.Options{SmallUpload: -1}, old)
	open, sealed := writeGrant(1, "open", sluice.Through), writeGrant(2, "sealed", sluice.CacheThrough)
	b.writeAll(open, pattern(1, 3<<20), 1)
	b.writeAll(sealed, pattern(2, 3<<20), 1)
	s, err := b.seal(sealed, 3<<20)
	if err != nil {
		t.Fatal(err)
	}
	b.stop()
	if n := b.memory().Pending(); n != 1 {
		t.Errorf("%d uploads are pending, want that of the sealed content", n)
	}
	done, ok := underfs.As[underfs.Completer](b.memory().Store())
	if !ok {
		t.Fatal("no completer")
	}
	if _, err := done.Complete(t.Context(), "sealed", s.Prepared, underfs.Condition{}); err != nil {
		t.Errorf("completing it: %v", err)
	}
}

// The worker follows the primary that a standby names.
func TestFollowsPrimary(t *testing.T) {
	standby := &desk{}
	b := newBench(t, underfstest.Options{}, old, func(b *bench) {
		standby.primary = "unix:" + b.socket("m")
		b.serve("s", standby, rpc.RoleMaster)
		b.cfg.Masters = func(context.Context) ([]string, error) { return []string{"unix:" + b.socket("s")}, nil }
	})
	b.until("ready", func() bool { return b.w.Ready() == nil })
}

// What lies here and not at its home is told once, and again when it is gone.
func TestExceptions(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old)
	b.until("a beat", func() bool { return b.w.Ready() == nil })
	id := sluice.BlockID{Content: content(1)}
	b.w.view.Store(&sluice.View{Version: 2, Workers: []sluice.WorkerInfo{{ID: 99, Weight: 1}}})
	b.w.holds.mu.Lock()
	b.w.holds.full = false
	b.w.holds.mu.Unlock()
	if err := b.store.FillPage(t.Context(), id, 10, 0, pattern(1, 10), nil); err != nil {
		t.Fatal(err)
	}
	w := &Worker{cfg: b.w.cfg, holds: newHolds()}
	w.view.Store(b.w.view.Load())
	w.view.Store(&sluice.View{Version: 2, Workers: []sluice.WorkerInfo{{ID: 99, Weight: 1}}})
	if d := w.delta(); !d.full || !slices.Contains(d.gained, id) {
		t.Errorf("first: %+v", d)
	}
	if d := w.delta(); d.full || len(d.gained)+len(d.dropped) != 0 {
		t.Errorf("nothing changed: %+v", d)
	}
	b.store.Delete(t.Context(), id)
	if d := w.delta(); !slices.Contains(d.dropped, id) {
		t.Errorf("dropped: %+v", d)
	}
}

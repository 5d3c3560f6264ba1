package client

import (
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// TestBounded opens more files, blocks and streams than the client keeps.
func TestBounded(t *testing.T) {
	f := newFake(t, 1, 0)
	c := f.client(nil)
	f.block = sluice.PageSize
	f.write("/f", noise(1, 24<<20))
	var open []sluice.Handle
	p := make([]byte, 4096)
	for range 64 { // each begins to read ahead and stops half way
		h, err := c.Open(t.Context(), "/f", sluice.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, h)
		for off := int64(0); off < 1<<20; off += 128 << 10 {
			if _, err := h.ReadAt(t.Context(), p, off); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n, most := len(c.ahead.tokens), cap(c.ahead.tokens); n > most || most*pieceSize > defaultMemory/2 {
		t.Errorf("%d of %d pieces are held", n, most)
	}
	// Those that stopped do not keep the next reader from reading ahead.
	c.idle.mu.Lock()
	for p := range c.idle.all {
		<-p.done
		p.made = p.made.Add(-idleAfter)
	}
	c.idle.mu.Unlock()
	h, err := c.Open(t.Context(), "/f", sluice.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	open = append(open, h)
	for off := int64(0); off < 3<<20; off += 4096 {
		if _, err := h.ReadAt(t.Context(), p, off); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.workers[0].served.Load(); n > 3<<20/4096 {
		t.Errorf("%d blocks read for %d reads", n, 3<<20/4096)
	}
	for _, h := range open {
		h.Close()
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(c.ahead.tokens); n != 0 {
		t.Errorf("%d pieces are held after Close", n)
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	if m.HeapInuse > 24<<20+defaultMemory+32<<20 { // the file, the buffers, everything else
		t.Errorf("%d MiB are in use", m.HeapInuse>>20)
	}
}

// TestGrantsBounded: what is remembered of opens stays below its limit and goes away
// with a notice.
func TestGrantsBounded(t *testing.T) {
	g := newGrants(3)
	s := &session{}
	for i := range 10 {
		id := sluice.FileID(i + 2)
		g.put(&opened{info: sluice.FileInfo{Path: sluice.Root.Join(string(rune('a' + i))), ID: id}, session: s}, g.seen())
	}
	if g.order.Len() != 3 || len(g.byPath) != 3 || len(g.byFile) != 3 {
		t.Errorf("%d, %d, %d are remembered", g.order.Len(), len(g.byPath), len(g.byFile))
	}
	told := g.seen()
	g.changed([]uint64{11})
	if g.order.Len() != 2 {
		t.Error("a changed file is remembered")
	}
	g.put(&opened{info: sluice.FileInfo{Path: "/j", ID: 11}, session: s}, told)
	if len(g.byPath["/j"]) != 0 {
		t.Error("an answer from before a notice was remembered after it")
	}
	g.changed([]uint64{0})
	if g.order.Len()+len(g.byPath)+len(g.byFile) != 0 {
		t.Error("notice 0 means everything")
	}
}

// TestWindow: at most a window of changes is unanswered, and the lowest is told.
func TestWindow(t *testing.T) {
	f := newFake(t, 1, 1)
	c := f.client(nil)
	s, err := c.sessions.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []sluice.RequestID
	for range 16 {
		id, err := s.begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	got := make(chan sluice.RequestID)
	go func() {
		id, _ := s.begin(t.Context())
		got <- id
	}()
	s.finish(ids[3].Seq) // does not help: the first is unanswered
	select {
	case id := <-got:
		t.Fatalf("%v began outside the window", id)
	default:
	}
	s.finish(ids[0].Seq)
	if id := <-got; id.Seq != 17 || id.Lowest != 2 {
		t.Errorf("got %+v, want 17 and 2", id)
	}
}

func TestConfig(t *testing.T) {
	for _, bad := range []Config{{}, {Masters: Static("a:1"), Memory: 1}, {Masters: Static("a:1"), Retry: -1}, {Masters: Static("a:1"), Grants: -1}, {Masters: Static("a:1"), Descriptors: -1}} {
		if _, err := New(t.Context(), bad); !errors.Is(err, sluice.Invalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// TestNoMaster: a cluster that is not there is told as such, in bounded time, and a
// change that was never sent is not of unknown outcome.
func TestNoMaster(t *testing.T) {
	c, err := New(t.Context(), Config{Masters: Static("unix:" + t.TempDir() + "/none"), Retry: 50_000_000})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	_, err = c.Stat(t.Context(), "/", sluice.StatOptions{})
	isKind(t, err, sluice.Unavailable)
	_, err = c.Mkdir(t.Context(), "/d", sluice.MkdirOptions{})
	isKind(t, err, sluice.Unavailable)
}

// TestFollow: the address in a not-primary answer is followed at once.
func TestFollow(t *testing.T) {
	f := newFake(t, 1, 1)
	standby := &fakeStandby{primary: "unix:" + f.dir + "/m.sock"}
	f.serve(standby, "unix", f.dir+"/s.sock", 3)
	c := f.client(func(cfg *Config) { cfg.Masters = Static("unix:" + f.dir + "/s.sock") })
	if _, err := c.Mkdir(t.Context(), "/d", sluice.MkdirOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := f.count(wire.MethodMkdir); n != 1 || standby.asked.Load() != 1 {
		t.Errorf("%d at the primary, %d at the standby, want 1 and 1", n, standby.asked.Load())
	}
}

// TestAnsweredLate: what the master itself waited for in vain, such as a store up to its
// mount's deadline, is not waited for a second time.
func TestAnsweredLate(t *testing.T) {
	f := newFake(t, 0, 0)
	c := f.client(nil)
	c.masters.soon = 10 * time.Millisecond
	f.slow.Store(int64(20 * time.Millisecond))
	_, err := c.Stat(t.Context(), "/", sluice.StatOptions{})
	isKind(t, err, sluice.Unavailable)
	if n := f.count(wire.MethodStat); n != 1 {
		t.Errorf("the master was asked %d times", n)
	}
}

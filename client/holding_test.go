package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// fakeTable is what a fake worker knows of one client's descriptors.
type fakeTable struct {
	mu      sync.Mutex
	holder  uint64
	life    uint64
	forgot  bool // nobody is known until the next descriptor is passed
	held    map[uint64]bool
	wanted  []uint64
	waiting int
	wake    chan struct{} // closed when a waiting request is to be answered
}

// pass notes a descriptor and returns the life of its holder.
func (x *fakeTable) pass(q *wire.OpenBlockRequest) uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.life == 0 || x.forgot {
		x.life, x.forgot, x.held = x.life+1, false, map[uint64]bool{}
	}
	x.holder = q.Holder
	x.held[q.Hold] = true
	x.releaseLocked(q.Released)
	return x.life
}

func (x *fakeTable) releaseLocked(numbers []uint64) {
	for _, n := range numbers {
		delete(x.held, n)
	}
}

func (x *fakeTable) wakeLocked() {
	if x.wake != nil {
		close(x.wake)
	}
	x.wake = make(chan struct{})
}

// recall answers as a worker does: when something is wanted, when another request comes,
// or when nothing is held.
func (x *fakeTable) recall(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.RecallRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.forgot || q.Holder != x.holder {
		return nil, failure(sluice.NotFound, "holder %d", q.Holder)
	}
	x.releaseLocked(q.Released)
	x.wakeLocked()
	for wake := x.wake; len(x.wanted) == 0 && len(x.held) > 0 && wake == x.wake; {
		x.waiting++
		x.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
		}
		x.mu.Lock()
		x.waiting--
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	a := &wire.RecallAnswer{Boot: 1, Life: x.life, Wanted: x.wanted}
	x.wanted = nil
	return a, nil
}

// want asks for descriptors.
func (x *fakeTable) want(numbers ...uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.wanted = append(x.wanted, numbers...)
	x.wakeLocked()
}

func (x *fakeTable) numbers() []uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Sorted(maps.Keys(x.held))
}

// until waits for ok and says after a while that it never was.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func (x *fakeTable) until(t *testing.T, want ...uint64) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(10 * time.Second)
	for got := x.numbers(); !slices.Equal(got, want); got = x.numbers() {
		if <-tick.C; time.Now().After(end) {
			t.Fatalf("the worker charges %v, want %v", got, want)
		}
	}
}

// holder returns a client that has read files from local descriptors 1, 2, ..., n.
func holder(t *testing.T, n int) (*fake, *Client, []byte) {
	t.Helper()
	f := newFake(t, 1, 1)
	f.lease.Store(int64(5e9))
	c := f.client(nil)
	data := noise(1, 50_000)
	for i := range n {
		f.write(fmt.Sprintf("/f%d", i+1), data)
	}
	for i := range n {
		p := sluice.Path(fmt.Sprintf("/f%d", i+1))
		for readFile(t, c, p); c.grants.find(p, c.who, sluice.OpenOptions{}) == nil; {
			readFile(t, c, p) // a notice that comes during an open keeps it from being remembered
		}
	}
	if got := f.workers[0].table.numbers(); len(got) != n {
		t.Fatalf("the client holds %v after reading %d files", got, n)
	}
	return f, c, data
}

// A descriptor that the worker wants back is closed at once where nobody reads it, else
// when they are done, and the block is asked for again when it is needed.
func TestRecall(t *testing.T) {
	f, c, data := holder(t, 3)
	x := &f.workers[0].table
	if f.count(wire.MethodRecall) > 1 {
		t.Error("more than one request waits although nothing was wanted")
	}
	x.want(2)
	x.until(t, 1, 3)

	h, err := c.Open(t.Context(), "/f3", sluice.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	_, release, err := h.(sluice.LocalFile).Local(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	x.want(1, 3, 77) // 77 never came
	x.until(t, 3)
	if !bytes.Equal(readFile(t, c, "/f3"), data) { // not by the descriptor that must go
		t.Error("other bytes")
	}
	if got := x.numbers(); len(got) != 2 || got[0] != 3 {
		t.Errorf("held %v, want the one in use and another", got)
	}
	release()
	until(t, "the one in use is closed when it is not", func() bool { return len(x.numbers()) == 1 })
}

// What the client removed or replaced, or was told of, is closed without being asked.
func TestGivesBackWhatIsGone(t *testing.T) {
	f, c, data := holder(t, 4)
	x := &f.workers[0].table
	until(t, "the client waits for notices", func() bool { return f.waiting() > 0 })
	if err := c.Remove(t.Context(), "/f1", sluice.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	x.until(t, 2, 3, 4)
	w, err := c.Create(t.Context(), "/f2", sluice.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(t.Context(), data); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.until(t, 3, 4)
	f.write("/f3", noise(2, 100)) // somebody else
	x.until(t, 4)
	if err := c.Remove(t.Context(), "/f4", sluice.RemoveOptions{Recursive: true}); err != nil {
		t.Fatal(err)
	}
	x.until(t)
}

// A worker that took the client for dead, or was started again, charges nothing of what it
// held: that is closed. One whose connections were only lost goes on where it was.
func TestHolderForgotten(t *testing.T) {
	f, c, data := holder(t, 2)
	x := &f.workers[0].table
	f.workers[0].listener.cut()
	until(t, "a request waits again", func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.waiting > 0
	})
	x.want(1)
	x.until(t, 2)

	x.mu.Lock()
	x.forgot = true
	x.mu.Unlock()
	f.workers[0].listener.cut()
	until(t, "what is not charged is closed", func() bool {
		c.locals.mu.Lock()
		defer c.locals.mu.Unlock()
		return len(c.locals.byID) == 0
	})
	if !bytes.Equal(readFile(t, c, "/f2"), data) {
		t.Error("other bytes")
	}
	x.until(t, 3)

	// The new life is met by an open before the waiting request meets it.
	x.mu.Lock()
	x.forgot = true
	x.mu.Unlock()
	readFile(t, c, "/f1")
	x.until(t, 4)
	until(t, "what is not charged is closed", func() bool {
		c.locals.mu.Lock()
		defer c.locals.mu.Unlock()
		return len(c.locals.byID) == 1
	})
}

// Opening many blocks costs one request each: what is closed meanwhile is told along.
func TestTellsAlong(t *testing.T) {
	f := newFake(t, 1, 1)
	f.lease.Store(int64(5e9))
	c := f.client(func(cfg *Config) { cfg.Descriptors = 4 })
	const n = 400
	for i := range n {
		f.write(fmt.Sprintf("/f%d", i), noise(uint64(i), 1000))
	}
	readFile(t, c, "/f0")
	f.count(wire.MethodOpenBlock, wire.MethodRecall)
	begun := time.Now()
	for i := range n {
		readFile(t, c, sluice.Path(fmt.Sprintf("/f%d", i)))
	}
	ticks := int64(time.Since(begun)/tellAfter) + 2
	if opens, recalls := f.count(wire.MethodOpenBlock), f.count(wire.MethodRecall); opens > n || recalls > 2*ticks {
		t.Errorf("%d files took %d opens and %d further requests", n, opens, recalls)
	}
	until(t, "what was closed is told", func() bool { return len(f.workers[0].table.numbers()) <= 4 })
}

// An open that failed on its way is not charged for ever: it is told as closed.
func TestLostOpen(t *testing.T) {
	f, c, data := holder(t, 1)
	x := &f.workers[0].table
	f.write("/g", data)
	f.dropNext.Store(int64(wire.MethodOpenBlock))
	h, err := c.Open(t.Context(), "/g", sluice.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	p := make([]byte, 100)
	if _, err := h.ReadAt(t.Context(), p, 0); err != nil && !errors.Is(err, sluice.Unavailable) {
		t.Fatal(err)
	}
	until(t, "the descriptor that was lost is told as closed", func() bool { return !slices.Contains(x.numbers(), 2) })
}

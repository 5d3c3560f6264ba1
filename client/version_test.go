package client

import (
	"bytes"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// TestFollowsRename: who reads a file goes on when it is renamed and its bytes lie under
// another key, and is told that it changed when it is gone.
func TestFollowsRename(t *testing.T) {
	f := newFake(t, 1, 0)
	f.workers[0].keyed.Store(true)
	c := f.client(nil)
	data := noise(1, 3<<20)
	f.write("/a", data)
	h, err := c.Open(t.Context(), "/a", sluice.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	p := make([]byte, 1000)
	for i, name := range []sluice.Path{"/b", "/c"} {
		if err := c.Rename(t.Context(), []sluice.Path{"/a", "/b"}[i], name, sluice.RenameOptions{}); err != nil {
			t.Fatal(err)
		}
		off := int64(i+1) << 20
		if _, err := h.ReadAt(t.Context(), p, off); err != nil || !bytes.Equal(p, data[off:off+1000]) {
			t.Fatalf("after it became %s: %v", name, err)
		}
	}
	f.write("/a", noise(2, 3<<20)) // another file in its old place is not it
	if _, err := h.ReadAt(t.Context(), p, 5000); err != nil || !bytes.Equal(p, data[5000:6000]) {
		t.Fatalf("with another file in its place: %v", err)
	}
	if err := c.Remove(t.Context(), "/c", sluice.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = h.ReadAt(t.Context(), p, 10_000)
	isKind(t, err, sluice.Changed)
}

// TestAsksOnce: a reader whose version the store does not have asks the master a bounded
// number of times before it says so.
func TestAsksOnce(t *testing.T) {
	f := newFake(t, 2, 0)
	c := f.client(nil)
	f.write("/a", noise(1, 1000))
	h, err := c.Open(t.Context(), "/a", sluice.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, w := range f.workers {
		w.failWith.Store(int64(sluice.Changed))
	}
	f.count(wire.MethodOpen, wire.MethodReadBlock)
	_, err = h.ReadAt(t.Context(), make([]byte, 10), 0)
	isKind(t, err, sluice.Changed)
	if m, w := f.count(wire.MethodOpen), f.count(wire.MethodReadBlock); m > 2 || w != 1 {
		t.Errorf("%d times the master and %d times workers were asked", m, w)
	}
}

// TestLostOrAway: bytes that exist only in workers are lost once those that hold them have
// said that they do not; until then they are not available, whatever others say.
func TestLostOrAway(t *testing.T) {
	f := newFake(t, 3, 0)
	c := f.client(func(cfg *Config) { cfg.Retry = 10 * time.Millisecond })
	f.write("/a", noise(1, 1<<20))
	content := f.files["/a"].info.Extents[0].Content
	hold := func(ids ...uint64) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.holders = map[uint64][]*wire.Holder{f.files["/a"].info.Id: nil}
		for _, id := range ids {
			f.holders[f.files["/a"].info.Id] = append(f.holders[f.files["/a"].info.Id], &wire.Holder{Content: content, Worker: id, Count: 1})
		}
	}
	for _, w := range f.workers {
		w.failWith.Store(int64(sluice.Lost))
	}
	read := func() error {
		h, err := c.Open(t.Context(), "/a", sluice.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		_, err = h.ReadAt(t.Context(), make([]byte, 10), 0)
		return err
	}
	hold(1)
	isKind(t, read(), sluice.Lost)
	hold(9) // a worker that has not come back
	isKind(t, read(), sluice.Unavailable)
	hold(1, 9)
	isKind(t, read(), sluice.Unavailable)
	hold(1)
	f.workers[0].down.Store(true)
	isKind(t, read(), sluice.Unavailable)
}

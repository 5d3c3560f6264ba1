package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

func writeFile(t testing.TB, c *Client, path sluice.Path, data []byte) {
	t.Helper()
	w, err := c.Create(t.Context(), path, sluice.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for p := data; len(p) > 0; {
		n := min(len(p), 300_000)
		if _, err := w.Write(t.Context(), p[:n]); err != nil {
			t.Fatal(err)
		}
		p = p[n:]
	}
	if _, err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, c *Client, path sluice.Path) []byte {
	t.Helper()
	h, err := c.Open(t.Context(), path, sluice.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	b, err := io.ReadAll(sluice.NewReader(t.Context(), h, 0))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sizes are where off-by-one errors live.
func sizes(block int) []int {
	return []int{0, 1, sluice.ChunkSize - 1, sluice.ChunkSize, sluice.PageSize - 1, sluice.PageSize, sluice.PageSize + 1,
		block - 1, block, block + 1, 2*block + sluice.PageSize + 17}
}

func TestRoundTrips(t *testing.T) {
	for _, kind := range []struct {
		name             string
		workers, sockets int
		cut              func(*fakeWorker)
	}{
		{"local", 1, 1, func(*fakeWorker) {}},
		{"remote", 2, 0, func(*fakeWorker) {}},
		{"strict order", 1, 0, func(w *fakeWorker) { w.ordered.Store(true) }},
		{"partly cached", 1, 1, func(w *fakeWorker) { w.pages.Store(1) }},
		{"socket without descriptors", 1, 1, func(w *fakeWorker) { w.noLocal.Store(true) }},
		{"damaged block files", 1, 1, func(w *fakeWorker) { w.corrupt.Store(true) }},
	} {
		t.Run(kind.name, func(t *testing.T) {
			f := newFake(t, kind.workers, kind.sockets)
			for _, w := range f.workers {
				kind.cut(w)
			}
			c := f.client(nil)
			for i, n := range sizes(int(f.block)) {
				path, data := sluice.Path(fmt.Sprintf("/f%d", i)), noise(uint64(i), n)
				writeFile(t, c, path, data)
				if got := f.content(string(path)); !bytes.Equal(got, data) {
					t.Fatalf("%d bytes: the cluster has %d others", n, len(got))
				}
				if got := readFile(t, c, path); !bytes.Equal(got, data) {
					t.Fatalf("%d bytes: read %d others", n, len(got))
				}
				randomReads(t, c, path, data)
			}
		})
	}
}

// randomReads compares reads at any place and of any length with data.
func randomReads(t *testing.T, c *Client, path sluice.Path, data []byte) {
	t.Helper()
	h, err := c.Open(t.Context(), path, sluice.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	dice := rand.New(rand.NewPCG(3, uint64(len(data))))
	for range 30 {
		off := dice.Int64N(int64(len(data)) + 2)
		p := make([]byte, dice.IntN(1<<dice.IntN(23)+1))
		n, err := h.ReadAt(t.Context(), p, off)
		want := data[min(off, int64(len(data))):]
		want = want[:min(len(want), len(p))]
		if !bytes.Equal(p[:n], want) {
			t.Fatalf("%d bytes at %d of %d: got %d, not those written", len(p), off, len(data), n)
		}
		if end := len(want) < len(p); end != (err == io.EOF) || !end && err != nil {
			t.Fatalf("%d bytes at %d of %d: got error %v, want io.EOF: %t", len(p), off, len(data), err, end)
		}
	}
}

func TestTrips(t *testing.T) {
	f := newFake(t, 1, 1)
	f.lease.Store(int64(5e9))
	c := f.client(nil)
	data := noise(1, 50_000)
	f.write("/small", data)
	f.write("/other", data)
	readFile(t, c, "/other")
	// The session and its waiting request are there now.
	for s := f.waiting(); s == 0; s = f.waiting() {
		readFile(t, c, "/other")
	}
	f.count(wire.MethodOpen, wire.MethodOpenBlock, wire.MethodReadBlock)
	if got := readFile(t, c, "/small"); !bytes.Equal(got, data) {
		t.Fatal("other bytes")
	}
	if m, w := f.count(wire.MethodOpen), f.count(wire.MethodOpenBlock, wire.MethodReadBlock); m != 1 || w != 1 {
		t.Errorf("first read: %d trips to the master, %d to the worker, want 1 and 1", m, w)
	}
	readFile(t, c, "/small")
	if m, w := f.count(wire.MethodOpen), f.count(wire.MethodOpenBlock, wire.MethodReadBlock); m+w > 1 {
		t.Errorf("second read: %d trips to the master, %d to the worker, want at most 1", m, w)
	}
	// A change is seen at the next open: the notice comes before the change is answered.
	next := noise(2, 60_000)
	f.write("/small", next)
	if got := readFile(t, c, "/small"); !bytes.Equal(got, next) {
		t.Error("the old content was read after the new one was published")
	}
}

func (f *fake) waiting() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.sessions {
		n += s.waiting
	}
	return n
}

func TestTreeOperations(t *testing.T) {
	f := newFake(t, 1, 1)
	c := f.client(nil)
	ctx := t.Context()
	if _, err := c.Mkdir(ctx, "/d", sluice.MkdirOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := c.Mkdir(ctx, "/d", sluice.MkdirOptions{})
	isKind(t, err, sluice.Exists)
	const many = 2500 // three pages
	for i := range many {
		f.write(fmt.Sprintf("/d/%04d", i), nil)
	}
	if _, err := c.Mkdir(ctx, "/d/1000d", sluice.MkdirOptions{}); err != nil {
		t.Fatal(err)
	}
	f.write("/d/1000d/x", []byte("x"))
	var got []sluice.Path
	for info, err := range c.List(ctx, "/", sluice.ListOptions{Recursive: true}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, info.Path)
	}
	if len(got) != many+3 || got[0] != "/d" || got[1002] != "/d/1000d" || got[1003] != "/d/1000d/x" || got[1004] != "/d/1001" {
		t.Errorf("listed %d, around the directory %v", len(got), got[1000:1005])
	}
	for range c.List(ctx, "/d", sluice.ListOptions{}) {
		break // leaves no goroutine behind
	}
	if err := c.Rename(ctx, "/d/0000", "/d/first", sluice.RenameOptions{}); err != nil {
		t.Fatal(err)
	}
	isKind(t, c.Remove(ctx, "/d/0000", sluice.RemoveOptions{}), sluice.NotFound)
	_, err = c.Stat(ctx, "/d/0000", sluice.StatOptions{})
	isKind(t, err, sluice.NotFound)
	_, err = c.Open(ctx, "/d", sluice.OpenOptions{})
	isKind(t, err, sluice.IsDirectory)
}

// TestOnce loses the answer to every kind of change, and the change happens once.
func TestOnce(t *testing.T) {
	f := newFake(t, 1, 1)
	c := f.client(nil)
	ctx := t.Context()
	for i, method := range []int64{wire.MethodMkdir, wire.MethodCreate, wire.MethodCommit, wire.MethodWrite, wire.MethodSeal, wire.MethodRename, wire.MethodRemove} {
		dir := sluice.Path(fmt.Sprintf("/d%d", i))
		f.dropNext.Store(method)
		if _, err := c.Mkdir(ctx, dir, sluice.MkdirOptions{}); err != nil {
			t.Errorf("method %d: mkdir: %v", method, err)
		}
		w, err := c.Create(ctx, dir.Join("f"), sluice.CreateOptions{Exclusive: true})
		if err != nil {
			t.Fatalf("method %d: create: %v", method, err)
		}
		data := noise(uint64(i), 3<<20)
		if _, err := w.Write(ctx, data); err != nil {
			t.Errorf("method %d: write: %v", method, err)
		}
		if _, err := w.Close(ctx); err != nil {
			t.Errorf("method %d: close: %v", method, err)
		}
		if got := f.content(string(dir.Join("f"))); !bytes.Equal(got, data) {
			t.Errorf("method %d: other bytes", method)
		}
		if err := c.Rename(ctx, dir.Join("f"), dir.Join("g"), sluice.RenameOptions{}); err != nil {
			t.Errorf("method %d: rename: %v", method, err)
		}
		if err := c.Remove(ctx, dir.Join("g"), sluice.RemoveOptions{}); err != nil {
			t.Errorf("method %d: remove: %v", method, err)
		}
		if left := f.dropNext.Load(); left != 0 {
			t.Errorf("method %d was never called", method)
		}
	}
}

func TestSessionLost(t *testing.T) {
	f := newFake(t, 1, 1)
	c := f.client(nil)
	ctx := t.Context()
	w, err := c.Create(ctx, "/half", sluice.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(ctx, []byte("half")); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	clear(f.sessions)
	f.mu.Unlock()
	if _, err := w.Close(ctx); err == nil {
		t.Error("a file of a lost session was published")
	}
	if f.content("/half") != nil {
		t.Error("a file of a lost session is there")
	}
	if _, err := c.Mkdir(ctx, "/after", sluice.MkdirOptions{}); err != nil {
		t.Errorf("a new session was not opened: %v", err)
	}
	// A change sent in the old session and never answered is not repeated in a new one.
	f.dropNext.Store(wire.MethodMkdir)
	f.mu.Lock()
	clear(f.sessions)
	f.mu.Unlock()
	if _, err := c.Mkdir(ctx, "/unknown", sluice.MkdirOptions{}); !errors.Is(err, sluice.UnknownOutcome) {
		t.Errorf("got %v, want unknown outcome", err)
	}
}

func TestWorkersFail(t *testing.T) {
	f := newFake(t, 3, 0)
	c := f.client(nil)
	ctx := t.Context()
	data := noise(5, 9<<20)
	f.write("/f", data)
	for i := range f.workers {
		for j, w := range f.workers {
			w.down.Store(j != i) // one is left
		}
		if got := readFile(t, c, "/f"); !bytes.Equal(got, data) {
			t.Fatalf("worker %d alone: other bytes", i)
		}
		writeFile(t, c, sluice.Path(fmt.Sprintf("/w%d", i)), data)
	}
	for _, w := range f.workers {
		w.down.Store(false)
		w.failWith.Store(int64(sluice.Lost))
	}
	h, err := c.Open(ctx, "/f", sluice.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	_, err = h.ReadAt(ctx, make([]byte, 10), 0)
	isKind(t, err, sluice.Lost)
}

// TestVersions: a handle reads the version it opened, or says that it changed.
func TestVersions(t *testing.T) {
	for _, sockets := range []int{0, 1} {
		f := newFake(t, 1, sockets)
		c := f.client(nil)
		old, next := noise(1, 2<<20), noise(2, 2<<20)
		f.write("/f", old)
		h, err := c.Open(t.Context(), "/f", sluice.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 1000)
		if _, err := h.ReadAt(t.Context(), p, 0); err != nil || !bytes.Equal(p, old[:1000]) {
			t.Fatalf("first read: %v", err)
		}
		f.write("/f", next)
		if _, err := h.ReadAt(t.Context(), p, 1<<20); err == nil && !bytes.Equal(p, old[1<<20:1<<20+1000]) {
			t.Fatal("bytes of another version")
		}
		f.mu.Lock()
		clear(f.contents) // the old version is gone everywhere
		f.mu.Unlock()
		h2, err := c.Open(t.Context(), "/f", sluice.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		f.write("/f", old)
		_, err = h2.ReadAt(t.Context(), p, 0)
		isKind(t, err, sluice.Changed)
		h.Close()
		h2.Close()
		_, err = h.ReadAt(t.Context(), p, 0)
		isKind(t, err, sluice.Invalid)
	}
}

func TestAbort(t *testing.T) {
	f := newFake(t, 1, 0)
	c := f.client(nil)
	for _, n := range []int{0, 10, 5 << 20} {
		w, err := c.Create(t.Context(), "/f", sluice.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(t.Context(), make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		if err := w.Abort(t.Context()); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
		if err := w.Abort(t.Context()); err != nil {
			t.Errorf("again: %v", err)
		}
		if _, err := c.Stat(t.Context(), "/f", sluice.StatOptions{}); !errors.Is(err, sluice.NotFound) {
			t.Errorf("%d bytes: an aborted file is there: %v", n, err)
		}
	}
	// A context that ends leaves nothing either.
	ctx, cancel := context.WithCancel(t.Context())
	w, err := c.Create(ctx, "/f", sluice.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(ctx, make([]byte, 3<<20)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := w.Close(ctx); !errors.Is(err, sluice.Cancelled) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Stat(t.Context(), "/f", sluice.StatOptions{}); !errors.Is(err, sluice.NotFound) {
		t.Errorf("a cancelled file is there: %v", err)
	}
	if a, b, d := len(c.ahead.tokens), len(c.writes.tokens), len(c.small.tokens); a+b+d != 0 {
		t.Errorf("buffers not given back: %d ahead, %d and %d of writers", a, b, d)
	}
}

// TestManyWriters: more open files than buffers, written by one goroutine in turn.
func TestManyWriters(t *testing.T) {
	f := newFake(t, 1, 1)
	c := f.client(func(cfg *Config) { cfg.Memory = leastMemory })
	const n = 40
	var all []sluice.Writer
	for i := range n {
		w, err := c.Create(t.Context(), sluice.Path(fmt.Sprintf("/f%d", i)), sluice.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
	}
	for round := range 5 {
		for i, w := range all {
			if _, err := w.Write(t.Context(), noise(uint64(i*10+round), 100_000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, w := range all {
		if _, err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		var want []byte
		for round := range 5 {
			want = append(want, noise(uint64(i*10+round), 100_000)...)
		}
		if got := f.content(fmt.Sprintf("/f%d", i)); !bytes.Equal(got, want) {
			t.Fatalf("file %d: other bytes", i)
		}
	}
}

func TestManyReaders(t *testing.T) {
	f := newFake(t, 2, 1)
	f.lease.Store(int64(5e9))
	c := f.client(func(cfg *Config) { cfg.Memory, cfg.Descriptors, cfg.Grants = leastMemory, 4, 4 })
	files := map[sluice.Path][]byte{}
	for i := range 8 {
		path := sluice.Path(fmt.Sprintf("/f%d", i))
		files[path] = noise(uint64(i), 1<<(16+i))
		f.write(string(path), files[path])
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 8 {
				path := sluice.Path(fmt.Sprintf("/f%d", (i+g)%8))
				h, err := c.Open(t.Context(), path, sluice.OpenOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				b, err := io.ReadAll(sluice.NewReader(t.Context(), h, 0))
				if err != nil || !bytes.Equal(b, files[path]) {
					t.Errorf("%s: %d bytes, %v", path, len(b), err)
				}
				h.Close()
			}
		})
	}
	wg.Wait()
	if n := len(c.locals.byID); n > 4 {
		t.Errorf("%d descriptors are open, at most 4 were allowed", n)
	}
}

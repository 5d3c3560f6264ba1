package blockstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
)

func writeBlock(t testing.TB, s *Store, id sluice.BlockID, data []byte, opts BeginOptions) error {
	t.Helper()
	w, err := s.Begin(t.Context(), id, opts)
	if err != nil {
		return err
	}
	for off := 0; off < len(data); off += sluice.MaxWrite {
		if err := w.WriteAt(t.Context(), data[off:min(off+sluice.MaxWrite, len(data))], int64(off)); err != nil {
			w.Abort()
			return err
		}
	}
	_, err = w.Finish(t.Context(), true)
	return err
}

// Five times the quota passes through: old blocks go, pinned and unpersisted ones stay.
func TestEvictionKeepsWhatMustStay(t *testing.T) {
	m := NewMemDisk(MemDiskConfig{Capacity: 20 << 20})
	s := openMem(t, m, 20<<20)
	pinned, only := pattern(1, 2*sluice.PageSize), pattern(2, 3*sluice.PageSize)
	fillAll(t, s, blockID(1, 0), pinned)
	if err := s.Pin(t.Context(), blockID(1, 0).Content); err != nil {
		t.Fatal(err)
	}
	if err := writeBlock(t, s, blockID(2, 0), only, BeginOptions{Unpersisted: true}); err != nil {
		t.Fatal(err)
	}
	hot := pattern(3, sluice.PageSize)
	fillAll(t, s, blockID(3, 0), hot)
	for i := uint64(10); i < 110; i++ {
		fillAll(t, s, blockID(i, 0), pattern(i, sluice.PageSize))
		wantRead(t, s, blockID(3, 0), hot) // in use again and again: least recent is another
	}
	wantRead(t, s, blockID(1, 0), pinned)
	wantRead(t, s, blockID(2, 0), only)
	st := s.Stats()
	if st.Counters.Evicted < 80 || st.Pinned != 2<<20 || st.Unpersisted != 3<<20 {
		t.Errorf("evicted %d, pinned %d, unpersisted %d", st.Counters.Evicted, st.Pinned, st.Unpersisted)
	}

	// Once they may go, they do.
	s.Unpin(t.Context(), blockID(1, 0).Content)
	s.SetPersisted(t.Context(), blockID(2, 0).Content)
	for i := uint64(300); i < 330; i++ {
		fillAll(t, s, blockID(i, 0), pattern(i, sluice.PageSize))
	}
	for _, id := range []sluice.BlockID{blockID(1, 0), blockID(2, 0)} {
		if _, n := s.Has(id); n != 0 {
			t.Errorf("%v is still there", id)
		}
	}
	s.Close() // the evictor rests
	wantBooks(t, s, m)
}

// The evictor makes room before it is needed, and leaves the rest alone.
func TestWatermarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemDisk(MemDiskConfig{})
		cfg := memConfig(m, 40<<20)
		cfg.Low, cfg.High = 20, 40
		s, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := writeBlock(t, s, blockID(1, 0), pattern(1, 20<<20), BeginOptions{Unpersisted: true}); err != nil {
			t.Fatal(err)
		}
		page := pattern(2, sluice.PageSize)
		for i := range uint64(16) { // 20 MiB may come and go: 16 leave 20 % but for the index
			synctest.Wait()
			if n := s.Stats().Counters.Evicted; n != 0 {
				t.Fatalf("%d blocks were evicted with %d of 16 filled", n, i)
			}
			fillAll(t, s, blockID(10+i, 0), page)
		}
		synctest.Wait()
		if free := s.Stats().Tiers[0].Free; free < 8<<20 || free > 9<<20 {
			t.Errorf("%d bytes are free, want 40 %% of 20 MiB", free)
		}
		wantRead(t, s, blockID(25, 0), page)
		wantBooks(t, s, m)
	})
}

func TestNoSpaceSaysWhatHoldsIt(t *testing.T) {
	m := NewMemDisk(MemDiskConfig{})
	s := openMem(t, m, 8<<20)
	if err := writeBlock(t, s, blockID(1, 0), pattern(1, 4<<20), BeginOptions{Unpersisted: true}); err != nil {
		t.Fatal(err)
	}
	if err := writeBlock(t, s, blockID(2, 0), pattern(2, 2<<20), BeginOptions{Pinned: true}); err != nil {
		t.Fatal(err)
	}
	fillAll(t, s, blockID(3, 0), pattern(3, sluice.PageSize))
	h, err := s.OpenBlock(t.Context(), blockID(3, 0))
	if err != nil {
		t.Fatal(err)
	}
	err = writeBlock(t, s, blockID(4, 0), pattern(4, 3<<20), BeginOptions{})
	space, ok := errors.AsType[*SpaceError](err)
	if !ok || !errors.Is(err, sluice.NoSpace) {
		t.Fatalf("%v, want kind NoSpace with its reasons", err)
	}
	if space.Unpersisted != 4<<20 || space.Pinned != 2<<20 || space.Open < 1<<20 {
		t.Errorf("%+v", space)
	}
	if !strings.Contains(err.Error(), "persist or delete") {
		t.Errorf("%q does not say what to do", err)
	}
	h.Close()
	wantBooks(t, s, m)
	wantRead(t, s, blockID(1, 0), pattern(1, 4<<20))
}

// A dropped block stays charged until who holds it lets go, and its bytes are read on.
func TestHeldSpace(t *testing.T) {
	m := NewMemDisk(MemDiskConfig{})
	s := openMem(t, m, 16<<20)
	data := pattern(1, 2*sluice.PageSize)
	fillAll(t, s, blockID(1, 0), data)
	h, err := s.OpenBlock(t.Context(), blockID(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), blockID(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), blockID(1, 0)); !errors.Is(err, sluice.NotFound) {
		t.Errorf("second delete: %v", err)
	}
	if held := s.Stats().Tiers[0].Held; held != 2<<20 {
		t.Errorf("held %d bytes, want 2 MiB", held)
	}
	wantBooks(t, s, m)
	p := make([]byte, len(data))
	if _, err := h.ReadAt(p, 0); err != nil || string(p) != string(data) {
		t.Errorf("read of a held block: %v", err)
	}
	fillAll(t, s, blockID(1, 0), data) // the same block again, while the old file is held
	h.Close()
	h.Close()
	if held := s.Stats().Tiers[0].Held; held != 0 {
		t.Errorf("held %d bytes after the last handle", held)
	}
	wantRead(t, s, blockID(1, 0), data)
	wantBooks(t, s, m)
}

func TestFullDisk(t *testing.T) {
	m := NewMemDisk(MemDiskConfig{Capacity: 64 << 20})
	s := openMem(t, m, 64<<20)
	for i := range uint64(8) {
		fillAll(t, s, blockID(i, 0), pattern(i, sluice.PageSize))
	}
	m.SetCapacity(10 << 20) // somebody else took the rest
	var refused error
	for i := uint64(10); i < 20 && refused == nil; i++ {
		refused = s.FillPage(t.Context(), blockID(i, 0), sluice.PageSize, 0, pattern(i, sluice.PageSize), nil)
	}
	if !errors.Is(refused, sluice.NoSpace) || !errors.Is(refused, unix.ENOSPC) {
		t.Fatalf("%v, want kind NoSpace with its cause", refused)
	}
	if q := s.Stats().Tiers[0].Quota; q > 10<<20 {
		t.Errorf("quota %d after the disk was full at 10 MiB", q)
	}
	// It goes on within what there is, by evicting.
	for i := uint64(30); i < 60; i++ {
		if err := s.FillPage(t.Context(), blockID(i, 0), sluice.PageSize, 0, pattern(i, sluice.PageSize), nil); err != nil {
			t.Fatalf("fill %d after the quota was lowered: %v", i, err)
		}
		wantRead(t, s, blockID(i, 0), pattern(i, sluice.PageSize))
	}
	s.Close()
	wantBooks(t, s, m)
}

// twoDirs is a store of a fast and a slow directory.
func twoDirs(t *testing.T, m *MemDisk) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Disk: m, Tiers: []TierConfig{
		{Name: "MEM", Dirs: []DirConfig{{Path: "/a", Quota: 16 << 20}}},
		{Name: "SSD", Dirs: []DirConfig{{Path: "/b", Quota: 16 << 20}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// A directory that vanishes or fails costs its blocks; the store goes on without it.
func TestFailingDirectory(t *testing.T) {
	for _, how := range []string{"vanished", "EIO on read", "EIO on write"} {
		t.Run(how, func(t *testing.T) {
			var broken func(op, name string) error
			m := NewMemDisk(MemDiskConfig{Before: func(op, name string) error {
				if broken != nil {
					return broken(op, name)
				}
				return nil
			}})
			s := twoDirs(t, m)
			top, low := pattern(1, 2*sluice.PageSize), pattern(2, sluice.PageSize)
			fillAll(t, s, blockID(1, 0), top)
			if err := writeBlock(t, s, blockID(2, 0), low, BeginOptions{Tier: "SSD", Unpersisted: true}); err != nil {
				t.Fatal(err)
			}
			if err := writeBlock(t, s, blockID(3, 0), low, BeginOptions{Unpersisted: true}); err != nil {
				t.Fatal(err)
			}
			bad := map[string]string{"EIO on read": "readat", "EIO on write": "writeat"}[how]
			if how == "vanished" {
				m.RemoveDir("/a")
			} else {
				broken = func(op, name string) error {
					if op == bad && strings.HasPrefix(name, "/a/") {
						return unix.EIO
					}
					return nil
				}
			}
			err := s.FillPage(t.Context(), blockID(4, 0), 100, 0, pattern(4, 100), nil)
			if how != "EIO on read" && !errors.Is(err, sluice.Unavailable) {
				t.Errorf("fill into the failing directory: %v", err)
			}
			if got := missing(t, s, blockID(1, 0), int64(len(top))); len(got) == 0 {
				t.Errorf("a block of the failing directory was read")
			}
			wantRead(t, s, blockID(2, 0), low)
			fillAll(t, s, blockID(5, 0), top)
			wantRead(t, s, blockID(5, 0), top)
			st := s.Stats()
			if st.Counters.FailedDirs != 1 || st.Counters.Lost != 1 || !strings.Contains(st.Tiers[0].Note, "/a is out of service") || st.Tiers[0].Quota != 0 {
				t.Errorf("stats: %+v", st)
			}
			wantBooks(t, s, nil)
		})
	}
}

// A block file that somebody removed or cut costs that block only.
func TestTamperedFile(t *testing.T) {
	m := NewMemDisk(MemDiskConfig{})
	s := openMem(t, m, 64<<20)
	data := pattern(1, 100_000)
	for i := range uint64(3) {
		fillAll(t, s, blockID(i, 0), data)
	}
	s.Close()
	m = m.Clone(nil)
	for name, i := range m.dirs["/d/"+blocksDir].names {
		switch {
		case strings.HasPrefix(name, blockID(0, 0).String()+"~"):
			delete(m.dirs["/d/"+blocksDir].names, name)
			m.used -= i.allocated()
		case strings.HasPrefix(name, blockID(1, 0).String()+"~"):
			i.size--
		}
	}
	s = openMem(t, m, 64<<20)
	for i := range uint64(2) {
		if got := missing(t, s, blockID(i, 0), 100_000); len(got) != 1 {
			t.Errorf("block %d: missing %v", i, got)
		}
	}
	wantRead(t, s, blockID(2, 0), data)
	if st := s.Stats(); st.Counters.Missing != 2 || st.Blocks != 1 || st.Counters.FailedDirs != 0 {
		t.Errorf("%+v", st)
	}
	wantBooks(t, s, m)
}

// Readers, fillers, writers, pins, deletions and handles at once, within a small quota.
func TestConcurrency(t *testing.T) {
	m := NewMemDisk(MemDiskConfig{})
	s := openMem(t, m, 12<<20)
	data := make([][]byte, 24)
	for i := range data {
		data[i] = pattern(uint64(i), int64(i*37_000+1)+int64(i%3)*sluice.PageSize)
	}
	var work sync.WaitGroup
	for g := range 6 {
		work.Go(func() {
			for n := range 120 {
				i := (n*7 + g*5) % len(data)
				if err := churn(t.Context(), s, n+g, blockID(uint64(i), 0), data[i]); err != nil {
					t.Errorf("worker %d, round %d: %v", g, n, err)
					return
				}
			}
		})
	}
	work.Wait()
	s.Close()
	wantBooks(t, s, m)
}

// churn does one thing to a block; only what must never happen is an error.
func churn(ctx context.Context, s *Store, n int, id sluice.BlockID, data []byte) error {
	var err error
	page := int64(n) % ((int64(len(data)) + sluice.PageSize - 1) / sluice.PageSize)
	switch n % 6 {
	case 0, 1:
		err = s.FillPage(ctx, id, int64(len(data)), page, pageOf(data, page), nil)
	case 2, 3:
		p := make([]byte, len(pageOf(data, page)))
		if _, err = s.Read(ctx, id, page*sluice.PageSize, p); err == nil && string(p) != string(pageOf(data, page)) {
			return fmt.Errorf("%v: wrong bytes", id)
		}
	case 4:
		var h *Handle
		if h, err = s.OpenBlock(ctx, id); err == nil {
			p, gone := h.Pass(func() {})
			s.Delete(ctx, id)
			h.Close()
			if gone == nil {
				p.Close()
			}
		}
	case 5:
		if n%2 == 0 {
			s.Pin(ctx, id.Content)
		}
		err = s.Unpin(ctx, id.Content)
	}
	switch {
	case err == nil, errors.Is(err, sluice.NotFound), errors.Is(err, sluice.NoSpace):
		return nil
	}
	return err
}

package blockstore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestValidate(t *testing.T) {
	dir := func(path string, quota int64) []DirConfig { return []DirConfig{{Path: path, Quota: quota}} }
	for want, c := range map[string]Config{
		"no tiers":           {},
		"has no name":        {Tiers: []TierConfig{{Dirs: dir("/a", 1<<30)}}},
		"given twice":        {Tiers: []TierConfig{{Name: "A", Dirs: dir("/a", 1<<30)}, {Name: "A", Dirs: dir("/b", 1<<30)}}},
		"has no directo":     {Tiers: []TierConfig{{Name: "A"}}},
		"has no path":        {Tiers: []TierConfig{{Name: "A", Dirs: dir("", 1<<30)}}},
		"give at least":      {Tiers: []TierConfig{{Name: "A", Dirs: dir("/a", 100)}}},
		"a place of its own": {Tiers: []TierConfig{{Name: "A", Dirs: dir("/a", 1<<30)}, {Name: "B", Dirs: dir("/a/b/", 1<<30)}}},
		"used twice":         {Tiers: []TierConfig{{Name: "A", Dirs: dir("/a", 1<<30)}, {Name: "B", Dirs: dir("/a/", 1<<30)}}},
		"watermarks":         {Low: 20, High: 10, Tiers: []TierConfig{{Name: "A", Dirs: dir("/a", 1<<30)}}},
		"MaxOpen":            {MaxOpen: -1, Tiers: []TierConfig{{Name: "A", Dirs: dir("/a", 1<<30)}}},
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want it to contain %q", err, want)
		}
		if _, err := Open(t.Context(), c); !errors.Is(err, sluice.Invalid) {
			t.Errorf("open: %v, want kind Invalid", err)
		}
	}
}

// Two stores on one directory: the second is refused and leaves everything alone.
func TestSecondProcess(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, dir, 64<<20)
	fillAll(t, s, blockID(1, 0), pattern(1, 1000))
	second := Config{Tiers: s.cfg.Tiers}
	if _, err := Open(t.Context(), second); !errors.Is(err, sluice.Busy) || !strings.Contains(err.Error(), dir) {
		t.Errorf("%v, want kind Busy that names the directory", err)
	}
	wantRead(t, s, blockID(1, 0), pattern(1, 1000))
	s.Close()
	second.Worker = 8
	if _, err := Open(t.Context(), second); !errors.Is(err, sluice.Invalid) {
		t.Errorf("as another worker: %v, want kind Invalid", err)
	}
	wantRead(t, openAt(t, dir, 64<<20), blockID(1, 0), pattern(1, 1000))
}

func TestQuarantine(t *testing.T) {
	s := openMem(t, NewMemDisk(MemDiskConfig{}), 64<<20)
	id, data := blockID(1, 0), pattern(1, 1000)
	if err := writeBlock(t, s, id, data, BeginOptions{Unpersisted: true}); err != nil {
		t.Fatal(err)
	}
	s.Quarantine([]sluice.Incarnation{1, 2})
	if got := missing(t, s, id, 1000); len(got) != 1 {
		t.Error("a quarantined block was served")
	}
	if _, err := s.OpenBlock(t.Context(), id); !errors.Is(err, sluice.NotFound) {
		t.Errorf("open: %v", err)
	}
	if err := s.FillPage(t.Context(), blockID(2, 0), 1000, 0, data, nil); !errors.Is(err, sluice.Stale) {
		t.Errorf("fill: %v", err)
	}
	if _, err := s.Begin(t.Context(), blockID(2, 0), BeginOptions{}); !errors.Is(err, sluice.Stale) {
		t.Errorf("begin: %v", err)
	}
	if all := slices.Collect(s.Contents()); len(all) != 1 || !all[0].Quarantined || !all[0].Unpersisted {
		t.Errorf("contents: %+v", all)
	}
	s.Quarantine([]sluice.Incarnation{id.Content.Incarnation})
	wantRead(t, s, id, data)
}

func TestContents(t *testing.T) {
	m := NewMemDisk(MemDiskConfig{})
	s := openMem(t, m, 64<<20)
	c := blockID(1, 0).Content
	for _, index := range []uint32{0, 3, 7} {
		fillAll(t, s, blockID(1, index), pattern(1, 1000))
	}
	if err := writeBlock(t, s, blockID(1, 9), pattern(1, 500), BeginOptions{Unpersisted: true}); err != nil {
		t.Fatal(err)
	}
	want := ContentInfo{Content: c, Blocks: 4, First: 0, Last: 9, Bytes: 3500, Unpersisted: true}
	if all := slices.Collect(s.Contents()); len(all) != 1 || all[0] != want {
		t.Errorf("%+v, want %+v", all, want)
	}
	if freed, kept := s.FreeContent(t.Context(), c); freed != 3000 || kept != 500 {
		t.Errorf("freed %d, kept %d", freed, kept)
	}
	if err := s.Pin(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	fillAll(t, s, blockID(1, 4), pattern(1, 1000)) // comes after the pin
	s.Close()
	s = openMem(t, m.Clone(nil), 64<<20)
	if i, _ := s.Info(blockID(1, 4)); !i.Pinned {
		t.Error("the pin was forgotten by a restart")
	}
	fillAll(t, s, blockID(1, 5), pattern(1, 1000))
	if i, _ := s.Info(blockID(1, 5)); !i.Pinned {
		t.Error("a block that came after the restart is not pinned")
	}
	if n := s.DropContent(t.Context(), c); n != 3 || s.Stats().Blocks != 0 {
		t.Errorf("dropped %d, %d blocks left", n, s.Stats().Blocks)
	}
	wantBooks(t, s, nil)
}

// What is wrong in itself is refused with its kind and leaves nothing behind.
func TestBadRequests(t *testing.T) {
	m := NewMemDisk(MemDiskConfig{})
	s := openMem(t, m, 64<<20)
	id, ctx, page := blockID(1, 0), t.Context(), pattern(1, sluice.PageSize)
	used := m.Used()
	fills := []error{
		s.FillPage(ctx, id, 0, 0, nil, nil),
		s.FillPage(ctx, id, -1, 0, page, nil),
		s.FillPage(ctx, id, sluice.MaxBlockSize+1, 0, page, nil),
		s.FillPage(ctx, id, sluice.PageSize, 1, page, nil),
		s.FillPage(ctx, id, sluice.PageSize, -1, page, nil),
		s.FillPage(ctx, id, sluice.PageSize, 0, page[1:], nil),
		s.FillPage(ctx, id, sluice.PageSize+1, 1, page, nil),
		s.FillPage(ctx, id, sluice.PageSize, 0, page, make([]uint32, 15)),
	}
	for i, err := range fills {
		if !errors.Is(err, sluice.Invalid) {
			t.Errorf("fill %d: %v, want kind Invalid", i, err)
		}
	}
	if err := s.FillPage(ctx, id, 65<<20, 0, page, nil); !errors.Is(err, sluice.NoSpace) || !strings.Contains(err.Error(), "large enough") {
		t.Errorf("a block larger than the quota: %v", err)
	}
	if m.Used() != used || s.Stats().Blocks != 0 {
		t.Errorf("refused requests left %d bytes and %d blocks", m.Used()-used, s.Stats().Blocks)
	}
	fillAll(t, s, id, page)
	if err := s.FillPage(ctx, id, 2*sluice.PageSize, 0, page, nil); !errors.Is(err, sluice.Invalid) {
		t.Errorf("a block of another length: %v", err)
	}
	for _, off := range []int64{-1, sluice.PageSize, sluice.PageSize - 1} {
		if _, err := s.Read(ctx, id, off, make([]byte, 2)); !errors.Is(err, sluice.Invalid) {
			t.Errorf("read at %d: %v, want kind Invalid", off, err)
		}
	}
	if _, err := s.Begin(ctx, id, BeginOptions{}); !errors.Is(err, sluice.Exists) {
		t.Errorf("begin: %v, want kind Exists", err)
	}
	if _, err := s.Begin(ctx, blockID(2, 0), BeginOptions{Tier: "TAPE"}); !errors.Is(err, sluice.Invalid) {
		t.Errorf("begin in no tier: %v", err)
	}
	testBadWrites(t, s)
	wantBooks(t, s, m)
}

func testBadWrites(t *testing.T, s *Store) {
	t.Helper()
	ctx, id := t.Context(), blockID(3, 0)
	w, err := s.Begin(ctx, id, BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Begin(ctx, id, BeginOptions{}); !errors.Is(err, sluice.Busy) {
		t.Errorf("second writer: %v, want kind Busy", err)
	}
	if err := s.FillPage(ctx, id, 10, 0, make([]byte, 10), nil); !errors.Is(err, sluice.Busy) {
		t.Errorf("fill of a block being written: %v, want kind Busy", err)
	}
	if err := w.WriteAt(ctx, []byte("late"), 5); !errors.Is(err, sluice.Invalid) {
		t.Errorf("a gap: %v", err)
	}
	if _, err := w.Finish(ctx, false); !errors.Is(err, sluice.Invalid) {
		t.Errorf("finish of nothing: %v", err)
	}
	if err := w.WriteAt(ctx, []byte("late"), 0); !errors.Is(err, sluice.Invalid) {
		t.Errorf("write after the end: %v", err)
	}
	if w, err = s.Begin(ctx, id, BeginOptions{}); err != nil {
		t.Fatalf("begin after an abort: %v", err)
	}
	w.WriteAt(ctx, []byte("x"), 0)
	w.Abort()
	w.Abort()
}

// Who waits for another's fill gives up with its context.
func TestFillWaits(t *testing.T) {
	hold, held := make(chan struct{}), make(chan struct{})
	var armed bool
	m := NewMemDisk(MemDiskConfig{Before: func(op, name string) error {
		if armed && op == "writeat" && strings.Contains(name, blocksDir) {
			armed = false
			close(held)
			<-hold
		}
		return nil
	}})
	s := openMem(t, m, 64<<20)
	data := pattern(1, 1000)
	armed = true
	first := make(chan error)
	go func() { first <- s.FillPage(context.Background(), blockID(1, 0), 1000, 0, data, nil) }()
	<-held
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.FillPage(ctx, blockID(1, 0), 1000, 0, data, nil); !errors.Is(err, sluice.Cancelled) {
		t.Errorf("cancelled waiter: %v", err)
	}
	if got := missing(t, s, blockID(1, 0), 1000); len(got) != 1 {
		t.Error("a page is seen before it is whole")
	}
	second := make(chan error)
	go func() { second <- s.FillPage(context.Background(), blockID(1, 0), 1000, 0, data, nil) }()
	close(hold)
	if err := errors.Join(<-first, <-second); err != nil {
		t.Error(err)
	}
	wantRead(t, s, blockID(1, 0), data)
	if n := s.Stats().Counters.Filled; n != 1 {
		t.Errorf("%d pages were written, want 1", n)
	}
}

// Few files stay open however many blocks are read.
func TestOpenFilesAreBounded(t *testing.T) {
	m := NewMemDisk(MemDiskConfig{})
	cfg := memConfig(m, 64<<20)
	cfg.MaxOpen = 10
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range uint64(100) {
		fillAll(t, s, blockID(i, 0), pattern(i, 500))
	}
	for i := range uint64(100) {
		wantRead(t, s, blockID(i, 0), pattern(i, 500))
	}
	if n := s.Stats().Open; n > 12 {
		t.Errorf("%d files are open, want about 10", n)
	}
}

// New blocks enter the first tier that has room, and the next when nothing can be
// dropped from it.
func TestTiers(t *testing.T) {
	m := NewMemDisk(MemDiskConfig{})
	s := twoDirs(t, m)
	for i := range uint64(6) {
		if err := writeBlock(t, s, blockID(i, 0), pattern(i, 4<<20), BeginOptions{Unpersisted: true}); err != nil {
			t.Fatal(err)
		}
		i, _ := s.Info(blockID(i, 0))
		if want := map[bool]string{true: "MEM", false: "SSD"}[i.ID.Content.Counter < 3]; i.Tier != want {
			t.Errorf("block %v entered %s, want %s", i.ID, i.Tier, want)
		}
	}
	if err := writeBlock(t, s, blockID(9, 0), pattern(9, 5<<20), BeginOptions{}); !errors.Is(err, sluice.NoSpace) {
		t.Errorf("%v, want kind NoSpace", err)
	}
	wantBooks(t, s, m)
}

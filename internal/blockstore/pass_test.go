package blockstore

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice"
)

// outsider is another process that holds a descriptor of a block file.
type outsider struct {
	file  File
	pass  *Passed
	asked atomic.Int64
}

// passTo opens a block as a worker does and passes it. asked is called when the space is
// wanted back.
func passTo(t testing.TB, s *Store, id sluice.BlockID, asked func(*outsider)) *outsider {
	t.Helper()
	h, err := s.OpenBlock(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	o := &outsider{}
	if o.file, err = s.cfg.Disk.Open(h.block.path(), ReadOnly); err != nil {
		t.Fatal(err)
	}
	o.pass, err = h.Pass(func() {
		o.asked.Add(1)
		if asked != nil {
			asked(o)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *outsider) letGo() {
	o.file.Close()
	o.pass.Close()
}

// A dropped block stays charged until the last who was passed a descriptor lets go; each
// is asked to, once.
func TestPassedStaysCharged(t *testing.T) {
	m := NewMemDisk(MemDiskConfig{})
	s := openMem(t, m, 16<<20)
	data := pattern(1, 2*sluice.PageSize)
	fillAll(t, s, blockID(1, 0), data)
	a, b, c := passTo(t, s, blockID(1, 0), nil), passTo(t, s, blockID(1, 0), nil), passTo(t, s, blockID(1, 0), nil)
	wantBooks(t, s, m)
	a.letGo() // of a block that lives
	a.pass.Close()
	h, err := s.OpenBlock(t.Context(), blockID(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), blockID(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Pass(func() {}); !errors.Is(err, sluice.NotFound) {
		t.Errorf("pass of a dropped block: %v, want kind NotFound", err)
	}
	if got := []int64{a.asked.Load(), b.asked.Load(), c.asked.Load()}; got[0] != 0 || got[1] != 1 || got[2] != 1 {
		t.Errorf("holders were asked %v times, want the last two once", got)
	}
	for _, letGo := range []func(){b.letGo, func() { h.Close() }, c.letGo} {
		if held := s.Stats().Tiers[0].Held; held != 2<<20 {
			t.Errorf("held %d bytes, want 2 MiB", held)
		}
		wantBooks(t, s, m)
		letGo()
	}
	if held := s.Stats().Tiers[0].Held; held != 0 {
		t.Errorf("held %d bytes after the last let go", held)
	}
	wantBooks(t, s, m)
}

// Several times the quota passes through although a holder keeps every block open until
// it is asked for it.
func TestPassedMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemDisk(MemDiskConfig{Capacity: 16 << 20})
		s, err := Open(t.Context(), memConfig(m, 16<<20))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for i := range uint64(64) {
			fillAll(t, s, blockID(i, 0), pattern(i, sluice.PageSize))
			passTo(t, s, blockID(i, 0), func(o *outsider) {
				time.AfterFunc(10*time.Millisecond, o.letGo) // a message there and back
			})
		}
		time.Sleep(time.Second) // in the bubble: everything asked back has come
		synctest.Wait()
		wantBooks(t, s, m)
		if st := s.Stats(); st.Counters.Evicted < 48 || st.Tiers[0].Held != 0 || st.Tiers[0].Quota != 16<<20 {
			t.Errorf("%+v", st)
		}
	})
}

// A holder that does not let go keeps its space; writers are refused after a while, then
// at once, and go on when it does.
func TestPassedAndDeaf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemDisk(MemDiskConfig{Capacity: 8 << 20})
		s, err := Open(t.Context(), memConfig(m, 8<<20))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var held []*outsider
		for i := range uint64(7) {
			fillAll(t, s, blockID(i, 0), pattern(i, sluice.PageSize))
			held = append(held, passTo(t, s, blockID(i, 0), nil))
		}
		big := pattern(100, 6<<20)
		for try := range 3 {
			begun := time.Now()
			if err := writeBlock(t, s, blockID(100, 0), big, BeginOptions{}); !errors.Is(err, sluice.NoSpace) {
				t.Fatalf("try %d: %v, want kind NoSpace", try, err)
			}
			if took := time.Since(begun); try == 2 && took != 0 {
				t.Errorf("try %d waited %v although waiting was in vain before", try, took)
			}
			synctest.Wait()
			wantBooks(t, s, m)
		}
		for _, o := range held {
			o.letGo()
		}
		if err := writeBlock(t, s, blockID(100, 0), big, BeginOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantBooks(t, s, m)
	})
}

// Where there is another way, what nobody holds goes first, and what is being read never.
func TestPassedGoesLast(t *testing.T) {
	m := NewMemDisk(MemDiskConfig{})
	cfg := memConfig(m, 16<<20)
	cfg.Low, cfg.High = 1, 1
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	fillAll(t, s, blockID(1, 0), pattern(1, sluice.PageSize))
	fillAll(t, s, blockID(2, 0), pattern(2, sluice.PageSize))
	held, read := passTo(t, s, blockID(1, 0), nil), passTo(t, s, blockID(2, 0), nil)
	h, err := s.OpenBlock(t.Context(), blockID(2, 0))
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(10); i < 30; i++ {
		fillAll(t, s, blockID(i, 0), pattern(i, sluice.PageSize))
	}
	if held.asked.Load()+read.asked.Load() != 0 {
		t.Error("a holder was asked although other blocks could go")
	}
	done := make(chan error, 1)
	go func() { done <- writeBlock(t, s, blockID(100, 0), pattern(100, 14<<20), BeginOptions{Pinned: true}) }()
	for held.asked.Load() == 0 {
		select {
		case err := <-done:
			t.Fatalf("the write ended without asking: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	held.letGo()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if read.asked.Load() != 0 {
		t.Error("a block was dropped while it is read")
	}
	h.Close()
	read.letGo()
	wantRead(t, s, blockID(2, 0), pattern(2, sluice.PageSize))
	wantBooks(t, s, m)
}

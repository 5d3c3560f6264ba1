package blockstore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sluicefs/sluice"
)

// memConfig is a store of one directory on m.
func memConfig(m *MemDisk, quota int64) Config {
	return Config{Worker: 7, Disk: m, Tiers: []TierConfig{{Name: "SSD", Dirs: []DirConfig{{Path: "/d", Quota: quota}}}}}
}

func openMem(t testing.TB, m *MemDisk, quota int64) *Store {
	t.Helper()
	s, err := Open(t.Context(), memConfig(m, quota))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// wantBooks checks the store's invariants, and its figures against the disk's.
func wantBooks(t testing.TB, s *Store, m *MemDisk) {
	t.Helper()
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	var charged int64
	for _, tier := range s.Stats().Tiers {
		if tier.Used+tier.Held+tier.Free != tier.Quota || tier.Used < 0 || tier.Held < 0 {
			t.Fatalf("tier %s: used %d + held %d + free %d != quota %d", tier.Name, tier.Used, tier.Held, tier.Free, tier.Quota)
		}
		charged += tier.Used + tier.Held
	}
	if m != nil && charged != m.Used() {
		t.Fatalf("the store charges %d bytes, the disk has %d", charged, m.Used())
	}
}

// moment is the disk before one of its operations, as two kinds of crash leave it.
type moment struct {
	step         int
	op           string
	killed, dark *MemDisk
}

// recordMoments clones the disk before every operation of work.
func recordMoments(t *testing.T, work func(m *MemDisk, step func() int)) []moment {
	t.Helper()
	var (
		m       *MemDisk
		moments []moment
		chance  = rand.New(rand.NewPCG(1, 2))
	)
	m = NewMemDisk(MemDiskConfig{Before: func(op, name string) error {
		if op == "readat" || op == "size" {
			return nil // nothing changes
		}
		moments = append(moments, moment{len(moments), op + " " + name, m.Clone(nil), m.Clone(chance)})
		return nil
	}})
	work(m, func() int { return len(moments) })
	return moments
}

// A crash at every step of fills, a durable write and a removal loses nothing that
// was acknowledged as durable, and never shows a wrong byte.
func TestCrashAtEveryStep(t *testing.T) {
	filled := pattern(1, 2*sluice.PageSize+100_000)
	small := pattern(2, 5000)
	only := pattern(3, sluice.PageSize+70_000)
	var finished, deleted int
	moments := recordMoments(t, func(m *MemDisk, step func() int) {
		s := openMem(t, m, 64<<20)
		fillOne(t, s, blockID(1, 0), filled, 1)
		fillAll(t, s, blockID(2, 0), small)
		w, err := s.Begin(t.Context(), blockID(3, 0), BeginOptions{Unpersisted: true})
		if err != nil {
			t.Fatal(err)
		}
		for off := 0; off < len(only); off += 400_000 {
			if err := w.WriteAt(t.Context(), only[off:min(off+400_000, len(only))], int64(off)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Finish(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		finished = step()
		fillAll(t, s, blockID(1, 0), filled)
		if err := s.Delete(t.Context(), blockID(2, 0)); err != nil {
			t.Fatal(err)
		}
		deleted = step()
		s.Close()
	})
	if len(moments) < 25 {
		t.Fatalf("only %d steps were seen", len(moments))
	}
	for _, at := range moments {
		for name, disk := range map[string]*MemDisk{"kill": at.killed, "power": at.dark} {
			t.Run(fmt.Sprintf("%s/%d", name, at.step), func(t *testing.T) {
				s := openMem(t, disk, 64<<20)
				wantBooksAfterCrash(t, s, disk)
				if at.step >= finished {
					wantRead(t, s, blockID(3, 0), only)
					if i, _ := s.Info(blockID(3, 0)); !i.Unpersisted {
						t.Errorf("before %q: the block forgot that it exists only here", at.op)
					}
				}
				if name == "kill" && at.step >= deleted {
					if _, n := s.Has(blockID(2, 0)); n != 0 {
						t.Errorf("before %q: a deleted block came back", at.op)
					}
				}
				for id, data := range map[sluice.BlockID][]byte{blockID(1, 0): filled, blockID(2, 0): small, blockID(3, 0): only} {
					wantRightOrMissing(t, s, id, data)
				}
				// What is missing can be filled, and all is well then.
				fillAll(t, s, blockID(1, 0), filled)
				wantRead(t, s, blockID(1, 0), filled)
				wantBooksAfterCrash(t, s, disk)
			})
		}
	}
}

// A crash at every step of compacting the index loses nothing that was durable.
func TestCrashDuringCompaction(t *testing.T) {
	only, small := pattern(3, 70_000), pattern(2, 50)
	var finished [4]int
	moments := recordMoments(t, func(m *MemDisk, step func() int) {
		s := openMem(t, m, 64<<20)
		s.dirs[0].log.slack = 300
		for i := range finished {
			if err := writeBlock(t, s, blockID(uint64(i), 0), only, BeginOptions{Unpersisted: true}); err != nil {
				t.Fatal(err)
			}
			finished[i] = step()
			for n := uint64(100); n < 106; n++ {
				fillAll(t, s, blockID(n, 0), small)
				if err := s.Delete(t.Context(), blockID(n, 0)); err != nil {
					t.Fatal(err)
				}
			}
		}
		s.Close()
	})
	compactions := 0
	for _, at := range moments {
		if strings.HasPrefix(at.op, "rename ") {
			compactions++
		}
		for name, disk := range map[string]*MemDisk{"kill": at.killed, "power": at.dark} {
			s := openMem(t, disk, 64<<20)
			for i, step := range finished {
				if at.step < step {
					continue
				}
				if _, n := s.Has(blockID(uint64(i), 0)); n == 0 {
					t.Fatalf("%s before step %d, %q: block %d is lost", name, at.step, at.op, i)
				}
				wantRead(t, s, blockID(uint64(i), 0), only)
			}
			s.Close()
		}
	}
	if compactions < 2 {
		t.Errorf("the index was compacted %d times, the test wants at least 2", compactions)
	}
}

// wantBooksAfterCrash is wantBooks but for pages that reached the disk before their
// index entry did: the disk may hold more than the store knows of.
func wantBooksAfterCrash(t testing.TB, s *Store, m *MemDisk) {
	t.Helper()
	wantBooks(t, s, nil)
}

// wantRightOrMissing reads every page of a block: it has the right bytes or is missing.
func wantRightOrMissing(t testing.TB, s *Store, id sluice.BlockID, data []byte) {
	t.Helper()
	for page := int64(0); page*sluice.PageSize < int64(len(data)); page++ {
		want := pageOf(data, page)
		p := make([]byte, len(want))
		_, err := s.Read(t.Context(), id, page*sluice.PageSize, p)
		if err == nil && string(p) != string(want) {
			t.Fatalf("page %d of %v has wrong bytes", page, id)
		}
		if err != nil && !errors.Is(err, sluice.NotFound) {
			t.Fatalf("page %d of %v: %v", page, id, err)
		}
	}
}

// A flipped bit in any byte of any file costs a page at most and never a wrong byte.
func TestFlippedBits(t *testing.T) {
	base := NewMemDisk(MemDiskConfig{})
	s := openMem(t, base, 64<<20)
	data := map[sluice.BlockID][]byte{
		blockID(1, 0): pattern(1, 300),
		blockID(2, 0): pattern(2, sluice.ChunkSize+1),
		blockID(3, 0): pattern(3, sluice.PageSize+sluice.ChunkSize),
	}
	for id, p := range data {
		fillAll(t, s, id, p)
	}
	s.Close()
	chance := rand.New(rand.NewPCG(3, 4))
	index := base.dirs["/d"].names[indexFile].size
	flip := func(t *testing.T, name string, bit int64) *Store {
		t.Helper()
		disk := base.Clone(nil)
		if !disk.Flip(name, bit) {
			t.Fatalf("no bit %d in %s", bit, name)
		}
		s, err := Open(t.Context(), memConfig(disk, 64<<20))
		if err != nil {
			t.Fatalf("bit %d of %s: %v", bit, name, err)
		}
		for id, p := range data {
			wantRightOrMissing(t, s, id, p)
		}
		return s
	}
	for at := range index { // every byte of the index
		s := flip(t, "/d/"+indexFile, at*8+chance.Int64N(8))
		if blocks := s.Stats().Blocks; blocks < 2 {
			t.Fatalf("byte %d of the index: %d blocks are left of 3", at, blocks)
		}
		s.Close()
	}
	for name, i := range base.dirs["/d/"+blocksDir].names {
		for range 40 {
			s := flip(t, "/d/"+blocksDir+"/"+name, chance.Int64N(i.size*8))
			if c := s.Stats().Counters.Corrupt; c != 1 {
				t.Fatalf("flipped bit in %s: %d corrupt chunks counted, want 1", name, c)
			}
			s.Close()
		}
	}
}

// A chunk that rots between two reads is found by Verify, its page can be filled again.
func TestVerify(t *testing.T) {
	m := NewMemDisk(MemDiskConfig{})
	s := openMem(t, m, 64<<20)
	id, data := blockID(1, 0), pattern(1, 3*sluice.PageSize)
	fillAll(t, s, id, data)
	wantRead(t, s, id, data)
	for name := range m.dirs["/d/"+blocksDir].names {
		m.Flip("/d/"+blocksDir+"/"+name, 8*(sluice.PageSize+5))
	}
	n, dropped, err := s.Verify(t.Context(), id)
	if err != nil || dropped != 1 || n != 2*sluice.PageSize {
		t.Fatalf("verify: %d bytes, %d dropped, %v; want 2 pages, 1, nil", n, dropped, err)
	}
	if got := missing(t, s, id, int64(len(data))); len(got) != 1 || got[0] != 1 {
		t.Fatalf("missing %v, want page 1", got)
	}
	wantBooks(t, s, m)
	fillOne(t, s, id, data, 1)
	wantRead(t, s, id, data)
	wantBooks(t, s, m)
}

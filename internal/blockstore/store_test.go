package blockstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/sluicefs/sluice"
)

// openAt opens a store of one directory of the real file system.
func openAt(t testing.TB, path string, quota int64) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Worker: 7, Tiers: []TierConfig{{Name: "SSD", Dirs: []DirConfig{{Path: path, Quota: quota}}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func blockID(counter uint64, index uint32) sluice.BlockID {
	return sluice.BlockID{Content: sluice.ContentID{Incarnation: 0xabcdef, Counter: counter}, Index: index}
}

// pattern returns n bytes that differ by seed and place.
func pattern(seed uint64, n int64) []byte {
	p := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i+8 <= len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], r.Uint64())
	}
	for i := len(p) &^ 7; i < len(p); i++ {
		p[i] = byte(r.Uint64())
	}
	return p
}

// fillAll fills every page of a block with its pattern.
func fillAll(t testing.TB, s *Store, id sluice.BlockID, data []byte) {
	t.Helper()
	for page := int64(0); page*sluice.PageSize < int64(len(data)); page++ {
		fillOne(t, s, id, data, page)
	}
}

func fillOne(t testing.TB, s *Store, id sluice.BlockID, data []byte, page int64) {
	t.Helper()
	if err := s.FillPage(t.Context(), id, int64(len(data)), page, pageOf(data, page), nil); err != nil {
		t.Fatalf("fill page %d of %v: %v", page, id, err)
	}
}

func pageOf(data []byte, page int64) []byte {
	return data[page*sluice.PageSize : min((page+1)*sluice.PageSize, int64(len(data)))]
}

// wantRead reads the whole block and compares.
func wantRead(t testing.TB, s *Store, id sluice.BlockID, data []byte) {
	t.Helper()
	p := make([]byte, len(data))
	if n, err := s.Read(t.Context(), id, 0, p); err != nil || n != len(data) {
		t.Fatalf("read %v: %d bytes of %d, %v", id, n, len(data), err)
	}
	if !bytes.Equal(p, data) {
		t.Fatalf("read %v: other bytes than were filled", id)
	}
}

// missing returns the pages that a read of the block lacks, nil where it succeeds.
func missing(t testing.TB, s *Store, id sluice.BlockID, length int64) []int64 {
	t.Helper()
	_, err := s.Read(t.Context(), id, 0, make([]byte, length))
	if err == nil {
		return nil
	}
	m, ok := errors.AsType[*MissingError](err)
	if !ok || !errors.Is(err, sluice.NotFound) {
		t.Fatalf("read %v: %v, want kind NotFound with the missing pages", id, err)
	}
	return m.Pages
}

func TestFillReadRestart(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, dir, 64<<20)
	sizes := []int64{1, 4095, sluice.ChunkSize - 1, sluice.ChunkSize, sluice.ChunkSize + 1, sluice.PageSize, sluice.PageSize + 1, 5*sluice.PageSize + 77}
	for i, n := range sizes {
		fillAll(t, s, blockID(uint64(i), 0), pattern(uint64(i), n))
	}
	check := func(s *Store) {
		t.Helper()
		for i, n := range sizes {
			id, data := blockID(uint64(i), 0), pattern(uint64(i), n)
			wantRead(t, s, id, data)
			for _, r := range [][2]int64{{0, 1}, {n - 1, 1}, {n / 3, n / 3}, {n / 2, n - n/2}} {
				p := make([]byte, r[1])
				if _, err := s.Read(t.Context(), id, r[0], p); err != nil || !bytes.Equal(p, data[r[0]:r[0]+r[1]]) {
					t.Fatalf("read %d bytes at %d of %d: wrong or %v", r[1], r[0], n, err)
				}
			}
		}
	}
	check(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, dir, 64<<20)
	if s.Worker() != 7 {
		t.Errorf("worker id %v after a restart, want 7", s.Worker())
	}
	check(s)
}

func TestWriteBlock(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, dir, 64<<20)
	data := pattern(3, 3*sluice.PageSize+12345)
	w, err := s.Begin(t.Context(), blockID(1, 2), BeginOptions{Unpersisted: true})
	if err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(data); off += 700_000 {
		piece := data[off:min(off+700_000, len(data))]
		for range 2 { // a piece repeated is taken once
			if err := w.WriteAt(t.Context(), piece, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, want := w.Checksum(), Sum(data); got != want {
		t.Errorf("checksum %08x, want %08x", got, want)
	}
	if _, n := s.Has(blockID(1, 2)); n != 0 {
		t.Error("the block is seen before Finish")
	}
	info, err := w.Finish(t.Context(), true)
	if err != nil || !info.Complete || !info.Unpersisted {
		t.Fatalf("finish: %+v, %v", info, err)
	}
	wantRead(t, s, blockID(1, 2), data)
	s.Close()
	s = openAt(t, dir, 64<<20)
	wantRead(t, s, blockID(1, 2), data)
	if i, _ := s.Info(blockID(1, 2)); !i.Unpersisted {
		t.Error("the block is not unpersisted after a restart")
	}
}

package blockstore

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/sluicefs/sluice"
)

// warm is a block of 64 MiB, filled and read once.
func warm(b *testing.B) (*Store, sluice.BlockID) {
	b.Helper()
	s := openAt(b, b.TempDir(), 256<<20)
	data := pattern(1, 64<<20)
	fillAll(b, s, blockID(1, 0), data)
	wantRead(b, s, blockID(1, 0), data)
	return s, blockID(1, 0)
}

func benchRead(b *testing.B, size int64) {
	s, id := warm(b)
	p := make([]byte, size)
	b.SetBytes(size)
	off := int64(0)
	for b.Loop() {
		if _, err := s.Read(b.Context(), id, off, p); err != nil {
			b.Fatal(err)
		}
		off = (off + size) % (64 << 20)
	}
}

func benchPread(b *testing.B, size int64) {
	s, _ := warm(b)
	names, err := filepath.Glob(filepath.Join(s.dirs[0].path, blocksDir, "*"))
	if err != nil || len(names) != 1 {
		b.Fatal(names, err)
	}
	f, err := os.Open(names[0])
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, size)
	b.SetBytes(size)
	off := int64(0)
	for b.Loop() {
		if _, err := f.ReadAt(p, off); err != nil {
			b.Fatal(err)
		}
		off = (off + size) % (64 << 20)
	}
}

// BenchmarkRead compares warm reads with pread of the same file, the limit.
func BenchmarkRead(b *testing.B) {
	b.Run("1MiB", func(b *testing.B) { benchRead(b, 1<<20) })
	b.Run("1MiB/pread", func(b *testing.B) { benchPread(b, 1<<20) })
	b.Run("4KiB", func(b *testing.B) { benchRead(b, 4<<10) })
	b.Run("4KiB/pread", func(b *testing.B) { benchPread(b, 4<<10) })
	b.Run("1MiB/first", func(b *testing.B) {
		s, id := warm(b)
		p := make([]byte, 1<<20)
		b.SetBytes(1 << 20)
		off := int64(0)
		bl := s.shard(id.Content).blocks[id]
		for b.Loop() {
			for c := off / sluice.ChunkSize; c < (off+1<<20)/sluice.ChunkSize; c++ {
				bl.setVerified(c, false)
			}
			if _, err := s.Read(b.Context(), id, off, p); err != nil {
				b.Fatal(err)
			}
			off = (off + 1<<20) % (64 << 20)
		}
	})
}

// BenchmarkFillPage fills pages of 128 MiB blocks, evicting all the while.
func BenchmarkFillPage(b *testing.B) {
	s := openAt(b, b.TempDir(), 512<<20)
	data := pattern(1, sluice.PageSize)
	sums := Sums(data)
	b.SetBytes(sluice.PageSize)
	n := int64(0)
	for b.Loop() {
		id := blockID(uint64(n/128), 0)
		if err := s.FillPage(b.Context(), id, sluice.DefaultBlockSize, n%128, data, sums); err != nil && !errors.Is(err, sluice.NotFound) {
			b.Fatal(err)
		}
		n++
	}
}

// BenchmarkFillSmall fills blocks of 64 KiB.
func BenchmarkFillSmall(b *testing.B) {
	s := openAt(b, b.TempDir(), 512<<20)
	data := pattern(1, sluice.ChunkSize)
	b.SetBytes(sluice.ChunkSize)
	n := uint64(0)
	for b.Loop() {
		if err := s.FillPage(b.Context(), blockID(n, 0), sluice.ChunkSize, 0, data, nil); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

// BenchmarkRestart opens a store of 100,000 small blocks and tells what each costs.
func BenchmarkRestart(b *testing.B) {
	const blocks = 100_000
	dir := b.TempDir()
	s := openAt(b, dir, 2<<30)
	data := pattern(1, 64)
	for i := range uint64(blocks) {
		if err := s.FillPage(b.Context(), blockID(i, 0), 64, 0, data, nil); err != nil {
			b.Fatal(err)
		}
	}
	s.Close()
	for b.Loop() {
		before := heap()
		s, err := Open(b.Context(), Config{Tiers: s.cfg.Tiers})
		if err != nil {
			b.Fatal(err)
		}
		if n := s.Stats().Blocks; n != blocks {
			b.Fatalf("%d blocks", n)
		}
		b.StopTimer()
		b.ReportMetric(float64(heap()-before)/blocks, "B/block")
		b.StartTimer()
		s.Close()
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

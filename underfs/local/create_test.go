package local_test

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/local"
)

// BenchmarkCreate writes 1 KiB files, each durable when it counts, from 16 goroutines;
// "plain" is write, fsync of the file and fsync of the directory.
func BenchmarkCreate(b *testing.B) {
	data := make([]byte, 1024)
	var n atomic.Int64
	b.Run("driver", func(b *testing.B) {
		s, err := local.Driver{}.Open(underfs.Config{URI: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				key := underfs.Key(fmt.Sprintf("f%d", n.Add(1)))
				u, err := s.Create(b.Context(), key, underfs.CreateOptions{Length: 1024})
				if err != nil {
					b.Fatal(err)
				}
				if err := u.Write(b.Context(), data); err != nil {
					b.Fatal(err)
				}
				if _, err := u.Prepare(b.Context()); err != nil {
					b.Fatal(err)
				}
				if _, err := u.Commit(b.Context(), underfs.Condition{Absent: true}); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
	b.Run("plain", func(b *testing.B) {
		dir := b.TempDir()
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				f, err := os.Create(fmt.Sprintf("%s/f%d", dir, n.Add(1)))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := f.Write(data); err != nil {
					b.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
				f.Close()
				d, err := os.Open(dir)
				if err != nil {
					b.Fatal(err)
				}
				if err := d.Sync(); err != nil {
					b.Fatal(err)
				}
				d.Close()
			}
		})
	})
}

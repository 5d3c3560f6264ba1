package client

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
)

// BenchmarkLocal4K reads 4 KiB at scattered places of a warm local file, and the same by
// a plain pread.
func BenchmarkLocal4K(b *testing.B) {
	f := newFake(b, 1, 1)
	f.block = 64 << 20
	data := noise(1, 64<<20)
	f.write("/f", data)
	c := f.client(nil)
	h, err := c.Open(b.Context(), "/f", sluice.OpenOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	if _, err := io.Copy(io.Discard, sluice.NewReader(b.Context(), h, 0)); err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 4096)
	place := func(i int) int64 { return int64(i*7919%16384) * 4096 }
	b.Run("client", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if _, err := h.ReadAt(b.Context(), p, place(i)); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
	b.Run("pread", func(b *testing.B) {
		name := filepath.Join(b.TempDir(), "f")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			b.Fatal(err)
		}
		file, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		defer file.Close()
		fd, i := int(file.Fd()), 0
		for b.Loop() {
			if _, err := unix.Pread(fd, p, place(i)); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
}

// BenchmarkSmallFiles opens, reads and closes a warm file of 64 KiB.
func BenchmarkSmallFiles(b *testing.B) {
	f := newFake(b, 1, 1)
	f.lease.Store(int64(5e9))
	f.write("/f", noise(1, 64<<10))
	c := f.client(nil)
	for f.waiting() == 0 {
		readFile(b, c, "/f")
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		p := make([]byte, 64<<10)
		for pb.Next() {
			h, err := c.Open(b.Context(), "/f", sluice.OpenOptions{})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := h.ReadAt(b.Context(), p, 0); err != nil {
				b.Fatal(err)
			}
			h.Close()
		}
	})
}

// BenchmarkRemoteSequential reads a file through frames over TCP.
func BenchmarkRemoteSequential(b *testing.B) {
	f := newFake(b, 1, 0)
	f.block = 64 << 20
	data := noise(1, 64<<20)
	f.write("/f", data)
	c := f.client(nil)
	buf := make([]byte, 1<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		h, err := c.Open(b.Context(), "/f", sluice.OpenOptions{})
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{sluice.NewReader(b.Context(), h, 0)}, buf); err != nil || n != int64(len(data)) {
			b.Fatal(n, err)
		}
		h.Close()
	}
}

// BenchmarkWrite writes a file of 64 MiB to a worker that keeps it in memory.
func BenchmarkWrite(b *testing.B) {
	f := newFake(b, 1, 1)
	c := f.client(nil)
	data := noise(1, 1<<20)
	b.SetBytes(64 << 20)
	for b.Loop() {
		w, err := c.Create(b.Context(), "/f", sluice.CreateOptions{})
		if err != nil {
			b.Fatal(err)
		}
		for range 64 {
			if _, err := w.Write(b.Context(), data); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := w.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	if !bytes.Equal(f.content("/f")[:len(data)], data) {
		b.Fatal("other bytes")
	}
}

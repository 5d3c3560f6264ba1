package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
)

const (
	largeFile = 1 << 30
	piece     = 1 << 20
)

// fill makes n reproducible bytes that do not compress.
func fill(p []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i+8 <= len(p); i += 8 {
		v := r.Uint64()
		for j := range 8 {
			p[i+j] = byte(v >> (8 * j))
		}
	}
}

// put writes a file of size bytes.
func put(ctx context.Context, fs sluice.FS, p sluice.Path, size int64, opts sluice.CreateOptions) error {
	w, err := fs.Create(ctx, p, opts)
	if err != nil {
		return err
	}
	defer w.Abort(context.WithoutCancel(ctx))
	buf := make([]byte, min(size, piece))
	fill(buf, uint64(size))
	for left := size; left > 0; left -= int64(len(buf)) {
		buf = buf[:min(left, int64(len(buf)))]
		if _, err := w.Write(ctx, buf); err != nil {
			return err
		}
	}
	_, err = w.Close(ctx)
	return err
}

// setupLarge writes the large file into the cache, and the same bytes beside it as a
// plain file on the medium of the MEM tier.
func setupLarge(ctx context.Context, b *bench) error {
	size := int64(float64(largeFile) * b.opts.Scale)
	b.files = []sluice.Path{b.dir.Join("large")}
	if err := put(ctx, b.Local, b.files[0], size, sluice.CreateOptions{Write: sluice.MustCache}); err != nil {
		return err
	}
	name := filepath.Join(b.MemDir, "bench-large")
	b.plain = []string{name}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	buf := make([]byte, piece)
	fill(buf, uint64(size))
	for off := int64(0); off < size; off += piece {
		if _, err := f.WriteAt(buf[:min(piece, size-off)], off); err != nil {
			return err
		}
	}
	b.keep = size
	return nil
}

// readAll reads the whole of h in pieces into one buffer.
func readAll(ctx context.Context, h sluice.Handle, buf []byte) error {
	size := h.Info().Length
	for off := int64(0); off < size; off += int64(len(buf)) {
		n, err := h.ReadAt(ctx, buf[:min(int64(len(buf)), size-off)], off)
		if err != nil && !(err == io.EOF && off+int64(n) == size) {
			return err
		}
	}
	return nil
}

// sequential reads the large file with c by streams at once.
func sequential(c func(*bench) *client.Client, streams int, fresh bool) func(context.Context, *bench) (float64, error) {
	return func(ctx context.Context, b *bench) (float64, error) {
		if fresh {
			// A new content has chunks that nobody has verified.
			p := b.dir.Join(fmt.Sprintf("fresh-%d", b.run))
			if err := put(ctx, b.Local, p, b.keep.(int64), sluice.CreateOptions{Write: sluice.MustCache}); err != nil {
				return 0, err
			}
			defer func() { _ = b.Local.Remove(ctx, p, sluice.RemoveOptions{}) }() // frees room for the next run
			b.files = []sluice.Path{p}
		}
		return parallel(streams, b.keep.(int64), func(int) error {
			h, err := c(b).Open(ctx, b.files[0], sluice.OpenOptions{})
			if err != nil {
				return err
			}
			defer h.Close()
			return readAll(ctx, h, make([]byte, piece))
		})
	}
}

// parallel runs do for each stream and returns GB/s over all of them.
func parallel(streams int, each int64, do func(i int) error) (float64, error) {
	return speed(each*int64(streams), func() error {
		var wg sync.WaitGroup
		failed := make([]error, streams)
		for i := range streams {
			wg.Go(func() { failed[i] = do(i) })
		}
		wg.Wait()
		return errors.Join(failed...)
	})
}

// plainRead reads the plain file by pread.
func plainRead(_ context.Context, b *bench) (float64, error) {
	f, err := os.Open(b.plain[0])
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, piece)
	size := b.keep.(int64)
	return speed(size, func() error {
		for off := int64(0); off < size; off += piece {
			if _, err := f.ReadAt(buf[:min(piece, size-off)], off); err != nil {
				return err
			}
		}
		return nil
	})
}

// sendfile reads the plain file through loopback TCP, sent by sendfile.
func sendfile(streams int) func(context.Context, *bench) (float64, error) {
	return func(_ context.Context, b *bench) (float64, error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		defer l.Close()
		size := b.keep.(int64)
		var sending sync.WaitGroup
		defer sending.Wait()
		sending.Go(func() {
			for range streams {
				c, err := l.Accept()
				if err != nil {
					return
				}
				sending.Go(func() {
					defer c.Close()
					f, err := os.Open(b.plain[0])
					if err != nil {
						return
					}
					defer f.Close()
					_, _ = io.Copy(c, io.LimitReader(f, size)) // a short copy fails the reader
				})
			}
		})
		return parallel(streams, size, func(int) error {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			defer c.Close()
			buf := make([]byte, piece)
			for left := size; left > 0; {
				n, err := io.ReadFull(c, buf[:min(left, piece)])
				left -= int64(n)
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// random4k reads n random 4 KiB pieces by one caller.
func random4k(read func(p []byte, off int64) error, size int64, n int, seed uint64) (float64, error) {
	r := rand.New(rand.NewPCG(seed, 2))
	buf := make([]byte, 4096)
	return rate(context.Background(), 1, n, func(context.Context, int) error { return read(buf, r.Int64N(size/4096)*4096) })
}

func local(b *bench) *client.Client  { return b.Local }
func remote(b *bench) *client.Client { return b.Remote }

func readCases() []benchCase {
	const randoms = 200_000
	return []benchCase{
		{name: "read/local/first", unit: "GB/s", setup: setupLarge, value: sequential(local, 1, true), limit: plainRead},
		{name: "read/local/seq", unit: "GB/s", setup: warmLarge(local), value: sequential(local, 1, false), limit: plainRead},
		{name: "read/local/seq4", unit: "GB/s", setup: warmLarge(local), value: sequential(local, 4, false), limit: plainRead4},
		{name: "read/local/rand4k", unit: "ops/s", setup: warmLarge(local),
			value: func(ctx context.Context, b *bench) (float64, error) {
				h, err := b.Local.Open(ctx, b.files[0], sluice.OpenOptions{})
				if err != nil {
					return 0, err
				}
				defer h.Close()
				return random4k(func(p []byte, off int64) error { _, err := h.ReadAt(ctx, p, off); return err }, b.keep.(int64), b.scaled(randoms), uint64(b.run))
			},
			limit: func(_ context.Context, b *bench) (float64, error) {
				f, err := os.Open(b.plain[0])
				if err != nil {
					return 0, err
				}
				defer f.Close()
				return random4k(func(p []byte, off int64) error { _, err := f.ReadAt(p, off); return err }, b.keep.(int64), b.scaled(randoms), uint64(b.run))
			}},
		{name: "read/remote/seq", unit: "GB/s", setup: warmLarge(remote), value: sequential(remote, 1, false), limit: sendfile(1)},
		{name: "read/remote/seq4", unit: "GB/s", setup: warmLarge(remote), value: sequential(remote, 4, false), limit: sendfile(4)},
		{name: "read/small/first", unit: "files/s", setup: setupSmall, value: readSmall(true)},
		{name: "read/small/repeated", unit: "files/s", setup: setupSmall, value: readSmall(false)},
	}
}

func plainRead4(ctx context.Context, b *bench) (float64, error) {
	return parallel(4, b.keep.(int64), func(int) error { _, err := plainRead(ctx, b); return err })
}

// warmLarge reads the large file once, so that every chunk has been verified.
func warmLarge(c func(*bench) *client.Client) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		if err := setupLarge(ctx, b); err != nil {
			return err
		}
		_, err := sequential(c, 1, false)(ctx, b)
		return err
	}
}

// setupSmall writes 10,000 files of 64 KiB.
func setupSmall(ctx context.Context, b *bench) error {
	n := b.scaled(10_000)
	b.files = make([]sluice.Path, n)
	_, err := rate(ctx, 16, n, func(ctx context.Context, i int) error {
		b.files[i] = b.dir.Join(fmt.Sprintf("f%05d", i))
		return put(ctx, b.Local, b.files[i], 64<<10, sluice.CreateOptions{Write: sluice.MustCache})
	})
	return err
}

// readSmall opens, reads and closes each file, 16 callers. The first time each client
// knows nothing; repeated, it may use what it was granted.
func readSmall(first bool) func(context.Context, *bench) (float64, error) {
	return func(ctx context.Context, b *bench) (float64, error) {
		c := b.Local
		if first {
			fresh, err := b.Connect(ctx)
			if err != nil {
				return 0, err
			}
			defer fresh.Close(ctx)
			c = fresh
		}
		bufs := sync.Pool{New: func() any { return new([64 << 10]byte) }}
		return rate(ctx, 16, len(b.files), func(ctx context.Context, i int) error {
			h, err := c.Open(ctx, b.files[i], sluice.OpenOptions{})
			if err != nil {
				return err
			}
			defer h.Close()
			buf := bufs.Get().(*[64 << 10]byte)
			defer bufs.Put(buf)
			return readAll(ctx, h, buf[:])
		})
	}
}

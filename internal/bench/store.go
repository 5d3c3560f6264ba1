package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// objectName is the object that cold reads are measured with.
const objectName = "bench-object"

func storeCases() []benchCase {
	bucket := func(c *Cluster) bool { return c.Bucket != "" }
	link := func(c *Cluster) bool { return c.Link != "" }
	return []benchCase{
		{name: "write/through/seq", unit: "GB/s", value: writeThrough, limit: plainWrite},
		{name: "read/cold/loopback", unit: "GB/s", needs: bucket, setup: setupObject,
			value: cold(func(b *bench) sluice.Path { return b.Bucket }), limit: get(func(b *bench) underfs.Baseline { return b.BucketStore })},
		{name: "read/cold/link", unit: "GB/s", needs: link, setup: setupObject,
			value: cold(func(b *bench) sluice.Path { return b.Link }), limit: get(func(b *bench) underfs.Baseline { return b.LinkStore })},
	}
}

// writeThrough writes the large file into the mounted directory.
func writeThrough(ctx context.Context, b *bench) (float64, error) {
	size := int64(float64(largeFile) * b.opts.Scale)
	p := b.Through.Join(fmt.Sprintf("written-%d", b.run))
	v, err := speed(size, func() error { return put(ctx, b.Local, p, size, sluice.CreateOptions{Write: sluice.CacheThrough}) })
	if err != nil {
		return 0, err
	}
	return v, b.Local.Remove(ctx, p, sluice.RemoveOptions{})
}

// plainWrite writes the same to the store's directory, synced with its directory, and
// then to the MEM tier's medium, one after the other.
func plainWrite(_ context.Context, b *bench) (float64, error) {
	size := int64(float64(largeFile) * b.opts.Scale)
	buf := make([]byte, piece)
	fill(buf, uint64(size))
	write := func(dir string, sync bool) error {
		name := filepath.Join(dir, "plain-write")
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		defer os.Remove(name)
		defer f.Close()
		for left := size; left > 0; left -= piece {
			if _, err := f.Write(buf[:min(left, piece)]); err != nil {
				return err
			}
		}
		if !sync {
			return nil
		}
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer d.Close()
		if err := f.Sync(); err != nil {
			return err
		}
		return d.Sync()
	}
	return speed(size, func() error {
		if err := write(b.StoreDir, true); err != nil {
			return err
		}
		return write(b.MemDir, false)
	})
}

// setupObject puts one large object into the bucket with its own client.
func setupObject(ctx context.Context, b *bench) error {
	size := int64(float64(largeFile) * b.opts.Scale)
	b.keep = size
	buf := make([]byte, piece)
	fill(buf, uint64(size))
	readers := make([]io.Reader, 0, size/piece+1)
	for left := size; left > 0; left -= piece {
		readers = append(readers, bytes.NewReader(buf[:min(left, piece)]))
	}
	return b.BucketStore.Put(ctx, objectName, io.MultiReader(readers...), size)
}

// cold reads the object through Sluice with an empty cache.
func cold(at func(*bench) sluice.Path) func(context.Context, *bench) (float64, error) {
	return func(ctx context.Context, b *bench) (float64, error) {
		p := at(b).Join(objectName)
		if _, err := b.Local.Free(ctx, p); err != nil && sluice.KindOf(err) != sluice.NotFound {
			return 0, err
		}
		return speed(b.keep.(int64), func() error {
			h, err := b.Local.Open(ctx, p, sluice.OpenOptions{})
			if err != nil {
				return err
			}
			defer h.Close()
			return readAll(ctx, h, make([]byte, piece))
		})
	}
}

// get reads the object with the store's own client.
func get(from func(*bench) underfs.Baseline) func(context.Context, *bench) (float64, error) {
	return func(ctx context.Context, b *bench) (float64, error) {
		return speed(b.keep.(int64), func() error {
			_, err := from(b).Get(ctx, objectName, sink{})
			return err
		})
	}
}

// sink is io.Discard without its ReaderFrom, so that every copy reads in its own pieces.
type sink struct{}

// Write implements io.Writer.
func (sink) Write(p []byte) (int, error) { return len(p), nil }

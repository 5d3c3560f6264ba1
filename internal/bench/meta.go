package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
)

const callers = 64

func metaCases() []benchCase {
	return []benchCase{
		{name: "meta/stat", unit: "ops/s", setup: setupEmpty(1000), limit: echoes, value: func(ctx context.Context, b *bench) (float64, error) {
			return rate(ctx, callers, b.scaled(300_000), func(ctx context.Context, i int) error {
				_, err := b.Remote.Stat(ctx, b.files[i%len(b.files)], sluice.StatOptions{})
				return err
			})
		}},
		{name: "meta/create", unit: "ops/s", limit: groupSyncs(50_000), value: func(ctx context.Context, b *bench) (float64, error) {
			return createEmpty(ctx, b, fmt.Sprintf("run%d", b.run), b.scaled(50_000))
		}},
		{name: "meta/rename", unit: "ops/s", limit: groupSyncs(50_000), setup: setupEmpty(50_000), value: func(ctx context.Context, b *bench) (float64, error) {
			return rate(ctx, callers, len(b.files), func(ctx context.Context, i int) error {
				to := b.dir.Join(fmt.Sprintf("r%d-%06d", b.run, i))
				err := b.Remote.Rename(ctx, b.files[i], to, sluice.RenameOptions{})
				b.files[i] = to
				return err
			})
		}},
		{name: "meta/delete", unit: "ops/s", limit: groupSyncs(50_000), value: func(ctx context.Context, b *bench) (float64, error) {
			if err := setupEmpty(50_000)(ctx, b); err != nil {
				return 0, err
			}
			return rate(ctx, callers, len(b.files), func(ctx context.Context, i int) error {
				return b.Remote.Remove(ctx, b.files[i], sluice.RemoveOptions{})
			})
		}},
		{name: "meta/create/through", unit: "ops/s", value: func(ctx context.Context, b *bench) (float64, error) {
			dir := b.Through.Join(fmt.Sprintf("create-%d", b.run))
			if _, err := b.Local.Mkdir(ctx, dir, sluice.MkdirOptions{}); err != nil {
				return 0, err
			}
			defer func() { _ = b.Local.Remove(ctx, dir, sluice.RemoveOptions{Recursive: true}) }() // the store is the benchmark's own
			return rate(ctx, 16, b.scaled(5_000), func(ctx context.Context, i int) error {
				return put(ctx, b.Local, dir.Join(fmt.Sprintf("f%06d", i)), 1024, sluice.CreateOptions{Write: sluice.CacheThrough})
			})
		}, limit: plainCreates},
		{name: "meta/list", unit: "entries/s", setup: setupEmpty(100_000), value: func(ctx context.Context, b *bench) (float64, error) {
			n := 0
			begin := time.Now()
			for _, err := range b.Remote.List(ctx, b.dir, sluice.ListOptions{}) {
				if err != nil {
					return 0, err
				}
				n++
			}
			if n != len(b.files) {
				return 0, fmt.Errorf("listed %d entries of %d", n, len(b.files))
			}
			return float64(n) / time.Since(begin).Seconds(), nil
		}},
	}
}

// setupEmpty makes n empty files.
func setupEmpty(n int) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		b.files = make([]sluice.Path, b.scaled(n))
		for i := range b.files {
			b.files[i] = b.dir.Join(fmt.Sprintf("e%d-%06d", b.run, i))
		}
		_, err := rate(ctx, callers, len(b.files), func(ctx context.Context, i int) error { return create(ctx, b, b.files[i]) })
		return err
	}
}

// create makes one empty file, acknowledged after it is synced.
func create(ctx context.Context, b *bench, p sluice.Path) error {
	w, err := b.Remote.Create(ctx, p, sluice.CreateOptions{Empty: true, Exclusive: true})
	if err != nil {
		return err
	}
	_, err = w.Close(ctx)
	return err
}

func createEmpty(ctx context.Context, b *bench, name string, n int) (float64, error) {
	dir := b.dir.Join(name)
	if _, err := b.Remote.Mkdir(ctx, dir, sluice.MkdirOptions{}); err != nil {
		return 0, err
	}
	return rate(ctx, callers, n, func(ctx context.Context, i int) error {
		return create(ctx, b, dir.Join(fmt.Sprintf("c%06d", i)))
	})
}

// echoes are round trips to the master that do nothing.
func echoes(ctx context.Context, b *bench) (float64, error) {
	return rate(ctx, callers, b.scaled(300_000), func(ctx context.Context, _ int) error { return b.Echo(ctx) })
}

// groupSyncs are n records of 128 bytes by 64 callers, each acknowledged after a sync
// that all who wait at that moment share.
func groupSyncs(n int) func(context.Context, *bench) (float64, error) {
	return func(ctx context.Context, b *bench) (float64, error) {
		f, err := os.CreateTemp(b.StoreDir, "sync-")
		if err != nil {
			return 0, err
		}
		defer os.Remove(f.Name())
		defer f.Close()
		log := &groupLog{file: f}
		log.idle = sync.NewCond(&log.mu)
		return rate(ctx, callers, b.scaled(n), func(context.Context, int) error { return log.append() })
	}
}

// groupLog lets one caller write and sync for all who came meanwhile.
type groupLog struct {
	file    *os.File
	mu      sync.Mutex
	idle    *sync.Cond
	waiting int
	round   int // the round that is gathering
	synced  int // rounds that are durable
	busy    bool
	err     error
}

func (l *groupLog) append() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	mine := l.round
	l.waiting++
	for l.synced <= mine {
		if l.busy {
			l.idle.Wait()
			continue
		}
		n := l.waiting
		l.waiting, l.busy = 0, true
		l.round++
		l.mu.Unlock()
		_, err := l.file.Write(make([]byte, 128*n))
		if err == nil {
			err = l.file.Sync()
		}
		l.mu.Lock()
		l.busy, l.err = false, err
		l.synced = l.round
		l.idle.Broadcast()
	}
	return l.err
}

// plainCreates makes files of 1 KiB in the store's directory, each written to a
// temporary name, synced, renamed, and its directory synced: what a careful program does.
func plainCreates(ctx context.Context, b *bench) (float64, error) {
	dir, err := os.MkdirTemp(b.StoreDir, "plain-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	d, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	data := make([]byte, 1024)
	return rate(ctx, 16, b.scaled(5_000), func(_ context.Context, i int) error {
		name := filepath.Join(dir, fmt.Sprintf("f%06d", i))
		f, err := os.Create(name + ".tmp")
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Write(data); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		if err := os.Rename(name+".tmp", name); err != nil {
			return err
		}
		return d.Sync()
	})
}

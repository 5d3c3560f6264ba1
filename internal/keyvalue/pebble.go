package keyvalue

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sluicefs/sluice"
)

// OpenPebble opens the store in cfg.Dir, making it where there is none. Errors: Invalid
// for the configuration, Busy when another process has it open, Corrupt, Internal.
func OpenPebble(cfg PebbleConfig) (DB, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d := &pebbleDB{failed: make(chan struct{})}
	// Pebble takes memtables out of the cache's size: those of a steady load come on top,
	// else they would leave no room for a single block.
	cache := pebble.NewCache(cmp.Or(cfg.CacheBytes, DefaultCacheBytes) + busyMemtables*memtableBytes)
	defer cache.Unref()
	db, err := pebble.Open(cfg.Dir, cfg.options(d, cache))
	if err != nil {
		return nil, storeError("open state", fmt.Errorf("%s: %w", cfg.Dir, err))
	}
	d.db = db
	return d, nil
}

// pebbleDB is a DB on Pebble.
type pebbleDB struct {
	db     *pebble.DB
	stalls atomic.Int64

	mu     sync.Mutex
	failed chan struct{} // closed and replaced at each failure in the background
	cause  error         // of the last failure
}

func (d *pebbleDB) Get(key []byte) ([]byte, bool, error) { return get(d.db, key) }

func (d *pebbleDB) Scan(lo, hi []byte) Iterator { return scan(d.db, lo, hi) }

func (d *pebbleDB) Batch() Batch { return newOverlay(d, d.apply) }

func (d *pebbleDB) Snapshot() Snapshot { return pebbleSnapshot{d.db.NewSnapshot()} }

// apply commits a batch to the memtable; there is no log to wait for.
func (d *pebbleDB) apply(o *overlay) error {
	b := d.db.NewBatchWithSize(o.bytes + 12*len(o.rows) + 64)
	defer func() { _ = b.Close() }()
	o.order() // neighbours after each other cost less, and the same batch gives the same bytes
	for _, k := range o.sorted {
		c := o.rows[k]
		var err error
		if c.deleted {
			err = b.Delete([]byte(k), nil)
		} else {
			err = b.Set([]byte(k), c.value, nil)
		}
		if err != nil {
			return storeError("commit", err)
		}
	}
	return storeError("commit", d.db.Apply(b, pebble.NoSync))
}

// Flush waits for the memtables of the moment, or for the first failure to write one.
func (d *pebbleDB) Flush() error {
	d.mu.Lock()
	failed := d.failed
	d.mu.Unlock()
	done, err := d.db.AsyncFlush()
	if err != nil {
		return storeError("flush", err)
	}
	select {
	case <-done:
		return nil
	case <-failed:
		d.mu.Lock()
		defer d.mu.Unlock()
		return storeError("flush", d.cause)
	}
}

// fail wakes every waiting Flush with err. Pebble calls it and tries again by itself.
func (d *pebbleDB) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cause = err
	close(d.failed)
	d.failed = make(chan struct{})
}

func (d *pebbleDB) Checkpoint(dir string) error {
	return storeError("checkpoint", d.db.Checkpoint(dir))
}

func (d *pebbleDB) Close() error { return storeError("close state", d.db.Close()) }

// storeError puts an error of Pebble into our words.
func storeError(op string, err error) error {
	if err == nil {
		return nil
	}
	kind := sluice.KindOf(err)
	switch {
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		kind = sluice.NoSpace
	case pebble.IsCorruptionError(err):
		kind = sluice.Corrupt
	case errors.Is(err, syscall.EAGAIN):
		kind = sluice.Busy
	}
	return &sluice.Error{Op: op, Kind: kind, Err: err}
}

func get(r pebble.Reader, key []byte) ([]byte, bool, error) {
	v, closer, err := r.Get(key)
	if err != nil {
		if errors.Is(err, pebble.ErrNotFound) {
			return nil, false, nil
		}
		return nil, false, storeError("get", err)
	}
	value := append([]byte{}, v...)
	return value, true, storeError("get", closer.Close())
}

func scan(r pebble.Reader, lo, hi []byte) Iterator {
	if hi != nil && bytes.Compare(lo, hi) >= 0 {
		return &pebbleIterator{}
	}
	if len(lo) == 0 {
		lo = nil // Pebble's own checks trip over a bound that is empty and not nil
	}
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	return &pebbleIterator{it: it, err: storeError("scan", err)}
}

// pebbleIterator is nil inside when it is empty, failed or closed.
type pebbleIterator struct {
	it      *pebble.Iterator
	started bool
	err     error
}

func (p *pebbleIterator) Next() bool {
	if p.it == nil {
		return false
	}
	if !p.started {
		p.started = true
		return p.it.First()
	}
	return p.it.Valid() && p.it.Next()
}

func (p *pebbleIterator) Key() []byte   { return p.it.Key() }
func (p *pebbleIterator) Value() []byte { return p.it.Value() }

func (p *pebbleIterator) Err() error {
	if p.err == nil && p.it != nil {
		p.err = storeError("scan", p.it.Error())
	}
	return p.err
}

func (p *pebbleIterator) Close() error {
	if p.it == nil {
		return p.err
	}
	err := p.it.Close()
	p.it = nil
	if p.err == nil {
		p.err = storeError("scan", err)
	}
	return p.err
}

// pebbleSnapshot is a Snapshot of Pebble's.
type pebbleSnapshot struct{ s *pebble.Snapshot }

func (s pebbleSnapshot) Get(key []byte) ([]byte, bool, error) { return get(s.s, key) }
func (s pebbleSnapshot) Scan(lo, hi []byte) Iterator          { return scan(s.s, lo, hi) }
func (s pebbleSnapshot) Close() error                         { return storeError("close snapshot", s.s.Close()) }

// logger hands what Pebble says to slog.
type logger struct{ log *slog.Logger }

func (l logger) Infof(format string, args ...any) {
	l.log.Debug("state store", slog.String("says", fmt.Sprintf(format, args...)))
}

func (l logger) Errorf(format string, args ...any) {
	l.log.Error("state store", slog.String("says", fmt.Sprintf(format, args...)))
}

// Fatalf is called where Pebble cannot go on without harm to its files: so it ends here.
func (l logger) Fatalf(format string, args ...any) {
	l.log.Error("state store cannot go on", slog.String("says", fmt.Sprintf(format, args...)))
	panic(fmt.Sprintf("state store: "+format, args...))
}

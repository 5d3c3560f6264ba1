package keyvalue

import (
	"context"
	"errors"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
)

// The sizes of a store on Pebble.
const (
	// DefaultCacheBytes is the memory for blocks of tables when nothing is set.
	DefaultCacheBytes = 64 << 20
	// memtableBytes holds some 300,000 rows of a file system: at 80,000 rows a second
	// a flush every four seconds, which takes a fraction of one.
	memtableBytes = 32 << 20
	// memtables is how many may wait to be written before commits wait.
	memtables = 4
	// busyMemtables is how many there are while changes come steadily: one that fills and
	// one that is being written.
	busyMemtables = 2
)

// PebbleConfig says where a store lies and what it may use.
type PebbleConfig struct {
	FS         vfs.FS // nil is the disk
	Dir        string // made if absent; belongs to the store alone
	CacheBytes int64  // memory for blocks of tables; 0 is DefaultCacheBytes
	Logger     *slog.Logger
}

// Validate says what is wrong, with kind Invalid.
func (c PebbleConfig) Validate() error {
	var err error
	switch {
	case c.Dir == "":
		err = errors.New("the directory is empty: name one that the store has to itself")
	case c.CacheBytes < 0:
		err = errors.New("the cache size is negative: give bytes, or 0 for 64 MiB")
	}
	if err != nil {
		return &sluice.Error{Op: "open state", Kind: sluice.Invalid, Err: err}
	}
	return nil
}

// options translates c into Pebble's.
func (c PebbleConfig) options(d *pebbleDB, cache *pebble.Cache) *pebble.Options {
	log := c.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	fs := c.FS
	if fs == nil {
		fs = vfs.Default
	}
	o := &pebble.Options{
		FS:                          fs,
		Cache:                       cache,
		DisableWAL:                  true, // the journal is the log
		FormatMajorVersion:          pebble.FormatTableFormatV6,
		MemTableSize:                memtableBytes,
		MemTableStopWritesThreshold: memtables,
		// Small pieces and early merging: a lookup meets few tables, and Close waits
		// for one short compaction.
		FlushSplitBytes:            2 << 20,
		L0CompactionThreshold:      2,
		L0StopWritesThreshold:      32,
		LBaseMaxBytes:              64 << 20,
		MaxOpenFiles:               500,
		CompactionConcurrencyRange: func() (int, int) { return 1, 2 },
		Logger:                     logger{log},
		EventListener: &pebble.EventListener{
			BackgroundError: d.fail,
			WriteStallBegin: func(pebble.WriteStallBeginInfo) { d.stalls.Add(1) },
		},
	}
	o.TargetFileSizes[0] = 4 << 20
	for i := range o.Levels {
		l := &o.Levels[i]
		l.BlockSize = 8 << 10
		l.IndexBlockSize = 64 << 10
		l.FilterPolicy = bloom.FilterPolicy(10)
		l.Compression = func() *sstable.CompressionProfile { return sstable.FastestCompression }
		if i >= len(o.Levels)-2 {
			l.BlockSize = 16 << 10
			l.Compression = func() *sstable.CompressionProfile { return sstable.ZstdCompression }
		}
	}
	return o
}

// Stats returns Pebble's own figures.
func (d *pebbleDB) Stats() Stats {
	m := d.db.Metrics()
	return Stats{
		DiskBytes:     int64(m.DiskSpaceUsage()),
		TableBytes:    int64(m.Table.Local.LiveSize),
		Tables:        int64(m.Table.Local.LiveCount),
		MemtableBytes: int64(m.MemTable.Size),
		CacheBytes:    m.BlockCache.Size,
		CacheHits:     m.BlockCache.Hits,
		CacheMisses:   m.BlockCache.Misses,
		Flushes:       m.Flush.Count,
		Compactions:   m.Compact.Count,
		ReadAmp:       int64(m.ReadAmp()),
		Stalls:        d.stalls.Load(),
	}
}

// Compact rewrites every table once.
func (d *pebbleDB) Compact() error {
	if err := d.Flush(); err != nil {
		return err
	}
	first, last, err := d.ends()
	if err != nil || first == nil {
		return err
	}
	return storeError("compact", d.db.Compact(context.Background(), first, append(last, 0), false))
}

// ends returns the first and last key, nil when there is none.
func (d *pebbleDB) ends() (first, last []byte, err error) {
	it, err := d.db.NewIter(nil)
	if err != nil {
		return nil, nil, storeError("scan", err)
	}
	if it.First() {
		first = append([]byte{}, it.Key()...)
	}
	if it.Last() {
		last = append([]byte{}, it.Key()...)
	}
	return first, last, storeError("scan", it.Close())
}

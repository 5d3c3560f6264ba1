// Package keyvalue owns the small ordered key-value store in which the masters keep
// their state: get, scan, batch, snapshot, flush, checkpoint. It has two forms, one
// on Pebble and one in memory, which pass one test suite.
//
// It refuses a log of its own: after a crash the store holds some prefix of the
// batches committed to it, each whole, and at least those that a Flush has seen. Who
// needs the rest replays it. It knows nothing of what keys and values mean.
package keyvalue

// Reader is a consistent view of ordered keys. A Reader of a [DB] sees each committed
// batch whole; two calls may see different batches, one Scan sees one state. It may
// be used from several goroutines, save that of a [Batch].
type Reader interface {
	// Get returns the value of key. The value is the caller's to keep and change. A
	// key that is absent is found == false, not an error; a present key may have an
	// empty value. An error is of kind Corrupt or Internal.
	Get(key []byte) (value []byte, found bool, err error)
	// Scan walks the keys in [lo, hi) in the order of bytes.Compare, as they are at
	// the moment of the call. lo nil is from the start, hi nil is to the end. The
	// bounds are copied. The iterator must be closed.
	Scan(lo, hi []byte) Iterator
}

// Iterator walks keys upwards. It belongs to one goroutine.
type Iterator interface {
	// Next moves to the next key, at first to the first one, and says whether there
	// is one. After false it stays false.
	Next() bool
	// Key returns the current key, valid until Next or Close, not to be changed.
	Key() []byte
	// Value returns the current value, valid until Next or Close, not to be changed.
	Value() []byte
	// Err returns what ended the walk early, nil at the true end.
	Err() error
	// Close releases the iterator and returns Err. It may be called again.
	Close() error
}

// DB is one store. Its methods may run at once from several goroutines. Every
// iterator, batch and snapshot must be closed before Close.
type DB interface {
	Reader
	// Batch returns an empty batch over the store.
	Batch() Batch
	// Snapshot returns a view of the present state that no later commit changes.
	Snapshot() Snapshot
	// Flush returns when every batch committed before the call is durable. It may
	// take long and runs beside reads and commits. An error (kind NoSpace where the
	// disk is full, else Internal) means that durability is not known; the store goes
	// on, tries again by itself, and Flush may be called again.
	Flush() error
	// Checkpoint makes dir, which must not exist, a store of what is durable (at
	// least everything of the last Flush), by hard links where the file system has
	// them. The store in memory answers Unsupported.
	Checkpoint(dir string) error
	// Stats returns sizes and counters.
	Stats() Stats
	// Compact brings the files to their smallest form. It may take minutes and runs
	// beside everything else.
	Compact() error
	// Close releases the store. It does not flush.
	Close() error
}

// Batch gathers changes that become visible and durable together. It reads its own
// changes over the current state of its DB. It belongs to one goroutine; after Commit
// or Discard it is empty and may be used again.
type Batch interface {
	Reader
	// Set puts value under key; both are copied. An empty key panics, here and in
	// Delete.
	Set(key, value []byte)
	// Delete removes key, present or not; it is copied.
	Delete(key []byte)
	// Len returns the number of keys set or deleted.
	Len() int
	// Commit makes the changes visible in one step. They are durable after a later
	// Flush. With an error nothing has become visible and the batch is unchanged.
	Commit() error
	// Discard drops the changes. After Commit it does nothing, so it may be deferred.
	Discard()
}

// Snapshot is a state of a store that does not change. It may be used from several
// goroutines. It must be closed soon: it keeps old versions of rows on disk.
type Snapshot interface {
	Reader
	// Close releases the snapshot, after its iterators are closed.
	Close() error
}

// Stats describes a store at one moment. What a form does not know is zero.
type Stats struct {
	DiskBytes     int64 // files on disk, those about to be deleted included
	TableBytes    int64 // live tables
	Tables        int64 // live tables
	MemtableBytes int64 // changes that are not yet in tables
	CacheBytes    int64 // blocks held in memory
	CacheHits     int64
	CacheMisses   int64
	Flushes       int64
	Compactions   int64
	ReadAmp       int64 // tables a read may have to look into
	Stalls        int64 // times a commit had to wait for flushes or compactions
	Keys          int64 // in memory only
}

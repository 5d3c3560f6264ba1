// Package blockstore is the worker's store: cached blocks as sparse files in
// directories of tiers, each directory with a quota, an index of pages and
// checksums, and an order of eviction.
//
// It owns what lies in those directories and every byte of space they use. It keeps
// promise 3 (no chunk leaves unchecked: what fails its checksum is dropped), its part
// of promise 5 (what is unpersisted or pinned is never evicted, and is durable
// before it counts) and of promise 9 (space is reserved before it is used).
//
// It refuses to know where bytes come from: no under store, no network, no grants,
// no master. It does not decide which blocks a worker should hold.
//
// A block file holds the data and nothing else; all that is known about it stands in
// the index of its directory, a log described in docs/format/blockstore.md.
//
// Lock order: the mutex of a shard before that of a directory. Neither is held
// across disk I/O or a channel wait; what takes time is marked on the block, and
// others wait for the mark with their context.
package blockstore

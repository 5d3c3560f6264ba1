package worker

import (
	"sync/atomic"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/blockstore"
)

// counters are what a worker counts.
type counters struct {
	hits, hitBytes, misses, missBytes atomic.Int64
	fills, fetched, waits             atomic.Int64
	ahead, uncached, corrupt          atomic.Int64
	opened                            atomic.Int64
	written, sealed, committed        atomic.Int64
	discarded                         atomic.Int64
}

func (c *counters) hit(n int64)  { c.hits.Add(1); c.hitBytes.Add(n) }
func (c *counters) miss(n int64) { c.misses.Add(1); c.missBytes.Add(n) }

// Stats says what a worker did since its start and what it holds.
type Stats struct {
	Hits, HitBytes    int64 // ranges sent from the block store, and their bytes
	Misses, MissBytes int64 // pages that were fetched for a reader
	Fills             int64 // calls to read from stores
	FetchedBytes      int64 // bytes read from stores
	Waits             int64 // pages that a reader found on their way for another
	Ahead             int64 // pages fetched ahead of their readers
	Uncached          int64 // pages served and not kept
	Corrupt           int64 // chunks and pages dropped because they failed their checksum
	Opened            int64 // descriptors passed
	Holders           int64 // clients that hold descriptors
	Descriptors       int64 // held by them
	Recalled          int64 // descriptors asked back
	Refused           int64 // descriptors not passed: the client holds too many, or does not give back
	WrittenBytes      int64 // taken from writers
	Sealed            int64 // contents
	Committed         int64 // contents made visible in their store by an order
	Discarded         int64 // contents
	Uploads           int64 // contents held for writers and masters
	// Amplification is the bytes read from stores for each byte sent to readers.
	Amplification float64
	Store         blockstore.Stats
}

// Stats returns the counters.
func (w *Worker) Stats() Stats {
	c := &w.stats
	s := Stats{
		Hits: c.hits.Load(), HitBytes: c.hitBytes.Load(), Misses: c.misses.Load(), MissBytes: c.missBytes.Load(),
		Fills: c.fills.Load(), FetchedBytes: c.fetched.Load(), Waits: c.waits.Load(), Ahead: c.ahead.Load(),
		Uncached: c.uncached.Load(), Opened: c.opened.Load(), WrittenBytes: c.written.Load(),
		Sealed: c.sealed.Load(), Committed: c.committed.Load(), Discarded: c.discarded.Load(),
		Uploads: w.uploads.count(), Store: w.cfg.Store.Stats(),
	}
	s.Corrupt = s.Store.Counters.Corrupt
	s.Holders, s.Descriptors = w.holders.figures()
	s.Recalled, s.Refused = w.holders.recalled.Load(), w.holders.refused.Load()
	if sent := s.HitBytes + s.MissBytes; sent > 0 {
		s.Amplification = float64(s.FetchedBytes) / float64(sent)
	}
	return s
}

// report is what the masters are told of the counters.
func (w *Worker) report() sluice.WorkerReport {
	s := w.Stats()
	return sluice.WorkerReport{
		WorkerInfo: w.info(s.Store), Live: true, Unpersisted: s.Store.Unpersisted, Pinned: s.Store.Pinned,
		HitBytes: s.HitBytes, MissBytes: s.MissBytes, Evicted: s.Store.Counters.Evicted, Corrupt: s.Corrupt,
	}
}

// info is what the masters are told of the worker.
func (w *Worker) info(s blockstore.Stats) sluice.WorkerInfo {
	i := w.cfg.Info
	i.Tiers = s.Tiers
	if i.Weight == 0 {
		for _, t := range s.Tiers {
			i.Weight += float64(t.Quota) / (1 << 30)
		}
	}
	return i
}

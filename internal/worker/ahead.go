package worker

import (
	"context"
	"sync"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/policy"
)

// streams are the contents being read, each with what is known of how it is read.
type streams struct {
	cfg policy.PrefetchConfig
	all *recent[sluice.ContentID, *stream]
}

// maxStreams bounds the contents whose readers are remembered.
const maxStreams = 1024

func newStreams(cfg policy.PrefetchConfig) *streams {
	return &streams{cfg: cfg, all: newRecent[sluice.ContentID, *stream](maxStreams)}
}

// of returns the stream of a content, made where there is none.
func (s *streams) of(c sluice.ContentID) *stream {
	return s.all.orPut(c, func() *stream { return &stream{state: policy.NewPrefetch(s.cfg)} })
}

// peek returns the stream of a content, nil where there is none.
func (s *streams) peek(c sluice.ContentID) *stream {
	st, _ := s.all.get(c)
	return st
}

// stream is how one content is read, by all its readers.
type stream struct {
	mu    sync.Mutex
	state *policy.Prefetch // guarded by mu
	runs  []*run           // guarded by mu: begun ahead of readers, some may have ended
}

// keptRuns bounds the runs a stream remembers in order to stop them.
const keptRuns = 32

// read notes a read of the block and fetches ahead of its reader what that calls for,
// as far as there is memory nobody waits for. It does not wait.
func (s *stream) read(ctx context.Context, w *Worker, c *claims, b sluice.BlockID, off, n int64) {
	if c.only || c.mount == 0 {
		return
	}
	s.mu.Lock()
	a := s.state.Read(int64(b.Index)*c.blockSize+off, n)
	s.mu.Unlock()
	end := min(a.End(), c.length)
	for at := a.Off; at < end; {
		id := sluice.BlockID{Content: b.Content, Index: uint32(at / c.blockSize)}
		start := int64(id.Index) * c.blockSize
		upto := min(end, start+c.blockSize)
		if id != b && !w.home(id) {
			return // another worker's
		}
		s.block(ctx, w, c, id, (at-start)/sluice.PageSize, (upto-start+sluice.PageSize-1)/sluice.PageSize)
		at = upto
	}
}

// block fetches the absent ones of pages [p, end) of a block.
func (s *stream) block(ctx context.Context, w *Worker, c *claims, id sluice.BlockID, p, end int64) {
	here, _ := w.cfg.Store.Has(id)
	most := max(1, min(defaultPart/sluice.PageSize, w.pool.pages/8))
	for p < end {
		n := int64(0)
		for n < most && p+n < end && !has(here, p+n) {
			n++
		}
		if n == 0 {
			p++
			continue
		}
		got, r, err := w.start(ctx, c, id, p, n, true, true, false)
		if err != nil || r == nil && got == 0 {
			return // no memory to spare
		}
		if got > 0 {
			w.stats.ahead.Add(got)
			s.note(r)
		}
		p += max(1, got)
	}
}

func (s *stream) note(r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.runs) == keptRuns {
		s.runs = append(s.runs[:0], s.runs[1:]...)
	}
	s.runs = append(s.runs, r)
}

// stop ends what is being read ahead and nobody waits for: a reader went away.
func (s *stream) stop(w *Worker) {
	s.mu.Lock()
	runs := s.runs
	s.runs = nil
	s.state.Reset()
	s.mu.Unlock()
	for _, r := range runs {
		x := &w.flights
		x.mu.Lock()
		r.ahead = false
		idle := r.idleLocked()
		if idle {
			x.forgetLocked(r)
		}
		x.mu.Unlock()
		if idle {
			r.cancel(errUnwanted)
		}
	}
}

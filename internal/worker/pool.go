package worker

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/sluicefs/sluice"
)

// pool is the memory of a worker's fetches, in buffers of one page. Who waits is served
// in the order of asking. To be free of deadlock nobody waits for buffers while it holds
// some that only its own progress would give back.
type pool struct {
	pages int64
	free  *semaphore.Weighted
	bufs  sync.Pool // *[sluice.PageSize]byte
}

func newPool(bytes int64) *pool {
	n := max(bytes/sluice.PageSize, 4)
	return &pool{pages: n, free: semaphore.NewWeighted(n), bufs: sync.Pool{New: func() any { return new([sluice.PageSize]byte) }}}
}

// get waits for n buffers.
func (p *pool) get(ctx context.Context, n int) ([]*[sluice.PageSize]byte, error) {
	if err := p.free.Acquire(ctx, int64(n)); err != nil {
		return nil, sluice.Wrap("wait for memory", "", err)
	}
	return p.take(n), nil
}

// try returns n buffers if there are so many and nobody waits, else nil.
func (p *pool) try(n int) []*[sluice.PageSize]byte {
	if !p.free.TryAcquire(int64(n)) {
		return nil
	}
	return p.take(n)
}

func (p *pool) take(n int) []*[sluice.PageSize]byte {
	out := make([]*[sluice.PageSize]byte, n)
	for i := range out {
		out[i] = p.bufs.Get().(*[sluice.PageSize]byte)
	}
	return out
}

// put gives one buffer back.
func (p *pool) put(b *[sluice.PageSize]byte) {
	p.bufs.Put(b)
	p.free.Release(1)
}

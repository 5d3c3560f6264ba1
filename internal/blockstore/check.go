package blockstore

import (
	"context"
	"fmt"

	"github.com/sluicefs/sluice"
)

// Verify reads every page of a block that is here and compares it with its checksums,
// also those that were compared before: it is what a scrubber does to a block. It
// returns how many bytes it read and how many pages it had to drop.
func (s *Store) Verify(ctx context.Context, id sluice.BlockID) (bytes int64, dropped int, err error) {
	b, err := s.acquire(ctx, id, func(*block) error { return nil })
	if err != nil {
		return 0, 0, err
	}
	if b == nil {
		return 0, 0, errGone("verify block", id)
	}
	defer s.release(b)
	h := s.shard(id.Content)
	buf := make([]byte, min(b.length, sluice.PageSize))
	for page := range b.pages() {
		if err := ctx.Err(); err != nil {
			return bytes, dropped, fail("verify block", sluice.KindOf(err), err)
		}
		h.mu.Lock()
		present := b.get(bitPresent(), page)
		h.mu.Unlock()
		if !present {
			continue
		}
		for c := page * chunksPerPage; c < min((page+1)*chunksPerPage, b.chunks()); c++ {
			b.setVerified(c, false)
		}
		n, err := s.readVerified(b, page*sluice.PageSize, buf[:b.pageLen(page)])
		bytes += int64(n)
		if err == nil {
			continue
		}
		if sluice.KindOf(err) != sluice.NotFound {
			return bytes, dropped, err
		}
		dropped++
	}
	return bytes, dropped, nil
}

// Check returns the first broken invariant it finds, for tests. Nothing may be filled
// or written meanwhile.
func (s *Store) Check() error {
	type sums struct{ used, pinned, unpersisted, count, orderly int64 }
	got, held := map[*dir]*sums{}, map[*dir]int64{}
	for _, d := range s.dirs {
		got[d] = &sums{}
	}
	for i := range s.shards {
		h := &s.shards[i]
		h.mu.Lock()
		if err := h.checkPassedLocked(held); err != nil {
			h.mu.Unlock()
			return err
		}
		for id, b := range h.blocks {
			if b.id != id || b.has(flagDead) || b.refs.Load() < 0 {
				h.mu.Unlock()
				return fmt.Errorf("block %v stands under %v, dead %v, refs %d", b.id, id, b.has(flagDead), b.refs.Load())
			}
			g, n := got[b.home], b.charge()
			g.used += n
			g.count++
			switch {
			case b.has(flagUnpersisted):
				g.unpersisted += n
			case b.has(flagPinned):
				g.pinned += n
			default:
				g.orderly++
			}
		}
		h.mu.Unlock()
	}
	for _, d := range s.dirs {
		d.mu.Lock()
		g, have := got[d], sums{d.used - d.index, d.pinned, d.unpersisted, d.count, int64(d.order.Len())}
		failed, books := d.failed, d.held
		d.mu.Unlock()
		if failed == nil && *g != have {
			return fmt.Errorf("directory %s: blocks sum up to %+v, the books say %+v", d.path, *g, have)
		}
		if failed == nil && books < held[d] {
			return fmt.Errorf("directory %s: passed descriptors hold %d bytes of dead blocks, the books say %d", d.path, held[d], books)
		}
	}
	return nil
}

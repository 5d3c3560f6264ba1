package blockstore

import (
	"context"

	"github.com/sluicefs/sluice"
)

// effort says how far making room goes.
type effort uint8

const (
	gentle  effort = iota // drops blocks that nobody holds
	firm                  // and those of which only passed descriptors are left, asking for them back
	patient               // and waits until they are given back, for a while
)

// evictor keeps a part of the directory free, until ctx ends.
func (s *Store) evictor(ctx context.Context, d *dir) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.kick:
		}
		d.mu.Lock()
		want, enough, free := d.shareLocked(d.high), d.shareLocked(d.low), d.freeLocked()
		d.mu.Unlock()
		if free < enough {
			s.makeRoom(ctx, d, want, firm)
		}
	}
}

// makeRoom drops blocks of d until n bytes are free, and says whether they are.
func (s *Store) makeRoom(ctx context.Context, d *dir, n int64, e effort) bool {
	var patience context.Context // begins with the first wait
	for ctx.Err() == nil {
		lack := d.lacks(n)
		if lack == 0 {
			return !d.out()
		}
		if d.out() {
			return false
		}
		if s.dropSome(d, n, lack, e) {
			continue
		}
		if e != patient {
			return false
		}
		if patience == nil {
			var cancel context.CancelFunc
			patience, cancel = context.WithTimeout(ctx, returnWait)
			defer cancel()
		}
		if !d.awaitReturn(patience) {
			if ctx.Err() == nil && patience.Err() != nil {
				d.vain()
			}
			return false
		}
	}
	return false
}

// dropSome drops some of the blocks of d for which n bytes are to become free, of which
// lack are missing. It says whether it dropped any. Blocks of which nobody holds a
// descriptor go first. The evictor leaves their hotter half alone while there is another
// way: else idle holders would keep what they once opened, and what comes would go at once.
func (s *Store) dropSome(d *dir, n, lack int64, e effort) bool {
	if s.drop(d, n, lack, d.victims(lack, false, e == firm)) {
		return true
	}
	rest := lack - d.coming()
	if e == gentle || rest <= 0 {
		return false
	}
	if s.drop(d, n, rest, d.victims(rest, true, false)) {
		return true
	}
	return e == firm && s.drop(d, n, lack, d.victims(lack, false, false))
}

// drop drops blocks that may be, until n bytes are free or need bytes were dropped.
func (s *Store) drop(d *dir, n, need int64, blocks []*block) (dropped bool) {
	for _, b := range blocks {
		if need <= 0 || d.lacks(n) == 0 {
			break
		}
		bytes := int64(0)
		ok := s.kill(b, func() bool {
			bytes = b.charge()
			return b.refs.Load() == 0 && !b.has(flagPinned|flagUnpersisted)
		})
		if ok {
			dropped = true
			need -= bytes
			s.counts.evicted.Add(1)
			s.counts.evictedBytes.Add(bytes)
		}
	}
	return dropped
}

// take reserves n bytes in d, dropping what it may.
func (s *Store) take(ctx context.Context, d *dir, n int64, e effort) error {
	for !d.reserve(n) {
		if err := ctx.Err(); err != nil {
			return fail("reserve space", sluice.KindOf(err), err)
		}
		if !s.makeRoom(ctx, d, n, e) {
			return s.full(n, []*dir{d})
		}
	}
	return nil
}

// place chooses the directory of a new block of the given length, from tier on, and
// reserves need bytes in it: within a tier the one with the most free space, else one
// where room can be made, else the next tier. Only where none has room it takes blocks
// from those who hold descriptors. It never chooses except.
func (s *Store) place(ctx context.Context, tier string, length int64, except *dir, need func(*dir) int64) (*dir, int64, error) {
	var asked []*dir
	for _, e := range []effort{gentle, patient} {
		asked = asked[:0]
		for _, fit := range s.fitting(tier, length, except) {
			asked = append(asked, fit...)
			sortBySpare(fit)
			for _, d := range fit {
				if n := need(d); d.reserve(n) {
					return d, n, nil
				}
			}
			for _, d := range fit {
				n := need(d)
				if err := s.take(ctx, d, n, e); err == nil {
					return d, n, nil
				} else if ctx.Err() != nil {
					return nil, 0, err
				}
			}
		}
	}
	return nil, 0, s.full(length, asked)
}

// fitting returns by tier, from tier on, the directories large enough for a block of the
// given length.
func (s *Store) fitting(tier string, length int64, except *dir) (tiers [][]*dir) {
	for t, cfg := range s.cfg.Tiers {
		if tier != "" && cfg.Name != tier {
			continue
		}
		tier = "" // and the tiers below it
		var fit []*dir
		for _, d := range s.dirs {
			if d.tier == t && d != except && d.fits(fullCharge(length, d.unit)) {
				fit = append(fit, d)
			}
		}
		tiers = append(tiers, fit)
	}
	return tiers
}

// full says why there is no room in dirs.
func (s *Store) full(n int64, dirs []*dir) error {
	e := &SpaceError{Need: n}
	for _, d := range dirs {
		d.mu.Lock()
		e.Quota += d.quota
		e.Pinned += d.pinned
		e.Unpersisted += d.unpersisted
		e.Held += d.held
		e.Open += max(0, d.used-d.index-d.pinned-d.unpersisted)
		d.mu.Unlock()
	}
	return fail("reserve space", sluice.NoSpace, e)
}

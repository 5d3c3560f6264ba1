package blockstore

import (
	"context"

	"github.com/sluicefs/sluice"
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
			s.makeRoom(ctx, d, want)
		}
	}
}

// makeRoom drops blocks of d until n bytes are free, and says whether they are.
func (s *Store) makeRoom(ctx context.Context, d *dir, n int64) bool {
	for ctx.Err() == nil {
		lack := d.lacks(n)
		if lack == 0 {
			return !d.out()
		}
		if d.out() {
			return false
		}
		dropped := false
		for _, b := range d.victims(lack) {
			if d.lacks(n) == 0 {
				break
			}
			bytes := int64(0)
			ok := s.kill(b, func() bool {
				bytes = b.charge()
				return b.refs.Load() == 0 && !b.has(flagPinned|flagUnpersisted)
			})
			if ok {
				dropped = true
				s.counts.evicted.Add(1)
				s.counts.evictedBytes.Add(bytes)
			}
		}
		if !dropped {
			return false
		}
	}
	return false
}

// take reserves n bytes in d, dropping what it may.
func (s *Store) take(ctx context.Context, d *dir, n int64) error {
	for !d.reserve(n) {
		if err := ctx.Err(); err != nil {
			return fail("reserve space", sluice.KindOf(err), err)
		}
		if !s.makeRoom(ctx, d, n) {
			return s.full(n, []*dir{d})
		}
	}
	return nil
}

// place chooses the directory of a new block of the given length, from tier on, and
// reserves need bytes in it: within a tier the one with the most free space, else one
// where room can be made, else the next tier. It never chooses except.
func (s *Store) place(ctx context.Context, tier string, length int64, except *dir, need func(*dir) int64) (*dir, int64, error) {
	var asked []*dir
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
		asked = append(asked, fit...)
		sortBySpare(fit)
		for _, d := range fit {
			if n := need(d); d.reserve(n) {
				return d, n, nil
			}
		}
		for _, d := range fit {
			n := need(d)
			if err := s.take(ctx, d, n); err == nil {
				return d, n, nil
			} else if ctx.Err() != nil {
				return nil, 0, err
			}
		}
	}
	return nil, 0, s.full(length, asked)
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

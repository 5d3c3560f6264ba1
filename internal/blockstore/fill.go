package blockstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/policy"
)

// FillPage puts one page of a block of the given length into the cache. data is the
// whole page (only the last of a block is shorter than [sluice.PageSize]) and sums
// the CRC-32C of each of its chunks, or nil to have them computed; both stay the
// caller's. The page is seen only when all of it is written; nothing is synced. A
// page that is present already is left alone. Two callers with the same page: one
// writes, the other waits for it.
//
// Kind Invalid: the sizes do not fit. NoSpace: no room and nothing that may be
// dropped, a [*SpaceError] says what holds the space. Stale: the incarnation is not
// live. Busy: a [BlockWriter] is writing this block. NotFound: the block was dropped
// meanwhile. Unavailable: the directory is out of service. In every case the page
// can be served uncached.
func (s *Store) FillPage(ctx context.Context, id sluice.BlockID, length, page int64, data []byte, sums []uint32) error {
	const op = "fill page"
	if length <= 0 || length > sluice.MaxBlockSize || page < 0 || page*sluice.PageSize >= length {
		return fail(op, sluice.Invalid, fmt.Errorf("page %d of a block of %d bytes", page, length))
	}
	if want := min(sluice.PageSize, length-page*sluice.PageSize); int64(len(data)) != want {
		return fail(op, sluice.Invalid, fmt.Errorf("page %d has %d bytes, not %d", page, want, len(data)))
	}
	if sums == nil {
		sums = Sums(data)
	}
	if len(sums) != (len(data)+sluice.ChunkSize-1)/sluice.ChunkSize {
		return fail(op, sluice.Invalid, fmt.Errorf("%d checksums for %d bytes", len(sums), len(data)))
	}
	if s.quarantined(id.Content) {
		return fail(op, sluice.Stale, errors.New("the block's incarnation is not live"))
	}
	b, err := s.fillable(ctx, id, length, page)
	if b == nil || err != nil {
		return err
	}
	defer s.release(b)
	if claimed, err := s.claim(ctx, b, page); !claimed {
		return err
	}
	err = s.fill(ctx, b, page, data, sums)
	if err == nil {
		s.counts.filled.Add(1)
		s.counts.filledBytes.Add(int64(len(data)))
	}
	return err
}

// fillable returns the block, made where it is not here, with a reference and its
// file open; nil where the page is present.
func (s *Store) fillable(ctx context.Context, id sluice.BlockID, length, page int64) (*block, error) {
	var present bool
	for {
		b, err := s.acquire(ctx, id, func(b *block) error {
			if b.length != length {
				return fail("fill page", sluice.Invalid, fmt.Errorf("the block has %d bytes, not %d", b.length, length))
			}
			present = b.get(bitPresent(), page)
			return nil
		})
		if err != nil {
			return nil, err
		}
		if b != nil && present {
			s.release(b)
			return nil, nil
		}
		if b != nil {
			return b, nil
		}
		if s.quarantined(id.Content) {
			return nil, fail("fill page", sluice.Stale, errors.New("the block's incarnation is not live"))
		}
		if b, err = s.create(ctx, id, length, page); b != nil || err != nil {
			return b, err
		}
	}
}

// create makes a block with the given page charged, and its file. It returns nil
// where somebody else did meanwhile.
func (s *Store) create(ctx context.Context, id sluice.BlockID, length, page int64) (*block, error) {
	d, n, err := s.place(ctx, "", length, nil, func(d *dir) int64 { return d.pageCharge(length, page) })
	if err != nil {
		return nil, err
	}
	b := newBlock(id, length, d.gen(), d)
	h := s.shard(id.Content)
	h.mu.Lock()
	_, writing := h.writing[id]
	if writing || h.blocks[id] != nil {
		h.mu.Unlock()
		d.release(n)
		if writing {
			return nil, fail("fill page", sluice.Busy, errors.New("the block is being written"))
		}
		return nil, nil
	}
	l := &live{opening: make(chan struct{})}
	b.live = l
	b.refs.Store(1)
	b.put(bitCharged(), page, true)
	if _, ok := h.pins[id.Content]; ok {
		b.set(flagPinned)
	}
	h.insertLocked(b)
	d.admit(b, n, policy.Hash(id))
	h.mu.Unlock()

	f, err := s.cfg.Disk.Open(b.path(), CreateNew)
	if err == nil {
		if err = f.Truncate(length); err != nil {
			f.Close()
		}
	}
	s.opened(h, b, l, f, err)
	switch {
	case err != nil:
		s.kill(b, always)
		s.release(b)
		return nil, s.trouble(d, nil, fmt.Errorf("create block file: %w", err))
	case d.out(): // it failed after it was chosen, perhaps too late to take b along
		s.kill(b, always)
		s.release(b)
		return nil, fail("fill page", sluice.Unavailable, errors.New("the directory went out of service"))
	}
	return b, nil
}

// claim marks the page as being filled by the caller. false without an error: it is
// present by now.
func (s *Store) claim(ctx context.Context, b *block, page int64) (bool, error) {
	h := s.shard(b.id.Content)
	for {
		h.mu.Lock()
		switch {
		case b.has(flagDead):
			h.mu.Unlock()
			return false, errDropped()
		case b.get(bitPresent(), page):
			h.mu.Unlock()
			return false, nil
		}
		other := b.live.filling[page]
		if other == nil {
			if b.live.filling == nil {
				b.live.filling = map[int64]chan struct{}{}
			}
			b.live.filling[page] = make(chan struct{})
			h.mu.Unlock()
			return true, nil
		}
		h.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return false, fail("fill page", sluice.KindOf(ctx.Err()), ctx.Err())
		}
	}
}

func errDropped() error {
	return fail("fill page", sluice.NotFound, errors.New("the block was dropped meanwhile"))
}

// fill writes a claimed page and ends the claim.
func (s *Store) fill(ctx context.Context, b *block, page int64, data []byte, sums []uint32) error {
	h := s.shard(b.id.Content)
	err := s.chargePage(ctx, b, page)
	written := false
	if err == nil {
		if err = s.writePage(b, page, data, sums); err != nil {
			err = s.spoiled(b, err)
		} else {
			written = true
		}
	}
	h.mu.Lock()
	dead := b.has(flagDead)
	if written && !dead {
		b.put(bitPresent(), page, true)
		b.put(bitFilled(), page, true)
	}
	done := b.live.filling[page]
	delete(b.live.filling, page)
	if len(b.live.filling) == 0 {
		b.live.filling = nil
	}
	h.mu.Unlock()
	close(done)
	if err == nil && dead {
		s.forget(b)
		return errDropped()
	}
	return err
}

// chargePage reserves the space of a page.
func (s *Store) chargePage(ctx context.Context, b *block, page int64) error {
	h := s.shard(b.id.Content)
	h.mu.Lock()
	n := b.chargeFor(page)
	h.mu.Unlock()
	if n > 0 {
		if err := s.take(ctx, b.home, n, patient); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if b.has(flagDead) {
		b.home.release(n)
		return errDropped()
	}
	need := b.chargeFor(page) // less by now if the other page of a huge page came
	b.put(bitCharged(), page, true)
	b.home.release(n - need)
	b.home.charged(b, need)
	return nil
}

// writePage writes the page and then its index entry.
func (s *Store) writePage(b *block, page int64, data []byte, sums []uint32) error {
	if _, err := b.live.file.WriteAt(data, page*sluice.PageSize); err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	b.setSums(page, sums)
	var buf [2 * (frameSize + maxBody)]byte
	entry, kept := buf[:0], b.kept()
	// Two first pages may both write the block's record; reading takes the first.
	fresh := !b.has(flagIndexed)
	if fresh {
		entry = appendRecord(entry, &record{kind: recBlock, gen: b.gen, id: b.id, length: b.length, flags: kept})
	}
	entry = appendRecord(entry, &record{kind: recPage, gen: b.gen, page: page, sums: sums})
	if err := b.home.log.append(entry, false); err != nil {
		return err
	}
	b.set(flagIndexed)
	if fresh && b.kept() != kept { // pinned meanwhile
		s.noteFlags(b)
	}
	return nil
}

// noteFlags writes the flags of a block to the index.
func (s *Store) noteFlags(b *block) {
	err := b.home.log.append(appendRecord(nil, &record{kind: recFlags, gen: b.gen, flags: b.kept()}), false)
	if err != nil {
		s.trouble(b.home, nil, err)
	}
}

// spoiled handles a page that could not be written: the space it may have taken is
// known only to the disk, so the block is dropped, unless it exists only here.
func (s *Store) spoiled(b *block, err error) error {
	s.kill(b, func() bool { return !b.has(flagUnpersisted) })
	return s.trouble(b.home, nil, err)
}

// forget takes a block that died while it was filled out of the index once more.
func (s *Store) forget(b *block) {
	if b.home.out() {
		return
	}
	if err := b.home.log.append(appendRecord(nil, &record{kind: recDrop, gen: b.gen}), false); err != nil {
		s.trouble(b.home, nil, err)
	}
}

package blockstore

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Passed stands for a descriptor of a block file that another process holds. Until it is
// closed the block's space stays charged, also when the block is dropped; the file is
// not kept open for it.
type Passed struct {
	store  *Store
	block  *block
	wanted func()
	at     int  // guarded by the shard: among those of its block
	closed bool // guarded by the shard
}

// Pass notes that a duplicate of the handle's descriptor goes to another process.
// wanted is called once, without a lock, when the store wants the space back: the block
// was dropped. It may be called before Pass has returned, and must not block. Kind
// NotFound: the block was dropped meanwhile. The handle stays the caller's to close.
func (h *Handle) Pass(wanted func()) (*Passed, error) {
	b, shard := h.block, h.store.shard(h.block.id.Content)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if b.has(flagDead) {
		return nil, errGone("pass block", b.id)
	}
	all := shard.passed[b]
	p := &Passed{store: h.store, block: b, wanted: wanted, at: len(all)}
	shard.passed[b] = append(all, p)
	b.set(flagPassed)
	return p, nil
}

// Close says that the other process let go. Further calls do nothing.
func (p *Passed) Close() {
	b, h := p.block, p.store.shard(p.block.id.Content)
	h.mu.Lock()
	if p.closed {
		h.mu.Unlock()
		return
	}
	p.closed = true
	all := h.passed[b]
	last := len(all) - 1
	all[p.at] = all[last]
	all[p.at].at = p.at
	all[last] = nil
	if h.passed[b] = all[:last]; last == 0 {
		delete(h.passed, b)
		b.unset(flagPassed)
	}
	free := last == 0 && b.has(flagDead) && b.refs.Load() == 0
	n := b.charge()
	h.mu.Unlock()
	if free {
		b.home.unhold(n)
	}
}

// askBack tells the holders of a dead block that its space is wanted.
func (s *Store) askBack(b *block) {
	if !b.has(flagPassed) {
		return
	}
	h := s.shard(b.id.Content)
	h.mu.Lock()
	all := append([]*Passed(nil), h.passed[b]...)
	h.mu.Unlock()
	for _, p := range all {
		p.wanted()
	}
}

// returnWait bounds how long is waited for held space to be given back.
const returnWait = 3 * time.Second

// coming is how much held space may be given back soon: none after a wait in vain,
// until some is.
func (d *dir) coming() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.deaf {
		return 0
	}
	return d.held
}

// awaitReturn waits until some held space of d was given back, and says whether it was.
// ctx bounds the wait.
func (d *dir) awaitReturn(ctx context.Context) bool {
	d.mu.Lock()
	if d.held == 0 || d.deaf {
		d.mu.Unlock()
		return false
	}
	if d.returned == nil {
		d.returned = make(chan struct{})
	}
	returned := d.returned
	d.mu.Unlock()
	select {
	case <-returned:
		return true
	case <-ctx.Done():
		return false
	}
}

// vain notes that a wait for held space was in vain.
func (d *dir) vain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deaf = d.held > 0
}

// Settle waits until the space of dropped blocks has been given back by those who hold
// it, for a bounded time: what is in use stays held.
func (s *Store) Settle(ctx context.Context) {
	patience, cancel := context.WithTimeout(ctx, returnWait)
	defer cancel()
	var work sync.WaitGroup
	for _, d := range s.dirs {
		work.Go(func() {
			for d.awaitReturn(patience) {
			}
			if ctx.Err() == nil && patience.Err() != nil {
				d.vain()
			}
		})
	}
	work.Wait()
}

// checkPassedLocked adds up, by directory, the space of dead blocks that others hold.
func (h *shard) checkPassedLocked(held map[*dir]int64) error {
	for b, all := range h.passed {
		if len(all) == 0 || !b.has(flagPassed) {
			return fmt.Errorf("block %v has %d passed descriptors, marked %v", b.id, len(all), b.has(flagPassed))
		}
		if b.has(flagDead) {
			held[b.home] += b.charge()
		}
	}
	return nil
}

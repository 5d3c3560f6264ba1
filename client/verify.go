package client

import (
	"context"
	"errors"
	"sync"

	"github.com/sluicefs/sluice"
)

// verifyNow is the largest block that is verified while somebody waits, in bytes.
const verifyNow = sluice.PageSize

// Local implements [sluice.LocalFile]. A block of which only a part was read so far is
// verified in the background, for those who ask later; one that nobody has read is left
// alone.
func (h *handle) Local(ctx context.Context) (fd uintptr, release func(), err error) {
	none := func(why string) (uintptr, func(), error) {
		return 0, nil, sluice.Wrap("open local", h.path, &sluice.Error{Kind: sluice.Unavailable, Err: errors.New(why)})
	}
	if len(h.info.Extents) != 1 || h.info.Extents[0].Count != 1 || h.info.Extents[0].First != 0 {
		return none("the content is not one block")
	}
	s, ok := h.locate(0)
	if !ok || h.over.Load() {
		return none("the file is empty or closed")
	}
	b := h.local(ctx, s)
	if b != nil && !b.whole { // it was opened while it was being filled: ask again
		h.c.locals.remove(b)
		b.release()
		h.blocks[s.nth].Store(nil)
		b = h.local(ctx, s)
	}
	if b == nil {
		return none("the block does not lie on this host")
	}
	if !b.whole {
		b.release()
		return none("the block is not complete")
	}
	if !b.allChecked() {
		if b.length > verifyNow {
			h.c.verifyLater(b)
			b.release()
			return none("the block is not verified yet")
		}
		if err := b.verify(ctx); err != nil {
			h.c.localMiss(b, err)
			b.release()
			return none("the block cannot be verified")
		}
	}
	return uintptr(b.fd), sync.OnceFunc(b.release), nil
}

// allChecked says whether every chunk was verified.
func (b *localBlock) allChecked() bool {
	for c := range (b.length + sluice.ChunkSize - 1) / sluice.ChunkSize {
		if !b.isChecked(c) {
			return false
		}
	}
	return true
}

// wasRead says whether any chunk was verified, which reading does.
func (b *localBlock) wasRead() bool {
	for i := range b.checked {
		if b.checked[i].Load() != 0 {
			return true
		}
	}
	return false
}

// verify reads and checks every chunk that was not checked yet. The block is whole.
func (b *localBlock) verify(ctx context.Context) error {
	buf := make([]byte, sluice.ChunkSize)
	for c := range (b.length + sluice.ChunkSize - 1) / sluice.ChunkSize {
		if b.isChecked(c) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		p := buf[:b.chunkLen(c)]
		if err := b.pread(p, c*sluice.ChunkSize); err != nil {
			return err
		}
		if !b.check(c, p) {
			return errBad
		}
	}
	return nil
}

// verifyLater verifies a block in the background, one at a time in a client. Where
// another one is being verified nothing happens: who asks again finds it idle.
func (c *core) verifyLater(b *localBlock) {
	if !b.wasRead() || !c.verifying.CompareAndSwap(false, true) {
		return
	}
	if !b.acquire() {
		c.verifying.Store(false)
		return
	}
	started := c.background(func(ctx context.Context) {
		defer c.verifying.Store(false)
		defer b.release()
		if err := b.verify(ctx); err != nil && ctx.Err() == nil {
			c.localMiss(b, err)
		}
	})
	if !started {
		b.release()
		c.verifying.Store(false)
	}
}

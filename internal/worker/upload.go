package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/blockstore"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/mounts"
)

// upload is one content being written. Its bytes come in order: a piece that is early
// waits for those before it. One caller at a time has the turn and with it everything
// under "turn"; the mutex is held for moments only.
type upload struct {
	w      *Worker
	claims claims
	ctx    context.Context // of calls to the store: a writer that goes away breaks none of them
	cancel context.CancelFunc

	mu       sync.Mutex
	busy     bool            // guarded by mu: somebody has the turn
	wake     chan struct{}   // guarded by mu: closed and replaced when the turn is given back
	next     int64           // guarded by mu: bytes taken so far
	sum      uint32          // guarded by mu: CRC-32C of them
	err      error           // guarded by mu: why nothing is taken any more
	sealed   *sluice.Sealed  // guarded by mu
	stored   *underfs.Object // guarded by mu
	unwanted bool            // guarded by mu: its writer gave it up after it was sealed
	held     bool            // guarded by the mutex of uploads: counted there
	touched  time.Duration   // guarded by mu: boot time of the last call, or of the last word that its writer lives

	// turn: whoever has it.
	store    *mounts.Store  // nil: it goes to no store
	up       underfs.Upload // nil: likewise
	cached   bool           // its blocks go to the block store
	block    *blockstore.BlockWriter
	index    uint32    // of block
	blocks   uint32    // finished
	reserved []*budget // of the memory the driver may need
	released bool
}

// through says that the content goes to a store.
func (c *claims) through() bool {
	return c.writeType == sluice.CacheThrough || c.writeType == sluice.Through
}

// begin takes what a new content needs. It has the turn.
func (u *upload) begin(ctx context.Context) error {
	u.cached = u.claims.writeType == sluice.CacheThrough || u.claims.writeType == sluice.MustCache
	switch {
	case u.claims.writeType == sluice.MustCache:
		return nil
	case !u.claims.through():
		return &sluice.Error{Kind: sluice.Unsupported, Err: fmt.Errorf("write type %v", u.claims.writeType)}
	case u.claims.mount == 0:
		return &sluice.Error{Kind: sluice.Invalid, Err: errors.New("the grant names no store to write to")}
	}
	s, err := u.w.mount(ctx, &u.claims)
	if err != nil {
		return err
	}
	u.store = s
	if s.Features().SmallUpload > 0 {
		if err := u.reserve(ctx, u.w.uploads.small); err != nil {
			return err
		}
	}
	o := s.Mount.Options
	u.up, err = s.Create(u.ctx, underfs.Key(u.claims.key), underfs.CreateOptions{
		Length: -1, Tag: u.claims.content.String(), Mode: o.FileMode,
	})
	return err
}

// smallUpload is how many bytes an upload may hold before it has to have the memory
// that the store's driver needs for parts.
const smallUpload = 1 << 20

// reserve waits for memory. Who has that of small uploads waits for that of large ones;
// who has that waits for nothing, so that all of them end.
func (u *upload) reserve(ctx context.Context, b *budget) error {
	ctx, cancel := context.WithTimeout(ctx, memoryWait)
	defer cancel()
	if err := b.free.Acquire(ctx, 1); err != nil {
		return &sluice.Error{Kind: sluice.Busy, Err: fmt.Errorf("no memory for another upload: %w", err)}
	}
	u.reserved = append(u.reserved, b)
	return nil
}

// memoryWait is how long a writer waits for memory before it is told to try again.
const memoryWait = 5 * time.Second

// unreserve gives the memory back.
func (u *upload) unreserve() {
	for _, b := range u.reserved {
		b.free.Release(1)
	}
	u.reserved = nil
}

// errEarly says that bytes before a piece have not come.
var errEarly = errors.New("bytes before these have not come")

// window is how far ahead of what was taken a piece may be, in bytes.
const window = 64 << 20

// turn waits until it is the caller's turn. ready says of the bytes taken whether that
// is what the caller waits for; false with a nil error of it means wait. The caller
// gives the turn back with yield, unless done is true or there is an error.
func (u *upload) turn(ctx context.Context, ready func(next int64) (go_, done bool, err error)) (done bool, err error) {
	for {
		u.mu.Lock()
		u.touched = u.w.cfg.Boot()
		if u.err != nil {
			defer u.mu.Unlock()
			return false, u.err
		}
		if !u.busy {
			mine, done, err := ready(u.next)
			if done || err != nil {
				u.mu.Unlock()
				return done, err
			}
			if mine {
				u.busy = true
				u.mu.Unlock()
				return false, nil
			}
		}
		wake := u.wake
		u.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return false, sluice.Wrap("", "", ctx.Err())
		}
	}
}

// yield gives the turn back. An error breaks the upload.
func (u *upload) yield(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.err = err
	}
	u.busy = false
	u.touched = u.w.cfg.Boot()
	close(u.wake)
	u.wake = make(chan struct{})
}

// piece is some bytes of a content with their CRC-32C, whole and of each chunk of them.
type piece struct {
	data []byte
	sum  uint32
	sums []uint32
}

// first returns the first n bytes and the rest. Where those end inside of a chunk nothing
// is known of the rest's chunks. The sums of the whole are those of neither.
func (p *piece) first(n int64) (first, rest piece) {
	first, rest = piece{data: p.data[:n]}, piece{data: p.data[n:]}
	if k := int(n / sluice.ChunkSize); p.sums != nil && n%sluice.ChunkSize == 0 {
		first.sums, rest.sums = p.sums[:k], p.sums[k:]
	}
	return first, rest
}

// write takes a piece.
func (u *upload) write(ctx context.Context, off int64, p piece) error {
	end := off + int64(len(p.data))
	done, err := u.turn(ctx, func(next int64) (bool, bool, error) {
		switch {
		case end <= next:
			return false, true, nil
		case u.sealed != nil:
			return false, false, &sluice.Error{Kind: sluice.Invalid, Err: errors.New("the content is sealed")}
		case off < next:
			return false, false, &sluice.Error{Kind: sluice.Invalid, Err: fmt.Errorf("bytes %d to %d after %d were written: a piece is repeated whole or not at all", off, end, next)}
		case off-next > window:
			return false, false, &sluice.Error{Kind: sluice.Busy, Err: fmt.Errorf("byte %d after %d: %w", off, next, errEarly)}
		}
		return off == next, false, nil
	})
	if done || err != nil {
		return err
	}
	retry, err := u.take(ctx, off, p)
	if err == nil {
		u.mu.Lock()
		u.sum = blockstore.Combine(u.sum, p.sum, int64(len(p.data)))
		u.next = end
		u.mu.Unlock()
		u.w.stats.written.Add(int64(len(p.data)))
	}
	if retry {
		u.yield(nil)
	} else {
		u.yield(err)
	}
	return err
}

// take hands a piece on, with the turn. retry says of an error that nothing was done, so
// that the same piece may come again.
func (u *upload) take(ctx context.Context, off int64, p piece) (retry bool, err error) {
	if u.up != nil && len(u.reserved) == 1 && off+int64(len(p.data)) > smallUpload {
		if err := u.reserve(ctx, u.w.uploads.large); err != nil {
			return true, err
		}
	}
	if err := u.cache(ctx, p, off); err != nil {
		return false, err
	}
	if u.up == nil {
		return false, nil
	}
	return false, u.up.Write(u.ctx, p.data)
}

// cache writes a piece to the block store. A content that lies in a store as well goes
// on without it where there is no room; for any other the masters are asked first which
// contents have died.
func (u *upload) cache(ctx context.Context, p piece, off int64) error {
	for len(p.data) > 0 && u.cached {
		size := u.claims.blockSize
		in := off % size
		n := min(int64(len(p.data)), size-in)
		now, rest := p, piece{}
		if n < int64(len(p.data)) {
			now, rest = p.first(n)
		}
		err := u.cacheIn(uint32(off/size), in, now)
		if sluice.KindOf(err) == sluice.NoSpace && u.up == nil && u.w.beats.reclaim(ctx) == nil {
			err = u.cacheIn(uint32(off/size), in, now)
		}
		if err != nil {
			if u.up == nil {
				return err
			}
			u.uncache(err)
			return nil
		}
		p, off = rest, off+n
	}
	return nil
}

func (u *upload) cacheIn(index uint32, in int64, p piece) error {
	if u.block == nil {
		id := sluice.BlockID{Content: u.claims.content, Index: index}
		b, err := u.w.cfg.Store.Begin(u.ctx, id, blockstore.BeginOptions{Unpersisted: u.up == nil, Pinned: u.claims.pinned})
		if err != nil {
			return err
		}
		u.block, u.index = b, index
	}
	if err := u.block.WriteSummed(u.ctx, p.data, in, p.sums); err != nil {
		return err
	}
	if in+int64(len(p.data)) == u.claims.blockSize {
		return u.finish()
	}
	return nil
}

// finish makes the block being written readable, and durable if it exists only here.
func (u *upload) finish() error {
	if u.block == nil {
		return nil
	}
	b := u.block
	u.block = nil
	if _, err := b.Finish(u.ctx, u.up == nil); err != nil {
		return err
	}
	u.blocks++
	u.w.holds.note(sluice.BlockID{Content: u.claims.content, Index: u.index})
	return nil
}

// uncache goes on without the block store.
func (u *upload) uncache(err error) {
	u.w.log.Debug("a content is written past the cache", "content", u.claims.content.String(), "cause", err)
	if u.block != nil {
		u.block.Abort()
		u.block = nil
	}
	u.cached = false
}

// seal ends the content.
func (u *upload) seal(ctx context.Context, length int64) (sluice.Sealed, error) {
	var sealed sluice.Sealed
	done, err := u.turn(ctx, func(next int64) (bool, bool, error) {
		switch {
		case length < next || u.sealed != nil && u.sealed.Length != length:
			return false, false, &sluice.Error{Kind: sluice.Invalid, Err: fmt.Errorf("a length of %d after %d bytes were written", length, next)}
		case u.sealed != nil:
			sealed = *u.sealed
			return false, true, nil
		}
		return next == length, false, nil
	})
	if done || err != nil {
		return sealed, err
	}
	sealed, err = u.prepare(length)
	if err == nil {
		u.mu.Lock()
		u.sealed = &sealed
		u.mu.Unlock()
		u.w.stats.sealed.Add(1)
	}
	u.yield(err)
	return sealed, err
}

// prepare makes everything durable, with the turn.
func (u *upload) prepare(length int64) (sluice.Sealed, error) {
	if err := u.finish(); err != nil {
		if u.up == nil {
			return sluice.Sealed{}, err
		}
		u.uncache(err)
	}
	u.mu.Lock()
	s := sluice.Sealed{Content: u.claims.content, Length: length, Checksum: u.sum, Worker: u.w.cfg.Info.ID}
	u.mu.Unlock()
	if u.blocks > 0 {
		s.Holders = []sluice.Holder{{Content: s.Content, Worker: s.Worker, Count: u.blocks}}
	}
	if u.up == nil {
		return s, nil
	}
	p, err := u.up.Prepare(u.ctx)
	if err != nil {
		return sluice.Sealed{}, err
	}
	s.Prepared = p
	if !p.Inline {
		u.unreserve()
	}
	return s, nil
}

// commit makes the content visible in its store.
func (u *upload) commit(ctx context.Context, key underfs.Key, cond underfs.Condition) (underfs.Object, error) {
	var o *underfs.Object
	done, err := u.turn(ctx, func(int64) (bool, bool, error) {
		o = u.stored
		return true, o != nil, nil
	})
	if err != nil {
		return underfs.Object{}, err
	}
	if done {
		return *o, nil
	}
	defer u.yield(nil)
	switch {
	case u.sealed == nil || u.up == nil:
		return underfs.Object{}, &sluice.Error{Kind: sluice.Invalid, Err: errors.New("the content is not sealed, or goes to no store")}
	case key != underfs.Key(u.claims.key):
		return underfs.Object{}, &sluice.Error{Kind: sluice.Stale, Err: fmt.Errorf("the content was written for key %q", u.claims.key)}
	}
	got, err := u.up.Commit(ctx, cond)
	if err != nil {
		return underfs.Object{}, err
	}
	u.mu.Lock()
	u.stored = &got
	u.mu.Unlock()
	u.unreserve()
	u.w.stats.committed.Add(1)
	return got, u.w.cfg.Store.SetPersisted(ctx, u.claims.content)
}

// drop ends the upload: nothing is taken any more, what was sent is removed (unless it
// was committed), and with blocks also what is in the block store.
func (u *upload) drop(ctx context.Context, why error, blocks bool) error {
	u.mu.Lock()
	if u.err == nil {
		u.err = why
	}
	stop := u.sealed == nil
	u.mu.Unlock()
	if stop {
		u.cancel() // of a call to the store that goes on
	}
	if err := u.idle(ctx); err != nil {
		return err
	}
	err := u.release(ctx)
	u.yield(nil)
	if blocks {
		u.w.cfg.Store.DropContent(ctx, u.claims.content)
	}
	return err
}

// idle takes the turn of an upload that has ended.
func (u *upload) idle(ctx context.Context) error {
	for {
		u.mu.Lock()
		if !u.busy {
			u.busy = true
			u.mu.Unlock()
			return nil
		}
		wake := u.wake
		u.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return sluice.Wrap("", "", ctx.Err())
		}
	}
}

// release gives everything back, with the turn.
func (u *upload) release(ctx context.Context) error {
	if u.released {
		return nil
	}
	u.released = true
	if u.block != nil {
		u.block.Abort()
		u.block = nil
	}
	var err error
	if u.up != nil {
		err = u.up.Abort(ctx)
	}
	if u.store != nil {
		u.store.Release()
	}
	u.unreserve()
	u.cancel()
	return err
}

package client

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/policy"
)

// ahead are the pieces of one file fetched before they are asked for.
type ahead struct {
	h   *handle
	ctx context.Context // ends when the handle is closed

	mu     sync.Mutex
	plan   *policy.Prefetch // guarded by mu
	pieces []*piece         // guarded by mu: in order of their making
	over   bool             // guarded by mu
}

// piece is a run of bytes being fetched or there.
type piece struct {
	off  int64
	buf  []byte // from the shared buffers, of the piece's length
	done chan struct{}
	err  error     // set before done is closed
	made time.Time // when it was asked for

	users   int  // guarded by ahead.mu: readers copying, and the fetch itself
	dropped bool // guarded by ahead.mu: not in pieces any more
}

func (p *piece) end() int64 { return p.off + int64(len(p.buf)) }

// aheadLimit returns how many pieces one file may have, so that several can read ahead.
func (c *core) aheadLimit() int { return max(2, min(16, cap(c.ahead.tokens)*2/3)) }

// largeRead is from where a read is split into pieces of its own: it needs no reading
// ahead to keep several under way.
const largeRead = 4 << 20

// readAhead fills p from what was fetched ahead and from workers, and sees to it that
// what a sequential reader wants next is under way.
func (h *handle) readAhead(ctx context.Context, p []byte, off int64) (n int, err error) {
	a := h.aheadOf()
	if a == nil {
		return h.readRemote(ctx, p, off)
	}
	if len(p) < largeRead {
		a.advise(off, int64(len(p)))
	}
	for n < len(p) {
		at := off + int64(n)
		one, next := a.find(at, off+int64(len(p)))
		if one == nil {
			m, err := h.readRemote(ctx, p[n:n+int(next-at)], at)
			n += m
			if err != nil {
				return n, err
			}
			continue
		}
		m, err := a.take(ctx, one, p[n:], at)
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// aheadOf returns the handle's read-ahead, nil for files it is not worth it.
func (h *handle) aheadOf() *ahead {
	if h.info.Length <= smallSize {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ahead == nil {
		if h.over.Load() {
			return nil
		}
		h.life, h.end = context.WithCancel(h.c.alive)
		limit := int64(h.c.aheadLimit()) * pieceSize
		h.ahead = &ahead{h: h, ctx: h.life, plan: policy.NewPrefetch(policy.PrefetchConfig{Max: limit})}
	}
	return h.ahead
}

// advise notes a read and begins to fetch what is likely to be read next.
func (a *ahead) advise(off, n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return
	}
	r := a.plan.Read(off, n)
	end := min(r.End(), a.h.info.Length)
	for at := r.Off; at < end; {
		size := min(pieceSize-at%pieceSize, end-at)
		if !a.fetchLocked(at, int(size)) {
			return
		}
		at += size
	}
}

// fetchLocked begins to fetch a piece; false where there is no room.
func (a *ahead) fetchLocked(off int64, n int) bool {
	limit := a.h.c.aheadLimit()
	for len(a.pieces) >= limit && a.dropOldestLocked() {
	}
	if len(a.pieces) >= limit {
		return false
	}
	buf := a.h.c.ahead.try()
	if buf == nil && a.h.c.idle.reclaim(a) {
		buf = a.h.c.ahead.try()
	}
	if buf == nil {
		return false
	}
	p := &piece{off: off, buf: buf[:n], done: make(chan struct{}), users: 1, made: time.Now()}
	a.pieces = append(a.pieces, p)
	a.h.c.idle.add(p, a)
	a.h.c.background(func(context.Context) {
		_, p.err = a.h.readBlocks(a.ctx, p.buf, p.off)
		close(p.done)
		a.release(p)
	})
	return true
}

// dropOldestLocked drops the oldest piece that nobody uses.
func (a *ahead) dropOldestLocked() bool {
	for _, p := range a.pieces {
		if p.users == 0 {
			a.dropLocked(p)
			return true
		}
	}
	return false
}

// dropLocked takes p out; its buffer goes back once nobody uses it.
func (a *ahead) dropLocked(p *piece) {
	if p.dropped {
		return
	}
	p.dropped = true
	a.h.c.idle.remove(p)
	for i, q := range a.pieces {
		if q == p {
			a.pieces = append(a.pieces[:i], a.pieces[i+1:]...)
			break
		}
	}
	if p.users == 0 {
		a.h.c.ahead.put(p.buf)
	}
}

func (a *ahead) release(p *piece) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p.users--
	if p.users == 0 && p.dropped {
		a.h.c.ahead.put(p.buf)
	}
}

// find returns the piece that holds byte at, held for its reader; or nil and where the
// next piece begins, at most end.
func (a *ahead) find(at, end int64) (*piece, int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.pieces {
		if p.off <= at && at < p.end() {
			p.users++
			return p, p.end()
		}
		if p.off > at {
			end = min(end, p.off)
		}
	}
	return nil, end
}

// take waits for a piece and copies what p wants of it. A piece that failed is dropped
// and its bytes are fetched by the reader itself, who gets the error if there is one.
func (a *ahead) take(ctx context.Context, one *piece, p []byte, at int64) (int, error) {
	select {
	case <-one.done:
	case <-ctx.Done():
		a.release(one)
		return 0, &sluice.Error{Kind: sluice.KindOf(ctx.Err()), Err: ctx.Err()}
	}
	n := 0
	if one.err == nil {
		n = copy(p, one.buf[at-one.off:])
	}
	a.mu.Lock()
	if one.err != nil || at+int64(n) == one.end() {
		a.dropLocked(one)
	}
	a.mu.Unlock()
	a.release(one)
	if one.err != nil {
		return a.h.readBlocks(ctx, p[:min(len(p), int(one.end()-at))], at)
	}
	return n, nil
}

// close drops everything; fetches under way end by themselves.
func (a *ahead) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	for len(a.pieces) > 0 {
		a.dropLocked(a.pieces[0])
	}
}

// idle knows the pieces of all files, to take from those that read no further.
type idle struct {
	mu  sync.Mutex
	all map[*piece]*ahead // guarded by mu; as many as there are buffers at most
}

// idleAfter is how long after its fetch began a piece that nobody reads may be taken.
const idleAfter = time.Second

func (i *idle) add(p *piece, a *ahead) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.all == nil {
		i.all = map[*piece]*ahead{}
	}
	i.all[p] = a
}

func (i *idle) remove(p *piece) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.all, p)
}

// reclaim drops an old piece of another file than that of a, whose mutex is held: it
// only tries the mutexes of others.
func (i *idle) reclaim(a *ahead) bool {
	i.mu.Lock()
	all := maps.Clone(i.all)
	i.mu.Unlock()
	for p, owner := range all {
		if owner == a || time.Since(p.made) < idleAfter || !owner.mu.TryLock() {
			continue
		}
		free := p.users == 0 && !p.dropped
		if free {
			owner.dropLocked(p)
		}
		owner.mu.Unlock()
		if free {
			return true
		}
	}
	return false
}

package worker

import (
	"context"
	"errors"
	"os"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs"
)

// reply is where the bytes of a read go; [rpc.Request] is one.
type reply interface {
	SendBytes(p []byte, sums []uint32) error
	SendFile(f *os.File, off, n int64, sums []uint32) error
}

// readBlock serves MethodReadBlock.
func (w *Worker) readBlock(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.ReadBlockRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	c, err := w.verify(q.Grant, false)
	if err != nil {
		return nil, err
	}
	b := q.Block.Sluice()
	if err := c.within(b, q.Offset, q.Length); err != nil {
		return nil, err
	}
	if int64(r.RecvLen()) < q.Length {
		return nil, &sluice.Error{Kind: sluice.Invalid, Err: errors.New("the caller has no room for the bytes it asks for")}
	}
	if err := w.serveRange(ctx, &c, b, q.Offset, q.Length, sluice.ReadType(q.Read) != sluice.NoCache, q.Again, r); err != nil {
		return nil, err
	}
	return &wire.ReadBlockAnswer{Length: q.Length}, nil
}

// reader is one read of a block on its way out.
type reader struct {
	w     *Worker
	c     *claims
	b     sluice.BlockID
	pos   int64 // of the next byte to send
	end   int64
	cache bool
	out   reply
	sched int64             // pages below it are here or on their way
	ways  map[int64]*flight // pages on their way that this reader uses
	ahead *stream           // nil: nothing is read ahead
	feats *underfs.Features // of the store, once it was asked for
	doubt bool              // what is here is to be checked before it is sent
	again int               // pages that had to be looked for again
}

// maxAgain bounds how often one read looks for pages that vanish while it runs.
const maxAgain = 64

// serveRange sends bytes [off, off+n) of a block. again says that the caller had them and
// found them damaged.
func (w *Worker) serveRange(ctx context.Context, c *claims, b sluice.BlockID, off, n int64, cache, again bool, out reply) error {
	if c.pinned {
		w.pin(ctx, c.content)
	}
	if n == 0 {
		return nil
	}
	if n <= sluice.ChunkSize {
		done, err := w.serveSmall(ctx, b, off, n, out)
		if done && cache {
			if s := w.streams.peek(c.content); s != nil {
				s.read(ctx, w, c, b, off, n)
			}
		}
		if done || err != nil {
			return err
		}
	}
	r := &reader{w: w, c: c, b: b, pos: off, end: off + n, cache: cache, out: out, ways: make(map[int64]*flight), sched: off / sluice.PageSize}
	defer r.leaveAll()
	r.doubt = again
	if cache && !c.only && c.mount != 0 {
		r.ahead = w.streams.of(c.content)
	}
	err := r.run(ctx)
	if ctx.Err() != nil && r.ahead != nil {
		r.ahead.stop(w)
	}
	return err
}

// serveSmall sends a few bytes if they are here.
func (w *Worker) serveSmall(ctx context.Context, b sluice.BlockID, off, n int64, out reply) (bool, error) {
	buf := w.small.Get().(*[sluice.ChunkSize]byte)
	defer w.small.Put(buf)
	_, err := w.cfg.Store.Read(ctx, b, off, buf[:n])
	if err != nil {
		if absent(err) != nil || sluice.KindOf(err) == sluice.Unavailable || sluice.KindOf(err) == sluice.NotFound {
			return false, nil
		}
		return false, err
	}
	w.stats.hit(n)
	return true, out.SendBytes(buf[:n], nil)
}

// run sends until the end.
func (r *reader) run(ctx context.Context) error {
	first := r.pos
	for r.pos < r.end {
		page := r.pos / sluice.PageSize
		if err := r.schedule(ctx, page); err != nil {
			return err
		}
		if r.ahead != nil && r.pos == first {
			r.ahead.read(ctx, r.w, r.c, r.b, first, r.end-first)
		}
		f := r.ways[page]
		var err error
		if f != nil {
			err = r.follow(ctx, f)
			r.leave(page, ctx.Err() != nil)
		} else {
			err = r.stored(ctx)
		}
		if errors.Is(err, errKept) {
			err = r.lookAgain()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lookAgain notes that a page was not where it was expected.
func (r *reader) lookAgain() error {
	if r.again++; r.again > maxAgain {
		return &sluice.Error{Kind: sluice.Busy, Err: errors.New("the block is dropped as fast as it is read; the cache is too small for its load")}
	}
	for page := r.pos / sluice.PageSize; page < r.sched; page++ {
		if r.ways[page] == nil {
			r.sched = page
			break
		}
	}
	return nil
}

func (r *reader) leave(page int64, gone bool) {
	if f := r.ways[page]; f != nil {
		delete(r.ways, page)
		r.w.leave(f, gone)
	}
}

func (r *reader) leaveAll() {
	for page := range r.ways {
		r.leave(page, true)
	}
}

// windowParts is how many ranges one read keeps under way.
const windowParts = 8

// schedule makes sure that page is here or on its way, and so much behind it that
// several ranges are under way. It waits for memory only for page itself, and then uses
// no other page.
func (r *reader) schedule(ctx context.Context, page int64) error {
	last := (r.end - 1) / sluice.PageSize
	if r.sched > last || r.sched > page && r.sched-page >= r.window() {
		return nil
	}
	r.sched = max(r.sched, page)
	here, _ := r.w.cfg.Store.Has(r.b)
	for r.sched <= last {
		p := r.sched
		if r.ways[p] != nil || has(here, p) {
			r.sched++
			continue
		}
		if p != page && p-page >= r.window() {
			return nil
		}
		if r.c.only || r.c.mount == 0 {
			if p == page {
				return lost(r.b)
			}
			return nil
		}
		if f := r.w.flights.join(flightKey{block: r.b, page: p, key: r.c.key, version: r.c.version}, r.cache); f != nil {
			r.w.stats.waits.Add(1)
			r.ways[p] = f
			r.sched++
			continue
		}
		if n, err := r.fetch(ctx, here, p, last, p == page); err != nil || n == 0 {
			return err
		}
	}
	return nil
}

// window is how many pages are scheduled at once.
func (r *reader) window() int64 {
	if r.feats == nil {
		return 1
	}
	return min(windowParts*r.w.partPages(*r.feats, r.end), max(1, r.w.pool.pages/4))
}

// fetch starts a range at page p; must says that it has to.
func (r *reader) fetch(ctx context.Context, here []byte, p, last int64, must bool) (int64, error) {
	if r.feats == nil {
		s, err := r.w.mount(ctx, r.c)
		if err != nil {
			return 0, err
		}
		r.feats = new(s.Features())
		s.Release()
	}
	want := int64(1)
	for most := r.w.partPages(*r.feats, r.end-p*sluice.PageSize); want < most && p+want <= last && !has(here, p+want); {
		want++
	}
	n, run, err := r.w.start(ctx, r.c, r.b, p, want, r.cache, false, must)
	if err != nil || n == 0 {
		if err == nil && must {
			// Somebody else started it meanwhile: schedule finds it.
			return 0, r.rejoin(p)
		}
		return 0, err
	}
	for i, f := range run.flights {
		r.ways[p+int64(i)] = f
		r.w.stats.miss(int64(f.size))
	}
	r.sched = p + n
	return n, nil
}

// rejoin uses the flight of a page that was started by somebody else; if it has ended
// already the page is looked for in the block store.
func (r *reader) rejoin(p int64) error {
	if f := r.w.flights.join(flightKey{block: r.b, page: p, key: r.c.key, version: r.c.version}, r.cache); f != nil {
		r.w.stats.waits.Add(1)
		r.ways[p] = f
		r.sched = p + 1
	}
	return nil
}

// follow sends what comes of a page on its way, up to its end or that of the read.
func (r *reader) follow(ctx context.Context, f *flight) error {
	start := f.key.page * sluice.PageSize
	for r.pos < min(r.end, start+int64(f.size)) {
		p, err := f.next(ctx, int(r.pos-start))
		if err != nil {
			return err
		}
		p = p[:min(int64(len(p)), r.end-r.pos)]
		err = r.out.SendBytes(p, nil)
		f.sent(r.w.pool)
		if err != nil {
			return err
		}
		r.pos += int64(len(p))
	}
	return nil
}

// has says whether page p is in the bitmap.
func has(pages []byte, p int64) bool { return p/8 < int64(len(pages)) && pages[p/8]&(1<<(p%8)) != 0 }

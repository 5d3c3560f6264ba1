package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/blockstore"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/mounts"
)

// run is a range of neighbouring pages that is read with one call to the store.
type run struct {
	claims  claims
	block   sluice.BlockID
	flights []*flight // in order; does not change
	ahead   bool      // nobody asked for it yet; guarded by flights.mu of the worker
	cancel  context.CancelCauseFunc
}

// idleLocked says that nobody waits for any page of the run.
func (r *run) idleLocked() bool {
	if r.ahead {
		return false
	}
	for _, f := range r.flights {
		f.mu.Lock()
		wanted := f.users > 0 && !f.done
		f.mu.Unlock()
		if wanted {
			return false
		}
	}
	return true
}

// The bounds of one call to the store, in bytes.
const (
	defaultPart = 4 << 20
	leastPart   = 2 << 20 // a large miss is not cut into smaller ranges
	progressBy  = 128 << 10
)

// partPages is how many pages one call reads of a miss of n bytes: as much as suits the
// store, but so little that several ranges are under way at once.
func (w *Worker) partPages(f underfs.Features, n int64) int64 {
	part := f.PartSize
	if part <= 0 {
		part = defaultPart
	}
	part = min(part, max(leastPart, n/4))
	return max(1, min(part/sluice.PageSize, w.pool.pages/4))
}

// start begins to fetch at most want pages from page on, as far as they are absent and
// not on their way, and returns how many. The first user of each is the caller, unless
// it reads ahead. With wait it waits for memory, else 0 may be returned.
func (w *Worker) start(ctx context.Context, c *claims, b sluice.BlockID, page, want int64, cache, ahead, wait bool) (int64, *run, error) {
	bufs := w.pool.try(int(want))
	if bufs == nil && wait {
		var err error
		if bufs, err = w.pool.get(ctx, int(want)); err != nil {
			return 0, nil, err
		}
	}
	if bufs == nil {
		return 0, nil, nil
	}
	size := c.blockLength(b.Index)
	base, cancel := context.WithCancelCause(w.alive)
	r := &run{claims: *c, block: b, ahead: ahead, cancel: cancel}
	x := &w.flights
	x.mu.Lock()
	here, _ := w.cfg.Store.Has(b) // a flight ends under the same mutex: what is in neither is absent
	for i := range want {
		k := flightKey{block: b, page: page + i, key: c.key, version: c.version}
		if x.all[k] != nil || has(here, k.page) {
			break
		}
		f := &flight{key: k, run: r, buf: bufs[i], cache: cache, wake: make(chan struct{})}
		f.size = int(min(sluice.PageSize, size-k.page*sluice.PageSize))
		if !ahead {
			f.users = 1
		}
		x.all[k] = f
		r.flights = append(r.flights, f)
	}
	started := len(r.flights) > 0 && w.work(func() { w.fetch(base, r) })
	if !started {
		for _, f := range r.flights {
			delete(x.all, f.key)
		}
	}
	x.mu.Unlock()
	n := len(r.flights)
	if !started {
		n = 0
		cancel(nil)
	}
	for _, b := range bufs[n:] {
		w.pool.put(b)
	}
	if !started && len(r.flights) > 0 {
		return 0, nil, errStopping()
	}
	return int64(n), r, nil
}

// fetch carries out a run. Every flight of it is ended.
func (w *Worker) fetch(ctx context.Context, r *run) {
	defer r.cancel(nil)
	w.stats.fills.Add(1)
	ended, err := w.fetchFrom(ctx, r)
	if err == nil {
		return
	}
	if cause := context.Cause(ctx); cause != nil && sluice.KindOf(err) == sluice.Cancelled {
		err = &sluice.Error{Kind: sluice.Unavailable, Err: cause}
	}
	for _, f := range r.flights[ended:] {
		w.end(f, false, err)
	}
}

// fetchFrom reads the run from the store and returns how many flights were ended.
func (w *Worker) fetchFrom(ctx context.Context, r *run) (ended int, err error) {
	s, err := w.mount(ctx, &r.claims)
	if err != nil {
		return 0, err
	}
	defer s.Release()
	keep, err := w.settled(ctx, s, &r.claims)
	if err != nil {
		return 0, missing(err)
	}
	first := r.flights[0].key.page * sluice.PageSize
	q := underfs.ReadRequest{
		Key: underfs.Key(r.claims.key), Version: r.claims.version,
		Offset: int64(r.block.Index)*r.claims.blockSize + first,
	}
	for _, f := range r.flights {
		q.Length += int64(f.size)
	}
	body, err := s.Read(ctx, q)
	if err != nil {
		return 0, missing(err)
	}
	defer body.Close()
	provisional := !s.Features().Conditional
	for _, f := range r.flights {
		if err := w.receive(body, f, provisional); err != nil {
			return ended, missing(err)
		}
		if !provisional {
			w.keep(r, f, keep)
			ended++
		}
	}
	if !provisional {
		return ended, nil
	}
	if err := confirm(body); err != nil {
		return 0, missing(err)
	}
	for _, f := range r.flights {
		w.keep(r, f, keep)
		ended++
	}
	return ended, nil
}

// receive reads one page.
func (w *Worker) receive(body io.Reader, f *flight, provisional bool) error {
	for n := 0; n < f.size; {
		end := min(n+progressBy, f.size)
		got, err := io.ReadAtLeast(body, f.buf[n:end], min(64<<10, end-n))
		n += got
		w.stats.fetched.Add(int64(got))
		switch {
		case n == f.size:
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return &sluice.Error{Kind: sluice.Changed, Err: fmt.Errorf("the store gave %d bytes less of the object than it has", f.size-n)}
		case err != nil:
			return err
		}
		if !provisional && n < f.size {
			f.progress(n)
		}
	}
	return nil
}

// confirm waits for the io.EOF by which a store says that all bytes were of one version.
func confirm(body io.Reader) error {
	var b [1]byte
	n, err := io.ReadFull(body, b[:])
	switch {
	case n > 0:
		return &sluice.Error{Kind: sluice.Changed, Err: errors.New("the store gave more bytes than were asked for")}
	case err == io.EOF:
		return nil
	default:
		return err
	}
}

// keep puts a page that was read whole into the block store, where that is wanted and
// there is room, and ends its flight.
func (w *Worker) keep(r *run, f *flight, settled bool) {
	f.mu.Lock()
	if !settled || !f.cache {
		f.mu.Unlock()
		w.stats.uncached.Add(1)
		w.end(f, false, nil)
		return
	}
	f.avail = f.size
	f.signalLocked()
	f.mu.Unlock()
	err := w.cfg.Store.FillPage(w.alive, r.block, r.claims.blockLength(r.block.Index), f.key.page, f.buf[:f.size], nil)
	if err != nil {
		w.stats.uncached.Add(1)
		if sluice.KindOf(err) == sluice.Internal {
			w.log.Error("a page could not be cached", "block", r.block.String(), "cause", err)
		}
	} else {
		w.holds.note(r.block)
	}
	w.end(f, err == nil, nil)
}

// missing turns the answer of a store that the object is not there into Changed: it was
// when the file was opened.
func missing(err error) error {
	if sluice.KindOf(err) == sluice.NotFound {
		return &sluice.Error{Kind: sluice.Changed, Err: fmt.Errorf("the object is no longer in the store: %w", err)}
	}
	return err
}

// mount returns the store of a grant. A mount, or an epoch of it, that is not known yet
// is asked for first; kind Stale where the masters know it no more either.
func (w *Worker) mount(ctx context.Context, c *claims) (*mounts.Store, error) {
	asked := false
	for {
		s, err := w.cfg.Stores.Acquire(c.mount)
		switch {
		case err == nil && (c.epoch == 0 || s.Epoch == c.epoch):
			return s, nil
		case err != nil && !errors.Is(err, sluice.NotFound):
			return nil, err
		}
		if s != nil {
			s.Release()
		}
		if asked {
			return nil, &sluice.Error{Kind: sluice.Stale, Err: fmt.Errorf("mount %d changed since the file was opened; open it again", c.mount)}
		}
		if err := w.beats.now(ctx, mountWait); err != nil {
			return nil, &sluice.Error{Kind: sluice.Unavailable, Err: fmt.Errorf("mount %d is not known here, and no master answers: %w", c.mount, err)}
		}
		asked = true
	}
}

// mountWait is how long a request waits for the mount table to arrive.
const mountWait = 5 * time.Second

// settled says whether what is read of the content from here on may be cached: where the
// store cannot tell two quick versions apart, only an old enough one. It asks the store
// once for each content.
func (w *Worker) settled(ctx context.Context, s *mounts.Store, c *claims) (bool, error) {
	if !s.Features().Settle {
		return true, nil
	}
	at, ok := w.settle.get(c.content)
	if !ok {
		o, err := s.Stat(ctx, underfs.Key(c.key))
		if err != nil {
			return false, err
		}
		if c.version != "" && o.Version != c.version {
			return false, &sluice.Error{Kind: sluice.Changed, Err: errors.New("the store has another version than when the file was opened")}
		}
		wait := s.Mount.Options.Settle
		if wait == 0 {
			wait = defaultSettle
		}
		at = o.Mtime.Add(wait)
		w.settle.put(c.content, at)
	}
	return !w.cfg.Wall().Before(at), nil
}

// defaultSettle is [sluice.MountOptions].Settle where it is 0.
const defaultSettle = 2 * time.Second

// lost says that bytes which existed only in workers are not here.
func lost(b sluice.BlockID) error {
	return &sluice.Error{Kind: sluice.Lost, Err: fmt.Errorf("block %v existed only in workers and is not in this one", b)}
}

// absent returns the pages a read found missing, nil for another error.
func absent(err error) *blockstore.MissingError {
	m, _ := errors.AsType[*blockstore.MissingError](err)
	return m
}

func errStopping() error {
	return &sluice.Error{Kind: sluice.Unavailable, Err: errors.New("the worker is stopping")}
}

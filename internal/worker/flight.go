package worker

import (
	"context"
	"errors"
	"sync"

	"github.com/sluicefs/sluice"
)

// flightKey names a page on its way. Key and version are part of it: a content may get
// another key, and who has an old grant must not fail who has a fresh one.
type flightKey struct {
	block   sluice.BlockID
	page    int64
	key     string
	version sluice.Version
}

// flight is one page on its way from a store to all who wait for it.
type flight struct {
	key  flightKey
	size int // bytes of the page
	run  *run

	mu    sync.Mutex
	buf   *[sluice.PageSize]byte // guarded by mu; nil once it was given back
	avail int                    // guarded by mu: bytes that may be handed out
	done  bool                   // guarded by mu: nothing more comes
	kept  bool                   // guarded by mu: the page is in the block store
	cache bool                   // guarded by mu: somebody wants it kept
	err   error                  // guarded by mu
	users int                    // guarded by mu: readers that will come
	using int                    // guarded by mu: readers that send from buf
	wake  chan struct{}          // guarded by mu: closed and replaced when something changed
}

// errKept says that the page is to be read from the block store.
var errKept = errors.New("the page is in the block store")

// signalLocked wakes who waits.
func (f *flight) signalLocked() {
	close(f.wake)
	f.wake = make(chan struct{})
}

// next returns the bytes from off on as far as they have come, at least one, waiting
// for them. The caller calls sent when it is done with them. The error is errKept where
// they are to be read from the block store, or why the page does not come.
func (f *flight) next(ctx context.Context, off int) ([]byte, error) {
	for {
		f.mu.Lock()
		switch {
		case f.err != nil:
			defer f.mu.Unlock()
			return nil, f.err
		case f.kept || f.buf == nil:
			f.mu.Unlock()
			return nil, errKept
		case f.avail > off:
			f.using++
			p := f.buf[off:f.avail]
			f.mu.Unlock()
			return p, nil
		}
		wake := f.wake
		f.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, sluice.Wrap("", "", ctx.Err())
		}
	}
}

// sent ends the use of what next returned.
func (f *flight) sent(p *pool) {
	f.mu.Lock()
	f.using--
	b := f.spareLocked()
	f.mu.Unlock()
	if b != nil {
		p.put(b)
	}
}

// spareLocked takes the buffer out if nobody needs it any more.
func (f *flight) spareLocked() *[sluice.PageSize]byte {
	if !f.done || f.using > 0 || f.users > 0 && !f.kept && f.err == nil {
		return nil
	}
	b := f.buf
	f.buf = nil
	return b
}

// progress lets readers have the first n bytes.
func (f *flight) progress(n int) {
	f.mu.Lock()
	f.avail = n
	f.signalLocked()
	f.mu.Unlock()
}

// flights are the pages on their way.
type flights struct {
	mu  sync.Mutex
	all map[flightKey]*flight // guarded by mu
}

// join returns the flight of a page with one user more, or nil where there is none.
func (x *flights) join(k flightKey, cache bool) *flight {
	x.mu.Lock()
	defer x.mu.Unlock()
	f := x.all[k]
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil
	}
	f.users++
	f.cache = f.cache || cache
	return f
}

// leave ends the interest of one user. One that is gone before it had its bytes ends a
// run that nobody else needs; else the page is still worth having.
func (w *Worker) leave(f *flight, gone bool) {
	x := &w.flights
	x.mu.Lock()
	f.mu.Lock()
	f.users--
	over := f.done && f.users == 0
	b := f.spareLocked()
	f.mu.Unlock()
	if over && x.all[f.key] == f {
		delete(x.all, f.key)
	}
	idle := gone && f.run.idleLocked()
	if idle {
		x.forgetLocked(f.run)
	}
	x.mu.Unlock()
	if b != nil {
		w.pool.put(b)
	}
	if idle {
		f.run.cancel(errUnwanted)
	}
}

// forgetLocked takes the pages of a run that is being given up out, so that nobody
// begins to wait for them.
func (x *flights) forgetLocked(r *run) {
	for _, f := range r.flights {
		if x.all[f.key] == f {
			delete(x.all, f.key)
		}
	}
}

// end says that nothing more comes for a flight: all of it was read (err nil) and is in
// the block store or not, or it failed.
func (w *Worker) end(f *flight, kept bool, err error) {
	x := &w.flights
	x.mu.Lock()
	f.mu.Lock()
	f.done, f.kept, f.err = true, kept, err
	if err == nil {
		f.avail = f.size
	}
	if (kept || err != nil || f.users == 0) && x.all[f.key] == f {
		delete(x.all, f.key)
	}
	b := f.spareLocked()
	f.signalLocked()
	f.mu.Unlock()
	x.mu.Unlock()
	if b != nil {
		w.pool.put(b)
	}
}

var errUnwanted = errors.New("nobody waits for these bytes any more")

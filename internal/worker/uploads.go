package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// budget is memory that drivers may need for uploads, counted in uploads.
type budget struct{ free *semaphore.Weighted }

// largeUpload is how many bytes the driver of an object store is taken to hold for one
// large content.
const largeUpload = 16 << 20

// uploads are the contents being written, and those sealed and not yet settled.
type uploads struct {
	w            *Worker
	small, large *budget
	ended        *recent[sluice.ContentID, ending]

	mu   sync.Mutex
	all  map[sluice.ContentID]*upload // guarded by mu
	held int                          // guarded by mu: of all, those that hold memory or wait for bytes
	over bool                         // guarded by mu
}

// maxPrepared bounds the contents that lie in their store, complete and invisible, until
// a master makes them visible or says that they are dead.
const maxPrepared = 1 << 16

// ending is what is remembered of a content that is done with.
type ending struct {
	sealed *sluice.Sealed
	stored *underfs.Object
}

func newUploads(w *Worker) *uploads {
	half := w.cfg.MemoryPool / 2
	return &uploads{
		w: w, all: make(map[sluice.ContentID]*upload), ended: newRecent[sluice.ContentID, ending](4096),
		small: &budget{semaphore.NewWeighted(max(2, half/2/smallUpload))},
		large: &budget{semaphore.NewWeighted(max(1, half/2/largeUpload))},
	}
}

// find returns the upload of a content, nil where there is none.
func (x *uploads) find(c sluice.ContentID) *upload {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.all[c]
}

func (x *uploads) count() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return int64(len(x.all))
}

// of returns the upload of a write grant, begun where this is the first that is heard of
// it: an early piece of a content waits in it for those before.
func (x *uploads) of(ctx context.Context, c *claims) (*upload, error) {
	if e, ok := x.ended.get(c.content); ok {
		if e.sealed == nil {
			return nil, &sluice.Error{Kind: sluice.Stale, Err: errDiscarded}
		}
		return nil, &sluice.Error{Kind: sluice.Exists, Err: errDiscarded}
	}
	x.mu.Lock()
	u := x.all[c.content]
	switch {
	case u != nil:
		x.mu.Unlock()
		return u, nil
	case x.over:
		x.mu.Unlock()
		return nil, errStopping()
	case x.held >= x.w.cfg.Uploads || len(x.all) >= maxPrepared:
		x.mu.Unlock()
		return nil, &sluice.Error{Kind: sluice.Busy, Err: fmt.Errorf("%d contents are being written already", x.held)}
	}
	u = &upload{w: x.w, claims: *c, wake: make(chan struct{}), busy: true, held: true, touched: x.w.cfg.Boot()}
	x.held++
	u.ctx, u.cancel = context.WithCancel(x.w.alive)
	x.all[c.content] = u
	x.mu.Unlock()
	if err := u.begin(ctx); err != nil {
		// The next caller begins again.
		x.forget(u)
		u.release(context.WithoutCancel(ctx))
		u.yield(err)
		return nil, err
	}
	u.yield(nil)
	return u, nil
}

var errDiscarded = errors.New("the content was given up; write the file again")

// discard ends the upload of a content and drops what is here of it.
func (x *uploads) discard(ctx context.Context, c sluice.ContentID, why error) error {
	u := x.find(c)
	x.w.pins.put(c, false)
	if u == nil {
		x.ended.put(c, ending{})
		x.w.cfg.Store.DropContent(ctx, c)
		return nil
	}
	x.ended.put(c, ending{})
	err := u.drop(ctx, &sluice.Error{Kind: sluice.Stale, Err: why}, true)
	x.forget(u)
	x.w.stats.discarded.Add(1)
	return err
}

// giveUp is discard on a writer's word. A sealed content is a master's to drop: it may be
// about to commit it. It is dropped here too once no master says that it lives.
func (x *uploads) giveUp(ctx context.Context, c sluice.ContentID) error {
	if u := x.find(c); u != nil {
		u.mu.Lock()
		u.unwanted = u.sealed != nil
		leave := u.unwanted
		u.mu.Unlock()
		if leave {
			return nil
		}
	}
	return x.discard(ctx, c, errDiscarded)
}

// settle ends the upload of a content that lies in its store, and keeps what was said
// of it.
func (x *uploads) settle(ctx context.Context, u *upload) error {
	u.mu.Lock()
	e := ending{sealed: u.sealed, stored: u.stored}
	u.mu.Unlock()
	x.ended.put(u.claims.content, e)
	err := u.drop(ctx, &sluice.Error{Kind: sluice.Exists, Err: errors.New("the content is published")}, false)
	x.forget(u)
	return err
}

func (x *uploads) forget(u *upload) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.all[u.claims.content] == u {
		delete(x.all, u.claims.content)
	}
	x.letGoLocked(u)
}

// letGoLocked counts an upload no more among those that hold something.
func (x *uploads) letGoLocked(u *upload) {
	if u.held {
		u.held = false
		x.held--
	}
}

// rests takes note that a content is sealed. One that exists only in workers has nothing
// more to wait for: its blocks are kept. One that lies in its store holds nothing here.
func (x *uploads) rests(ctx context.Context, u *upload, s *sluice.Sealed) {
	switch {
	case !u.claims.through():
		x.settle(ctx, u)
	case !s.Prepared.Inline:
		x.mu.Lock()
		x.letGoLocked(u)
		x.mu.Unlock()
	}
}

// open returns the contents whose uploads have not settled, at most n.
func (x *uploads) open(n int) []sluice.ContentID {
	x.mu.Lock()
	defer x.mu.Unlock()
	out := make([]sluice.ContentID, 0, min(n, len(x.all)))
	for c := range x.all {
		if len(out) == n {
			break
		}
		out = append(out, c)
	}
	return out
}

// lives notes that a master still expects the content.
func (x *uploads) lives(c sluice.ContentID) {
	if u := x.find(c); u != nil {
		u.mu.Lock()
		u.touched = x.w.cfg.Boot()
		u.mu.Unlock()
	}
}

// loop drops contents that nobody writes to and no master asks for any more.
func (x *uploads) loop(ctx context.Context) {
	t := time.NewTicker(max(x.w.cfg.Idle/8, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			x.reap(ctx)
		}
	}
}

// reap drops what is idle. A sealed content is not its to drop: a master may be about to
// commit it, and says when it is dead.
func (x *uploads) reap(ctx context.Context) {
	var dead []*upload
	now := x.w.cfg.Boot()
	x.mu.Lock()
	for _, u := range x.all {
		u.mu.Lock()
		idle := !u.busy && now-u.touched > x.w.cfg.Idle
		if idle && (u.sealed == nil || u.unwanted) {
			dead = append(dead, u)
		}
		u.mu.Unlock()
	}
	x.mu.Unlock()
	for _, u := range dead {
		x.w.log.Info("a content was given up: nobody wrote to it for a long time", "content", u.claims.content.String())
		if err := x.discard(ctx, u.claims.content, errDiscarded); err != nil {
			x.w.log.Warn("a content given up was not removed from its store", "content", u.claims.content.String(), "cause", err)
		}
	}
}

// closeWait is how long a stopping worker takes to abort what was being written.
const closeWait = 3 * time.Second

// close ends every upload. What is prepared in a store and not held here is left for the
// master, who can complete it.
func (x *uploads) close() {
	x.mu.Lock()
	x.over = true
	all := make([]*upload, 0, len(x.all))
	for _, u := range x.all {
		all = append(all, u)
	}
	clear(x.all)
	x.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	var done sync.WaitGroup
	for _, u := range all {
		done.Go(func() {
			u.mu.Lock()
			leave := u.sealed != nil
			u.mu.Unlock()
			if leave {
				if u.idle(ctx) == nil {
					u.abandon()
					u.yield(errStopping())
				}
				return
			}
			if err := u.drop(ctx, errStopping(), true); err != nil {
				x.w.log.Warn("a content being written was not removed from its store", "content", u.claims.content.String(), "cause", err)
			}
		})
	}
	done.Wait()
}

// abandon gives everything back but what lies in the store, with the turn.
func (u *upload) abandon() {
	if u.released {
		return
	}
	u.released = true
	if u.store != nil {
		u.store.Release()
	}
	u.unreserve()
	u.cancel()
}

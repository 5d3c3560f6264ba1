package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/blockstore"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// holders are the clients on this host to which descriptors of block files were passed.
// Each leaves a request waiting, says with it what it has let go of, and is answered with
// what is wanted back. What it holds is given up for it once its connection is gone.
type holders struct {
	w *Worker

	mu    sync.Mutex
	all   map[uint64]*holder // guarded by mu: by token
	count int                // guarded by mu: descriptors of all of them
	lives uint64             // guarded by mu: holders there ever were
	over  bool               // guarded by mu

	recalled, refused atomic.Int64
}

// holder is one client. Guarded by the mutex of holders.
type holder struct {
	token, life uint64
	holds       map[uint64]*hold
	conn        <-chan struct{} // closed when the connection it was last heard on is over
	gone        time.Duration   // boot time since when nothing is heard of it; 0: it lives
	poll        chan struct{}   // closed when the waiting request is to be answered; nil: none waits
	wanted      []uint64        // to be told to it
	due         time.Duration   // boot time since when it has not reacted to what is wanted; 0: it has
}

// hold is a descriptor that was passed or is about to be. Guarded by the mutex of holders.
type hold struct {
	holder *holder
	number uint64
	pass   *blockstore.Passed // nil before it is passed
	wanted bool
	ended  bool
}

// The bounds of holders.
const (
	maxHolds      = 1 << 16                // descriptors of all clients together
	holderGrace   = 2 * time.Second        // for a client whose connection is gone to come again
	holderSweep   = 500 * time.Millisecond // how often is looked for such clients
	holderAnswers = 2 * time.Second        // a client that takes longer to react gets no further descriptors
)

func newHolders(w *Worker) *holders {
	return &holders{w: w, all: make(map[uint64]*holder)}
}

// reserve makes a place for the descriptor that q asks for, before it is passed. Kind
// Unsupported: this client gets none, so that it reads by frames.
func (x *holders) reserve(q *wire.OpenBlockRequest, conn <-chan struct{}) (*hold, error) {
	if q.Holder == 0 || q.Hold == 0 {
		return nil, &sluice.Error{Kind: sluice.Unsupported, Err: errors.New("a descriptor passes only to who says by which token and number it is asked back")}
	}
	x.mu.Lock()
	h := x.all[q.Holder]
	if h == nil {
		x.lives++
		h = &holder{token: q.Holder, life: x.lives, holds: make(map[uint64]*hold)}
		x.all[q.Holder] = h
	}
	free := x.releaseLocked(h, q.Released)
	if h.poll == nil {
		h.heard(conn)
	}
	d := &hold{holder: h, number: q.Hold}
	err := x.refuseLocked(h, q.Hold)
	if err == nil {
		h.holds[q.Hold] = d
		x.count++
	}
	x.tidyLocked(h)
	x.mu.Unlock()
	closeAll(free)
	if err != nil {
		x.refused.Add(1)
		return nil, err
	}
	return d, nil
}

// refuseLocked says why h does not get a descriptor, if it does not.
func (x *holders) refuseLocked(h *holder, number uint64) error {
	most := x.w.cfg.Descriptors
	switch {
	case x.over:
		return errStopping()
	case h.holds[number] != nil:
		return &sluice.Error{Kind: sluice.Invalid, Err: fmt.Errorf("the number %d of a descriptor is used twice", number)}
	case len(h.holds) >= most || x.count >= maxHolds:
		return &sluice.Error{Kind: sluice.Unsupported, Err: fmt.Errorf("%d descriptors are held by this client; at most %d are passed", len(h.holds), most)}
	case h.due != 0 && x.w.cfg.Boot()-h.due > holderAnswers:
		return &sluice.Error{Kind: sluice.Unsupported, Err: errors.New("this client does not give back what it is asked for")}
	}
	return nil
}

// heard notes that the client lives at the other end of a connection.
func (h *holder) heard(conn <-chan struct{}) {
	if !isClosed(conn) { // else it is a straggler
		h.conn, h.gone = conn, 0
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// keep notes that d is passed. false: it was given up meanwhile.
func (x *holders) keep(d *hold, p *blockstore.Passed) bool {
	x.mu.Lock()
	kept := !d.ended
	if kept {
		d.pass = p
	}
	x.mu.Unlock()
	if !kept {
		p.Close()
	}
	return kept
}

// drop gives up a descriptor that did not get to its client.
func (x *holders) drop(d *hold) {
	x.mu.Lock()
	free := x.releaseLocked(d.holder, []uint64{d.number})
	x.tidyLocked(d.holder)
	x.mu.Unlock()
	closeAll(free)
}

// releaseLocked gives up descriptors of h; unknown ones were given up before. It returns
// what is to be closed without the mutex.
func (x *holders) releaseLocked(h *holder, numbers []uint64) (free []*blockstore.Passed) {
	for _, n := range numbers {
		d := h.holds[n]
		if d == nil {
			continue
		}
		delete(h.holds, n)
		x.count--
		d.ended = true
		if d.pass != nil {
			free = append(free, d.pass)
		}
	}
	return free
}

func closeAll(all []*blockstore.Passed) {
	for _, p := range all {
		p.Close()
	}
}

// tidyLocked forgets h when it holds nothing: nothing is wanted of it any more.
func (x *holders) tidyLocked(h *holder) {
	if len(h.holds) == 0 && x.all[h.token] == h {
		delete(x.all, h.token)
		h.wake()
	}
}

// wake has the waiting request answered.
func (h *holder) wake() {
	if h.poll != nil {
		close(h.poll)
		h.poll = nil
	}
}

// want asks for a descriptor. It is called by the block store and does not wait.
func (x *holders) want(d *hold) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if d.wanted {
		return
	}
	d.wanted = true
	x.recalled.Add(1)
	if d.ended {
		return
	}
	h := d.holder
	h.wanted = append(h.wanted, d.number)
	if h.due == 0 {
		h.due = x.w.cfg.Boot()
	}
	h.wake()
}

// recall serves MethodRecall: it takes in what the client let go of and waits until
// something is wanted of it, or until it asks again.
func (w *Worker) recall(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.RecallRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	x := w.holders
	h, poll, err := x.attend(&q, r.Over())
	if err != nil {
		return nil, err
	}
	select {
	case <-poll:
	case <-ctx.Done():
		x.leave(h, poll)
		return nil, sluice.Wrap("", "", ctx.Err())
	case <-r.Stopping():
		x.leave(h, poll)
		return nil, errStopping()
	case <-w.alive.Done():
		return nil, errStopping()
	}
	return x.answer(h), nil
}

// attend takes in a request. It is answered when poll is closed. Kind NotFound: the
// client is not known, nothing it holds is charged.
func (x *holders) attend(q *wire.RecallRequest, conn <-chan struct{}) (*holder, chan struct{}, error) {
	poll := make(chan struct{})
	x.mu.Lock()
	h := x.all[q.Holder]
	if h == nil {
		x.mu.Unlock()
		return nil, nil, &sluice.Error{Kind: sluice.NotFound, Err: errors.New("no descriptors are held by this client")}
	}
	h.heard(conn)
	h.due = 0
	free := x.releaseLocked(h, q.Released)
	if q.Again {
		h.wanted = h.wanted[:0]
		for n, d := range h.holds {
			if d.wanted {
				h.wanted = append(h.wanted, n)
			}
		}
		slices.Sort(h.wanted)
	}
	h.wake() // the request before this one
	h.poll = poll
	x.tidyLocked(h)
	if len(h.wanted) > 0 {
		h.wake()
	}
	x.mu.Unlock()
	closeAll(free)
	return h, poll, nil
}

// leave notes that a request waits no more.
func (x *holders) leave(h *holder, poll chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if h.poll == poll {
		h.poll = nil
	}
}

// answer makes the answer to a request of h.
func (x *holders) answer(h *holder) *wire.RecallAnswer {
	a := &wire.RecallAnswer{Boot: x.w.boot, Life: h.life}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, n := range h.wanted {
		if h.holds[n] != nil {
			a.Wanted = append(a.Wanted, n)
		}
	}
	h.wanted = nil
	if len(a.Wanted) > 0 {
		h.due = x.w.cfg.Boot()
	}
	return a
}

// loop gives up what clients hold that are gone, until ctx ends.
func (x *holders) loop(ctx context.Context) {
	t := time.NewTicker(holderSweep)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			x.sweep()
		}
	}
}

func (x *holders) sweep() {
	var free []*blockstore.Passed
	now := x.w.cfg.Boot()
	x.mu.Lock()
	for _, h := range x.all {
		switch {
		case h.poll != nil || !isClosed(h.conn):
			h.gone = 0
		case h.gone == 0:
			h.gone = now
		case now-h.gone > holderGrace:
			free = append(free, x.endLocked(h)...)
		}
	}
	x.mu.Unlock()
	closeAll(free)
}

// endLocked gives up all that h holds.
func (x *holders) endLocked(h *holder) []*blockstore.Passed {
	numbers := make([]uint64, 0, len(h.holds))
	for n := range h.holds {
		numbers = append(numbers, n)
	}
	free := x.releaseLocked(h, numbers)
	x.tidyLocked(h)
	return free
}

// close gives everything up: whoever still holds a descriptor learns from the next worker
// that it is not known there.
func (x *holders) close() {
	var free []*blockstore.Passed
	x.mu.Lock()
	x.over = true
	for _, h := range x.all {
		free = append(free, x.endLocked(h)...)
	}
	x.mu.Unlock()
	closeAll(free)
}

// figures returns how many clients hold how many descriptors.
func (x *holders) figures() (clients, descriptors int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return int64(len(x.all)), int64(x.count)
}

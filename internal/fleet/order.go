package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

var (
	errGone      = errors.New("the worker is gone")
	errRestarted = errors.New("the worker was started again")
)

// queue is the orders of one worker, guarded by the fleet's mutex.
type queue struct {
	waiting []*order          // not handed out
	out     map[uint64]*order // handed out, by id
	wake    chan struct{}     // closed and replaced when something was added
	asks    []*ask            // requests of the worker that wait here, the oldest first
}

// ask is one waiting request of a worker.
type ask struct {
	room chan struct{} // closed when it is to be answered with nothing, for later ones
}

// order is one order on its way. It is answered once.
type order struct {
	wire   *wire.Order
	until  time.Duration          // on the boot clock: its time is over; 0 is never
	result chan *wire.OrderResult // has room for the one answer; nil: nobody waits
}

// finish answers who waits.
func (o *order) finish(r *wire.OrderResult) {
	if o.result != nil {
		o.result <- r
	}
}

func newQueue() queue { return queue{out: make(map[uint64]*order), wake: make(chan struct{})} }

// failAll ends the orders of a worker that is gone. Of those handed out nobody knows
// what became.
func (q *queue) failAll(cause error) {
	for _, o := range q.waiting {
		o.finish(result(o.wire, sluice.Unavailable, cause))
	}
	for _, o := range q.out {
		o.finish(result(o.wire, sluice.UnknownOutcome, cause))
	}
	q.waiting = nil
	clear(q.out)
}

func result(o *wire.Order, kind sluice.Kind, cause error) *wire.OrderResult {
	return &wire.OrderResult{
		Id: o.Id, Intent: o.Intent, Attempt: o.Attempt,
		Error: wire.FromError(&sluice.Error{Op: "order", Kind: kind, Err: cause}),
	}
}

// Order gives a worker something to do and waits for the result. The order's id is set
// here. It is handed out once: its time left, less what it waited here, runs from the
// worker's asking, so that the attempt is over for the worker before it is for the
// primary; a worker that loses it is given another. Errors: Unavailable (the worker is not
// there, or has too much to do; it was not handed out), UnknownOutcome (it was handed
// out, and the worker vanished or ctx ended), Timeout and Cancelled (ctx ended before
// it was handed out).
func (f *Fleet) Order(ctx context.Context, id sluice.WorkerID, w *wire.Order) (*wire.OrderResult, error) {
	o := &order{wire: w, result: make(chan *wire.OrderResult, 1)}
	if err := f.enqueue(id, o); err != nil {
		return nil, err
	}
	select {
	case r := <-o.result:
		return r, nil
	case <-ctx.Done():
	}
	if f.withdraw(id, o) {
		return nil, sluice.Wrap("order", "", ctx.Err())
	}
	select {
	case r := <-o.result:
		return r, nil
	default:
		return nil, &sluice.Error{Op: "order", Kind: sluice.UnknownOutcome, Err: ctx.Err()}
	}
}

// Send gives a worker something to do whose result nobody waits for. A worker that is
// not there does not get it.
func (f *Fleet) Send(id sluice.WorkerID, w *wire.Order) error {
	return f.enqueue(id, &order{wire: w})
}

func (f *Fleet) enqueue(id sluice.WorkerID, o *order) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	wk := f.workers[id]
	switch {
	case wk == nil || !wk.live:
		return &sluice.Error{Op: "order", Kind: sluice.Unavailable, Err: fmt.Errorf("worker %s is not there", id)}
	case len(wk.orders.waiting)+len(wk.orders.out) >= f.cfg.MaxOrders:
		return &sluice.Error{Op: "order", Kind: sluice.Unavailable, Err: fmt.Errorf("worker %s has %d orders already", id, f.cfg.MaxOrders)}
	}
	f.lastID++
	o.wire.Id = f.lastID
	if o.wire.TimeLeft > 0 {
		o.until = f.cfg.Boot() + time.Duration(o.wire.TimeLeft)
	}
	q := &wk.orders
	q.waiting = append(q.waiting, o)
	close(q.wake)
	q.wake = make(chan struct{})
	return nil
}

// withdraw takes back an order, and says whether it had not been handed out.
func (f *Fleet) withdraw(id sluice.WorkerID, o *order) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.workers[id]
	if w == nil {
		return false
	}
	for i, x := range w.orders.waiting {
		if x == o {
			w.orders.waiting = append(w.orders.waiting[:i:i], w.orders.waiting[i+1:]...)
			return true
		}
	}
	delete(w.orders.out, o.wire.Id)
	return false
}

// The bounds of asking.
const (
	maxHandout = 64 // orders that one ask is answered with
	maxAsks    = 2  // asks of one worker that wait; the next one ends the oldest
)

// Ask takes in results and returns the orders that wait for the worker, waiting for
// some at most for wait and until ctx ends (then there are none). A worker tells each
// result by a further ask: where more than two of its asks wait, the oldest is answered
// with nothing. It is not for the worker to give one up, because what that is being
// handed would be lost for as long as an attempt takes. Ask takes a worker that is not
// known for one that will be: the next heartbeat makes it so. Results are taken in
// whatever the error.
func (f *Fleet) Ask(ctx context.Context, id sluice.WorkerID, results []*wire.OrderResult, wait time.Duration) ([]*wire.Order, error) {
	f.deliver(id, results)
	if ctx.Err() != nil {
		return nil, nil
	}
	a := f.enter(id)
	defer f.leave(id, a)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for ctx.Err() == nil { // nothing is handed to a caller that has left
		orders, wake := f.take(id)
		if len(orders) > 0 || wake == nil {
			return orders, nil
		}
		select {
		case <-wake:
		case <-a.room:
			return nil, nil
		case <-timer.C:
			return nil, nil
		case <-ctx.Done():
		}
	}
	return nil, nil
}

// enter notes an ask that may wait, and has the oldest make room.
func (f *Fleet) enter(id sluice.WorkerID) *ask {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := &ask{room: make(chan struct{})}
	if w := f.workers[id]; w != nil {
		w.orders.asks = append(w.orders.asks, a)
		if len(w.orders.asks) > maxAsks {
			close(w.orders.asks[0].room)
			w.orders.asks = w.orders.asks[1:]
		}
	}
	return a
}

// leave forgets an ask that is answered.
func (f *Fleet) leave(id sluice.WorkerID, a *ask) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w := f.workers[id]; w != nil {
		w.orders.asks = slices.DeleteFunc(w.orders.asks, func(x *ask) bool { return x == a })
	}
}

// deliver hands results to those who wait for them. One that nobody waits for any more
// is dropped: the intent it belongs to resolves itself by asking the store.
func (f *Fleet) deliver(id sluice.WorkerID, results []*wire.OrderResult) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.workers[id]
	if w == nil {
		return
	}
	for _, r := range results {
		if o := w.orders.out[r.GetId()]; o != nil && o.wire.Intent == r.Intent && o.wire.Attempt == r.Attempt {
			delete(w.orders.out, r.Id)
			o.finish(r)
		}
	}
}

// take hands out what waits. A worker not known yet waits for the view to change.
func (f *Fleet) take(id sluice.WorkerID) ([]*wire.Order, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.workers[id]
	if w == nil {
		return nil, f.changed
	}
	q := &w.orders
	n := min(len(q.waiting), maxHandout)
	if n == 0 {
		return nil, q.wake
	}
	var orders []*wire.Order
	for _, o := range q.waiting[:n] {
		if o.until > 0 { // what it waited here is not the worker's any more
			o.wire.TimeLeft = max(1, int64(o.until-f.cfg.Boot()))
		}
		orders = append(orders, o.wire)
		if o.result != nil {
			q.out[o.wire.Id] = o
		}
	}
	q.waiting = append([]*order(nil), q.waiting[n:]...)
	return orders, nil
}

package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs"
)

// orders asks the masters for work and carries it out. At least one request for orders
// waits at the master; results go with a further one at once.
type orders struct {
	w *Worker

	mu      sync.Mutex
	results []*wire.OrderResult      // guarded by mu: not yet told
	polls   int                      // guarded by mu: requests under way
	wake    chan struct{}            // has room for one
	done    *recent[attempt, *doing] // what was done, by attempt
}

// attempt is what makes an order happen once.
type attempt struct{ intent, attempt uint64 }

// doing is an order under way or done.
type doing struct {
	over   chan struct{}     // closed when result is set
	result *wire.OrderResult // of whoever asked first
}

// The bounds of asking for orders.
const (
	maxPolls     = 8
	pollTimeout  = 60 * time.Second
	ordersPause  = 100 * time.Millisecond
	ordersPauses = 2 * time.Second
)

func newOrders(w *Worker) *orders {
	return &orders{w: w, wake: make(chan struct{}, 1), done: newRecent[attempt, *doing](4096)}
}

// loop keeps requests waiting until ctx ends, and returns when all of them and all
// orders have ended.
func (o *orders) loop(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	fails := make(chan error, maxPolls)
	pause := time.Duration(0)
	for ctx.Err() == nil {
		if results, due := o.next(); due {
			running.Go(func() {
				err := o.ask(ctx, results, &running)
				o.ended()
				select {
				case fails <- err:
				default:
				}
				o.poke()
			})
		}
		select {
		case <-o.wake:
		case <-ctx.Done():
		}
		select {
		case err := <-fails:
			pause = o.rest(ctx, err, pause)
		default:
		}
	}
}

// rest waits a little after a failure, longer each time.
func (o *orders) rest(ctx context.Context, err error, before time.Duration) time.Duration {
	if err == nil {
		return 0
	}
	d := min(max(2*before, ordersPause), ordersPauses)
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return d
}

// next says whether a request is due, and returns all that it is to tell. The master
// answers the oldest of many that wait, so that there is room again soon: giving one up
// from here could lose an order that it is being answered with.
func (o *orders) next() (results []*wire.OrderResult, due bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.results) == 0 && o.polls > 0 || o.polls >= maxPolls {
		return nil, false
	}
	results, o.results = o.results, nil
	o.polls++
	return results, true
}

func (o *orders) ended() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.polls--
}

func (o *orders) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// ask makes a request: it tells results and waits for orders.
func (o *orders) ask(ctx context.Context, results []*wire.OrderResult, running *sync.WaitGroup) error {
	call, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	q := &wire.OrdersRequest{Worker: uint64(o.w.cfg.Info.ID), Results: results}
	var a wire.OrdersAnswer
	sent := o.w.cfg.Boot()
	if err := o.w.masters.call(call, wire.MethodOrders, q, &a); err != nil {
		if len(results) > 0 {
			o.tell(results...) // told twice does no harm
		}
		return err
	}
	for _, x := range a.Orders {
		running.Go(func() { o.tell(o.once(x, sent)) })
	}
	return nil
}

// tell keeps results for the next request.
func (o *orders) tell(results ...*wire.OrderResult) {
	o.mu.Lock()
	o.results = append(o.results, results...)
	o.mu.Unlock()
	o.poke()
}

// once carries out an order, or answers with what came of it before.
func (o *orders) once(x *wire.Order, sent time.Duration) *wire.OrderResult {
	fresh := &doing{over: make(chan struct{})}
	d := fresh
	if x.Put && x.Intent != 0 {
		d = o.done.orPut(attempt{x.Intent, x.Attempt}, func() *doing { return fresh })
	}
	if d == fresh {
		d.result = o.carry(x, sent)
		close(d.over)
	}
	<-d.over
	return &wire.OrderResult{Id: x.Id, Intent: x.Intent, Attempt: x.Attempt, Object: d.result.Object, Error: d.result.Error}
}

// carry carries out an order within its time, which runs from when it was asked for.
func (o *orders) carry(x *wire.Order, sent time.Duration) *wire.OrderResult {
	left := time.Duration(x.TimeLeft) - (o.w.cfg.Boot() - sent)
	if x.TimeLeft != 0 && left <= 0 {
		return &wire.OrderResult{Error: wire.FromError(&sluice.Error{Op: "order", Kind: sluice.Unavailable, Err: errors.New("the order came after its time; nothing was done")})}
	}
	ctx := o.w.alive
	if x.TimeLeft != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, left)
		defer cancel()
	}
	r := &wire.OrderResult{}
	c := x.Content.Sluice()
	var err error
	switch {
	case x.Drop:
		err = o.w.uploads.discard(ctx, c, errDiscarded)
	case x.Put:
		r.Object, err = o.put(ctx, c, x)
	default:
		err = &sluice.Error{Kind: sluice.Unsupported, Err: errors.New("this worker does not know the order; it may be older than the master")}
	}
	if err != nil {
		o.w.log.Debug("an order failed", "content", c.String(), "intent", x.Intent, "attempt", x.Attempt, "cause", err)
		r.Error = wire.FromError(sluice.Wrap("order", "", err))
	}
	return r
}

// put makes a sealed content visible.
func (o *orders) put(ctx context.Context, c sluice.ContentID, x *wire.Order) (*wire.Object, error) {
	u := o.w.uploads.find(c)
	if u == nil {
		if e, ok := o.w.uploads.ended.get(c); ok && e.stored != nil {
			return fromObject(*e.stored), nil
		}
		return nil, &sluice.Error{Kind: sluice.Lost, Err: fmt.Errorf("content %v is not held here", c)}
	}
	got, err := u.commit(ctx, underfs.Key(x.Key), underfs.Condition{Absent: x.Absent, Version: sluice.Version(x.Version)})
	if err != nil {
		return nil, err
	}
	return fromObject(got), o.w.uploads.settle(ctx, u)
}

// fromObject returns an object for the wire.
func fromObject(x underfs.Object) *wire.Object {
	return &wire.Object{
		Key: string(x.Key), Dir: x.Dir, Marker: x.Marker, Length: x.Length, Mtime: wire.FromTime(x.Mtime), Version: string(x.Version),
		Mode: uint32(x.Mode), Owner: x.Owner, Group: x.Group, Native: x.Native, Target: x.Target, Archived: x.Archived,
	}
}

package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// masters finds the primary and repeats requests until it answers.
type masters struct {
	find  func(ctx context.Context) ([]string, error)
	rpc   rpc.ClientConfig
	dice  *dice
	retry time.Duration
	soon  time.Duration // see answeredRetry
	watch func()        // starts the watch of the primary, at the first call

	primary atomic.Pointer[desk] // whom the last good answer came from, or who was named

	mu    sync.Mutex
	desks map[string]*desk // guarded by mu
	next  int              // guarded by mu: whom to try where no primary is known
	over  bool             // guarded by mu
}

// desk is one master.
type desk struct {
	addr         string
	conn         *rpc.Client
	begun, ended atomic.Int64 // requests
}

// call makes one request.
func (d *desk) call(ctx context.Context, method rpc.Method, req, resp rpc.Message) error {
	d.begun.Add(1)
	err := d.conn.Call(ctx, method, req, resp)
	d.ended.Add(1)
	return err
}

// Pauses between tries, and how often a named primary is followed without one.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
	// While there is no primary they are asked more often: an election takes a second.
	electionPause = 200 * time.Millisecond
	maxHops       = 4
	maxMasters    = 64
	// An answer (not a lost connection) of kind Unavailable is about something behind the
	// master, which has waited for it already: it is asked again only if it came so early.
	answeredRetry = time.Second
)

// newMasters starts, with background, the watch when it is first needed.
func newMasters(cfg Config, d *dice, background func(func(context.Context)) bool) *masters {
	m := &masters{find: cfg.Masters, rpc: cfg.rpcConfig(), dice: d, retry: cfg.Retry, soon: answeredRetry, desks: map[string]*desk{}}
	m.watch = sync.OnceFunc(func() { background(m.watchPrimary) })
	return m
}

// call sends a request to the primary and repeats it while that may help. unsure says
// that with the error a try before the last one, or the last, may have taken effect.
func (m *masters) call(ctx context.Context, method rpc.Method, req, resp rpc.Message) (unsure bool, err error) {
	begin := time.Now()
	if d := m.primary.Load(); d != nil {
		if err = d.call(ctx, method, req, resp); err == nil {
			return false, nil
		}
		return m.persist(ctx, begin, method, req, resp, d, err)
	}
	return m.persist(ctx, begin, method, req, resp, nil, nil)
}

// persist is the slow path of call: the first try at d (nil: there was none) failed.
func (m *masters) persist(ctx context.Context, begin time.Time, method rpc.Method, req, resp rpc.Message, d *desk, err error) (unsure bool, _ error) {
	pause, hops := firstPause, 0
	m.watch()
	for {
		if err != nil {
			unsure = unsure || unanswered(err)
			again, now := m.judge(d, method, err, time.Since(begin))
			if !again {
				return unsure, strip(err)
			}
			if !now || hops >= maxHops {
				hops = 0
				if serr := sleep(ctx, m.dice.jitter(pause)); serr != nil {
					return unsure, &sluice.Error{Kind: sluice.KindOf(serr), Err: fmt.Errorf("%w; the last try: %w", serr, err)}
				}
				most := lastPause
				if m.primary.Load() == nil {
					most = electionPause
				}
				pause = min(2*pause, most)
			} else {
				hops++
			}
		}
		if d, err = m.pick(ctx); err != nil {
			continue
		}
		if err = d.conn.Connect(ctx); err != nil {
			err = &unsent{err}
			continue
		}
		if err = d.call(ctx, method, req, resp); err == nil {
			m.primary.Store(d)
			return false, nil
		}
	}
}

// judge says whether to try again after err of d, and whether at once.
func (m *masters) judge(d *desk, method rpc.Method, err error, spent time.Duration) (again, now bool) {
	if spent >= m.retry || errors.Is(err, errOver) {
		return false, false
	}
	switch sluice.KindOf(err) {
	case sluice.NotPrimary:
		e, _ := errors.AsType[*sluice.Error](err)
		return true, m.follow(d, e.Primary)
	case sluice.Unavailable:
		if answered(err) {
			return spent < m.soon, false
		}
		m.leave(d)
		return true, false
	case sluice.Busy:
		// A read is told so of a file that is being written, which may take any time.
		return method != wire.MethodOpen || !answered(err), false
	default:
		return false, false
	}
}

// follow makes addr the primary; it says whether that is news.
func (m *masters) follow(from *desk, addr string) bool {
	if addr == "" || from != nil && addr == from.addr {
		m.leave(from)
		return false
	}
	d, err := m.desk(addr)
	if err != nil {
		return false
	}
	m.primary.Store(d)
	return true
}

// leave forgets that d is the primary.
func (m *masters) leave(d *desk) {
	if d != nil && m.primary.CompareAndSwap(d, nil) {
		return
	}
	if d != nil {
		m.mu.Lock()
		m.next++
		m.mu.Unlock()
	}
}

// pick returns the primary, or the next master to be tried.
func (m *masters) pick(ctx context.Context) (*desk, error) {
	if d := m.primary.Load(); d != nil {
		return d, nil
	}
	all, err := m.find(ctx)
	if err != nil {
		return nil, &unsent{&sluice.Error{Kind: sluice.Unavailable, Err: fmt.Errorf("find the masters: %w", err)}}
	}
	if len(all) == 0 {
		return nil, &unsent{&sluice.Error{Kind: sluice.Unavailable, Err: errors.New("no master is known")}}
	}
	m.mu.Lock()
	addr := all[m.next%len(all)]
	m.mu.Unlock()
	return m.desk(addr)
}

// desk returns the master at addr.
func (m *masters) desk(addr string) (*desk, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return nil, errClosed()
	}
	d := m.desks[addr]
	if d == nil {
		if len(m.desks) >= maxMasters {
			return nil, &sluice.Error{Kind: sluice.Unavailable, Err: fmt.Errorf("more than %d masters were named", maxMasters)}
		}
		d = &desk{addr: addr, conn: rpc.NewClient(m.rpc, target(addr))}
		m.desks[addr] = d
	}
	return d, nil
}

func (m *masters) close() {
	m.mu.Lock()
	m.over = true
	desks := m.desks
	m.desks = nil
	m.mu.Unlock()
	for _, d := range desks {
		d.conn.Close()
	}
}

var errOver = errors.New("the client is closed")

func errClosed() error {
	return &sluice.Error{Op: "use client", Kind: sluice.Unavailable, Err: errOver}
}

// unsent marks the failure of a try whose request has not left.
type unsent struct{ err error }

func (u *unsent) Error() string { return u.err.Error() }
func (u *unsent) Unwrap() error { return u.err }

// strip returns err without that mark.
func strip(err error) error {
	if u, ok := err.(*unsent); ok {
		return u.err
	}
	return err
}

// answered says whether err came from the other end's handler. Those errors name their
// operation; those of the connection do not.
func answered(err error) bool {
	e, ok := errors.AsType[*sluice.Error](err)
	return ok && e.Op != ""
}

// unanswered says whether the request that ended with err may have been carried out.
func unanswered(err error) bool {
	if _, ok := errors.AsType[*unsent](err); ok || answered(err) {
		return false
	}
	switch sluice.KindOf(err) {
	case sluice.Unavailable, sluice.Timeout, sluice.Cancelled:
		return true
	default:
		return false
	}
}

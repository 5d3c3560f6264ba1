package client

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// sessions keeps the one live session of the client, opened when it is first needed and
// again after it was lost.
type sessions struct {
	c       *core
	opening chan struct{} // holds one element while somebody opens a session
	current atomic.Pointer[session]
}

// session is one life of the client as the masters remember it.
type session struct {
	id     sluice.SessionID
	window uint64
	lease  time.Duration

	dead    context.Context // ends when it is lost or closed
	kill    context.CancelFunc
	awaited atomic.Bool               // the loop that waits for notices runs
	until   atomic.Pointer[time.Time] // grants may be used again until then

	mu     sync.Mutex
	next   uint64              // guarded by mu: the next sequence number
	lowest uint64              // guarded by mu: the lowest whose answer was not seen
	done   map[uint64]struct{} // guarded by mu: answered ones above lowest
	freed  chan struct{}       // guarded by mu: closed when lowest grows, if somebody waits
}

const (
	defaultLease  = 30 * time.Second
	defaultWindow = 64
)

func newSessions(c *core) *sessions {
	return &sessions{c: c, opening: make(chan struct{}, 1)}
}

// get returns the live session, opening one if there is none.
func (s *sessions) get(ctx context.Context) (*session, error) {
	if cur := s.current.Load(); cur != nil {
		return cur, nil
	}
	select {
	case s.opening <- struct{}{}:
	case <-ctx.Done():
		return nil, &sluice.Error{Kind: sluice.KindOf(ctx.Err()), Err: ctx.Err()}
	}
	defer func() { <-s.opening }()
	if cur := s.current.Load(); cur != nil {
		return cur, nil
	}
	if s.c.alive.Err() != nil {
		return nil, errClosed()
	}
	return s.open(ctx)
}

func (s *sessions) open(ctx context.Context) (*session, error) {
	id := sluice.SessionID(s.c.dice.uint64())
	if id == 0 {
		id = 1
	}
	var a wire.SessionAnswer
	_, err := s.c.masters.call(ctx, wire.MethodOpenSession, &wire.SessionRequest{Call: &wire.CallHeader{}, Session: uint64(id)}, &a)
	if err != nil {
		return nil, err
	}
	n := &session{id: id, window: uint64(a.Window), lease: time.Duration(a.Lease), next: 1, lowest: 1, done: map[uint64]struct{}{}}
	if n.window == 0 {
		n.window = defaultWindow
	}
	if n.lease <= 0 {
		n.lease = defaultLease
	}
	n.dead, n.kill = context.WithCancel(s.c.alive)
	s.c.workers.learn(a.View.Sluice())
	s.current.Store(n)
	s.c.background(func(context.Context) { s.renew(n) })
	return n, nil
}

// lose ends a session that the masters do not know any more.
func (s *sessions) lose(n *session) {
	if !s.current.CompareAndSwap(n, nil) {
		return
	}
	n.kill()
	n.until.Store(nil)
	s.c.grants.clear()
	s.c.watchers.tell([]uint64{0})
	s.c.log.Warn("session lost", "session", uint64(n.id))
}

// renew keeps n alive until it is lost.
func (s *sessions) renew(n *session) {
	req := &wire.SessionRequest{Call: &wire.CallHeader{}, Session: uint64(n.id)}
	for sleep(n.dead, s.c.dice.jitter(n.lease/3)) == nil {
		_, err := s.c.masters.call(n.dead, wire.MethodRenewSession, req, nil)
		if err != nil && errors.Is(err, sluice.NotFound) {
			s.lose(n)
			return
		}
	}
}

// close says farewell to the masters.
func (s *sessions) close(ctx context.Context) error {
	n := s.current.Swap(nil)
	if n == nil {
		return nil
	}
	n.kill()
	n.until.Store(nil)
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	_, err := s.c.masters.call(ctx, wire.MethodCloseSession, &wire.SessionRequest{Call: &wire.CallHeader{}, Session: uint64(n.id)}, nil)
	if err != nil {
		s.c.log.Info("session not closed; it ends with its lease", "session", uint64(n.id), "err", err)
	}
	return nil
}

// farewell bounds what Close waits for a master that does not answer.
const farewell = 2 * time.Second

// begin reserves a sequence number, waiting while the window is full. The lowest number
// whose answer was not seen goes with it.
func (n *session) begin(ctx context.Context) (sluice.RequestID, error) {
	for {
		n.mu.Lock()
		if n.next-n.lowest < n.window {
			id := sluice.RequestID{Session: n.id, Seq: n.next, Lowest: n.lowest}
			n.next++
			n.mu.Unlock()
			return id, nil
		}
		if n.freed == nil {
			n.freed = make(chan struct{})
		}
		freed := n.freed
		n.mu.Unlock()
		select {
		case <-freed:
		case <-n.dead.Done():
			return sluice.RequestID{}, errSessionLost()
		case <-ctx.Done():
			return sluice.RequestID{}, &sluice.Error{Kind: sluice.KindOf(ctx.Err()), Err: ctx.Err()}
		}
	}
}

// finish gives a sequence number back: its answer was seen, or nobody will ask again.
func (n *session) finish(seq uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.done[seq] = struct{}{}
	moved := false
	for {
		if _, ok := n.done[n.lowest]; !ok {
			break
		}
		delete(n.done, n.lowest)
		n.lowest++
		moved = true
	}
	if moved && n.freed != nil {
		close(n.freed)
		n.freed = nil
	}
}

func errSessionLost() error {
	return &sluice.Error{Op: "use session", Kind: sluice.Unavailable, Err: errors.New("the session with the masters was lost; begin again")}
}

// header returns what goes with a read.
func (c *Client) header() *wire.CallHeader { return &wire.CallHeader{Principal: c.as} }

// ask sends a read to the primary.
func (c *Client) ask(ctx context.Context, method rpc.Method, req, resp rpc.Message) error {
	_, err := c.masters.call(ctx, method, req, resp)
	return err
}

// mutate sends a change, once: whatever happens on the way, it takes effect at most
// once. build makes the request around its header.
func (c *Client) mutate(ctx context.Context, method rpc.Method, build func(*wire.CallHeader) rpc.Message, resp rpc.Message) error {
	for try := 0; ; try++ {
		s, err := c.sessions.get(ctx)
		if err != nil {
			return err
		}
		err = c.mutateIn(ctx, s, method, build, resp)
		// A session that died before the change was ever carried out costs nothing.
		if err == nil || try == 2 || !errors.Is(err, errLost) {
			return err
		}
	}
}

// errLost marks a change that was refused because its session is unknown: it did not
// happen.
var errLost = errors.New("the session with the masters was lost")

// mutateIn is mutate within one session.
func (c *Client) mutateIn(ctx context.Context, s *session, method rpc.Method, build func(*wire.CallHeader) rpc.Message, resp rpc.Message) error {
	id, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer s.finish(id.Seq)
	h := &wire.CallHeader{Principal: c.as, Request: wire.FromRequestID(id)}
	unsure, err := c.masters.call(ctx, method, build(h), resp)
	if err == nil {
		return nil
	}
	if c.unknownSession(ctx, s, err) {
		c.sessions.lose(s)
		if unsure {
			return &sluice.Error{Kind: sluice.UnknownOutcome, Err: errors.New("the session was lost before an answer came; look before you repeat it")}
		}
		return &sluice.Error{Kind: sluice.Unavailable, Err: errLost}
	}
	if unsure && sluice.KindOf(err) == sluice.Unavailable {
		return &sluice.Error{Kind: sluice.UnknownOutcome, Err: err}
	}
	return err
}

// unknownSession says whether err, the answer to a change, means that the masters do not
// know s. Where its kind could mean that, they are asked.
func (c *Client) unknownSession(ctx context.Context, s *session, err error) bool {
	switch sluice.KindOf(err) {
	case sluice.NotFound, sluice.Stale, sluice.UnknownOutcome, sluice.Unauthenticated:
	default:
		return false
	}
	_, err = c.masters.call(ctx, wire.MethodRenewSession, &wire.SessionRequest{Call: &wire.CallHeader{}, Session: uint64(s.id)}, nil)
	return errors.Is(err, sluice.NotFound)
}

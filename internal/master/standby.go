package master

import (
	"context"
	"errors"
	"sync"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// gate counts who is inside and can wait until nobody is, while others are kept out.
type gate struct {
	mu     sync.Mutex
	inside int           // guarded by mu
	empty  chan struct{} // guarded by mu: closed when nobody is inside; nil: it is open
}

// enter says whether the gate is open; who entered must leave.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.empty != nil {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.inside == 0 && g.empty != nil {
		close(g.empty)
	}
}

// drain keeps others out until everybody inside has left, then opens again.
func (g *gate) drain() {
	g.mu.Lock()
	empty := make(chan struct{})
	g.empty = empty
	if g.inside == 0 {
		close(empty)
	}
	g.mu.Unlock()
	<-empty
	g.mu.Lock()
	g.empty = nil
	g.mu.Unlock()
}

// Serve implements rpc.Handler: what the masters say to each other, and at the desk
// everything else. A standby names the primary.
func (m *Member) Serve(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	switch r.Method {
	case wire.MethodPeerHello:
		return m.welcome(ctx, r)
	case wire.MethodPeerPackets:
		return m.exchange.packets(r)
	case wire.MethodPeerQuestion:
		return m.exchange.question(ctx, r)
	}
	d := m.desk.Load()
	if d == nil || !m.requests.enter() {
		return nil, m.notPrimary()
	}
	defer m.requests.leave()
	// What waits ends with the term; the client asks the next primary under the same
	// request id.
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	a, err := handler{d}.Serve(within, r)
	switch {
	case err == nil && reads(r.Method) && !d.journal.Leased(within),
		err != nil && (d.ctx.Err() != nil || errors.Is(err, sluice.NotPrimary)):
		return nil, errDeposed()
	}
	return a, err
}

// reads says that a method only reads the namespace: its answer counts if this was still
// the primary when it was made.
func reads(method rpc.Method) bool {
	switch method {
	case wire.MethodStat, wire.MethodList, wire.MethodOpen, wire.MethodMounts, wire.MethodReport, wire.MethodIntents, wire.MethodPing:
		return true
	}
	return false
}

// errDeposed is the answer to a request that was under way when the term ended. Like that
// of a lost connection it names no operation: a change may have been made, and is to be
// asked for again under the same id.
func errDeposed() error {
	return &sluice.Error{Kind: sluice.Unavailable, Err: errors.New("this master is not the primary any more; ask the next")}
}

// notPrimary names the primary, where it is known.
func (m *Member) notPrimary() error {
	e := &sluice.Error{Op: "ask master", Kind: sluice.NotPrimary}
	if r := m.room.Load(); r != nil {
		st := r.journal.Status()
		for _, p := range st.Members {
			if p.Node == st.Leader && p.Node != m.cfg.Node {
				e.Primary = p.Address
			}
		}
	}
	return e
}

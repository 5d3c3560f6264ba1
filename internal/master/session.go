package master

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/namespace"
	"github.com/sluicefs/sluice/internal/wire"
)

// sessions are the soft part of the clients' sessions: when each was heard of. That
// they exist is in the state.
type sessions struct {
	boot  func() time.Duration
	lease time.Duration

	mu   sync.Mutex
	live map[sluice.SessionID]*session // guarded by mu
}

type session struct {
	epoch sluice.Epoch
	heard time.Duration // on the boot clock
	dying bool          // its end is proposed
}

// add begins a lease at its full length.
func (s *sessions) add(id sluice.SessionID, e sluice.Epoch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live[id] = &session{epoch: e, heard: s.boot()}
}

// touch renews a lease, and says whether the session lives.
func (s *sessions) touch(id sluice.SessionID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.live[id]
	if x == nil || x.dying {
		return false
	}
	x.heard = s.boot()
	return true
}

func (s *sessions) drop(id sluice.SessionID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, id)
}

// adopt begins leases of sessions that are in the state and not here: whoever opened
// them did not live to see the answer, and they must end all the same.
func (s *sessions) adopt(all []namespace.SessionRow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range all {
		if s.live[r.ID] == nil {
			s.live[r.ID] = &session{epoch: r.Epoch, heard: s.boot()}
		}
	}
}

func (s *sessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.live)
}

// expired marks at most limit sessions whose lease ran out, and returns them.
func (s *sessions) expired(limit int) []*wire.SessionEpoch {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.boot()
	var out []*wire.SessionEpoch
	for id, x := range s.live {
		if len(out) < limit && !x.dying && now-x.heard > s.lease {
			x.dying = true
			out = append(out, &wire.SessionEpoch{Session: uint64(id), Epoch: uint64(x.epoch)})
		}
	}
	return out
}

// revive takes back the marks of expired, when their end could not be proposed.
func (s *sessions) revive(ends []*wire.SessionEpoch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range ends {
		if x := s.live[sluice.SessionID(e.Session)]; x != nil {
			x.dying = false
		}
	}
}

// OpenSession implements sluice.Sessions.
func (m *Master) OpenSession(ctx context.Context, c sluice.Call, id sluice.SessionID) (sluice.SessionInfo, error) {
	if id == 0 {
		return sluice.SessionInfo{}, &sluice.Error{Op: "open session", Kind: sluice.Invalid, Err: errors.New("a session needs an id")}
	}
	a, err := m.propose(ctx, &wire.Command{
		By: wire.FromPrincipal(c.Principal),
		Op: &wire.Command_OpenSession{OpenSession: &wire.OpenSession{Session: uint64(id)}},
	})
	if err != nil {
		return sluice.SessionInfo{}, sluice.Wrap("open session", "", err)
	}
	m.sessions.add(id, sluice.Epoch(a.Epoch))
	v, _ := m.fleet.View()
	return sluice.SessionInfo{Lease: m.lease, Window: m.window, Cluster: m.cluster, View: *v}, nil
}

// RenewSession implements sluice.Sessions.
func (m *Master) RenewSession(_ context.Context, _ sluice.Call, id sluice.SessionID) error {
	if !m.sessions.touch(id) {
		return noSession("renew session", id)
	}
	return nil
}

func noSession(op string, id sluice.SessionID) error {
	return &sluice.Error{Op: op, Kind: sluice.NotFound, Err: fmt.Errorf("the session %016x has expired; open another", uint64(id))}
}

// CloseSession implements sluice.Sessions.
func (m *Master) CloseSession(ctx context.Context, c sluice.Call, id sluice.SessionID) error {
	_, err := m.propose(ctx, &wire.Command{
		By: wire.FromPrincipal(c.Principal),
		Op: &wire.Command_CloseSession{CloseSession: &wire.CloseSession{Session: uint64(id)}},
	})
	if err != nil && !errors.Is(err, sluice.NotFound) {
		return sluice.Wrap("close session", "", err)
	}
	m.endSession(id)
	return nil
}

// endSession forgets the soft part of a session.
func (m *Master) endSession(id sluice.SessionID) {
	m.sessions.drop(id)
	m.notices.end(id)
}

// Await implements sluice.Sessions.
func (m *Master) Await(ctx context.Context, _ sluice.Call, id sluice.SessionID, acked uint64) (sluice.Notices, error) {
	return m.await(ctx, id, acked, 0)
}

// await is Await with the version of the view the client knows; 0 is any.
func (m *Master) await(ctx context.Context, id sluice.SessionID, acked, known uint64) (sluice.Notices, error) {
	if !m.sessions.touch(id) {
		return sluice.Notices{}, noSession("await", id)
	}
	view, changed := m.fleet.View()
	if known == 0 {
		known = view.Version
	}
	wait := m.cfg.NoticeLease * 2 / 5
	if known != view.Version {
		wait = 0
	}
	upto, files, lease := m.notices.await(ctx, id, acked, wait, changed, m.ctx.Done())
	if !m.sessions.touch(id) {
		m.notices.end(id)
		return sluice.Notices{}, noSession("await", id)
	}
	return sluice.Notices{Upto: upto, Files: files, Lease: lease, View: m.fleet.Newer(known)}, nil
}

// expireSessions ends what was not heard of for a lease.
func (m *Master) expireSessions(ctx context.Context) error {
	if m.state.SessionCount() > m.sessions.count() {
		all, err := m.state.Sessions()
		if err != nil {
			return err
		}
		m.sessions.adopt(all)
	}
	for {
		ends := m.sessions.expired(256)
		if len(ends) == 0 {
			return nil
		}
		_, err := m.propose(ctx, &wire.Command{Op: &wire.Command_ExpireSessions{ExpireSessions: &wire.ExpireSessions{Sessions: ends}}})
		if err != nil {
			m.sessions.revive(ends)
			return err
		}
		for _, e := range ends {
			m.endSession(sluice.SessionID(e.Session))
		}
	}
}

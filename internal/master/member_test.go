package master

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/auth"
	"github.com/sluicefs/sluice/internal/journal"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// senate is several masters in one process, each behind its socket.
type senate struct {
	t     *testing.T
	dir   string
	keys  *auth.Keyring
	peers []journal.Member
	seats map[uint64]*seat
	store *underfstest.Driver

	clients map[uint64]*rpc.Client
}

// seat is one of them, over its lives.
type seat struct {
	fs     vfs.FS
	m      *Member
	server *rpc.Server
	cancel context.CancelFunc
	ran    chan error // what Run returned
	served chan error
}

func newSenate(t *testing.T, n int) *senate {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	keys, err := auth.NewKeyring(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &senate{t: t, dir: dir, keys: keys, seats: make(map[uint64]*seat), store: &underfstest.Driver{}, clients: make(map[uint64]*rpc.Client)}
	t.Cleanup(func() {
		for node := range s.seats {
			s.stop(node)
		}
		_ = os.RemoveAll(dir)
	})
	for i := range n {
		s.peers = append(s.peers, journal.Member{Node: uint64(i + 1), Address: s.address(uint64(i + 1))})
	}
	return s
}

func (s *senate) socket(node uint64) string  { return filepath.Join(s.dir, fmt.Sprint("m", node)) }
func (s *senate) address(node uint64) string { return "unix:" + s.socket(node) }

// start starts a master on what its disk has.
func (s *senate) start(node uint64, tune func(*Config)) *seat {
	s.t.Helper()
	x := s.seats[node]
	if x == nil {
		x = &seat{fs: vfs.NewMem()}
		s.seats[node] = x
	}
	cfg := Config{
		FS: x.fs, Dir: "master", Registry: underfs.NewRegistry(s.store), Keys: s.keys, Superuser: "root", Group: "root",
		Node: node, Address: s.address(node), Peers: s.peers, Tick: 20 * time.Millisecond,
		Rand: rand.New(rand.NewPCG(node, rand.Uint64())), Background: 20 * time.Millisecond, NoticeLease: 100 * time.Millisecond,
	}
	if tune != nil {
		tune(&cfg)
	}
	m, err := NewMember(cfg)
	if err != nil {
		s.t.Fatalf("master %d: %v", node, err)
	}
	l, err := net.Listen("unix", s.socket(node))
	if err != nil {
		s.t.Fatal(err)
	}
	x.m = m
	x.server = rpc.NewServer(rpc.ServerConfig{Role: rpc.RoleMaster, Identity: m.Identity, Inline: m.Inline, MaxMessage: MaxMessage, Keys: cfg.Keys}, m)
	ctx, cancel := context.WithCancel(context.Background())
	x.cancel, x.ran, x.served = cancel, make(chan error, 1), make(chan error, 1)
	go func() { x.served <- x.server.Serve(l) }()
	go func() { x.ran <- m.Run(ctx) }()
	return x
}

// stop ends a master as a crash does as far as others see: its connections first.
func (s *senate) stop(node uint64) error {
	x := s.seats[node]
	if x == nil || x.m == nil {
		return nil
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	_ = x.server.Shutdown(over) // cuts every connection
	x.cancel()
	err := errors.Join(<-x.ran, <-x.served, x.m.Close())
	x.m = nil
	if err != nil {
		s.t.Errorf("master %d: %v", node, err)
	}
	return err
}

// primary waits for one.
func (s *senate) primary() (uint64, *Member) {
	s.t.Helper()
	for begun := time.Now(); time.Since(begun) < time.Minute; {
		for node, x := range s.seats {
			if x.m != nil && x.m.desk.Load() != nil && x.m.Ready() == nil {
				return node, x.m
			}
		}
		<-time.After(5 * time.Millisecond)
	}
	s.t.Fatal("no master became the primary within a minute")
	return 0, nil
}

// eventually waits until it is so.
func (s *senate) eventually(what string, is func() bool) {
	s.t.Helper()
	for begun := time.Now(); !is(); <-time.After(5 * time.Millisecond) {
		if time.Since(begun) > time.Minute {
			s.t.Fatalf("%s: not within a minute", what)
		}
	}
}

// ask makes a request of one master, as a server of the cluster does.
func (s *senate) ask(node uint64, method rpc.Method, q, a rpc.Message) error {
	s.t.Helper()
	c := s.clients[node]
	if c == nil {
		c = rpc.NewClient(rpc.ClientConfig{Credential: rpc.Credential{Role: rpc.RoleAdmin, Keys: s.keys}}, rpc.Target{Socket: s.socket(node)})
		s.clients[node] = c
		s.t.Cleanup(func() { c.Close() })
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	return c.Call(ctx, method, q, a)
}

// request is the header of a change.
func header(session, seq uint64) *wire.CallHeader {
	return &wire.CallHeader{Request: &wire.RequestID{Session: session, Seq: seq, Lowest: 1}}
}

// TestFailoverKeepsAnswers: what one primary answered the next one answers again, and
// nothing happens twice.
func TestFailoverKeepsAnswers(t *testing.T) {
	s := newSenate(t, 3)
	for i := range s.peers {
		s.start(uint64(i+1), nil)
	}
	node, m := s.primary()
	if err := s.ask(node, wire.MethodOpenSession, &wire.SessionRequest{Call: &wire.CallHeader{}, Session: 9}, &wire.SessionAnswer{}); err != nil {
		t.Fatal(err)
	}
	mkdir := &wire.MkdirRequest{Call: header(9, 1), Path: "/a", Mode: 0o755}
	if err := s.ask(node, wire.MethodMkdir, mkdir, &wire.StatAnswer{}); err != nil {
		t.Fatal(err)
	}
	for other := range s.seats {
		if other == node {
			continue
		}
		err := s.ask(other, wire.MethodStat, &wire.StatRequest{Call: &wire.CallHeader{}, Path: "/a"}, &wire.StatAnswer{})
		e, ok := errors.AsType[*sluice.Error](err)
		if !ok || e.Kind != sluice.NotPrimary || e.Primary != s.address(node) {
			t.Errorf("a standby answers %v (primary %q), want not-primary naming %s", err, e.Primary, s.address(node))
		}
	}
	_ = m
	s.stop(node)
	next, _ := s.primary()
	if next == node {
		t.Fatal("the stopped master is the primary")
	}
	if err := s.ask(next, wire.MethodMkdir, mkdir, &wire.StatAnswer{}); err != nil {
		t.Errorf("the same request at the next primary: %v", err)
	}
	mkdir.Call = header(9, 2)
	if err := s.ask(next, wire.MethodMkdir, mkdir, &wire.StatAnswer{}); !errors.Is(err, sluice.Exists) {
		t.Errorf("another request for the same directory: got %v, want exists", err)
	}
	s.start(node, nil) // and it keeps up again
	s.eventually("the states are equal", func() bool {
		a, b := s.seats[node].m.room.Load(), s.seats[next].m.room.Load()
		return a != nil && b != nil && a.state.Applied() == b.state.Applied()
	})
	if r := s.seats[node].m.room.Load(); r.state.Check() != nil {
		t.Errorf("the standby's state: %v", r.state.Check())
	}
}

// TestLostDiskAndReplacement: a master whose directory was lost is refused under its old
// name, and comes in again as one that was removed and added.
func TestLostDiskAndReplacement(t *testing.T) {
	s := newSenate(t, 3)
	for i := range s.peers {
		s.start(uint64(i+1), nil)
	}
	node, m := s.primary()
	lost := node%3 + 1
	s.eventually("every master belongs to the cluster", func() bool { return s.seats[lost].m.room.Load() != nil })
	s.stop(lost)
	s.seats[lost].fs = vfs.NewMem()
	x := s.start(lost, nil)
	if err := <-x.ran; !errors.Is(err, sluice.Permission) {
		t.Errorf("an empty directory under an old name: got %v, want a refusal", err)
	}
	x.ran <- nil
	s.stop(lost)
	x = s.start(lost, func(c *Config) { c.Join = true })
	if err := <-x.ran; !errors.Is(err, sluice.Permission) {
		t.Errorf("--join under a name that votes: got %v, want a refusal", err)
	}
	x.ran <- nil
	s.stop(lost)

	op := sluice.Call{Principal: root}
	a := m.desk.Load().Admin(op).(sluice.MasterAdmin)
	if err := a.RemoveMaster(t.Context(), node); !errors.Is(err, sluice.Invalid) {
		t.Errorf("remove the primary: got %v, want invalid", err)
	}
	// Refused while the third master has not been heard of for a moment.
	s.eventually("the dead master is removed", func() bool { return a.RemoveMaster(t.Context(), lost) == nil })
	if err := a.AddMaster(t.Context(), lost, s.address(lost)); err != nil {
		t.Fatalf("add it: %v", err)
	}
	x = s.start(lost, func(c *Config) { c.Join = true })
	s.eventually("the new master votes", func() bool {
		all, err := a.Members(t.Context())
		i := slices.IndexFunc(all, func(p sluice.MasterMember) bool { return p.Node == lost })
		return err == nil && i >= 0 && all[i].Voter
	})
	s.eventually("the primary's place is handed to it", func() bool { return a.TransferMaster(t.Context(), lost) == nil || x.m.desk.Load() != nil })
	s.eventually("it is the primary", func() bool { return x.m.desk.Load() != nil })
}

// TestCheckpointOfTheState: a master that comes in when the log has been cut gets the
// state as a checkpoint, and can be the primary on it.
func TestCheckpointOfTheState(t *testing.T) {
	s := newSenate(t, 1)
	short := func(c *Config) {
		c.tuneJournal = func(j *journal.Config) {
			j.KeepEntries, j.SegmentBytes, j.FlushEntries = 1, journal.MinSegmentBytes, 20
		}
	}
	s.start(1, short)
	node, m := s.primary()
	if err := s.ask(node, wire.MethodOpenSession, &wire.SessionRequest{Call: &wire.CallHeader{}, Session: 9}, &wire.SessionAnswer{}); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(300) {
		h := header(9, i+1)
		h.Request.Lowest = max(i, 1)
		if err := s.ask(node, wire.MethodMkdir, &wire.MkdirRequest{Call: h, Path: fmt.Sprint("/d", i), Mode: 0o755}, &wire.StatAnswer{}); err != nil {
			t.Fatal(err)
		}
	}
	if st := m.Stats().Journal; st.First < 100 {
		t.Fatalf("the log was not cut: it holds %d to %d", st.First, st.Last)
	}
	a := m.desk.Load().Admin(sluice.Call{Principal: root}).(sluice.MasterAdmin)
	if err := a.AddMaster(t.Context(), 2, s.address(2)); err != nil {
		t.Fatal(err)
	}
	x := s.start(2, func(c *Config) {
		short(c)
		c.Join, c.Peers = true, []journal.Member{{Node: 2, Address: s.address(2)}, s.peers[0]}
	})
	s.eventually("the new master votes", func() bool {
		all, err := a.Members(t.Context())
		return err == nil && len(all) == 2 && all[1].Voter
	})
	if _, found, err := readSmall(x.fs, x.fs.PathJoin("master", "STATE")); err != nil || !found {
		t.Errorf("the state did not come as a checkpoint: %v", err)
	}
	if err := a.TransferMaster(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	s.eventually("the new master is the primary", func() bool { return x.m.desk.Load() != nil })
	for _, p := range []string{"/d0", "/d299"} {
		if err := s.ask(2, wire.MethodStat, &wire.StatRequest{Call: &wire.CallHeader{}, Path: p}, &wire.StatAnswer{}); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
	if err := x.m.room.Load().state.Check(); err != nil {
		t.Errorf("the state from elsewhere: %v", err)
	}
}

// TestWhatUsersGetWrong: lists that differ, and the wrong key.
func TestWhatUsersGetWrong(t *testing.T) {
	s := newSenate(t, 2)
	s.start(1, nil)
	x := s.start(2, func(c *Config) {
		c.Peers = append(slices.Clone(s.peers), journal.Member{Node: 3, Address: "unix:/nowhere"})
	})
	err1, err2 := <-s.seats[1].ran, <-x.ran
	if !errors.Is(err1, sluice.Invalid) || !errors.Is(err2, sluice.Invalid) {
		t.Errorf("lists that differ: got %v and %v, want invalid", err1, err2)
	}
	s.seats[1].ran <- nil
	x.ran <- nil
	s.stop(1)
	s.stop(2)

	s.start(1, nil)
	other, err := auth.NewKeyring(nil)
	if err != nil {
		t.Fatal(err)
	}
	x = s.start(2, func(c *Config) { c.Keys = other })
	if err := <-x.ran; !errors.Is(err, sluice.Unauthenticated) {
		t.Errorf("another cluster's key: got %v, want unauthenticated", err)
	}
	x.ran <- nil
	if err := <-s.seats[1].ran; !errors.Is(err, sluice.Unauthenticated) {
		t.Errorf("the other side: got %v, want unauthenticated", err)
	}
	s.seats[1].ran <- nil
}

// TestPassport: what is written of a master's place comes back, and nothing else does.
func TestPassport(t *testing.T) {
	p := passport{node: 3, birth: 7, peers: "1=a:1,3=b:2", births: map[uint64]uint64{1: 5, 3: 7}, floor: 12}
	got, err := parsePassport(p.text())
	if err != nil || got.text() != p.text() {
		t.Errorf("got %+v, %v", got, err)
	}
	for n := range p.text() {
		if _, err := parsePassport(p.text()[:n]); err == nil {
			t.Errorf("%d bytes of %d are taken for a whole file", n, len(p.text()))
		}
	}
}

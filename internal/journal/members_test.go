package journal

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/sluicefs/sluice"
)

// ledgerBook is what clients of a simulation know.
type ledgerBook struct {
	mu    sync.Mutex
	acked []string
	never []string     // refused: must not be there
	top   sluice.Index // of the acknowledged ones
	gap   time.Duration
	last  time.Time
}

func (b *ledgerBook) ack(s string, at sluice.Index) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acked = append(b.acked, s)
	b.top = max(b.top, at)
	b.gap = max(b.gap, time.Since(b.last))
	b.last = time.Now()
}

// client proposes one value after another, going on to the next member when one refuses.
func (s *sim) client(ctx context.Context, b *ledgerBook, name int) {
	at := name
	for i := 0; ctx.Err() == nil; i++ {
		n := s.nodes[at%len(s.nodes)]
		s.w.mu.Lock()
		j, life := n.j, n.life
		s.w.mu.Unlock()
		if j == nil {
			at++
			time.Sleep(5 * time.Millisecond)
			continue
		}
		v := fmt.Sprintf("%d/%d %0200d", name, i, i)
		limited, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		x, err := j.Propose(limited, []byte(v))
		cancel()
		s.w.mu.Lock()
		dead := n.life != life
		s.w.mu.Unlock()
		switch {
		case dead:
		case err == nil:
			b.ack(v, x.(sluice.Index))
			time.Sleep(20 * time.Millisecond)
			continue
		case errors.Is(err, sluice.NotPrimary):
			b.mu.Lock()
			b.never = append(b.never, v)
			b.mu.Unlock()
		}
		at++
		time.Sleep(5 * time.Millisecond)
	}
}

// reader checks that who may answer has everything acknowledged before the question.
func (s *sim) reader(ctx context.Context, b *ledgerBook) {
	for ctx.Err() == nil {
		for _, n := range s.nodes {
			s.w.mu.Lock()
			j, m := n.j, n.m
			s.w.mu.Unlock()
			if j == nil {
				continue
			}
			b.mu.Lock()
			top := b.top
			b.mu.Unlock()
			limited, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			at, err := j.ReadBarrier(limited)
			cancel()
			if err == nil && (at < top || m.Applied() < top) {
				s.t.Errorf("node %d answers reads at entry %d (applied %d), but entry %d was acknowledged before", n.id, at, m.Applied(), top)
			}
		}
		time.Sleep(13 * time.Millisecond)
	}
}

// trouble breaks something and mends it, again and again.
func (s *sim) trouble(d time.Duration) {
	for begun := time.Now(); time.Since(begun) < d; {
		time.Sleep(time.Duration(s.rng.IntN(1500)) * time.Millisecond)
		n := s.nodes[s.rng.IntN(len(s.nodes))]
		if s.rng.IntN(2) == 0 {
			n = s.primary()
		}
		pause := time.Duration(s.rng.IntN(4000)) * time.Millisecond
		switch s.rng.IntN(6) {
		case 0, 1:
			n.crash(s.t, s.rng)
			time.Sleep(pause)
			n.start(s.t)
		case 2:
			s.w.isolate(n.id, true, true)
			time.Sleep(pause)
			s.w.heal()
		case 3:
			s.w.isolate(n.id, s.rng.IntN(2) == 0, true)
			time.Sleep(pause)
			s.w.heal()
		case 4:
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			if j := s.w.journal(n.id); j != nil {
				_ = j.Transfer(ctx, 0) // to be refused by who is not the primary
			}
			cancel()
		case 5:
			s.w.mu.Lock()
			s.w.loss = uint64(s.rng.IntN(200))
			s.w.mu.Unlock()
			time.Sleep(pause)
			s.w.mu.Lock()
			s.w.loss = 0
			s.w.mu.Unlock()
		}
	}
}

// TestNothingAcknowledgedIsLost runs clients against three and five members while disks
// lose what was not synced, links are cut and the primary changes.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	for size, seeds := range map[int]uint64{3: 3, 5: 1} {
		for seed := range seeds {
			t.Run(fmt.Sprintf("%d members, seed %d", size, seed), func(t *testing.T) {
				cryptotest.SetGlobalRandom(t, seed)
				synctest.Test(t, func(t *testing.T) { simulate(t, seed, size) })
			})
		}
	}
}

func simulate(t *testing.T, seed uint64, size int) {
	s := newSim(t, seed, size)
	defer s.end()
	s.primary()
	b := &ledgerBook{last: time.Now()}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() { s.client(ctx, b, c) })
	}
	wg.Go(func() { s.reader(ctx, b) })
	s.trouble(20 * time.Second)
	time.Sleep(3 * time.Second)
	cancel()
	wg.Wait()
	top := s.settle()
	first := s.nodes[0].m
	for _, e := range first.errs {
		t.Error(e)
	}
	for _, n := range s.nodes[1:] {
		if !slices.Equal(n.m.data, first.data) || !slices.Equal(n.m.at, first.at) {
			t.Errorf("seed %d: the states of nodes 1 and %d differ at entry %d", seed, n.id, top)
		}
	}
	have := map[string]int{}
	for _, d := range first.data {
		have[d]++
	}
	for _, a := range b.acked {
		if have[a] != 1 {
			t.Errorf("seed %d: %.20q was acknowledged and is there %d times", seed, a, have[a])
		}
	}
	for _, a := range b.never {
		if have[a] != 0 {
			t.Errorf("seed %d: %.20q was refused and is there", seed, a)
		}
	}
	t.Logf("%d acknowledged, longest gap %v, term %d", len(b.acked), b.gap, s.primary().j.Status().Term)
	if len(b.acked) < 200 {
		t.Errorf("seed %d: only %d were acknowledged", seed, len(b.acked))
	}
}

// TestMembersChange takes a member in, gives it a vote, and takes others out.
func TestMembersChange(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 5)
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 5, 3)
		defer s.end()
		ctx := t.Context()
		p := s.primary()
		for i := range 300 { // far more than the log keeps
			propose2(t, p.j, fmt.Sprintf("%d %0200d", i, i))
		}
		if p.j.Status().First < 100 {
			t.Fatalf("the log was not cut: %+v", p.j.Status())
		}
		must(t, p.j.Add(ctx, Member{Node: 4, Address: "m4"}))
		if err := p.j.Add(ctx, Member{Node: 4, Address: "m4"}); !errors.Is(err, sluice.Exists) {
			t.Errorf("added twice: got %v, want exists", err)
		}
		if err := p.j.Promote(ctx, 4); !errors.Is(err, sluice.Busy) {
			t.Errorf("a vote for a member that is not there: got %v, want busy", err)
		}
		floor := p.j.Status().Commit
		begun := time.Now()
		n4 := s.add(4, func(c *Config) { c.Floor, c.Members = floor, members3() })
		s.settle()
		if d := time.Since(begun); d > snapshotPatience/2 {
			t.Errorf("the new member was there after %v: the primary did not hear that its checkpoint stands", d)
		}
		if st := n4.j.Status(); st.First == 1 {
			t.Errorf("the new member came by the log alone: %+v", st)
		}
		for {
			err := p.j.Promote(ctx, 4)
			if err == nil {
				break
			}
			if !errors.Is(err, sluice.Busy) {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		s.settle()
		if got := n4.j.Status(); !slices.Equal(got.Voters, []uint64{1, 2, 3, 4}) || len(got.Members) != 4 {
			t.Errorf("the new member knows %v, %v", got.Voters, got.Members)
		}
		if err := p.j.Remove(ctx, p.id); !errors.Is(err, sluice.Invalid) {
			t.Errorf("the primary removes itself: got %v, want invalid", err)
		}
		must(t, p.j.Transfer(ctx, 4))
		if n := s.primary(); n != n4 {
			t.Errorf("node %d is the primary after a transfer to 4", n.id)
		}
		must(t, n4.j.Remove(ctx, p.id))
		<-p.j.Done()
		if err := p.j.Status().Err; !errors.Is(err, errRemoved) {
			t.Errorf("the removed member stopped with %v", err)
		}
	})
}

func members3() []Member {
	return []Member{{1, "m1"}, {2, "m2"}, {3, "m3"}}
}

// TestNewDiskOldName: a member that comes in under the name of one it replaces has no say
// before it knows that it was added, even where it once was the only one.
func TestNewDiskOldName(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 15)
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 15, 1)
		defer s.end()
		ctx := t.Context()
		one := s.nodes[0]
		s.primary()
		first := []Member{{1, "m1"}}
		for node := uint64(2); node <= 3; node++ {
			must(t, one.j.Add(ctx, Member{Node: node, Address: fmt.Sprint("m", node)}))
			floor := one.j.Status().Commit
			s.add(node, func(c *Config) { c.Floor, c.Members = floor, first })
			for one.j.Promote(ctx, node) != nil {
				time.Sleep(100 * time.Millisecond)
			}
		}
		propose2(t, one.j, "with three")
		must(t, one.j.Transfer(ctx, 2))
		two := s.primary()
		one.crash(t, s.rng)
		must(t, two.j.Remove(ctx, 1))
		must(t, two.j.Add(ctx, Member{Node: 1, Address: "m1"}))
		floor := two.j.Status().Commit
		one.fs = vfs.NewCrashableMem()
		one.tune = func(c *Config) { c.Floor, c.Members = floor, first }
		s.w.isolate(1, true, true)
		one.start(t)
		time.Sleep(time.Minute)
		if term, _ := one.j.Leading(); term != 0 {
			t.Fatal("the new member leads a cluster of its own")
		}
		s.w.heal()
		s.settle()
		if got := one.j.Status(); !slices.Equal(got.Learners, []uint64{1}) || !slices.Equal(one.m.data, []string{"with three"}) {
			t.Errorf("the new member knows learners %v, and has %q", got.Learners, one.m.data)
		}
	})
}

func propose2(t *testing.T, j *Journal, s string) {
	t.Helper()
	if _, err := j.Propose(context.Background(), []byte(s)); err != nil {
		t.Fatalf("propose: %v", err)
	}
}

// TestLastVoterStays: what would leave nobody to decide is refused.
func TestLastVoterStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 6, 3)
		defer s.end()
		p := s.primary()
		var others []*simNode
		for _, n := range s.nodes {
			if n != p {
				others = append(others, n)
			}
		}
		time.Sleep(time.Second)
		others[0].crash(t, s.rng)
		time.Sleep(5 * time.Second)
		if err := p.j.Remove(t.Context(), others[1].id); !errors.Is(err, sluice.Invalid) {
			t.Errorf("remove the other live member: got %v, want invalid", err)
		}
		must(t, p.j.Remove(t.Context(), others[0].id))
		must(t, p.j.Remove(t.Context(), others[1].id))
		if err := p.j.Remove(t.Context(), p.id); !errors.Is(err, sluice.Invalid) {
			t.Errorf("remove the last member: got %v, want invalid", err)
		}
		propose2(t, p.j, "alone")
	})
}

// TestPausedPrimary: one that slept does not answer reads from its old lease.
func TestPausedPrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 7, 3)
		defer s.end()
		p := s.primary()
		s.w.isolate(p.id, true, true)
		p.slept.Store(int64(time.Hour)) // as a machine that was suspended
		limited, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if at, err := p.j.ReadBarrier(limited); err == nil {
			t.Errorf("it answers at entry %d", at)
		}
	})
}

// TestVoteAfterRestart: a member that was just started does not help another, which has
// been cut off and wants to lead, into a place that the primary still has a lease for.
func TestVoteAfterRestart(t *testing.T) {
	for seed := range uint64(12) {
		cryptotest.SetGlobalRandom(t, seed)
		synctest.Test(t, func(t *testing.T) {
			s := newSim(t, seed, 3)
			defer s.end()
			p := s.primary()
			a, b := s.nodes[p.id%3], s.nodes[(p.id+1)%3]
			s.w.isolate(a.id, true, true)
			time.Sleep(5*time.Second + 50*time.Millisecond) // between two heartbeats
			b.crash(t, s.rng)
			s.w.heal()
			s.w.isolate(p.id, true, true)
			b.start(t)
			for p.j.leased() {
				term1, _ := a.j.Leading()
				term2, _ := b.j.Leading()
				if term1 != 0 || term2 != 0 {
					t.Fatalf("seed %d: another leads while node %d holds a lease", seed, p.id)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
}

// TestArrivedCrashes crashes a member at every change of its disk while a checkpoint
// takes the place of its state: every start finds one of the two.
func TestArrivedCrashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 9, 3)
		defer s.end()
		p := s.primary()
		var lag *simNode
		for _, n := range s.nodes {
			if n != p {
				lag = n
			}
		}
		propose2(t, p.j, "known to all")
		s.settle()
		lag.crash(t, s.rng)
		for i := range 300 {
			propose2(t, p.j, fmt.Sprintf("%d %0200d", i, i))
		}
		w := &wrecker{fs: lag.fs, m: &tape{}, rng: s.rng}
		before := lag.fs
		lag.tune = func(c *Config) { c.FS = wrapped(before, w) }
		lag.start(t)
		s.settle()
		w.mu.Lock()
		w.off = true
		w.mu.Unlock()
		if lag.j.Status().First == 1 {
			t.Fatal("no checkpoint arrived")
		}
		want := lag.m.data
		for _, x := range w.wrecks {
			for _, fs := range []*vfs.MemFS{x.synced, x.part} {
				startAgain(t, fs, lag.id, x.op, want)
			}
		}
		t.Logf("%d crashes", len(w.wrecks))
	})
}

// startAgain opens what a crash left, without the others.
func startAgain(t *testing.T, fs *vfs.MemFS, id uint64, op string, want []string) {
	t.Helper()
	place, err := FindPlace(fs, "m")
	must(t, err)
	m, err := openReel(fs, place.Dir)
	must(t, err)
	j, err := Open(t.Context(), Config{
		FS: fs, Dir: "m/journal", Cluster: "sim", Node: id, Machine: m, Origin: place.Origin, Transport: nowhere{}, MinFree: -1,
		SegmentBytes: MinSegmentBytes,
	})
	if err != nil {
		t.Errorf("crash before %s: open: %v", op, err)
		return
	}
	if !slices.Equal(m.data, want[:len(m.data)]) {
		t.Errorf("crash before %s: the state has %d entries that are not a start of the log", op, len(m.data))
	}
	if st := j.Status(); len(st.Voters) != 3 || len(st.Members) != 3 {
		t.Errorf("crash before %s: it knows voters %v, members %v", op, st.Voters, st.Members)
	}
	must(t, j.Close())
}

// nowhere is a transport to nobody.
type nowhere struct{}

func (nowhere) Send(Member, []byte) {}

func (nowhere) Ask(ctx context.Context, _ Member, _ []byte) ([]byte, error) {
	return nil, sluice.Unavailable
}

// TestGroundWithAddresses: what a segment and a checkpoint stand on comes back whole.
func TestGroundWithAddresses(t *testing.T) {
	g := ground{index: 7, term: 3, reset: true, confs: []members{
		{index: 2, conf: raftpb.ConfState{Voters: []uint64{1}}},
		{index: 5, conf: raftpb.ConfState{Voters: []uint64{1, 2}, Learners: []uint64{3}}, book: []Member{{1, "a:1"}, {2, "b:2"}, {3, ""}}},
	}}
	got, err := parseOrigin(encodeOrigin(g))
	if err != nil || !reflect.DeepEqual(got, g) {
		t.Errorf("got %+v, %v, want %+v", got, err, g)
	}
	b := encodeOrigin(g)
	for n := range b {
		if _, err := parseOrigin(b[:n]); err == nil && n > 2 {
			if short, _ := parseOrigin(b[:n]); reflect.DeepEqual(short, g) {
				t.Errorf("%d of %d bytes passed for all", n, len(b))
			}
		}
	}
}

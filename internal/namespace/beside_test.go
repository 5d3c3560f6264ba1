package namespace

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/keyvalue"
	"github.com/sluicefs/sluice/internal/wire"
)

// TestReadsBesideApply: while a directory and the file in it are renamed in one entry,
// every reader sees the file under exactly one name that was true at once, and never an
// older state than one it has seen; with a cache that is always too small as well.
func TestReadsBesideApply(t *testing.T) {
	for _, rows := range []int{1, 10_000} {
		t.Run(fmt.Sprint(rows), func(t *testing.T) { readsBeside(t, rows) })
	}
}

func readsBeside(t *testing.T, rows int) {
	db, err := keyvalue.OpenPebble(keyvalue.PebbleConfig{FS: vfs.NewMem(), Dir: "state"})
	if err != nil {
		t.Fatal(err)
	}
	m := newMachineOn(t, db)
	m.s.cache.half = max(1, rows/shards/2)
	m.ok(m.ask(nil, mkdir("/x0/y0", true, false)))
	m.ok(m.ask(nil, create("/x0/y0/f0", sluice.CreateOptions{Empty: true})))
	const rounds = 400
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			seen := 0
			for {
				select {
				case <-done:
					return
				default:
				}
				// Only (xN, yN, fN) with one N ever are there together.
				found := false
				for n := seen; n <= seen+1 && !found; n++ {
					_, err := m.s.Stat(sluice.Principal{Super: true}, sluice.Path(fmt.Sprintf("/x%d/y%d/f%d", n, n, n)), false)
					switch {
					case err == nil:
						found, seen = true, n
					case !errors.Is(err, sluice.NotFound):
						t.Errorf("stat: %v", err)
						return
					}
				}
				if !found { // it moved on by more than one: look where it is
					n, ok := wander(t, m.s)
					if !ok {
						return
					}
					if n < seen {
						t.Errorf("saw %d after %d", n, seen)
						return
					}
					seen = n
				}
			}
		})
	}
	for n := range rounds {
		m.seq++
		a := m.apply(
			command(nil, rename(fmt.Sprintf("/x%d/y%d/f%d", n, n, n), fmt.Sprintf("/x%d/y%d/f%d", n, n, n+1), false)),
			command(nil, rename(fmt.Sprintf("/x%d/y%d", n, n), fmt.Sprintf("/x%d/y%d", n, n+1), false)),
			command(nil, rename(fmt.Sprintf("/x%d", n), fmt.Sprintf("/x%d", n+1), false)),
		)
		for _, x := range a {
			m.ok(x)
		}
	}
	close(done)
	wg.Wait()
	m.check()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// wander finds the only file by its id: its names must agree.
func wander(t *testing.T, s *State) (int, bool) {
	info, ok := s.FileByID(4)
	names := info.Path.Names()
	if !ok || len(names) != 3 || names[0][1:] != names[1][1:] || names[1][1:] != names[2][1:] {
		t.Errorf("the file lies at %q (%v)", info.Path, ok)
		return 0, false
	}
	var n int
	if _, err := fmt.Sscan(strings.TrimPrefix(names[2], "f"), &n); err != nil {
		t.Error(err)
	}
	return n, true
}

// TestRefusesWhatItDoesNotKnow: the member stops, it never skips.
func TestRefusesWhatItDoesNotKnow(t *testing.T) {
	for name, e := range map[string]*wire.Entry{
		"format":  {Format: 2},
		"version": {Format: 1, Version: wire.ClusterVersion + 1},
		"command": {Format: 1, Version: 1, Commands: []*wire.Command{{}}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			before := m.s.Applied()
			if _, err := m.s.Apply(before+1, e); err == nil {
				t.Fatal("it was applied")
			}
			if m.s.Applied() != before {
				t.Errorf("applied is %d, want %d", m.s.Applied(), before)
			}
			if _, err := m.s.Apply(before+1, &wire.Entry{Format: 1}); err == nil {
				t.Error("it went on after an entry it could not apply")
			}
		})
	}
}

// TestIgnoresWhatItHas: an index applied before changes nothing.
func TestIgnoresWhatItHas(t *testing.T) {
	m := newMachine(t)
	m.ok(m.ask(nil, mkdir("/a", false, false)))
	answers, err := m.s.Apply(m.index, &wire.Entry{Format: 1, Commands: []*wire.Command{command(nil, mkdir("/b", false, false))}})
	if answers != nil || err != nil {
		t.Fatalf("got %v, %v, want nothing", answers, err)
	}
	m.absent("/b")
}

// TestCommandsOfAnEntry: they see each other's effects, and one that fails leaves none.
func TestCommandsOfAnEntry(t *testing.T) {
	m := newMachine(t)
	a := m.apply(
		command(nil, mkdir("/a", false, false)),
		command(nil, create("/a/b/c/f", sluice.CreateOptions{Parents: true, Empty: true, Write: sluice.CacheThrough})),
		command(nil, create("/a/f", sluice.CreateOptions{Empty: true})),
		command(nil, mkdir("/a/f", false, false)),
	)
	m.ok(a[0])
	m.fails(a[1], sluice.Unsupported)
	m.ok(a[2])
	m.fails(a[3], sluice.Exists)
	if got := m.names("/a"); len(got) != 1 || got[0] != "f" {
		t.Errorf("/a has %v, want f", got)
	}
	m.check()
}

// TestLimits: what is too large is refused, and nothing of it stays.
func TestLimits(t *testing.T) {
	m := newMachine(t)
	id := m.mount("/m")
	m.fails(m.do(nil, &wire.Command_LoadChildren{LoadChildren: &wire.LoadChildren{Mount: id, Dir: "/m", Objects: make([]*wire.Object, maxRows+1)}}), sluice.TooLarge)
	m.ok(m.ask(nil, create("/f", sluice.CreateOptions{Empty: true})))
	big := sluice.AttrChange{XAttrs: map[string][]byte{"a": make([]byte, maxXAttrs)}}
	m.fails(m.ask(nil, &wire.Command_SetAttr{SetAttr: &wire.SetAttr{Path: "/f", Change: wire.FromAttrChange(big)}}), sluice.TooLarge)
	for _, p := range []string{"", "a", "/a/", "/a//b", "/a/..", "/a\x01", "/" + strings.Repeat("x", 256), "/\xff"} {
		m.fails(m.ask(nil, mkdir(p, true, false)), sluice.Invalid)
	}
	// A session may leave Window answers unacknowledged, and no more.
	m.ok(m.do(nil, &wire.Command_OpenSession{OpenSession: &wire.OpenSession{Session: 9}}))
	ask := func(seq, lowest uint64) *wire.Answer {
		c := command(nil, mkdir(fmt.Sprintf("/d%d", seq), false, false))
		c.Request = &wire.RequestID{Session: 9, Seq: seq, Lowest: lowest}
		return m.apply(c)[0]
	}
	for seq := uint64(1); seq <= DefaultWindow; seq++ {
		m.ok(ask(seq, 1))
	}
	m.fails(ask(DefaultWindow+1, 1), sluice.Busy)
	m.ok(ask(DefaultWindow+1, 2))
	m.fails(ask(1, 1), sluice.UnknownOutcome)
	m.check()
	// A session with much left over is taken away in steps.
	a := m.ok(m.do(nil, &wire.Command_CloseSession{CloseSession: &wire.CloseSession{Session: 9}}))
	m.fails(m.do(nil, &wire.Command_OpenSession{OpenSession: &wire.OpenSession{Session: 9}}), sluice.Busy)
	if a.Detached == 0 {
		t.Fatal("1024 answers were taken away at once")
	}
	for more := true; more; {
		more = m.ok(m.do(nil, &wire.Command_Reap{Reap: &wire.Reap{Detached: a.Detached, Limit: 100}})).More
		m.check()
	}
	m.ok(m.do(nil, &wire.Command_OpenSession{OpenSession: &wire.OpenSession{Session: 9}}))
}

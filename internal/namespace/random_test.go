package namespace

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/keyvalue"
	"github.com/sluicefs/sluice/internal/wire"
)

// model is a tree as a map: what a plain file system would hold. A directory is
// length -1, an incomplete file -2.
type model map[string]int64

func (m model) dir(p string) bool { return p == "/" || m[p] == -1 }

func (m model) has(p string) bool { _, ok := m[p]; return ok || p == "/" }

func (m model) below(p string) []string {
	var all []string
	for k := range m {
		if strings.HasPrefix(k, p+"/") {
			all = append(all, k)
		}
	}
	slices.Sort(all)
	return all
}

func parent(p string) string { return string(sluice.Path(p).Parent()) }

// above returns the error of walking to p, internal for none.
func (m model) above(p string) sluice.Kind {
	missing := false
	for i := 1; i < len(p); i++ {
		if p[i] != '/' {
			continue
		}
		switch d := p[:i]; {
		case !m.has(d):
			missing = true
		case !missing && !m.dir(d):
			return sluice.NotDirectory
		}
	}
	if missing {
		return sluice.NotFound
	}
	return sluice.Internal
}

func (m model) mkdir(p string, parents bool) sluice.Kind {
	k := m.above(p)
	switch {
	case k == sluice.NotDirectory:
		return k
	case m.has(p) && parents && m.dir(p):
		return sluice.Internal
	case m.has(p):
		return sluice.Exists
	case k == sluice.NotFound && !parents:
		return k
	}
	for q := p; q != "/"; q = parent(q) {
		if !m.has(q) {
			m[q] = -1
		}
	}
	return sluice.Internal
}

func (m model) remove(p string, recursive bool) sluice.Kind {
	if k := m.above(p); k != sluice.Internal {
		return k
	}
	switch {
	case !m.has(p):
		return sluice.NotFound
	case len(m.below(p)) > 0 && !recursive:
		return sluice.NotEmpty
	}
	for _, q := range m.below(p) {
		delete(m, q)
	}
	delete(m, p)
	return sluice.Internal
}

func (m model) rename(from, to string) sluice.Kind {
	if k := m.above(from); k != sluice.Internal {
		return k
	}
	if !m.has(from) {
		return sluice.NotFound
	}
	if from == to {
		return sluice.Internal
	}
	k := m.above(to)
	switch {
	case k == sluice.NotDirectory:
		return k
	case strings.HasPrefix(to, from+"/"):
		return sluice.Invalid
	case k == sluice.NotFound:
		return k
	case !m.has(to):
	case m.dir(from) && !m.dir(to):
		return sluice.NotDirectory
	case !m.dir(from) && m.dir(to):
		return sluice.IsDirectory
	case m.dir(to) && len(m.below(to)) > 0:
		return sluice.NotEmpty
	}
	moved := m.below(from)
	m[to] = m[from]
	delete(m, from)
	for _, q := range moved {
		m[to+q[len(from):]] = m[q]
		delete(m, q)
	}
	return sluice.Internal
}

// paths are few, so that operations meet.
func paths() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		var b strings.Builder
		for range rapid.IntRange(1, 3).Draw(t, "depth") {
			b.WriteString("/" + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name"))
		}
		return b.String()
	})
}

// TestModel compares random sequences outside of mounts with a map, Check after each.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newMachine(t)
		tree := model{}
		expect := func(what string, a *wire.Answer, want sluice.Kind) {
			err := a.Error.Sluice()
			if want == sluice.Internal && err != nil || want != sluice.Internal && (err == nil || !errors.Is(err, want)) {
				rt.Fatalf("%s: got %v, want kind %q", what, err, want)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"": func(rt *rapid.T) {
				if err := m.s.Check(); err != nil {
					rt.Fatal(err)
				}
				compare(rt, m.s, tree)
			},
			"mkdir": func(rt *rapid.T) {
				p, parents := paths().Draw(rt, "path"), rapid.Bool().Draw(rt, "parents")
				expect("mkdir "+p, m.ask(nil, mkdir(p, parents, false)), tree.mkdir(p, parents))
			},
			"empty": func(rt *rapid.T) {
				p := paths().Draw(rt, "path")
				want := tree.above(p)
				switch {
				case want != sluice.Internal:
				case tree.has(p):
					want = sluice.Exists
				default:
					tree[p] = 0
				}
				if want == sluice.NotDirectory || want == sluice.NotFound || want == sluice.Exists || want == sluice.Internal {
					expect("create "+p, m.ask(nil, create(p, sluice.CreateOptions{Empty: true, Exclusive: true})), want)
				}
			},
			"write": func(rt *rapid.T) {
				p, length := paths().Draw(rt, "path"), rapid.Int64Range(1, 1<<30).Draw(rt, "length")
				want := tree.above(p)
				if want == sluice.Internal && tree.dir(p) {
					want = sluice.IsDirectory
				}
				a := m.ask(nil, create(p, sluice.CreateOptions{}))
				expect("create "+p, a, want)
				if want == sluice.Internal {
					expect("commit "+p, m.ask(nil, commitOf(a, length)), sluice.Internal)
					tree[p] = length
				}
			},
			"remove": func(rt *rapid.T) {
				p, recursive := paths().Draw(rt, "path"), rapid.Bool().Draw(rt, "recursive")
				expect("remove "+p, m.ask(nil, remove(p, recursive)), tree.remove(p, recursive))
			},
			"rename": func(rt *rapid.T) {
				from, to := paths().Draw(rt, "from"), paths().Draw(rt, "to")
				expect("rename "+from+" "+to, m.ask(nil, rename(from, to, false)), tree.rename(from, to))
			},
			"reap": func(rt *rapid.T) {
				all, err := m.s.Detached()
				if err != nil {
					rt.Fatal(err)
				}
				for _, d := range all {
					m.do(nil, &wire.Command_Reap{Reap: &wire.Reap{Detached: d.ID, Limit: rapid.Uint32Range(1, 3).Draw(rt, "limit")}})
				}
			},
		})
	})
}

// compare walks the state and compares it with the model.
func compare(rt *rapid.T, s *State, want model) {
	got := model{}
	var walk func(p sluice.Path)
	walk = func(p sluice.Path) {
		for after := ""; ; {
			page, err := s.List(sluice.Principal{Super: true}, p, after, 2)
			if err != nil {
				rt.Fatalf("list %s: %v", p, err)
			}
			for _, e := range page.Entries {
				after = e.Path.Name()
				got[string(e.Path)] = e.Length
				if one, err := s.Stat(sluice.Principal{Super: true}, e.Path, false); err != nil || one.ID != e.ID {
					rt.Fatalf("stat %s: %v %v, listed was %v", e.Path, one, err, e)
				}
				if e.IsDir() {
					got[string(e.Path)] = -1
					walk(e.Path)
				}
			}
			if !page.More {
				return
			}
		}
	}
	walk("/")
	if !maps.Equal(got, want) {
		rt.Fatalf("the tree is %v, want %v", got, want)
	}
}

// mixed applies a random command that may be about a mount, intents and sessions, and
// returns nothing: only invariants are looked at.
func mixed(t *rapid.T, m *machine) {
	path := func(label string) string {
		return rapid.SampledFrom([]string{"", "/m", "/m", "/m"}).Draw(t, "top") + paths().Draw(t, label)
	}
	pick := func(n int, label string) int { return rapid.IntRange(0, n-1).Draw(t, label) }
	intents, err := m.s.Intents()
	if err != nil {
		t.Fatal(err)
	}
	switch pick(14, "op") {
	case 0:
		m.ask(nil, mkdir(path("path"), true, rapid.Bool().Draw(t, "native")))
	case 1, 2:
		a := m.ask(nil, create(path("path"), sluice.CreateOptions{
			Empty: rapid.Bool().Draw(t, "empty"), Parents: true, Pinned: pick(4, "pinned") == 0,
			Write: rapid.SampledFrom([]sluice.WriteType{0, 0, sluice.MustCache}).Draw(t, "write"),
		}))
		if a.Content != nil && pick(4, "commit") > 0 {
			m.ask(nil, commitOf(a, int64(pick(3, "length"))))
		}
	case 3:
		m.ask(nil, remove(path("path"), rapid.Bool().Draw(t, "recursive")))
	case 4, 5:
		m.ask(nil, rename(path("from"), path("to"), rapid.Bool().Draw(t, "atomic")))
	case 6, 7, 8:
		if len(intents) > 0 {
			carry(t, m, &intents[pick(len(intents), "which")], pick)
		}
	case 9:
		m.load(1, "/m"+rapid.SampledFrom([]string{"", "/a", "/a/b", "/c"}).Draw(t, "dir"), m.s.Applied()-sluice.Index(pick(3, "ago")),
			object(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name"), rapid.SampledFrom([]string{"", "v1", "v2"}).Draw(t, "version"), int64(pick(2, "length"))), directory("d"))
	case 10:
		m.do(nil, &wire.Command_CloseSession{CloseSession: &wire.CloseSession{Session: testSession}})
		m.do(nil, &wire.Command_OpenSession{OpenSession: &wire.OpenSession{Session: testSession}})
	case 11:
		m.ask(nil, &wire.Command_SetAttr{SetAttr: &wire.SetAttr{Path: path("path"), Change: wire.FromAttrChange(sluice.AttrChange{
			Pinned: new(rapid.Bool().Draw(t, "pinned")), XAttrs: map[string][]byte{"a": []byte("b")}, TTL: new(time.Duration(pick(3, "ttl"))),
		})}})
	case 12:
		all, err := m.s.Detached()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range all {
			m.do(nil, &wire.Command_Reap{Reap: &wire.Reap{Detached: d.ID, Limit: uint32(1 + pick(3, "limit"))}})
		}
	case 13:
		if pick(6, "unmount") == 0 {
			m.do(nil, &wire.Command_UnmountStore{UnmountStore: &wire.UnmountStore{Path: "/m", Force: rapid.Bool().Draw(t, "force")}})
		}
	}
	if len(m.s.Mounts()) == 0 {
		m.do(nil, &wire.Command_MountStore{MountStore: &wire.MountStore{Path: "/m", Uri: "mem://x", Options: &wire.MountOptions{}}})
	}
}

// carry brings an intent on, or to its end.
func carry(t *rapid.T, m *machine, i *Intent, pick func(int, string) int) {
	m.do(nil, &wire.Command_BeginAttempt{BeginAttempt: &wire.BeginAttempt{Intent: i.ID, Term: 1}})
	if i.Op == OpMoveTree {
		moves, err := m.s.Moves(i.ID, "", 1+pick(3, "moves"))
		if err != nil {
			t.Fatal(err)
		}
		var moved []*wire.MovedKey
		for _, x := range moves {
			moved = append(moved, &wire.MovedKey{File: uint64(x.File), From: x.From, Object: object("", "moved", 0)})
		}
		if len(moved) > 0 {
			m.do(nil, &wire.Command_MoveKeys{MoveKeys: &wire.MoveKeys{Intent: i.ID, Moved: moved}})
			return
		}
	}
	if i.Op == OpRemoveTree {
		page, err := m.s.DetachedPage(i.Detached, 1+pick(3, "page"))
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > 0 {
			a := m.do(nil, &wire.Command_Reap{Reap: &wire.Reap{Detached: i.Detached, Limit: uint32(len(page))}})
			if a.Reaped != uint64(len(page)) {
				t.Fatalf("reaped %d rows of a page of %d", a.Reaped, len(page))
			}
			return
		}
	}
	if pick(4, "refuse") == 0 {
		m.do(nil, refuse(i.ID, sluice.Changed))
		return
	}
	m.do(nil, finish(i.ID, object("", fmt.Sprint("w", m.index), 0)))
}

// TestInvariants applies random commands of all sorts, with Check after each, then
// replays the log at once, and on disk with a crash at a random place: the same keys and
// values must come out.
func TestInvariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		db := keyvalue.OpenMemory()
		m := newMachineOn(t, db)
		m.mount("/m")
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			mixed(rt, m)
			if err := m.s.Check(); err != nil {
				rt.Fatalf("after entry %d: %v", m.index, err)
			}
		}
		want := dump(rt, db)
		again := keyvalue.OpenMemory()
		replay(rt, again, m.log)
		if got := dump(rt, again); got != want {
			rt.Fatalf("a replay gives other rows:\n%s", firstDifference(got, want))
		}
	})
}

// TestCrashAndResume cuts the disk at a random place, opens what is durable, and goes
// on with the log from there.
func TestCrashAndResume(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newMachine(t)
		m.mount("/m")
		for range 30 {
			mixed(rt, m)
		}
		whole := keyvalue.OpenMemory()
		replay(rt, whole, m.log)

		fs := vfs.NewCrashableMem()
		db := openPebble(rt, fs)
		s, err := Open(db, Config{CacheRows: 64})
		if err != nil {
			rt.Fatal(err)
		}
		cut, flush := rapid.IntRange(1, len(m.log)).Draw(rt, "cut"), rapid.IntRange(0, 3).Draw(rt, "flush")
		for i, data := range m.log[:cut] {
			applyData(rt, s, i, data)
			if flush > 0 && i%(flush*3) == 0 {
				if _, err := s.Flush(); err != nil {
					rt.Fatal(err)
				}
			}
		}
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
		if err := db.Close(); err != nil {
			rt.Fatal(err)
		}
		db = openPebble(rt, crashed)
		replay(rt, db, m.log)
		if got, want := dump(rt, db), dump(rt, whole); got != want {
			rt.Fatalf("resumed after a crash, other rows:\n%s", firstDifference(got, want))
		}
		if err := db.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

func openPebble(t rapid.TB, fs vfs.FS) keyvalue.DB {
	db, err := keyvalue.OpenPebble(keyvalue.PebbleConfig{FS: fs, Dir: "state"})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// replay applies a log to what is in db.
func replay(t rapid.TB, db keyvalue.DB, log [][]byte) {
	s, err := Open(db, Config{CacheRows: 64})
	if err != nil {
		t.Fatal(err)
	}
	for i, data := range log {
		applyData(t, s, i, data)
	}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
}

func applyData(t rapid.TB, s *State, i int, data []byte) {
	e := &wire.Entry{}
	if err := e.UnmarshalVT(data); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(sluice.Index(i+1), e); err != nil {
		t.Fatal(err)
	}
}

func dump(t rapid.TB, db keyvalue.DB) string {
	var b bytes.Buffer
	it := db.Scan(nil, nil)
	for it.Next() {
		fmt.Fprintf(&b, "%q %q\n", it.Key(), it.Value())
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

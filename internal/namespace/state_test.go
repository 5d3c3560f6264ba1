package namespace

import (
	"errors"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/keyvalue"
	"github.com/sluicefs/sluice/internal/wire"
)

// machine drives a state in tests: every step is one entry of the journal.
type machine struct {
	t     testing.TB
	s     *State
	index sluice.Index
	tick  int64
	seq   uint64
	log   [][]byte // every entry applied
}

const testSession = 7

func newMachine(t testing.TB) *machine {
	t.Helper()
	return newMachineOn(t, keyvalue.OpenMemory())
}

func newMachineOn(t testing.TB, db keyvalue.DB) *machine {
	t.Helper()
	s, err := Open(db, Config{})
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, s: s}
	m.ok(m.do(nil, &wire.Command_Format{Format: &wire.Format{Cluster: "c", Incarnation: 0xabc, Owner: "root", Group: "root", Mode: 0o777}}))
	m.ok(m.do(nil, &wire.Command_OpenSession{OpenSession: &wire.OpenSession{Session: testSession}}))
	return m
}

// apply applies one entry.
func (m *machine) apply(commands ...*wire.Command) []*wire.Answer {
	m.t.Helper()
	m.index++
	m.tick += int64(time.Millisecond)
	e := &wire.Entry{Format: 1, Version: 1, Term: 1, Wall: 1_700_000_000_000_000_000 + m.tick, Tick: m.tick, Commands: commands}
	data, err := e.MarshalVT()
	if err != nil {
		m.t.Fatal(err)
	}
	m.log = append(m.log, data)
	answers, err := m.s.Apply(m.index, e)
	if err != nil {
		m.t.Fatalf("entry %d: %v", m.index, err)
	}
	return answers
}

func command(by *sluice.Principal, op any) *wire.Command {
	c := &wire.Command{}
	if by != nil {
		c.By = wire.FromPrincipal(*by)
	}
	switch x := op.(type) {
	case *wire.Command_Format:
		c.Op = x
	case *wire.Command_OpenSession:
		c.Op = x
	case *wire.Command_CloseSession:
		c.Op = x
	case *wire.Command_ExpireSessions:
		c.Op = x
	case *wire.Command_Mkdir:
		c.Op = x
	case *wire.Command_CreateFile:
		c.Op = x
	case *wire.Command_CommitContent:
		c.Op = x
	case *wire.Command_Abandon:
		c.Op = x
	case *wire.Command_Rename:
		c.Op = x
	case *wire.Command_Remove:
		c.Op = x
	case *wire.Command_SetAttr:
		c.Op = x
	case *wire.Command_Symlink:
		c.Op = x
	case *wire.Command_MountStore:
		c.Op = x
	case *wire.Command_UnmountStore:
		c.Op = x
	case *wire.Command_LoadChildren:
		c.Op = x
	case *wire.Command_Reap:
		c.Op = x
	case *wire.Command_ExpireTtl:
		c.Op = x
	case *wire.Command_ReportLost:
		c.Op = x
	case *wire.Command_BeginAttempt:
		c.Op = x
	case *wire.Command_FinishIntent:
		c.Op = x
	case *wire.Command_MoveKeys:
		c.Op = x
	default:
		panic("test: an operation without a case")
	}
	return c
}

// do applies one command without a request.
func (m *machine) do(by *sluice.Principal, op any) *wire.Answer {
	m.t.Helper()
	return m.apply(command(by, op))[0]
}

// ask applies one command with the next request of the test session.
func (m *machine) ask(by *sluice.Principal, op any) *wire.Answer {
	m.t.Helper()
	m.seq++
	c := command(by, op)
	c.Request = &wire.RequestID{Session: testSession, Seq: m.seq, Lowest: m.seq}
	return m.apply(c)[0]
}

func (m *machine) ok(a *wire.Answer) *wire.Answer {
	m.t.Helper()
	if err := a.Error.Sluice(); err != nil {
		m.t.Fatalf("entry %d: %v", m.index, err)
	}
	return a
}

func (m *machine) fails(a *wire.Answer, kind sluice.Kind) {
	m.t.Helper()
	if err := a.Error.Sluice(); err == nil || !errors.Is(err, kind) {
		m.t.Fatalf("entry %d: got %v, want kind %q", m.index, err, kind)
	}
}

// check verifies every invariant.
func (m *machine) check() {
	m.t.Helper()
	if err := m.s.Check(); err != nil {
		m.t.Fatalf("after entry %d: %v", m.index, err)
	}
}

func mkdir(path string, parents, native bool) *wire.Command_Mkdir {
	return &wire.Command_Mkdir{Mkdir: &wire.Mkdir{Path: path, Parents: parents, Native: native}}
}

func create(path string, o sluice.CreateOptions) *wire.Command_CreateFile {
	return &wire.Command_CreateFile{CreateFile: &wire.CreateFile{Path: path, Options: wire.FromCreateOptions(o), DefaultBlockSize: sluice.DefaultBlockSize}}
}

func commitOf(a *wire.Answer, length int64) *wire.Command_CommitContent {
	return &wire.Command_CommitContent{CommitContent: &wire.CommitContent{File: a.Info.Id, Sealed: wire.FromSealed(sluice.Sealed{
		Content: a.Content.Sluice(), Length: length, Worker: 3, Holders: []sluice.Holder{{Content: a.Content.Sluice(), Worker: 3, Count: 1}},
	})}}
}

func rename(from, to string, atomic bool) *wire.Command_Rename {
	return &wire.Command_Rename{Rename: &wire.Rename{From: from, To: to, Atomic: atomic}}
}

func remove(path string, recursive bool) *wire.Command_Remove {
	return &wire.Command_Remove{Remove: &wire.Remove{Path: path, Recursive: recursive}}
}

func finish(intent uint64, o *wire.Object) *wire.Command_FinishIntent {
	return &wire.Command_FinishIntent{FinishIntent: &wire.FinishIntent{Intent: intent, Done: true, Object: o}}
}

func refuse(intent uint64, kind sluice.Kind) *wire.Command_FinishIntent {
	return &wire.Command_FinishIntent{FinishIntent: &wire.FinishIntent{Intent: intent, Refused: &wire.Error{Kind: uint32(kind)}}}
}

// mount mounts a store and returns its id.
func (m *machine) mount(path string) uint64 {
	m.t.Helper()
	a := m.ok(m.do(nil, &wire.Command_MountStore{MountStore: &wire.MountStore{
		Path: path, Uri: "mem://x", Options: wire.FromMountOptions(sluice.MountOptions{Owner: "o", Group: "g"}),
		Secrets: map[string][]byte{"a": []byte("1"), "b": []byte("2")},
	}}))
	return a.Mount.Id
}

// load brings in objects; a name that ends in a slash is a directory, of the rest the
// length is that of the version.
func (m *machine) load(mount uint64, dir string, noted sluice.Index, objects ...*wire.Object) *wire.Answer {
	m.t.Helper()
	c := &wire.LoadChildren{Mount: mount, Dir: dir, Noted: uint64(noted), Objects: objects, Complete: true}
	needs := m.s.NeedsLoad(c)
	a := m.do(nil, &wire.Command_LoadChildren{LoadChildren: c})
	if a.Error == nil && !needs && a.Loaded > 0 {
		m.t.Fatalf("NeedsLoad said no, and %d entries changed", a.Loaded)
	}
	return a
}

func object(key, version string, length int64) *wire.Object {
	return &wire.Object{Key: key, Version: version, Length: length, Mtime: 5}
}

func directory(key string) *wire.Object { return &wire.Object{Key: key, Dir: true} }

func (m *machine) stat(path sluice.Path) sluice.FileInfo {
	m.t.Helper()
	info, err := m.s.Stat(sluice.Principal{Super: true}, path, true)
	if err != nil {
		m.t.Fatalf("stat %s: %v", path, err)
	}
	return info
}

func (m *machine) absent(path sluice.Path) {
	m.t.Helper()
	if _, err := m.s.Stat(sluice.Principal{Super: true}, path, false); err == nil || !errors.Is(err, sluice.NotFound) {
		m.t.Fatalf("stat %s: got %v, want not found", path, err)
	}
}

func (m *machine) names(path sluice.Path) []string {
	m.t.Helper()
	var names []string
	for after := ""; ; {
		page, err := m.s.List(sluice.Principal{Super: true}, path, after, 3)
		if err != nil {
			m.t.Fatalf("list %s: %v", path, err)
		}
		for _, e := range page.Entries {
			after = e.Path.Name()
			names = append(names, after)
		}
		if !page.More {
			return names
		}
	}
}

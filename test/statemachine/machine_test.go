package statemachine

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/keyvalue"
	"github.com/sluicefs/sluice/internal/namespace"
	"github.com/sluicefs/sluice/internal/wire"
)

// failer is what of a test a machine needs; a rapid.T has it too.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// incarnation is that of every state of these tests.
const incarnation = 0xabc

// machine is a state with the log that made it.
type machine struct {
	t     failer
	db    keyvalue.DB
	state *namespace.State
	wall  int64
	tick  time.Duration
	log   []*wire.Entry // entry i has index i+1
	// lazy leaves out the check after each entry.
	lazy bool
}

// begin makes a formatted state in db.
func begin(t failer, db keyvalue.DB, window uint32) *machine {
	t.Helper()
	m := &machine{t: t, db: db, wall: 1_000_000_000_000_000_000}
	m.open()
	a := m.apply(&wire.Command{Op: &wire.Command_Format{Format: &wire.Format{
		Cluster: "test", Incarnation: incarnation, Owner: "root", Group: "root", Mode: 0o755,
		SessionLease: int64(time.Minute), SessionWindow: window,
	}}})
	if a[0].Error != nil {
		t.Fatalf("format: %v", a[0].Error.Sluice())
	}
	return m
}

// open reads the state of the db, as after a start. The cache is small, so that rows
// are read again.
func (m *machine) open() {
	m.t.Helper()
	s, err := namespace.Open(m.db, namespace.Config{CacheRows: 1024})
	if err != nil {
		m.t.Fatalf("open: %v", err)
	}
	m.state = s
}

// index is that of the last entry of the log.
func (m *machine) index() sluice.Index { return sluice.Index(len(m.log)) }

// apply puts the commands into one entry, a second after the last one, and applies it.
func (m *machine) apply(commands ...*wire.Command) []*wire.Answer {
	m.t.Helper()
	m.wall += int64(time.Second)
	m.tick += time.Second
	e := &wire.Entry{Format: wire.EntryFormat, Term: 1, Version: wire.ClusterVersion, Wall: m.wall, Tick: int64(m.tick), Commands: commands}
	m.log = append(m.log, e)
	return m.replay(m.index())
}

// replay applies an entry of the log.
func (m *machine) replay(i sluice.Index) []*wire.Answer {
	m.t.Helper()
	a, err := m.state.Apply(i, proto.CloneOf(m.log[i-1]))
	if err != nil {
		m.t.Fatalf("apply entry %d: %v", i, err)
	}
	if !m.lazy {
		m.check()
	}
	return a
}

func (m *machine) check() {
	m.t.Helper()
	if err := m.state.Check(); err != nil {
		m.t.Fatalf("check after entry %d (%v): %v", m.index(), m.log[len(m.log)-1].Commands, err)
	}
}

// dump returns every row.
func dump(t failer, db keyvalue.Reader) []string {
	t.Helper()
	it := db.Scan(nil, nil)
	var rows []string
	for it.Next() {
		rows = append(rows, fmt.Sprintf("%q = %x", it.Key(), it.Value()))
	}
	if err := it.Close(); err != nil {
		t.Fatalf("scan: %v", err)
	}
	return rows
}

// same fails where two dumps differ, naming the first row that does.
func same(t failer, what string, got, want []string) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("%s: row %d is\n  %s\nwant\n  %s", what, i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d rows, want %d", what, len(got), len(want))
	}
}

// closing closes a store at the end of a test.
func closing(t testing.TB, db keyvalue.DB) keyvalue.DB {
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db
}

func kindOf(a *wire.Answer) string {
	if a.Error == nil {
		return "ok"
	}
	return sluice.Kind(a.Error.Kind).String()
}

// super passes every check.
func super() sluice.Principal {
	return sluice.Principal{User: "root", Groups: []string{"root"}, Super: true}
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

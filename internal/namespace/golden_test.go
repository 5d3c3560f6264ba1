package namespace

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/keyvalue"
	"github.com/sluicefs/sluice/internal/wire"
)

// goldenRun leaves rows in every table of the state.
func goldenRun(t testing.TB) (*machine, keyvalue.DB) {
	db := keyvalue.OpenMemory()
	m := newMachineOn(t, db)
	ann := &sluice.Principal{User: "ann", Groups: []string{"staff"}}
	m.ok(m.do(nil, mkdir("/d/e", true, false)))
	m.ok(m.do(nil, mkdir("/hidden", false, false)))
	m.ok(m.do(nil, &wire.Command_MountStore{MountStore: &wire.MountStore{
		Path: "/hidden", Uri: "mem://y", Options: wire.FromMountOptions(sluice.MountOptions{ReadOnly: true, Owner: "o", Group: "g"}),
		Secrets: map[string][]byte{"b": []byte("env:B"), "a": {1, 2, 3}},
	}}))
	mount := m.mount("/m")
	m.ok(m.load(mount, "/m", m.s.Applied(), object("f", "v1", 200<<20), object("gone", "v2", 1), directory("sub")))
	m.ok(m.do(nil, &wire.Command_SetAttr{SetAttr: &wire.SetAttr{Path: "/m/f", Change: wire.FromAttrChange(sluice.AttrChange{
		Mode: new(sluice.Mode(0o640)), Pinned: new(true), TTL: new(time.Hour), XAttrs: map[string][]byte{"user.x": []byte("y")},
	})}}))
	m.ok(m.do(nil, &wire.Command_Symlink{Symlink: &wire.Symlink{Target: "../d", Path: "/d/link"}}))
	m.fails(m.ask(ann, create("/d/e/w", sluice.CreateOptions{})), sluice.Permission)
	open := m.ok(m.ask(nil, create("/d/w", sluice.CreateOptions{})))
	m.ok(m.ask(nil, commitOf(open, 300<<20)))
	m.ok(m.ask(nil, create("/d/open", sluice.CreateOptions{Pinned: true})))
	through := m.ok(m.ask(nil, create("/m/new", sluice.CreateOptions{TTL: time.Minute, TTLAction: sluice.TTLDelete})))
	begun := m.ok(m.ask(nil, commitOf(through, 5)))
	m.ok(m.do(nil, &wire.Command_BeginAttempt{BeginAttempt: &wire.BeginAttempt{Intent: begun.Intent, Worker: 3, TimeLeft: int64(30 * time.Second), Term: 2}}))
	gone := m.ok(m.ask(nil, remove("/m/gone", false)))
	m.ok(m.do(nil, finish(gone.Intent, nil)))
	m.ok(m.ask(nil, create("/d/e/x", sluice.CreateOptions{Empty: true})))
	m.ok(m.ask(nil, remove("/d/e", true)))
	return m, db
}

// TestGoldenRows: rows and entries as version 1 wrote them are read by every later
// version, and mean the same. The files are made once; to change the format is to add a
// version beside them.
func TestGoldenRows(t *testing.T) {
	m, db := goldenRun(t)
	var rows, entries bytes.Buffer
	tables := map[byte]bool{}
	it := db.Scan(nil, nil)
	for it.Next() {
		fmt.Fprintf(&rows, "%x %x\n", it.Key(), it.Value())
		tables[it.Key()[0]] = true
	}
	if err := errors.Join(it.Err(), it.Close()); err != nil {
		t.Fatal(err)
	}
	for _, tag := range "acdhikmMnpqrstwWx" {
		if !tables[byte(tag)] {
			t.Errorf("no row of the table %c is in the golden state", tag)
		}
	}
	for _, b := range m.log {
		fmt.Fprintf(&entries, "%x\n", b)
	}
	wantRows, wantEntries := golden(t, "rows-1.txt", rows.Bytes()), golden(t, "entries-1.txt", entries.Bytes())
	if got := rows.String(); got != wantRows {
		t.Errorf("the same commands give other rows than version 1 wrote:\n%s", firstDifference(got, wantRows))
	}

	old := keyvalue.OpenMemory()
	batch := old.Batch()
	for line := range strings.Lines(wantRows) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		batch.Set(unhex(t, key), unhex(t, value))
	}
	if err := batch.Commit(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(old, Config{})
	if err != nil {
		t.Fatalf("the rows of version 1 are not opened: %v", err)
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	if info := m.stat("/m/f"); info.Length != 200<<20 || !info.Pinned || info.TTL != time.Hour {
		t.Errorf("/m/f is %+v", info)
	}

	replayed, err := Open(keyvalue.OpenMemory(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	index := sluice.Index(0)
	for line := range strings.Lines(wantEntries) {
		var e wire.Entry
		if err := e.UnmarshalVT(unhex(t, strings.TrimSuffix(line, "\n"))); err != nil {
			t.Fatalf("entry %d of version 1: %v", index+1, err)
		}
		index++
		if _, err := replayed.Apply(index, &e); err != nil {
			t.Fatalf("entry %d of version 1: %v", index, err)
		}
	}
	if replayed.meta.hash != s.meta.hash {
		t.Errorf("the entries of version 1 give changes of hash %x, its rows say %x", replayed.meta.hash.number(), s.meta.hash.number())
	}
}

// golden returns a golden file, and with -rewrite makes it if it is not there.
func golden(t *testing.T, name string, got []byte) string {
	t.Helper()
	file := filepath.Join("testdata", "golden", name)
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) && *rewrite {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		b, err = got, os.WriteFile(file, got, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

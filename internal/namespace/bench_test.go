package namespace

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/keyvalue"
	"github.com/sluicefs/sluice/internal/wire"
)

func benchMachine(b *testing.B) *machine {
	db, err := keyvalue.OpenPebble(keyvalue.PebbleConfig{FS: vfs.NewMem(), Dir: "state"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
	})
	m := newMachineOn(b, db)
	m.ok(m.ask(nil, mkdir("/a/b/c", true, false)))
	return m
}

// benchCommands applies b.N commands in entries of 64, one operation a command.
func benchCommands(b *testing.B, m *machine, op func(i int) any) {
	by := &sluice.Principal{User: "u", Groups: []string{"g"}, Super: true}
	e := &wire.Entry{Format: 1, Version: 1}
	i := 0
	flush := func() {
		m.index++
		m.tick++
		e.Wall, e.Tick = m.tick, m.tick
		answers, err := m.s.Apply(m.index, e)
		if err != nil {
			b.Fatal(err)
		}
		for _, a := range answers {
			if a.Error != nil {
				b.Fatal(a.Error)
			}
		}
		e.Commands = e.Commands[:0]
	}
	for b.Loop() {
		m.seq++
		c := command(by, op(i))
		c.Request = &wire.RequestID{Session: testSession, Seq: m.seq, Lowest: m.seq - min(m.seq, 64)}
		e.Commands = append(e.Commands, c)
		if len(e.Commands) == 64 {
			flush()
		}
		i++
	}
	flush()
}

// BenchmarkCreate makes empty files, each remembered.
func BenchmarkCreate(b *testing.B) {
	m := benchMachine(b)
	benchCommands(b, m, func(i int) any {
		return create(fmt.Sprintf("/a/b/c/file-%08d", i), sluice.CreateOptions{Empty: true})
	})
}

// BenchmarkRename renames one file back and forth.
func BenchmarkRename(b *testing.B) {
	m := benchMachine(b)
	m.ok(m.ask(nil, create("/a/b/c/f0", sluice.CreateOptions{Empty: true})))
	benchCommands(b, m, func(i int) any {
		return rename(fmt.Sprintf("/a/b/c/f%d", i), fmt.Sprintf("/a/b/c/f%d", i+1), false)
	})
}

// BenchmarkRemove makes and removes empty files; an operation is both.
func BenchmarkRemove(b *testing.B) {
	m := benchMachine(b)
	benchCommands(b, m, func(i int) any {
		if i%2 == 0 {
			return create(fmt.Sprintf("/a/b/c/file-%08d", i), sluice.CreateOptions{Empty: true})
		}
		return remove(fmt.Sprintf("/a/b/c/file-%08d", i-1), false)
	})
}

// BenchmarkStat describes a file three directories deep.
func BenchmarkStat(b *testing.B) {
	m := benchMachine(b)
	m.ok(m.ask(nil, create("/a/b/c/f", sluice.CreateOptions{Empty: true})))
	by := sluice.Principal{User: "u"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.s.Stat(by, "/a/b/c/f", false); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkList lists a directory of 10,000 entries; an operation is an entry.
func BenchmarkList(b *testing.B) {
	m := benchMachine(b)
	const n = 10_000
	for i := range n {
		m.ok(m.ask(nil, create(fmt.Sprintf("/a/b/c/file-%08d", i), sluice.CreateOptions{Empty: true})))
	}
	by := sluice.Principal{User: "u"}
	seen := 0
	for b.Loop() {
		if seen == 0 {
			page, err := m.s.List(by, "/a/b/c", "", n)
			if err != nil || len(page.Entries) != n {
				b.Fatal(len(page.Entries), err)
			}
		}
		seen = (seen + 1) % n
	}
}

// BenchmarkLoad brings in objects with a store's version; an operation is an object.
func BenchmarkLoad(b *testing.B) {
	m := benchMachine(b)
	id := m.mount("/m")
	objects := make([]*wire.Object, 0, 1000)
	i, after := 0, ""
	for b.Loop() {
		objects = append(objects, object(fmt.Sprintf("file-%08d", i), fmt.Sprintf("\"%032x\" %d", i, i), int64(i)))
		i++
		if len(objects) == cap(objects) {
			upto := objects[len(objects)-1].Key
			m.ok(m.do(nil, &wire.Command_LoadChildren{LoadChildren: &wire.LoadChildren{
				Mount: id, Dir: "/m", Objects: objects, Noted: uint64(m.index), Complete: true, After: after, Upto: upto,
			}}))
			objects, after = objects[:0], upto
		}
	}
}

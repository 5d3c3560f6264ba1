package namespace

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// TestBytesOnDisk: what a file costs after compaction, with short names.
func TestBytesOnDisk(t *testing.T) {
	const n = 40_000
	r := rand.New(rand.NewPCG(1, 2))
	t.Run("empty", func(t *testing.T) {
		db := openPebble(t, vfs.NewMem())
		m := newMachineOn(t, db)
		m.log = nil
		for i := 0; i < n; {
			commands := make([]*wire.Command, 0, 100)
			for range cap(commands) {
				m.tick += r.Int64N(1 << 20)
				commands = append(commands, command(nil, create(fmt.Sprintf("/d%02d/f%06d", i/1000, i), sluice.CreateOptions{Empty: true, Parents: true})))
				i++
			}
			m.apply(commands...)
		}
		checkBytes(t, m, n, 80)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("loaded", func(t *testing.T) {
		db := openPebble(t, vfs.NewMem())
		m := newMachineOn(t, db)
		id := m.mount("/m")
		for i := 0; i < n; {
			objects := make([]*wire.Object, 0, 1000)
			dir := fmt.Sprintf("/m/d%02d", i/1000)
			for range cap(objects) {
				o := object(fmt.Sprintf("f%06d", i), fmt.Sprintf("\"%016x%016x\"", r.Uint64(), r.Uint64()), r.Int64N(1<<20))
				o.Mtime = 1_700_000_000_000_000_000 + r.Int64N(1e9)*1e6
				objects = append(objects, o)
				i++
			}
			m.ok(m.load(id, dir, m.index, objects...))
		}
		checkBytes(t, m, n, 130)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func checkBytes(t *testing.T, m *machine, files, limit int64) {
	t.Helper()
	if err := m.s.db.Compact(); err != nil {
		t.Fatal(err)
	}
	each := m.s.db.Stats().TableBytes / files
	t.Logf("%d bytes a file", each)
	if each > limit {
		t.Errorf("%d bytes a file on disk after compaction, want at most %d", each, limit)
	}
}

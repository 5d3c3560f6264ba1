package journal

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/keyvalue"
)

// ledger is a Machine on a real store: each entry becomes a row, in the same batch as
// the applied index, as the masters' state does it.
type ledger struct {
	db keyvalue.DB
	mu sync.Mutex
	at sluice.Index
}

func openLedger(fs vfs.FS) (*ledger, error) {
	db, err := keyvalue.OpenPebble(keyvalue.PebbleConfig{FS: fs, Dir: "state", CacheBytes: 1 << 20})
	if err != nil {
		return nil, err
	}
	l := &ledger{db: db}
	v, found, err := db.Get([]byte("applied"))
	if found {
		l.at = sluice.Index(binary.BigEndian.Uint64(v))
	}
	return l, err
}

func (l *ledger) Apply(e Entry) any {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Index <= l.at {
		return nil
	}
	b := l.db.Batch()
	b.Set([]byte("applied"), binary.BigEndian.AppendUint64(nil, uint64(e.Index)))
	if len(e.Data) > 0 {
		b.Set(binary.BigEndian.AppendUint64([]byte("row"), uint64(e.Index)), e.Data)
	}
	if err := b.Commit(); err != nil {
		return Halt{err}
	}
	l.at = e.Index
	return "did " + string(e.Data)
}

func (l *ledger) Applied() sluice.Index {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at
}

func (l *ledger) Flush() (sluice.Index, error) {
	at := l.Applied()
	return at, l.db.Flush()
}

func (l *ledger) rows(t *testing.T) []string {
	t.Helper()
	var rows []string
	it := l.db.Scan([]byte("row"), []byte("rox"))
	for it.Next() {
		rows = append(rows, string(it.Value()))
	}
	must(t, it.Close())
	return rows
}

// scene takes a crash clone of state and log together before some changes of the disk.
type scene struct {
	fs     *vfs.MemFS
	rng    *rand.Rand
	mu     sync.Mutex
	ops    int
	off    bool
	acked  int
	wrecks []*vfs.MemFS
	acks   []int
}

func (s *scene) String() string { return "scene" }

func (s *scene) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || op.Kind == errorfs.OpFileClose || op.Kind == errorfs.OpLock {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ops++; !s.off && s.ops%5 == 0 {
		s.acks = append(s.acks, s.acked)
		s.wrecks = append(s.wrecks, s.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * s.rng.IntN(2), RNG: s.rng}))
	}
	return nil
}

// TestStateAndLogCrashTogether flushes, cuts and crashes a store and its log on one
// disk: every start finds the two to belong together and nothing acknowledged lost.
func TestStateAndLogCrashTogether(t *testing.T) {
	s := &scene{fs: vfs.NewCrashableMem(), rng: rand.New(rand.NewPCG(11, 12))}
	fs := errorfs.Wrap(s.fs, s)
	l, err := openLedger(fs)
	must(t, err)
	cfg := config(fs, l)
	cfg.FlushEntries = 8
	j := mustOpen(t, cfg)
	var want []string
	rng := rand.New(rand.NewPCG(13, 14))
	for i := range 80 {
		d := fmt.Sprintf("%d %0*d", i, rng.IntN(2500), 0)
		want = append(want, d)
		propose(t, j, d)
		s.mu.Lock()
		s.acked++
		s.mu.Unlock()
	}
	s.mu.Lock()
	s.off = true
	s.mu.Unlock()
	must(t, j.Close())
	must(t, l.db.Close())
	if j.Status().First == 1 {
		t.Error("the log was never cut")
	}
	t.Logf("%d crashes", len(s.wrecks))
	for i, fs := range s.wrecks {
		l, err := openLedger(fs)
		must(t, err)
		j, err := Open(context.Background(), config(fs, l))
		if err != nil {
			t.Fatalf("crash %d: %v", i, err)
		}
		rows := l.rows(t)
		if len(rows) < s.acks[i] || len(rows) > len(want) || !slices.Equal(rows, want[:len(rows)]) {
			t.Fatalf("crash %d: %d rows, %d were acknowledged", i, len(rows), s.acks[i])
		}
		must(t, j.Close())
		must(t, l.db.Close())
	}
}

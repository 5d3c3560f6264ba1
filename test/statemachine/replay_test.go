package statemachine

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/keyvalue"
	"github.com/sluicefs/sluice/internal/wire"
)

// history is a random log with what it answered and left.
type history struct {
	*machine
	answers [][]*wire.Answer
	rows    []string
}

// record makes a log of random commands, checking the state after each entry.
func record(t testing.TB, seed uint64, entries int) *history {
	h := &history{machine: begin(t, closing(t, keyvalue.OpenMemory()), 4), answers: [][]*wire.Answer{{{}}}}
	w := &wild{rng: rand.New(rand.NewPCG(seed, 1)), m: h.machine}
	for range entries {
		a := h.apply(w.commands()...)
		w.learn(a)
		h.answers = append(h.answers, a)
	}
	h.rows = dump(t, h.db)
	return h
}

// resume continues a state that stands at some index with the log of h, to its end.
func (h *history) resume(m *machine) {
	m.log = h.log
	for i := m.state.Applied() + 1; i <= h.index(); i++ {
		h.equal(m, i, m.replay(i))
	}
}

// equal fails where the answers of an entry are others than those of the first run.
func (h *history) equal(m *machine, i sluice.Index, got []*wire.Answer) {
	m.t.Helper()
	want := h.answers[i-1]
	if len(got) != len(want) {
		m.t.Fatalf("entry %d: %d answers, want %d", i, len(got), len(want))
	}
	for j := range got {
		if !proto.Equal(got[j], want[j]) {
			m.t.Fatalf("entry %d, command %d (%v):\n got %v\nwant %v", i, j, h.log[i-1].Commands[j], got[j], want[j])
		}
	}
}

// seeds runs f for some seeds, each as a test of its own.
func seeds(t *testing.T, n int, f func(t *testing.T, seed uint64)) {
	for seed := range uint64(n) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { f(t, seed) })
	}
}

// TestSameLogSameRows applies a log twice.
func TestSameLogSameRows(t *testing.T) {
	seeds(t, 30, func(t *testing.T, seed uint64) {
		h := record(t, seed, 150)
		m := &machine{t: t, db: closing(t, keyvalue.OpenMemory()), lazy: true}
		m.open()
		h.resume(m)
		same(t, "the second run", dump(t, m.db), h.rows)
	})
}

// TestReopenAnywhere reads the state anew from its rows at random entries.
func TestReopenAnywhere(t *testing.T) {
	seeds(t, 30, func(t *testing.T, seed uint64) {
		h := record(t, seed, 150)
		rng := rand.New(rand.NewPCG(seed, 2))
		m := &machine{t: t, db: closing(t, keyvalue.OpenMemory()), lazy: true, log: h.log}
		m.open()
		for i := sluice.Index(1); i <= h.index(); i++ {
			if rng.IntN(4) == 0 {
				m.open()
			}
			h.equal(m, i, m.replay(i))
		}
		same(t, "the run that was reopened", dump(t, m.db), h.rows)
	})
}

// TestAppliedIsIgnored applies entries again that the state has.
func TestAppliedIsIgnored(t *testing.T) {
	h := record(t, 7, 100)
	for i := sluice.Index(1); i <= h.index(); i++ {
		if a, err := h.state.Apply(i, proto.CloneOf(h.log[i-1])); a != nil || err != nil {
			t.Fatalf("entry %d again: %v, %v; want nothing", i, a, err)
		}
	}
	same(t, "after applying everything again", dump(t, h.db), h.rows)
}

// TestCrash cuts the power at random moments: what a flush saw is there, and the log from
// there on leads to the same rows and answers.
func TestCrash(t *testing.T) {
	seeds(t, 6, func(t *testing.T, seed uint64) {
		h := record(t, seed, 120)
		rng := rand.New(rand.NewPCG(seed, 3))
		fs := vfs.NewCrashableMem()
		m := openPebble(t, fs)
		flushed := sluice.Index(0)
		for i := sluice.Index(1); i <= h.index(); i++ {
			m.log = h.log
			h.equal(m, i, m.replay(i))
			if rng.IntN(10) == 0 {
				f, err := m.state.Flush()
				if err != nil || f < i {
					t.Fatalf("flush at %d: %d, %v", i, f, err)
				}
				flushed = f
			}
			if rng.IntN(12) != 0 {
				continue
			}
			after := openPebble(t, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * rng.IntN(3), RNG: rng}))
			if got := after.state.Applied(); got < flushed || got > i {
				t.Fatalf("crash at %d after a flush of %d: applied %d", i, flushed, got)
			}
			h.resume(after)
			after.check()
			same(t, "after the crash at "+strconv.Itoa(int(i)), dump(t, after.db), h.rows)
		}
		same(t, "on Pebble", dump(t, m.db), h.rows)
	})
}

func openPebble(t *testing.T, fs vfs.FS) *machine {
	t.Helper()
	db, err := keyvalue.OpenPebble(keyvalue.PebbleConfig{FS: fs, Dir: "state", CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, db: closing(t, db), lazy: true}
	m.open()
	return m
}

// TestRetries sends random earlier requests again, with other commands under their ids,
// also after a start: the answer is the first one byte for byte, or the one of the
// intent's end, or "unknown outcome", and no row changes but the applied index.
func TestRetries(t *testing.T) {
	seeds(t, 20, func(t *testing.T, seed uint64) {
		m := begin(t, closing(t, keyvalue.OpenMemory()), 8)
		w := &wild{rng: rand.New(rand.NewPCG(seed, 4)), m: m}
		m.apply(&wire.Command{Op: &wire.Command_OpenSession{OpenSession: &wire.OpenSession{Session: 9}}})
		m.apply(&wire.Command{By: wire.FromPrincipal(super()), Op: &wire.Command_MountStore{MountStore: &wire.MountStore{Path: "/s", Uri: "s3://x"}}})
		first := map[uint64][]byte{}
		for seq := uint64(1); seq <= 60; seq++ {
			lowest := max(5, seq) - 4
			c := &wire.Command{By: wire.FromPrincipal(super())}
			w.user(c)
			c.Request = &wire.RequestID{Session: 9, Seq: seq, Lowest: lowest}
			a := m.apply(c)[0]
			w.learn([]*wire.Answer{a})
			if a.Error == nil || !sluice.Kind(a.Error.Kind).Retriable() {
				first[seq] = marshal(t, a)
			}
			if w.yes(3) {
				m.open()
			}
			again := 1 + w.rng.Uint64N(seq)
			want, ok := first[again]
			if again < lowest {
				want, ok = nil, true
			}
			if !ok {
				continue
			}
			rows := dump(t, m.db)
			r := &wire.Command{Request: &wire.RequestID{Session: 9, Seq: again, Lowest: min(again, lowest)}, Op: &wire.Command_Mkdir{Mkdir: &wire.Mkdir{Path: "/retried"}}}
			got := m.apply(r)[0]
			switch {
			case want == nil && kindOf(got) != "unknown outcome":
				t.Fatalf("request %d below %d: %v", again, lowest, got)
			case want != nil && string(marshal(t, got)) != string(want):
				t.Fatalf("request %d again:\n got %v\nwant %x", again, got, want)
			}
			same(t, "a retry", unnumbered(dump(t, m.db)), unnumbered(rows))
		}
	})
}

func marshal(t *testing.T, a *wire.Answer) []byte {
	t.Helper()
	b, err := a.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unnumbered leaves out the row of counters and times, which every entry changes.
func unnumbered(rows []string) []string {
	var out []string
	for _, r := range rows {
		if r[:3] != `"M"` {
			out = append(out, r)
		}
	}
	return out
}

package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tape is a Machine that remembers what it was told, and whose durable part lags.
type tape struct {
	mu      sync.Mutex
	index   sluice.Index
	data    []string // of the entries with data
	at      []sluice.Index
	durable sluice.Index
	lag     sluice.Index // Flush reports so much less than was applied
	errs    []string
}

func (t *tape) Apply(e Entry) any {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.Index <= t.index {
		return nil
	}
	if e.Index != t.index+1 {
		t.errs = append(t.errs, fmt.Sprintf("entry %d follows entry %d", e.Index, t.index))
	}
	t.index = e.Index
	if len(e.Data) > 0 {
		t.data = append(t.data, string(e.Data))
		t.at = append(t.at, e.Index)
	}
	return "did " + string(e.Data)
}

func (t *tape) Applied() sluice.Index {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.index
}

func (t *tape) Flush() (sluice.Index, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.index > t.lag {
		t.durable = max(t.durable, t.index-t.lag)
	}
	return t.durable, nil
}

// crashed returns what is left of t after a crash: what it had made durable.
func (t *tape) crashed() *tape {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &tape{index: t.durable, durable: t.durable, lag: t.lag}
	for i, at := range t.at {
		if at <= t.durable {
			c.data, c.at = append(c.data, t.data[i]), append(c.at, at)
		}
	}
	return c
}

func config(fs vfs.FS, m Machine) Config {
	return Config{
		FS: fs, Dir: "journal", Cluster: "test", Node: 1, Machine: m,
		Rand: rand.NewPCG(1, 2), SegmentBytes: MinSegmentBytes, KeepEntries: 1, MinFree: -1,
	}
}

func mustOpen(t testing.TB, cfg Config) *Journal {
	t.Helper()
	j, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return j
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func propose(t testing.TB, j *Journal, data string) {
	t.Helper()
	v, err := j.Propose(context.Background(), []byte(data))
	if err != nil || v != "did "+data {
		t.Fatalf("Propose(%q): got %v, %v", data, v, err)
	}
}

// check fails if m does not hold exactly want.
func (t *tape) check(tb testing.TB, want []string) {
	tb.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.errs {
		tb.Error(e)
	}
	if len(t.data) != len(want) {
		tb.Fatalf("the machine has %d entries, want %d", len(t.data), len(want))
	}
	for i := range want {
		if t.data[i] != want[i] {
			tb.Fatalf("entry %d: got %q, want %q", i, t.data[i], want[i])
		}
	}
}

func TestProposeAndRestart(t *testing.T) {
	fs, m := vfs.NewMem(), &tape{}
	var want []string
	for round := range 4 {
		j := mustOpen(t, config(fs, m))
		term, _ := j.Leading()
		if term == 0 {
			t.Fatal("the only member does not lead after Open")
		}
		for i := range 50 {
			s := fmt.Sprintf("%d/%d", round, i)
			propose(t, j, s)
			want = append(want, s)
		}
		if at, err := j.ReadBarrier(context.Background()); err != nil || at != m.Applied() {
			t.Errorf("ReadBarrier: got %d, %v, want %d", at, err, m.Applied())
		}
		st := j.Status()
		if !st.Leading || st.Leader != 1 || st.Applied != m.Applied() || st.Commit < st.Applied || st.Last < st.Commit || st.Err != nil {
			t.Errorf("Status: got %+v", st)
		}
		must(t, j.Close())
		must(t, j.Close())
		m.check(t, want)
		if _, err := j.Propose(context.Background(), []byte("late")); !errors.Is(err, sluice.Unavailable) {
			t.Errorf("Propose after Close: got %v, want unavailable", err)
		}
	}
}

func TestReplayWhenStateLags(t *testing.T) {
	fs := vfs.NewMem()
	m := &tape{lag: 70}
	var want []string
	for round := range 5 {
		cfg := config(fs, m)
		cfg.FlushEntries = 40
		j := mustOpen(t, cfg)
		m.check(t, want)
		for i := range 200 {
			s := fmt.Sprintf("%d/%d %0200d", round, i, i)
			propose(t, j, s)
			want = append(want, s)
		}
		must(t, j.Close())
		if round > 0 {
			if st := j.Status(); st.First == 1 {
				t.Errorf("the log was never cut: %+v", st)
			}
		}
		m = m.crashed()
	}
}

func TestManyCallers(t *testing.T) {
	m := &tape{}
	cfg := config(vfs.NewMem(), m)
	cfg.MaxInflight = 2000
	j := mustOpen(t, cfg)
	var wg sync.WaitGroup
	for c := range 32 {
		wg.Go(func() {
			for i := range 50 {
				s := fmt.Sprintf("%d/%d", c, i)
				if v, err := j.Propose(context.Background(), []byte(s)); err != nil || v != "did "+s {
					t.Errorf("Propose(%q): got %v, %v", s, v, err)
				}
			}
		})
	}
	wg.Wait()
	must(t, j.Close())
	next := map[string]int{}
	for _, d := range m.data {
		var c, i int
		_, _ = fmt.Sscanf(d, "%d/%d", &c, &i)
		if k := fmt.Sprint(c); next[k] != i {
			t.Fatalf("caller %d: entry %d came when %d was due", c, i, next[k])
		} else {
			next[k]++
		}
	}
	if len(m.data) != 1600 {
		t.Errorf("got %d entries, want 1600", len(m.data))
	}
}

func TestRefusals(t *testing.T) {
	fs, m := vfs.NewMem(), &tape{}
	cfg := config(fs, m)
	cfg.MaxEntry = 100
	j := mustOpen(t, cfg)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		data []byte
		want sluice.Kind
	}{
		{"empty", context.Background(), nil, sluice.Invalid},
		{"large", context.Background(), make([]byte, 101), sluice.TooLarge},
		{"cancelled", ended, []byte("x"), sluice.Cancelled},
	} {
		if _, err := j.Propose(c.ctx, c.data); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := Open(context.Background(), config(fs, &tape{})); !errors.Is(err, sluice.Busy) {
		t.Errorf("a second opener: got %v, want busy", err)
	}
	propose(t, j, "one")
	must(t, j.Close())

	other := config(fs, m)
	other.Cluster = "elsewhere"
	if _, err := Open(context.Background(), other); !errors.Is(err, sluice.Invalid) {
		t.Errorf("another cluster: got %v, want invalid", err)
	}
	ahead := &tape{index: 1000}
	if _, err := Open(context.Background(), config(fs, ahead)); !errors.Is(err, sluice.Corrupt) {
		t.Errorf("a state ahead of the log: got %v, want corrupt", err)
	}
	if _, err := Open(context.Background(), config(vfs.NewMem(), ahead)); !errors.Is(err, sluice.Corrupt) {
		t.Errorf("a state without a log: got %v, want corrupt", err)
	}
	if _, err := Open(context.Background(), Config{}); !errors.Is(err, sluice.Invalid) {
		t.Errorf("an empty configuration: got %v, want invalid", err)
	}
}

func BenchmarkPropose(b *testing.B) {
	j := mustOpen(b, Config{Dir: b.TempDir(), Cluster: "bench", Node: 1, Machine: &counter{}})
	data := make([]byte, 128)
	binary.LittleEndian.PutUint64(data, 1)
	b.SetParallelism(32)
	start := time.Now()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := j.Propose(context.Background(), data); err != nil {
				b.Error(err)
			}
		}
	})
	st := j.Status()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "entries/s")
	b.ReportMetric(float64(st.Entries)/float64(max(1, st.Syncs)), "entries/sync")
	must(b, j.Close())
}

// counter is a Machine that does nothing.
type counter struct {
	mu sync.Mutex
	at sluice.Index
}

func (c *counter) Apply(e Entry) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = e.Index
	return nil
}

func (c *counter) Applied() sluice.Index {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *counter) Flush() (sluice.Index, error) { return c.Applied(), nil }

package master

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

func TestConcurrentCommandsShareEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		var sizes []int
		b := newBatcher(ctx, func(_ context.Context, commands []*wire.Command) ([]*wire.Answer, error) {
			mu.Lock()
			sizes = append(sizes, len(commands))
			mu.Unlock()
			time.Sleep(time.Millisecond)
			answers := make([]*wire.Answer, len(commands))
			for i, c := range commands {
				answers[i] = &wire.Answer{Epoch: c.GetOpenSession().Session}
			}
			return answers, nil
		})
		var wg sync.WaitGroup
		for i := range uint64(1000) {
			wg.Go(func() {
				a, err := b.propose(ctx, &wire.Command{Op: &wire.Command_OpenSession{OpenSession: &wire.OpenSession{Session: i}}})
				if err != nil || a.Epoch != i {
					t.Errorf("command %d: answer %v, %v", i, a, err)
				}
			})
		}
		wg.Wait()
		if len(sizes) > 100 {
			t.Errorf("%d entries for 1000 commands at once", len(sizes))
		}
		for _, n := range sizes {
			if n > maxBatch {
				t.Errorf("an entry of %d commands", n)
			}
		}
		cancel()
		b.close()
	})
}

func TestALeftCommandIsUnknownOnceItIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		b := newBatcher(ctx, func(ctx context.Context, commands []*wire.Command) ([]*wire.Answer, error) {
			select {
			case <-release:
				return make([]*wire.Answer, len(commands)), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
		kinds := make(chan sluice.Kind, flights+1)
		short, stop := context.WithTimeout(ctx, time.Second)
		defer stop()
		for range flights + 1 {
			go func() {
				_, err := b.propose(short, &wire.Command{})
				kinds <- sluice.KindOf(err)
			}()
			synctest.Wait() // each flight takes one, the last waits in the queue
		}
		count := map[sluice.Kind]int{}
		for range flights + 1 {
			count[<-kinds]++
		}
		if count[sluice.UnknownOutcome] != flights || count[sluice.Timeout] != 1 {
			t.Errorf("kinds %v, want unknown outcome for what was sent and timeout for what was not", count)
		}
		close(release)
		cancel()
		b.close()
		if _, err := b.propose(t.Context(), &wire.Command{}); !errors.Is(err, sluice.Unavailable) {
			t.Errorf("after close: %v, want kind unavailable", err)
		}
	})
}

func TestOneFlightForAllCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		g := newFlightGroup(ctx)
		calls := 0
		f := func(ctx context.Context) error {
			calls++
			time.Sleep(time.Second)
			return ctx.Err()
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := g.do(t.Context(), 1, "k", time.Minute, f); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if calls != 1 {
			t.Errorf("%d calls for 10 callers at once", calls)
		}
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		start := time.Now()
		if err := g.do(t.Context(), 1, "h", 3*time.Second, hang); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("a call that hangs ended with %v after %v", err, time.Since(start))
		}
		cancel()
		g.wait()
	})
}

// TestASickMountLeavesTheOthersTheirFlights: however many paths of a store that hangs
// are asked for, other mounts are asked as ever.
func TestASickMountLeavesTheOthersTheirFlights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		g := newFlightGroup(ctx)
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		var wg sync.WaitGroup
		busy := atomic.Int64{}
		for i := range maxFlights + 10 {
			wg.Go(func() {
				if err := g.do(t.Context(), 1, fmt.Sprint("sick", i), time.Minute, hang); errors.Is(err, sluice.Busy) {
					busy.Add(1)
				}
			})
		}
		synctest.Wait()
		if got, want := busy.Load(), int64(maxFlights+10-maxMountFlights); got != want {
			t.Errorf("%d of the sick mount's questions were refused, want %d", got, want)
		}
		if err := g.do(t.Context(), 2, "well", time.Minute, func(context.Context) error { return nil }); err != nil {
			t.Errorf("a question to another mount: %v", err)
		}
		cancel()
		wg.Wait()
		g.wait()
		if len(g.of) != 0 {
			t.Errorf("counted after the end: %v", g.of)
		}
	})
}

func TestJournalTimeNeverGoesBack(t *testing.T) {
	now := 10 * time.Hour
	tick := newTicker(func() time.Duration { return now }, 5*time.Second)
	if got := tick.now(); got != 5*time.Second {
		t.Errorf("at the start %v, want where it stopped", got)
	}
	now += time.Second
	if got := tick.now(); got != 6*time.Second {
		t.Errorf("a second later %v", got)
	}
	now -= time.Hour
	if got := tick.now(); got != 6*time.Second {
		t.Errorf("with a clock that went back %v, want it to stand still", got)
	}
}

func TestIdentityIsWrittenOnceAndChecked(t *testing.T) {
	fs := vfs.NewMem()
	fresh := identity{cluster: "0123", incarnation: 0xabc}
	if id, err := loadIdentity(fs, "", func() identity { return fresh }); err != nil || id != fresh {
		t.Fatalf("identity %+v (%v), want %+v", id, err, fresh)
	}
	id, err := loadIdentity(fs, "", func() identity { return identity{cluster: "other"} })
	if err != nil || id != fresh {
		t.Errorf("a second start: %+v (%v), want the first identity", id, err)
	}
	for _, bad := range []string{"", "sluice-master 1\n", "sluice-master 2\ncluster a\nincarnation 1\n", "sluice-master 1\ncluster \nincarnation 1\n", "sluice-master 1\ncluster a\nincarnation x\n"} {
		if _, err := parseIdentity(bad); !errors.Is(err, sluice.Corrupt) {
			t.Errorf("%q: %v, want kind corrupt", bad, err)
		}
	}
}

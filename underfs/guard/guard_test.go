package guard_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/breaker"
	"github.com/sluicefs/sluice/underfs/guard"
	"github.com/sluicefs/sluice/underfs/limit"
	"github.com/sluicefs/sluice/underfs/local"
	"github.com/sluicefs/sluice/underfs/retry"
	"github.com/sluicefs/sluice/underfs/trace"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small is a store like S3 whose contents above 1 MiB are uploaded in parts.
func small() *underfstest.Memory {
	return underfstest.NewMemory(underfstest.Options{SmallUpload: 1 << 20})
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for name, i := range map[string]func() underfs.Interceptor{
		"retry":   func() underfs.Interceptor { return retry.New(retry.Config{Resume: true}) },
		"limit":   func() underfs.Interceptor { return limit.New(20, 1<<32) },
		"breaker": func() underfs.Interceptor { return breaker.New(breaker.Config{}) },
		"trace":   func() underfs.Interceptor { return trace.New(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			underfstest.Run(t, func() underfs.Store { return underfs.Intercept(small().Store(), i()) })
		})
	}
	t.Run("all, like S3", func(t *testing.T) {
		t.Parallel()
		underfstest.Run(t, func() underfs.Store { return guard.New(small().Store(), guard.Config{}).Store() })
	})
	t.Run("all, local", func(t *testing.T) {
		t.Parallel()
		underfstest.Run(t, func() underfs.Store {
			s, err := local.Driver{}.Open(underfs.Config{URI: "file://" + t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			return guard.New(s, guard.Config{}).Store()
		})
	})
}

// A suite whose store tears every fifth body and refuses every fifth call at first still
// passes behind the interceptors: that is what they are for.
func TestConformanceWithFaults(t *testing.T) {
	t.Parallel()
	underfstest.Run(t, func() underfs.Store {
		m := underfstest.NewMemory(underfstest.Options{SmallUpload: 1 << 20, Seed: 7})
		for _, op := range []underfs.Op{underfs.OpStat, underfs.OpList, underfs.OpRead, underfs.OpCommit, underfs.OpComplete, underfs.OpDelete, underfs.OpCopy} {
			m.Inject(op, underfstest.Fault{Rate: 0.2, Kind: sluice.Unavailable})
		}
		m.Inject(underfs.OpRead, underfstest.Fault{Rate: 0.2, Torn: 400_000, Short: true})
		return guard.New(m.Store(), guard.Config{Retry: retry.Config{Tries: 10, First: time.Millisecond}, Breaker: breaker.Config{Failures: 100}}).Store()
	})
}

func TestCapabilitiesSurvive(t *testing.T) {
	for _, isLocal := range []bool{false, true} {
		bare := underfstest.NewMemory(underfstest.Options{Local: isLocal}).Store()
		s := guard.New(bare, guard.Config{}).Store()
		check := func(name string, got, want bool) {
			t.Helper()
			if got != want {
				t.Errorf("local %v: %s through the interceptors: %v, bare: %v", isLocal, name, got, want)
			}
		}
		check("Renamer", has[underfs.Renamer](s), isLocal)
		check("Directories", has[underfs.Directories](s), isLocal)
		check("Attributer", has[underfs.Attributer](s), isLocal)
		check("Completer", has[underfs.Completer](s), true)
		check("Copier", has[underfs.Copier](s), true)
		check("Sweeper", has[underfs.Sweeper](s), true)
		check("Prober", has[underfs.Prober](s), true)
		if r, ok := s.(underfs.Renamer); ok && !isLocal {
			if _, err := r.Rename(t.Context(), "a", "b", underfs.Condition{}); !errors.Is(err, sluice.Unsupported) {
				t.Errorf("a capability that is not there: got %v, want kind unsupported", err)
			}
		}
	}
}

// has says whether s has the capability T.
func has[T any](s underfs.Store) bool {
	_, ok := underfs.As[T](s)
	return ok
}

func TestHangingStoreEndsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := small()
		m.Put("o", []byte("content"))
		g := guard.New(m.Store(), guard.Config{Mount: "/sick", Options: sluice.MountOptions{Timeout: 3 * time.Second, Concurrent: 2}})
		m.Inject(underfs.OpStat, underfstest.Fault{Hang: true})
		m.Inject(underfs.OpRead, underfstest.Fault{Hang: true})
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 6 { // more than may be under way at once
			wg.Go(func() {
				var err error
				if i%2 == 0 {
					_, err = g.Store().Stat(t.Context(), "o")
				} else {
					_, err = g.Store().Read(t.Context(), underfs.ReadRequest{Key: "o", Length: 1})
				}
				if !errors.Is(err, sluice.Unavailable) || !strings.Contains(err.Error(), "/sick") {
					t.Errorf("got %v, want kind unavailable and the mount's name", err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("the calls took %s, want the mount's timeout of 3s", d)
		}
		_, err := g.Store().Stat(t.Context(), "o")
		if !errors.Is(err, sluice.Unavailable) || time.Since(start) != 3*time.Second {
			t.Errorf("after 6 failures: %v at %s, want kind unavailable at once", err, time.Since(start))
		}
		h := g.Health()
		if h.OK || h.Breaker != "open" || h.Message == "" || h.InFlight != 0 || h.Checked != "conditional" {
			t.Errorf("health of a dead store: %+v", h)
		}
		m.Heal()
		time.Sleep(time.Minute)
		if _, err := g.Store().Stat(t.Context(), "o"); err != nil {
			t.Errorf("after it healed: %v", err)
		}
		if h := g.Health(); !h.OK || h.Breaker != "closed" {
			t.Errorf("health of a healed store: %+v", h)
		}
	})
}

func TestCallersDeadlineStaysATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := small()
		g := guard.New(m.Store(), guard.Config{Mount: "/m"})
		m.Inject(underfs.OpStat, underfstest.Fault{Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.Store().Stat(ctx, "o"); !errors.Is(err, sluice.Timeout) {
			t.Errorf("got %v, want kind timeout", err)
		}
	})
}

func TestStalledBodyEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &stall{}
		m := small()
		o := m.Put("o", []byte("content"))
		// The stalling interceptor stands where the store is.
		g := guard.New(underfs.Intercept(m.Store(), i), guard.Config{Mount: "/m", Options: sluice.MountOptions{Timeout: 2 * time.Second}})
		r, err := g.Store().Read(t.Context(), underfs.ReadRequest{Key: "o", Version: o.Version, Length: 7})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		time.Sleep(time.Hour) // a reader that takes its time is no stalled store
		start := time.Now()
		_, err = r.Read(make([]byte, 7))
		if !errors.Is(err, sluice.Unavailable) || !strings.Contains(err.Error(), "/m") || time.Since(start) != 2*time.Second {
			t.Errorf("got %v after %s, want kind unavailable after 2s", err, time.Since(start))
		}
	})
}

// stall is an interceptor whose bodies wait until their context ends.
type stall struct{}

func (*stall) Call(ctx context.Context, _ underfs.Call, next func(context.Context) error) error {
	return next(ctx)
}

func (*stall) Open(ctx context.Context, c underfs.Call, next underfs.Opener) (io.ReadCloser, error) {
	if _, err := next(ctx, c.Read); err != nil {
		return nil, err
	}
	return io.NopCloser(waiter{ctx}), nil
}

// waiter is a body that waits.
type waiter struct{ ctx context.Context }

func (w waiter) Read([]byte) (int, error) {
	<-w.ctx.Done()
	return 0, underfs.Fail("read", "", sluice.Unavailable, w.ctx.Err())
}

func TestTornBodiesAreContinued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := small()
		data := bytes.Repeat([]byte("0123456789"), 1000)
		o := m.Put("o", data)
		g := guard.New(m.Store(), guard.Config{})
		m.Inject(underfs.OpRead, underfstest.Fault{Torn: 2500, Times: 3, Short: true})
		r, err := g.Store().Read(t.Context(), underfs.ReadRequest{Key: "o", Version: o.Version, Offset: 5, Length: 9000})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, data[5:9005]) {
			t.Errorf("got %d bytes, %v; want the 9000 of the range", len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if s := g.Stats().Retry; s.Resumed != 3 {
			t.Errorf("%d bodies were continued, want 3", s.Resumed)
		}
		// A body that broke off is never continued with another version.
		m.Inject(underfs.OpRead, underfstest.Fault{Torn: 2500, Times: 1})
		r, err = g.Store().Read(t.Context(), underfs.ReadRequest{Key: "o", Version: o.Version, Length: 9000})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		m.Put("o", bytes.Repeat([]byte("9876543210"), 1000))
		if _, err := io.ReadAll(r); !errors.Is(err, sluice.Changed) {
			t.Errorf("got %v, want kind changed", err)
		}
		r.Close()
		if s := g.Stats().Limit; s.InFlight != 0 || s.Waiting != 0 {
			t.Errorf("places are still taken: %+v", s)
		}
	})
}

func TestHealthCounts(t *testing.T) {
	m := small()
	g := guard.New(m.Store(), guard.Config{})
	u, err := g.Store().Create(t.Context(), "o", underfs.CreateOptions{Length: 5})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Write(t.Context(), []byte("12345")); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(t.Context(), underfs.Condition{}); err != nil {
		t.Fatal(err)
	}
	r, err := g.Store().Read(t.Context(), underfs.ReadRequest{Key: "o", Offset: 1, Length: 3})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Fatal(err)
	}
	r.Close()
	_, err = g.Store().Stat(t.Context(), "nothing")
	if !errors.Is(err, sluice.NotFound) {
		t.Fatal(err)
	}
	h := g.Health()
	if !h.OK || h.BytesRead != 3 || h.BytesSent != 5 || h.Errors != 0 || h.Calls != 6 || h.InFlight != 0 {
		t.Errorf("health: %+v, want 6 calls, 3 bytes read, 5 sent, no errors", h)
	}
}

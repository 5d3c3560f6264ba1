package limit_test

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/limit"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConcurrentChangesOnline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limit.New(2, 0)
		var running atomic.Int32
		release := make(chan struct{})
		for range 10 {
			go func() {
				_ = l.Call(t.Context(), underfs.Call{Op: underfs.OpStat}, func(context.Context) error {
					running.Add(1)
					<-release
					return nil
				})
			}()
		}
		for _, n := range []int{2, 5, 9} {
			l.Set(n, 0)
			synctest.Wait()
			if got := int(running.Load()); got != n {
				t.Errorf("with a limit of %d, %d calls are under way", n, got)
			}
			if s := l.Stats(); s.InFlight != n || s.Waiting != 10-n || s.Concurrent != n {
				t.Errorf("stats %+v", s)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := l.Call(ctx, underfs.Call{Op: underfs.OpStat}, func(context.Context) error { return nil })
		if !errors.Is(err, sluice.Timeout) || l.Stats().Waiting != 1 {
			t.Errorf("a caller who gave up: %v, %+v", err, l.Stats())
		}
		l.Set(1, 0)
		close(release)
		synctest.Wait()
		if s := l.Stats(); s.InFlight != 0 || s.Waiting != 0 {
			t.Errorf("at the end: %+v", s)
		}
	})
}

func TestBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := underfstest.NewMemory(underfstest.Options{})
		m.Put("o", make([]byte, 10<<20))
		l := limit.New(0, 1<<20)
		s := underfs.Intercept(m.Store(), l)
		read := func() time.Duration {
			start := time.Now()
			r, err := s.Read(t.Context(), underfs.ReadRequest{Key: "o", Length: 10 << 20})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if n, err := io.Copy(io.Discard, r); n != 10<<20 || err != nil {
				t.Fatal(n, err)
			}
			return time.Since(start)
		}
		if d := read(); d < 9*time.Second || d > 11*time.Second {
			t.Errorf("10 MiB at 1 MiB/s took %s of the test's clock", d)
		}
		l.Set(0, 0)
		if d := read(); d != 0 {
			t.Errorf("without a bound it took %s", d)
		}
	})
}

package breaker_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/breaker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// call makes one call that ends with err, and says whether it was made.
func call(b *breaker.Breaker, op underfs.Op, err error) (made bool, got error) {
	got = b.Call(context.Background(), underfs.Call{Op: op}, func(context.Context) error {
		made = true
		return err
	})
	return made, got
}

func TestOpensAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{Failures: 3, Pause: time.Second, MaxPause: 3 * time.Second, Mount: "/m"})
		dead := &sluice.Error{Kind: sluice.Unavailable, Err: errors.New("no route")}
		fine := &sluice.Error{Kind: sluice.NotFound}
		for _, err := range []error{dead, dead, fine, dead, dead} {
			call(b, underfs.OpStat, err)
		}
		if s := b.Stats(); s.State != breaker.Closed || s.Failures != 2 {
			t.Fatalf("an answer between failures: %+v, want closed with 2 failures", s)
		}
		call(b, underfs.OpWrite, nil) // a write that only filled a buffer proves nothing
		call(b, underfs.OpStat, dead)
		if s := b.Stats(); s.State != breaker.Open || s.Opened != 1 || !strings.Contains(s.Last, "no route") {
			t.Fatalf("3 failures in a row: %+v, want open", s)
		}
		made, err := call(b, underfs.OpStat, nil)
		if made || !errors.Is(err, sluice.Unavailable) || !strings.Contains(err.Error(), "/m") {
			t.Fatalf("while open: made %v, %v; want no call and the mount's name", made, err)
		}
		for _, pause := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second} {
			time.Sleep(pause - time.Nanosecond)
			if made, _ := call(b, underfs.OpStat, nil); made {
				t.Fatalf("a call before the pause of %s was over", pause)
			}
			time.Sleep(time.Nanosecond)
			if made, _ := call(b, underfs.OpWrite, nil); made {
				t.Fatal("a write was let through to find out")
			}
			if made, _ := call(b, underfs.OpStat, dead); !made {
				t.Fatalf("no call after the pause of %s", pause)
			}
		}
		time.Sleep(3 * time.Second)
		if made, _ := call(b, underfs.OpStat, &sluice.Error{Kind: sluice.Cancelled}); !made || b.Stats().State != breaker.Open {
			t.Fatalf("a cancelled try: made %v, %+v; want open still", made, b.Stats())
		}
		if made, _ := call(b, underfs.OpStat, fine); !made || b.Stats().State != breaker.Closed {
			t.Fatalf("a try that was answered: made %v, %+v; want closed", made, b.Stats())
		}
	})
}

func TestOneCallFindsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{Failures: 1, Pause: time.Second})
		call(b, underfs.OpStat, &sluice.Error{Kind: sluice.Timeout})
		time.Sleep(time.Second)
		release := make(chan struct{})
		go func() {
			_ = b.Call(context.Background(), underfs.Call{Op: underfs.OpStat}, func(context.Context) error {
				<-release
				return nil
			})
		}()
		synctest.Wait()
		if s := b.Stats().State; s != breaker.HalfOpen {
			t.Errorf("state %s, want half-open", s)
		}
		if made, _ := call(b, underfs.OpStat, nil); made {
			t.Error("a second call while the first finds out")
		}
		close(release)
		synctest.Wait()
		if made, _ := call(b, underfs.OpStat, nil); !made {
			t.Error("no call after the first succeeded")
		}
	})
}

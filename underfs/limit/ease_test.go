package limit_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/limit"
)

// busy is a store that takes so many calls at once and refuses others.
type busy struct {
	mu               sync.Mutex
	room             int // guarded by mu
	running          int // guarded by mu
	served, refusals int // guarded by mu
}

// call takes 10 ms, served or refused.
func (b *busy) call(context.Context) error {
	b.mu.Lock()
	b.running++
	full := b.running > b.room
	if full {
		b.refusals++
	} else {
		b.served++
	}
	b.mu.Unlock()
	time.Sleep(10 * time.Millisecond)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running--
	if full {
		return underfs.Fail("stat", "k", sluice.Unavailable, underfs.ErrSlowDown)
	}
	return nil
}

// load has callers make calls through l until each had n served.
func (b *busy) load(t *testing.T, l *limit.Limit, callers, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for served := 0; served < n; {
				err := l.Call(t.Context(), underfs.Call{Op: underfs.OpStat}, b.call)
				if err == nil {
					served++
				} else if !errors.Is(err, sluice.Unavailable) {
					t.Errorf("%v", err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// Of many calls that are refused at once the bound is halved once.
func TestHalvedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, bound := range []int{0, 64} {
			l, b := limit.New(bound, 0), &busy{room: 0}
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() { _ = l.Call(t.Context(), underfs.Call{Op: underfs.OpStat}, b.call) })
			}
			wg.Wait()
			if s := l.Stats(); s.Eased != 32 || s.Concurrent != bound {
				t.Errorf("after 64 refusals: %+v, want a bound eased to 32", s)
			}
			for range 10 {
				_ = l.Call(t.Context(), underfs.Call{Op: underfs.OpStat}, b.call)
			}
			if s := l.Stats(); s.Eased != 1 {
				t.Errorf("after more refusals: %+v, want one call at a time and never none", s)
			}
		}
	})
}

// Against a store with room for ten, sixty-four callers settle near ten; once it has room
// for all they have it.
func TestSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, b := limit.New(64, 0), &busy{room: 10}
		b.load(t, l, 64, 50)
		if b.refusals > b.served/5 {
			t.Errorf("%d calls were served and %d refused; without easing several are refused for each served", b.served, b.refusals)
		}
		if s := l.Stats(); s.Eased < 2 || s.Eased > 20 || s.InFlight != 0 {
			t.Errorf("settled at %+v, want near 10", s)
		}
		b.room = 1000
		b.load(t, l, 64, 100)
		if s := l.Stats(); s.Eased != 0 {
			t.Errorf("with room for all: %+v, want no easing", s)
		}
	})
}

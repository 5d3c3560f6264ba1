package master

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice"
)

// bubbleBoot is a boot clock of the bubble.
func bubbleBoot() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Hour + time.Since(start) }
}

// listen leaves one request waiting, as a client does, and sends what it learns.
func listen(ctx context.Context, n *notices, id sluice.SessionID, ack bool) <-chan []sluice.FileID {
	heard := make(chan []sluice.FileID, 100)
	go func() {
		var acked uint64
		for ctx.Err() == nil {
			upto, files, _ := n.await(ctx, id, acked, 2*time.Second, nil, nil)
			if len(files) > 0 {
				heard <- files
				if !ack {
					<-ctx.Done()
					return
				}
			}
			acked = upto
		}
	}()
	synctest.Wait()
	return heard
}

func TestAChangeWaitsForItsHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := newNotices(bubbleBoot(), 5*time.Second, 0)
		heard := listen(ctx, n, 1, true)
		if n.hold(2, 7) != 0 {
			t.Error("a session that leaves no request waiting got a lease")
		}
		if n.hold(1, 7) != 5*time.Second {
			t.Fatal("no lease for a session that listens")
		}
		start := time.Now()
		if err := n.publish(ctx, []uint64{7}); err != nil {
			t.Fatal(err)
		}
		if time.Since(start) != 0 {
			t.Errorf("waited %v for a holder that answers at once", time.Since(start))
		}
		select {
		case files := <-heard:
			if len(files) != 1 || files[0] != 7 {
				t.Errorf("notice of %v, want file 7", files)
			}
		default:
			t.Error("the change was answered and the holder does not know")
		}
		if err := n.publish(ctx, []uint64{7}); err != nil || len(heard) != 0 {
			t.Errorf("a second change: %v, %d notices; want none, the grant is gone", err, len(heard))
		}
	})
}

func TestAChangeWaitsOutALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := newNotices(bubbleBoot(), 5*time.Second, 0)
		listen(ctx, n, 1, false)
		time.Sleep(time.Second)
		n.hold(1, 7)
		start := time.Now()
		short, stop := context.WithTimeout(ctx, time.Second)
		defer stop()
		if err := n.publish(short, []uint64{7}); !errors.Is(err, sluice.UnknownOutcome) {
			t.Fatalf("a caller that left: %v, want unknown outcome", err)
		}
		if err := n.publish(ctx, []uint64{7}); err != nil { // the same request again
			t.Fatal(err)
		}
		if d := time.Since(start); d < 4*time.Second || d > 5*time.Second {
			t.Errorf("waited %v, want until the lease had run out", d)
		}
	})
}

func TestAChangeDoesNotWaitForAnEndedSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := newNotices(bubbleBoot(), 5*time.Second, 0)
		listen(ctx, n, 1, false)
		n.hold(1, 7)
		done := make(chan error, 1)
		go func() { done <- n.publish(ctx, []uint64{0}) }()
		synctest.Wait()
		n.end(1)
		synctest.Wait()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("the change still waits")
		}
		if s, f := n.count(); s != 0 || f != 0 {
			t.Errorf("%d sessions and %d files are kept", s, f)
		}
	})
}

func TestAfterARestartLeasesOfBeforeRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNotices(bubbleBoot(), 5*time.Second, 5*time.Second)
		start := time.Now()
		if err := n.publish(t.Context(), nil); err != nil || time.Since(start) != 0 {
			t.Errorf("a change that concerns no grant waited %v (%v)", time.Since(start), err)
		}
		if err := n.publish(t.Context(), []uint64{3}); err != nil || time.Since(start) != 5*time.Second {
			t.Errorf("waited %v (%v), want one lease", time.Since(start), err)
		}
		if err := n.publish(t.Context(), []uint64{3}); err != nil || time.Since(start) != 5*time.Second {
			t.Errorf("waited %v (%v) later on", time.Since(start), err)
		}
	})
}

func TestTrackedGrantsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := newNotices(bubbleBoot(), 5*time.Second, 0)
		listen(ctx, n, 1, true)
		for i := range maxTracked {
			if n.hold(1, sluice.FileID(i+1)) == 0 {
				t.Fatalf("no lease for grant %d", i)
			}
		}
		if n.hold(1, maxTracked+1) != 0 {
			t.Error("a lease beyond the bound")
		}
		if n.hold(1, 1) == 0 {
			t.Error("no lease for a grant that is held already")
		}
	})
}

func TestAskedRemembersPathsAndListings(t *testing.T) {
	var a asked
	if _, ok := a.path("/m/x"); ok {
		t.Error("something is known at the start")
	}
	a.sawPath("/m/x", 5)
	if at, ok := a.path("/m/x"); !ok || at != 5 {
		t.Errorf("asked at %v %v, want 5", at, ok)
	}
	a.sawPage("/m", "", "k", false, 10)
	for name, want := range map[sluice.Path]bool{"/m/a": true, "/m/k": true, "/m/l": false, "/m/k/a": false} {
		if at, ok := a.path(name); ok != want || ok && at != 10 {
			t.Errorf("%s: asked at %v %v, want %v", name, at, ok, want)
		}
	}
	a.sawPage("/m", "p", "z", true, 11) // not the next page
	if _, ok := a.path("/m/q"); ok {
		t.Error("a page out of the middle counts as the next")
	}
	a.sawPage("/m", "k", "q", true, 12)
	if at, ok := a.path("/m/zz"); !ok || at != 10 {
		t.Errorf("behind the end: asked at %v %v, want the start of the listing", at, ok)
	}
	for i := range 3 * maxAsked {
		a.sawPath(sluice.Path("/n/"+string(rune('a'+i%26))+time.Duration(i).String()), 1)
	}
	if n := len(a.paths.young) + len(a.paths.old); n > 2*maxAsked {
		t.Errorf("%d paths are kept", n)
	}
}

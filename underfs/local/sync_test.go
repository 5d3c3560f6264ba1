package local

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// Whoever asks for a sync gets one that starts after the question, and those who ask
// while one runs share the next.
func TestSyncsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g syncs
		var started atomic.Int64
		gate := make(chan struct{})
		failure := errors.New("disk")
		var wg sync.WaitGroup
		ask := func() {
			wg.Go(func() {
				before := started.Load()
				var mine int64
				err := g.do("d", func() error {
					n := started.Add(1)
					<-gate
					if n == 2 {
						return failure
					}
					return nil
				})
				if mine = started.Load(); mine == before {
					t.Error("no sync started after the question")
				}
				if (mine == 2) != (err != nil) {
					t.Errorf("sync %d ended with %v for one who waited", mine, err)
				}
			})
		}
		ask()
		synctest.Wait()
		for range 10 {
			ask()
		}
		synctest.Wait()
		gate <- struct{}{}
		synctest.Wait()
		if n := started.Load(); n != 2 {
			t.Errorf("%d syncs were started, want 2 for 11 who asked", n)
		}
		gate <- struct{}{}
		wg.Wait()
		if n := started.Load(); n != 2 || len(g.dirs) != 0 {
			t.Errorf("%d syncs and %d directories at the end, want 2 and 0", n, len(g.dirs))
		}
	})
}

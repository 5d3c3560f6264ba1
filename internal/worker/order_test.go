package worker

import (
	"sync"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// TestNoOrderIsLost gives many orders at once: each result is told by a further
// request, and none of the requests that make room for it may take an order along.
func TestNoOrderIsLost(t *testing.T) {
	const callers, orders = 16, 100
	b := newBench(t, underfstest.Options{})
	var all sync.WaitGroup
	for c := range callers {
		all.Go(func() {
			for i := range orders {
				o := &wire.Order{
					Id: uint64(c*orders + i + 1), Intent: uint64(c + 1), Attempt: uint64(i + 1), Put: true, Mount: 1, Key: "f",
					Content: wire.FromContentID(sluice.ContentID{Incarnation: incarnation, Counter: 1 << 40}),
				}
				select {
				case b.desk.orders <- o:
				case <-time.After(10 * time.Second):
					t.Error("the worker asks for no orders")
					return
				}
			}
		})
	}
	told := map[uint64]bool{}
	for len(told) < callers*orders {
		select {
		case r := <-b.desk.results:
			told[r.Id] = true
		case <-time.After(10 * time.Second):
			t.Fatalf("%d results of %d orders", len(told), callers*orders)
		}
	}
	all.Wait()
}

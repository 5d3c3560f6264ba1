package fleet

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a boot clock that the test moves.
type clock struct{ now time.Duration }

func (c *clock) boot() time.Duration { return c.now }

func newFleet(c *clock, cfg Config) *Fleet {
	cfg.Boot, cfg.Wall = c.boot, func() time.Time { return time.Unix(0, int64(c.now)) }
	return New(cfg, 7)
}

func beat(id sluice.WorkerID, boot uint64, host string) Beat {
	return Beat{Worker: sluice.WorkerInfo{ID: id, Host: host, Address: host + ":1", Weight: 1}, Boot: boot, Place: host}
}

func mustBeat(t *testing.T, f *Fleet, b Beat) {
	t.Helper()
	if _, _, err := f.Heartbeat(b); err != nil {
		t.Fatalf("heartbeat of %s: %v", b.Worker.ID, err)
	}
}

func TestWorkersComeAndGo(t *testing.T) {
	c := &clock{now: time.Hour}
	f := newFleet(c, Config{Timeout: 10 * time.Second})
	mustBeat(t, f, beat(2, 1, "b"))
	mustBeat(t, f, beat(1, 1, "a"))
	v, changed := f.View()
	if len(v.Workers) != 2 || v.Workers[0].ID != 1 || v.Version <= 7 {
		t.Fatalf("view %+v, want workers 1 and 2 in order and a version above 7", v)
	}
	if f.Newer(v.Version) != nil || f.Newer(v.Version-1) != v {
		t.Error("Newer: want nil for the version known and the view for another")
	}
	mustBeat(t, f, beat(1, 1, "a"))
	if w, _ := f.View(); w != v {
		t.Error("a heartbeat that says nothing else made a view")
	}
	c.now += 6 * time.Second
	mustBeat(t, f, beat(1, 1, "a"))
	c.now += 6 * time.Second
	if gone := f.Expire(); len(gone) != 1 || gone[0] != 2 {
		t.Fatalf("gone %v, want worker 2", gone)
	}
	select {
	case <-changed:
	default:
		t.Error("the end of a worker did not close the channel of the view")
	}
	if f.Live(2) || !f.Live(1) {
		t.Error("want worker 1 live and 2 not")
	}
	mustBeat(t, f, beat(2, 1, "b"))
	if !f.Live(2) {
		t.Error("a worker that returns is not there at once")
	}
	if r := f.Reports(); len(r) != 2 || r[0].ID != 1 || !r[1].Live {
		t.Errorf("reports %+v", r)
	}
}

func TestOneIDInTwoPlaces(t *testing.T) {
	c := &clock{now: time.Hour}
	f := newFleet(c, Config{})
	mustBeat(t, f, beat(1, 1, "a"))
	c.now += time.Second
	if _, _, err := f.Heartbeat(beat(1, 2, "b")); !errors.Is(err, sluice.Busy) {
		t.Fatalf("a second place: %v, want kind busy", err)
	}
	mustBeat(t, f, beat(1, 3, "a")) // restarted in its place: at once
	c.now += time.Minute
	mustBeat(t, f, beat(1, 4, "b")) // moved after a silence
	if _, _, err := f.Heartbeat(beat(0, 1, "a")); !errors.Is(err, sluice.Invalid) {
		t.Errorf("a worker without id: %v, want kind invalid", err)
	}
}

func TestWorkersAreBounded(t *testing.T) {
	c := &clock{now: time.Hour}
	f := newFleet(c, Config{MaxWorkers: 2, Timeout: time.Second})
	mustBeat(t, f, beat(1, 1, "a"))
	mustBeat(t, f, beat(2, 1, "b"))
	if _, _, err := f.Heartbeat(beat(3, 1, "c")); !errors.Is(err, sluice.TooLarge) {
		t.Fatalf("a third of two workers: %v, want kind too large", err)
	}
	c.now += time.Minute
	f.Expire()
	mustBeat(t, f, beat(3, 1, "c"))
	if n := len(f.Reports()); n != 2 {
		t.Errorf("%d workers remembered, want 2", n)
	}
}

func blocks(c sluice.ContentID, indexes ...uint32) []sluice.BlockID {
	var out []sluice.BlockID
	for _, i := range indexes {
		out = append(out, sluice.BlockID{Content: c, Index: i})
	}
	return out
}

func TestExceptions(t *testing.T) {
	c := &clock{now: time.Hour}
	f := newFleet(c, Config{})
	id := sluice.ContentID{Incarnation: 1, Counter: 9}
	b := beat(1, 1, "a")
	b.Gained = blocks(id, 0, 1, 2, 3, 7)
	mustBeat(t, f, b)
	want := func(what string, spans ...[2]uint32) {
		t.Helper()
		got := f.Holders(id, 100)
		if len(got) != len(spans) {
			t.Fatalf("%s: holders %v, want %v", what, got, spans)
		}
		for i, s := range spans {
			if got[i].First != s[0] || got[i].Count != s[1] || got[i].Worker != 1 {
				t.Fatalf("%s: holders %v, want %v", what, got, spans)
			}
		}
	}
	want("gained", [2]uint32{0, 4}, [2]uint32{7, 1})
	b = beat(1, 1, "a")
	b.Dropped = blocks(id, 2, 7)
	mustBeat(t, f, b)
	want("dropped", [2]uint32{0, 2}, [2]uint32{3, 1})
	b = beat(1, 1, "a")
	b.Full, b.Gained = true, blocks(id, 5)
	mustBeat(t, f, b)
	want("full", [2]uint32{5, 1})
	mustBeat(t, f, beat(1, 2, "a"))
	want("restarted")
	b = beat(1, 2, "a")
	b.Gained = blocks(id, 4)
	mustBeat(t, f, b)
	f.Forget(id)
	want("forgotten")
}

func TestExceptionsAreBounded(t *testing.T) {
	c := &clock{now: time.Hour}
	f := newFleet(c, Config{MaxExceptions: 100})
	for i := range uint64(10_000) {
		b := beat(1, 1, "a")
		b.Gained = blocks(sluice.ContentID{Incarnation: 1, Counter: i}, 0)
		mustBeat(t, f, b)
	}
	if f.held.spans > 100 || len(f.held.by) > 100 || len(f.held.order) > 2*100+1025 {
		t.Errorf("%d spans of %d contents, %d in order; want at most 100", f.held.spans, len(f.held.by), len(f.held.order))
	}
	if len(f.Holders(sluice.ContentID{Incarnation: 1, Counter: 9999}, 1)) != 1 {
		t.Error("the newest is not known")
	}
}

func TestOrderIsHandedOutOnceAndAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clock{now: time.Hour}
		f := newFleet(c, Config{})
		mustBeat(t, f, beat(1, 1, "a"))
		got := make(chan *wire.OrderResult)
		go func() {
			r, err := f.Order(t.Context(), 1, &wire.Order{Intent: 5, Attempt: 2})
			if err != nil {
				t.Errorf("order: %v", err)
			}
			got <- r
		}()
		orders, _ := f.Ask(t.Context(), 1, nil, time.Minute)
		if len(orders) != 1 || orders[0].Intent != 5 {
			t.Fatalf("orders %v, want that of intent 5", orders)
		}
		if again, _ := f.Ask(t.Context(), 1, nil, time.Minute); len(again) != 0 {
			t.Fatalf("asked again: %v, want none", again)
		}
		wrong := &wire.OrderResult{Id: orders[0].Id, Intent: 5, Attempt: 1}
		right := &wire.OrderResult{Id: orders[0].Id, Intent: 5, Attempt: 2}
		if _, err := f.Ask(t.Context(), 1, []*wire.OrderResult{wrong, right, right}, 0); err != nil {
			t.Fatal(err)
		}
		if r := <-got; r != right {
			t.Errorf("result %v, want that of attempt 2", r)
		}
	})
}

func TestOrderOfAVanishedWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clock{now: time.Hour}
		f := newFleet(c, Config{Timeout: time.Second})
		if _, err := f.Order(t.Context(), 1, &wire.Order{}); !errors.Is(err, sluice.Unavailable) {
			t.Fatalf("order for nobody: %v, want kind unavailable", err)
		}
		mustBeat(t, f, beat(1, 1, "a"))
		results := make(chan *wire.OrderResult, 2)
		for range 2 {
			go func() {
				r, err := f.Order(t.Context(), 1, &wire.Order{Intent: 1})
				if err != nil {
					t.Errorf("order: %v", err)
				}
				results <- r
			}()
			synctest.Wait()
			if len(results) == 0 && len(f.workers[1].orders.out) == 0 {
				_, _ = f.Ask(t.Context(), 1, nil, time.Second) // the first is handed out, the second not
			}
		}
		c.now += time.Minute
		f.Expire()
		kinds := map[sluice.Kind]int{}
		for range 2 {
			kinds[sluice.KindOf((<-results).Error.Sluice())]++
		}
		if kinds[sluice.UnknownOutcome] != 1 || kinds[sluice.Unavailable] != 1 {
			t.Errorf("kinds %v, want one unknown outcome (handed out) and one unavailable", kinds)
		}
	})
}

func TestOrderOfACallerThatLeaves(t *testing.T) {
	c := &clock{now: time.Hour}
	f := newFleet(c, Config{MaxOrders: 1})
	mustBeat(t, f, beat(1, 1, "a"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Order(ctx, 1, &wire.Order{}); !errors.Is(err, sluice.Cancelled) {
		t.Fatalf("a cancelled order: %v, want kind cancelled", err)
	}
	if err := f.Send(1, &wire.Order{Drop: true}); err != nil {
		t.Fatalf("the cancelled order still takes its place: %v", err)
	}
	if err := f.Send(1, &wire.Order{Drop: true}); !errors.Is(err, sluice.Unavailable) {
		t.Errorf("a second of one order: %v, want kind unavailable", err)
	}
	if orders, _ := f.Ask(t.Context(), 1, nil, 0); len(orders) != 1 || !orders[0].Drop {
		t.Errorf("orders %v, want the drop", orders)
	}
	if err := f.Send(1, &wire.Order{Drop: true}); err != nil {
		t.Errorf("an order nobody waits for keeps its place after it was handed out: %v", err)
	}
}

func TestManyAsksMakeRoomAndLoseNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clock{now: time.Hour}
		f := newFleet(c, Config{})
		mustBeat(t, f, beat(1, 1, "a"))
		type answer struct {
			ask    int
			orders []*wire.Order
		}
		answers := make(chan answer, 10)
		for i := range 4 {
			go func() {
				orders, _ := f.Ask(t.Context(), 1, nil, time.Minute)
				answers <- answer{i, orders}
			}()
			synctest.Wait()
		}
		for i := range 2 { // the two that came last go on waiting
			if a := <-answers; a.ask != i || len(a.orders) != 0 {
				t.Fatalf("ask %d was answered with %v, want %d with nothing", a.ask, a.orders, i)
			}
		}
		synctest.Wait()
		if n := len(answers); n != 0 {
			t.Fatalf("%d more asks were answered", n)
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		for range 2 {
			if err := f.Send(1, &wire.Order{Drop: true}); err != nil {
				t.Fatal(err)
			}
			if orders, _ := f.Ask(gone, 1, nil, time.Minute); len(orders) != 0 {
				t.Fatalf("a caller that had left was handed %v", orders)
			}
			if a := <-answers; len(a.orders) != 1 {
				t.Fatalf("ask %d was answered with %v, want the order", a.ask, a.orders)
			}
		}
	})
}

func TestAnOrderThatWaitedHasLessTimeLeft(t *testing.T) {
	c := &clock{now: time.Hour}
	f := newFleet(c, Config{})
	mustBeat(t, f, beat(1, 1, "a"))
	for _, left := range []time.Duration{30 * time.Second, 3 * time.Second, 0} {
		if err := f.Send(1, &wire.Order{TimeLeft: int64(left)}); err != nil {
			t.Fatal(err)
		}
	}
	c.now += 10 * time.Second
	orders, _ := f.Ask(t.Context(), 1, nil, 0)
	if len(orders) != 3 {
		t.Fatalf("%d orders, want 3", len(orders))
	}
	for i, want := range []int64{int64(20 * time.Second), 1, 0} { // 0 is no limit
		if orders[i].TimeLeft != want {
			t.Errorf("order %d has %d ns left, want %d", i, orders[i].TimeLeft, want)
		}
	}
}

package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
)

// The defaults of [Config].
const (
	DefaultInterval      = time.Second
	DefaultTimeout       = 10 * time.Second
	DefaultMaxWorkers    = 4096
	DefaultMaxExceptions = 1 << 20
	DefaultMaxOrders     = 4096
)

// Config bounds a [Fleet]. Only Boot and Wall must be set.
type Config struct {
	Boot func() time.Duration // a clock that never jumps and counts while asleep
	Wall func() time.Time     // shown to people
	Log  *slog.Logger         // nil is silence

	Interval      time.Duration // between the heartbeats of a worker; 0 is 1 s
	Timeout       time.Duration // a worker not heard of for so long is gone; 0 is 10 s
	MaxWorkers    int           // remembered, live and gone; 0 is 4,096
	MaxExceptions int           // spans of blocks remembered; 0 is 1,048,576
	MaxOrders     int           // waiting or under way for one worker; 0 is 4,096
}

// Beat is what a worker says of itself.
type Beat struct {
	Worker  sluice.WorkerInfo
	Boot    uint64              // random per start of the worker
	Place   string              // where it calls from; names the two places of one id in an error
	Report  sluice.WorkerReport // its counters
	Gained  []sluice.BlockID    // held off the hash order since the last beat
	Dropped []sluice.BlockID
	Full    bool // Gained is everything
}

// Fleet is what is known of the workers. Its methods may be called from any goroutine.
type Fleet struct {
	cfg Config

	mu      sync.Mutex
	workers map[sluice.WorkerID]*worker // guarded by mu
	view    *sluice.View                // guarded by mu; replaced, never changed
	changed chan struct{}               // guarded by mu; closed and replaced with view
	held    exceptions                  // guarded by mu
	lastID  uint64                      // guarded by mu; of orders
}

// worker is one worker's state, guarded by the fleet's mutex.
type worker struct {
	info   sluice.WorkerInfo
	report sluice.WorkerReport
	boot   uint64
	place  string
	life   uint64        // counts its starts and returns; what an earlier life held counts no more
	heard  time.Duration // on the boot clock
	live   bool
	orders queue
}

// New returns a fleet without workers, whose view has the version first: a number
// above those of the primaries before, so that clients notice the change.
func New(cfg Config, first uint64) *Fleet {
	cfg.Interval = cmp.Or(cfg.Interval, DefaultInterval)
	cfg.Timeout = cmp.Or(cfg.Timeout, DefaultTimeout)
	cfg.MaxWorkers = cmp.Or(cfg.MaxWorkers, DefaultMaxWorkers)
	cfg.MaxExceptions = cmp.Or(cfg.MaxExceptions, DefaultMaxExceptions)
	cfg.MaxOrders = cmp.Or(cfg.MaxOrders, DefaultMaxOrders)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Fleet{
		cfg: cfg, workers: make(map[sluice.WorkerID]*worker),
		view: &sluice.View{Version: max(first, 1)}, changed: make(chan struct{}),
		held: newExceptions(cfg.MaxExceptions),
	}
}

// Heartbeat takes in what a worker says, and returns how soon the next one is due and
// whether it should report everything it holds (after its or our start). Kind Invalid:
// it has no id. Busy: the id is in use by another live worker, so that one of the two
// has a copied directory. TooLarge: there are too many workers.
func (f *Fleet) Heartbeat(b Beat) (interval time.Duration, full bool, err error) {
	if b.Worker.ID == 0 {
		return 0, false, &sluice.Error{Op: "heartbeat", Kind: sluice.Invalid, Err: errors.New("a worker needs an id")}
	}
	now := f.cfg.Boot()
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.workers[b.Worker.ID]
	switch {
	case w == nil:
		if !f.roomLocked() {
			return 0, false, &sluice.Error{Op: "heartbeat", Kind: sluice.TooLarge, Err: fmt.Errorf("the cluster has %d workers already", len(f.workers))}
		}
		w = &worker{boot: b.Boot, place: b.Place, life: 1, orders: newQueue()}
		f.workers[b.Worker.ID] = w
	case w.boot != b.Boot && w.live && w.place != b.Place && now-w.heard < 2*f.cfg.Interval+time.Second && elsewhere(&w.info, &b.Worker):
		return 0, false, &sluice.Error{Op: "heartbeat", Kind: sluice.Busy, Err: fmt.Errorf(
			"worker %s is alive at %s and also calls from %s: two workers must not share or copy a directory; clear the copy", b.Worker.ID, w.place, b.Place)}
	case w.boot != b.Boot:
		w.orders.failAll(errRestarted)
		w.boot, w.life = b.Boot, w.life+1
	}
	fresh := !w.live
	w.place, w.heard = b.Place, now
	b.Worker.Seen = f.cfg.Wall()
	differs := fresh || !sameWorker(&w.info, &b.Worker)
	w.info, w.report, w.live = b.Worker, b.Report, true
	if b.Full {
		w.life++
	}
	f.held.drop(b.Worker.ID, b.Dropped)
	f.held.add(b.Worker.ID, w.life, b.Gained)
	if differs {
		f.renewLocked()
	}
	if fresh {
		f.cfg.Log.Info("a worker is there", "worker", b.Worker.ID.String(), "host", b.Worker.Host, "address", b.Worker.Address)
	}
	return f.cfg.Interval, fresh && !b.Full, nil
}

// elsewhere says whether two workers of one id are in different places. A restarted
// worker comes back with the same host, or the same addresses.
func elsewhere(a, b *sluice.WorkerInfo) bool {
	return a.Host != b.Host || a.Address != b.Address && a.Socket != b.Socket
}

// sameWorker says whether what clients need to know is the same.
func sameWorker(a, b *sluice.WorkerInfo) bool {
	if a.Host != b.Host || a.Address != b.Address || a.Socket != b.Socket || a.Weight != b.Weight || len(a.Labels) != len(b.Labels) {
		return false
	}
	for k, v := range a.Labels {
		if w, ok := b.Labels[k]; !ok || w != v {
			return false
		}
	}
	return true
}

// roomLocked makes room for one more worker, forgetting the one gone longest.
func (f *Fleet) roomLocked() bool {
	if len(f.workers) < f.cfg.MaxWorkers {
		return true
	}
	var oldest sluice.WorkerID
	for id, w := range f.workers {
		if !w.live && (oldest == 0 || cmp.Or(cmp.Compare(w.heard, f.workers[oldest].heard), cmp.Compare(id, oldest)) < 0) {
			oldest = id
		}
	}
	if oldest == 0 {
		return false
	}
	delete(f.workers, oldest)
	return true
}

// renewLocked makes the view anew.
func (f *Fleet) renewLocked() {
	v := &sluice.View{Version: f.view.Version + 1}
	for _, w := range f.workers {
		if w.live {
			v.Workers = append(v.Workers, w.info)
		}
	}
	slices.SortFunc(v.Workers, func(a, b sluice.WorkerInfo) int { return cmp.Compare(a.ID, b.ID) })
	f.view = v
	close(f.changed)
	f.changed = make(chan struct{})
}

// Expire notices the workers that have fallen silent, and returns them. It is to be
// called now and then, at least once per interval.
func (f *Fleet) Expire() []sluice.WorkerID {
	now := f.cfg.Boot()
	f.mu.Lock()
	defer f.mu.Unlock()
	var gone []sluice.WorkerID
	for id, w := range f.workers {
		if w.live && now-w.heard > f.cfg.Timeout {
			w.live = false
			w.life++
			w.orders.failAll(errGone)
			gone = append(gone, id)
		}
	}
	if len(gone) > 0 {
		slices.Sort(gone)
		f.renewLocked()
	}
	for _, id := range gone {
		f.cfg.Log.Warn("a worker is gone: it was not heard of", "worker", id.String(), "for", f.cfg.Timeout)
	}
	return gone
}

// View returns the live workers and a channel closed when they change. The view is
// shared and must not be changed.
func (f *Fleet) View() (*sluice.View, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.view, f.changed
}

// Newer returns the view if its version is not known, else nil.
func (f *Fleet) Newer(known uint64) *sluice.View {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.view.Version == known {
		return nil
	}
	return f.view
}

// Live says whether the worker was heard of lately.
func (f *Fleet) Live(id sluice.WorkerID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.workers[id]
	return w != nil && w.live
}

// Holders returns where blocks of the content lie besides the hash order, on live
// workers, at most limit spans.
func (f *Fleet) Holders(c sluice.ContentID, limit int) []sluice.Holder {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held.find(c, limit, func(id sluice.WorkerID, life uint64) bool {
		w := f.workers[id]
		return w != nil && w.live && w.life == life
	})
}

// Forget drops what is known of where the content lies, as when it was deleted.
func (f *Fleet) Forget(c sluice.ContentID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held.forget(c)
}

// Reports returns every worker known of, in order of ids, live or not.
func (f *Fleet) Reports() []sluice.WorkerReport {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]sluice.WorkerReport, 0, len(f.workers))
	for _, w := range f.workers {
		r := w.report
		r.WorkerInfo, r.Live = w.info, w.live
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b sluice.WorkerReport) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/policy"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// Worker serves and takes the blocks of one machine. Its handler may be served as soon
// as it is made; what needs a master waits for [Worker.Run].
type Worker struct {
	cfg  Config
	log  *slog.Logger
	boot uint64 // random per start

	alive context.Context // ends with the worker; fetches and uploads outlive their callers
	die   context.CancelFunc
	works sync.WaitGroup
	gate  sync.RWMutex
	over  bool // guarded by gate: no work is begun any more

	pool    *pool
	small   sync.Pool // *[sluice.ChunkSize]byte
	flights flights
	streams *streams
	settle  *settleTimes
	pins    *recent[sluice.ContentID, bool]
	uploads *uploads
	holds   *holds
	holders *holders
	orders  *orders
	masters *masters
	beats   *beats
	view    atomic.Pointer[sluice.View] // nil before the first
	stats   counters
}

// settleTimes says from when on a content may be cached, in stores that need time to
// tell two versions apart.
type settleTimes = recent[sluice.ContentID, time.Time]

// New returns a worker that serves what its block store has. Kind Invalid: the
// configuration.
func New(cfg Config) (*Worker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, &sluice.Error{Op: "start worker", Kind: sluice.Invalid, Err: err}
	}
	cfg = cfg.withDefaults()
	if cfg.Info.ID == 0 {
		return nil, &sluice.Error{Op: "start worker", Kind: sluice.Invalid, Err: errors.New("the worker has no id: give one to the block store")}
	}
	w := &Worker{
		cfg: cfg, log: cfg.Log, boot: cfg.Rand.Uint64() | 1,
		pool:    newPool(cfg.MemoryPool / 2),
		small:   sync.Pool{New: func() any { return new([sluice.ChunkSize]byte) }},
		flights: flights{all: make(map[flightKey]*flight)},
		streams: newStreams(cfg.Prefetch),
		settle:  newRecent[sluice.ContentID, time.Time](4096),
		pins:    newRecent[sluice.ContentID, bool](4096),
		holds:   newHolds(),
	}
	w.alive, w.die = context.WithCancel(context.Background())
	w.uploads = newUploads(w)
	w.holders = newHolders(w)
	w.orders = newOrders(w)
	w.masters = newMasters(cfg)
	w.beats = newBeats(w)
	return w, nil
}

// Run tells the masters of the worker and carries out their orders until ctx ends. Then
// it ends every fetch, drops what was being written, and waits for all of it. It is
// called once; stop the server that uses Handler first.
func (w *Worker) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	loops.Go(func() { w.beats.loop(ctx) })
	loops.Go(func() { w.orders.loop(ctx) })
	loops.Go(func() { w.uploads.loop(ctx) })
	loops.Go(func() { w.holders.loop(ctx) })
	loops.Wait()
	w.gate.Lock()
	w.over = true
	w.gate.Unlock()
	w.die()
	w.uploads.close()
	w.holders.close()
	w.works.Wait()
	return w.masters.close()
}

// work runs do in the background unless the worker is stopping.
func (w *Worker) work(do func()) bool {
	w.gate.RLock()
	defer w.gate.RUnlock()
	if w.over {
		return false
	}
	w.works.Go(do)
	return true
}

// Ready returns nil once a master has answered, and lately. Kind Unavailable.
func (w *Worker) Ready() error { return w.beats.ready() }

// ID is the worker's.
func (w *Worker) ID() sluice.WorkerID { return w.cfg.Info.ID }

// home says whether the block belongs to this worker, which it does while no other is
// known.
func (w *Worker) home(b sluice.BlockID) bool {
	v := w.view.Load()
	if v == nil {
		return true
	}
	id, ok := policy.Home(b, v.Workers)
	return !ok || id == w.cfg.Info.ID
}

// pin keeps a content from being evicted.
func (w *Worker) pin(ctx context.Context, c sluice.ContentID) {
	if pinned, _ := w.pins.get(c); pinned {
		return
	}
	if err := w.cfg.Store.Pin(ctx, c); err != nil {
		w.log.Warn("a content could not be pinned", "content", c.String(), "cause", err)
		return
	}
	w.pins.put(c, true)
}

// Handler serves the methods of a worker.
func (w *Worker) Handler() rpc.Handler { return handler{w} }

type handler struct{ w *Worker }

// Serve implements rpc.Handler.
func (h handler) Serve(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	w := h.w
	switch r.Method {
	case wire.MethodReadBlock:
		return said(w.readBlock(ctx, r))("read block")
	case wire.MethodOpenBlock:
		return said(w.openBlock(ctx, r))("open block")
	case wire.MethodWrite:
		return said(w.write(ctx, r))("write")
	case wire.MethodSeal:
		return said(w.seal(ctx, r))("seal")
	case wire.MethodDiscard:
		return said(w.discard(ctx, r))("discard")
	case wire.MethodFree:
		return said(w.free(ctx, r))("free")
	case wire.MethodHeld:
		return said(w.held(ctx, r))("held")
	case wire.MethodRecall:
		return said(w.recall(ctx, r))("recall")
	case wire.MethodPing:
		return nil, nil
	default:
		return nil, &sluice.Error{Kind: sluice.Unsupported, Err: fmt.Errorf("a worker does not answer method %d", r.Method)}
	}
}

// said names the operation of a failure.
func said(m rpc.Message, err error) func(op string) (rpc.Message, error) {
	return func(op string) (rpc.Message, error) {
		if err != nil {
			return nil, sluice.Wrap(op, "", err)
		}
		return m, nil
	}
}

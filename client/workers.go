package client

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/policy"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// workers are the connections to the workers of the view, made when first needed.
type workers struct {
	c    *core
	view atomic.Pointer[sluice.View] // nil before the first

	mu    sync.Mutex
	conns map[sluice.WorkerID]*worker  // guarded by mu
	held  map[sluice.WorkerID]*holding // guarded by mu: outlives connections, as descriptors do
	over  bool                         // guarded by mu
}

func newWorkers(c *core) *workers {
	return &workers{c: c, conns: map[sluice.WorkerID]*worker{}, held: map[sluice.WorkerID]*holding{}}
}

// version returns the version of the view that is known, 0 for none.
func (w *workers) version() uint64 {
	if v := w.view.Load(); v != nil {
		return v.Version
	}
	return 0
}

// learn takes in a view; nil means that the known one is current.
func (w *workers) learn(v *sluice.View) {
	if v == nil {
		return
	}
	if old := w.view.Load(); len(v.Workers) == 0 && old != nil && len(old.Workers) > 0 {
		return // a new primary has not heard of any yet; those known most likely are still there
	}
	w.view.Store(v)
	live := make(map[sluice.WorkerID]*sluice.WorkerInfo, len(v.Workers))
	for i := range v.Workers {
		live[v.Workers[i].ID] = &v.Workers[i]
	}
	var gone []*worker
	w.mu.Lock()
	for id, conn := range w.conns {
		info := live[id]
		if info == nil || info.Address != conn.info.Address || info.Socket != conn.info.Socket {
			delete(w.conns, id)
			gone = append(gone, conn)
			if info == nil && conn.holding.idle() {
				delete(w.held, id)
			}
		}
	}
	w.mu.Unlock()
	if len(gone) > 0 {
		w.c.background(func(context.Context) {
			for _, conn := range gone {
				conn.conn.Close()
			}
		})
	}
}

// look asks the primary which workers there are.
func (w *workers) look(ctx context.Context) {
	var a wire.ViewAnswer
	q := &wire.ViewRequest{Call: &wire.CallHeader{}, Known: w.version()}
	if _, err := w.c.masters.call(ctx, wire.MethodView, q, &a); err == nil {
		w.learn(a.View.Sluice())
	}
}

// get returns the worker id, or nil where the view does not have it.
func (w *workers) get(id sluice.WorkerID) *worker {
	w.mu.Lock()
	defer w.mu.Unlock()
	if conn := w.conns[id]; conn != nil {
		return conn
	}
	v := w.view.Load()
	if v == nil || w.over {
		return nil
	}
	for _, info := range v.Workers {
		if info.ID == id {
			if w.held[id] == nil {
				w.held[id] = newHolding(w.c, id)
			}
			conn := newWorker(w.c.cfg, info, w.held[id])
			w.conns[id] = conn
			return conn
		}
	}
	return nil
}

// search returns the workers to be asked for a block, best first: those known to hold
// it, then by rank. Those that failed just now come last.
func (w *workers) search(b sluice.BlockID, holders []sluice.Holder) []*worker {
	v := w.view.Load()
	if v == nil {
		return nil
	}
	out := make([]*worker, 0, len(v.Workers))
	add := func(id sluice.WorkerID) {
		if conn := w.get(id); conn != nil && !slices.Contains(out, conn) {
			out = append(out, conn)
		}
	}
	for _, h := range holders {
		if h.Content == b.Content && h.First <= b.Index && b.Index-h.First < h.Count {
			add(h.Worker)
		}
	}
	for _, id := range policy.Rank(b, v.Workers) {
		add(id)
	}
	return wellFirst(out)
}

// wellFirst moves workers that failed just now to the end, else keeps the order.
func wellFirst(all []*worker) []*worker {
	now := time.Now().UnixNano()
	sick := 0
	for _, w := range all {
		if w.sick(now) {
			sick++
		}
	}
	if sick == 0 || sick == len(all) {
		return all
	}
	out := make([]*worker, 0, len(all))
	for _, w := range all {
		if !w.sick(now) {
			out = append(out, w)
		}
	}
	for _, w := range all {
		if w.sick(now) {
			out = append(out, w)
		}
	}
	return out
}

// takers returns the workers to write a content to, best first: one on this host unless
// the configuration spreads, then by rank of the first block.
func (w *workers) takers(ctx context.Context, content sluice.ContentID) []*worker {
	all := w.search(sluice.BlockID{Content: content}, nil)
	if w.c.cfg.Spread {
		return all
	}
	for i, one := range all {
		if one.local(ctx) && !one.sick(time.Now().UnixNano()) {
			first := append([]*worker{one}, all[:i]...)
			return append(first, all[i+1:]...)
		}
	}
	return all
}

func (w *workers) close() {
	w.mu.Lock()
	w.over = true
	conns := w.conns
	w.conns = map[sluice.WorkerID]*worker{}
	w.mu.Unlock()
	for _, conn := range conns {
		conn.conn.Close()
	}
}

// worker is one worker. It implements [sluice.Worker].
type worker struct {
	info    sluice.WorkerInfo
	conn    *rpc.Client
	holding *holding
	failed  atomic.Int64 // Unix ns until which it counts as sick
}

// sickFor is how long a worker that did not answer is asked last.
const sickFor = time.Second

func newWorker(cfg Config, info sluice.WorkerInfo, h *holding) *worker {
	r := cfg.rpcConfig()
	r.BulkConns = cmp.Or(r.BulkConns, bulkConns)
	return &worker{info: info, holding: h, conn: rpc.NewClient(r, rpc.Target{Address: info.Address, Socket: info.Socket})}
}

const bulkConns = 4

func (w *worker) sick(now int64) bool {
	f := w.failed.Load()
	return f != 0 && now < f
}

// note remembers whether the worker could be reached.
func (w *worker) note(err error) {
	if err == nil || answered(err) {
		if w.failed.Load() != 0 {
			w.failed.Store(0)
		}
		return
	}
	if sluice.KindOf(err) == sluice.Unavailable {
		w.failed.Store(time.Now().Add(sickFor).UnixNano())
	}
}

// local says whether the worker is on this host: reached by its unix socket.
func (w *worker) local(ctx context.Context) bool {
	if w.info.Socket == "" {
		return false
	}
	if w.conn.Local() {
		return true
	}
	if w.conn.Peer().Address != "" || w.sick(time.Now().UnixNano()) {
		return false // reached, but by its address; or not at all
	}
	return w.conn.Connect(ctx) == nil && w.conn.Local()
}

// ids returns the workers of the view.
func (w *workers) ids() []sluice.WorkerID {
	v := w.view.Load()
	if v == nil {
		return nil
	}
	out := make([]sluice.WorkerID, len(v.Workers))
	for i := range v.Workers {
		out[i] = v.Workers[i].ID
	}
	return out
}

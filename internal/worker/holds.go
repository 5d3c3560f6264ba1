package worker

import (
	"sync"

	"github.com/sluicefs/sluice"
)

// holds knows which blocks the masters are told of because they lie here and not where
// the hash order looks for them first.
type holds struct {
	mu    sync.Mutex
	fresh map[sluice.BlockID]struct{} // guarded by mu: changed since the last delta
	told  map[sluice.BlockID]struct{} // guarded by mu: the masters know
	full  bool                        // guarded by mu: the next delta is everything
}

// The bounds of what is remembered, and of one delta.
const (
	maxFresh = 1 << 16
	maxTold  = 1 << 17
	maxDelta = 4096
)

func newHolds() *holds {
	return &holds{fresh: make(map[sluice.BlockID]struct{}), told: make(map[sluice.BlockID]struct{}), full: true}
}

// note says that a block was filled or written.
func (h *holds) note(b sluice.BlockID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.told[b]; !ok && len(h.fresh) < maxFresh {
		h.fresh[b] = struct{}{}
	}
}

// again makes the next delta everything: the masters forgot, or the hash order changed.
func (h *holds) again() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.full = true
}

// delta is what changed since the last one.
type delta struct {
	gained, dropped []sluice.BlockID
	full            bool
}

// delta returns what the masters are to be told, and takes it for told. If they do not
// hear it, again must be called.
func (w *Worker) delta() delta {
	h := w.holds
	h.mu.Lock()
	full := h.full
	h.full = false
	if full {
		clear(h.told)
	}
	h.mu.Unlock()
	if full {
		w.recount()
	}
	d := delta{full: full}
	h.mu.Lock()
	defer h.mu.Unlock()
	for b := range h.fresh {
		if len(d.gained) == maxDelta {
			break
		}
		delete(h.fresh, b)
		if len(h.told) < maxTold && !w.home(b) {
			h.told[b] = struct{}{}
			d.gained = append(d.gained, b)
		}
	}
	for b := range h.told {
		if len(d.dropped) == maxDelta {
			break
		}
		if pages, _ := w.cfg.Store.Has(b); pages == nil {
			delete(h.told, b)
			d.dropped = append(d.dropped, b)
		}
	}
	return d
}

// recount looks at everything in the block store.
func (w *Worker) recount() {
	for c := range w.cfg.Store.Contents() {
		if c.Quarantined {
			continue
		}
		for _, b := range w.cfg.Store.Blocks(c.Content) {
			if !w.home(b.ID) {
				w.holds.note(b.ID)
			}
		}
	}
}

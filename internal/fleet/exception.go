package fleet

import (
	"slices"

	"github.com/sluicefs/sluice"
)

// exceptions remembers which workers hold blocks off the hash order: a bounded number
// of spans, the contents known longest going first. What a worker held in an earlier
// life is passed over when it is met. It belongs to the fleet's mutex.
type exceptions struct {
	limit int
	spans int
	by    map[sluice.ContentID][]span
	order []sluice.ContentID // as they came; may name contents that are gone
}

// span is blocks [first, first+count) on a worker in one of its lives.
type span struct {
	worker       sluice.WorkerID
	life         uint64
	first, count uint32
}

func newExceptions(limit int) exceptions {
	return exceptions{limit: limit, by: make(map[sluice.ContentID][]span)}
}

// add remembers blocks of a worker, joining neighbours.
func (e *exceptions) add(w sluice.WorkerID, life uint64, blocks []sluice.BlockID) {
	for _, b := range blocks {
		spans, known := e.by[b.Content]
		before := len(spans)
		spans = slices.DeleteFunc(spans, func(s span) bool { return s.worker == w && s.life != life })
		spans = join(spans, span{worker: w, life: life, first: b.Index, count: 1})
		e.by[b.Content] = spans
		e.spans += len(spans) - before
		if !known {
			e.order = append(e.order, b.Content)
		}
	}
	e.shrink()
}

// join adds s, which is one block, to what is known.
func join(spans []span, s span) []span {
	for i := range spans {
		t := &spans[i]
		if t.worker != s.worker {
			continue
		}
		switch {
		case s.first >= t.first && s.first-t.first < t.count:
			return spans
		case t.first+t.count == s.first:
			t.count++
			return spans
		case s.first+1 == t.first:
			t.first, t.count = s.first, t.count+1
			return spans
		}
	}
	return append(spans, s)
}

// drop forgets blocks of a worker.
func (e *exceptions) drop(w sluice.WorkerID, blocks []sluice.BlockID) {
	for _, b := range blocks {
		spans := e.by[b.Content]
		for i, s := range spans {
			if s.worker != w || b.Index < s.first || b.Index-s.first >= s.count {
				continue
			}
			left := s
			left.count = b.Index - s.first
			right := s
			right.first, right.count = b.Index+1, s.first+s.count-b.Index-1
			var rest []span
			for _, r := range []span{left, right} {
				if r.count > 0 {
					rest = append(rest, r)
				}
			}
			e.spans += len(rest) - 1
			spans = slices.Replace(spans, i, i+1, rest...)
			break
		}
		if len(spans) == 0 {
			delete(e.by, b.Content)
		} else {
			e.by[b.Content] = spans
		}
	}
}

// forget drops a content.
func (e *exceptions) forget(c sluice.ContentID) {
	e.spans -= len(e.by[c])
	delete(e.by, c)
}

// shrink keeps to the limit, and keeps order from outgrowing the map.
func (e *exceptions) shrink() {
	for e.spans > e.limit && len(e.order) > 0 {
		e.forget(e.order[0])
		e.order = e.order[1:]
	}
	if len(e.order) > 2*len(e.by)+1024 {
		seen := make(map[sluice.ContentID]bool, len(e.by))
		kept := make([]sluice.ContentID, 0, len(e.by))
		for _, c := range e.order {
			if _, ok := e.by[c]; ok && !seen[c] {
				seen[c] = true
				kept = append(kept, c)
			}
		}
		e.order = kept
	}
}

// find returns the spans of a content on workers that live says yes to.
func (e *exceptions) find(c sluice.ContentID, limit int, live func(sluice.WorkerID, uint64) bool) []sluice.Holder {
	var out []sluice.Holder
	for _, s := range e.by[c] {
		if len(out) == limit {
			break
		}
		if live(s.worker, s.life) {
			out = append(out, sluice.Holder{Content: c, Worker: s.worker, First: s.first, Count: s.count})
		}
	}
	return out
}

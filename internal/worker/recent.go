package worker

import "sync"

// recent remembers the last values put, so many at most.
type recent[K comparable, V any] struct {
	limit int

	mu    sync.Mutex
	all   map[K]V // guarded by mu
	order []K     // guarded by mu: the keys as they came; a ring of limit
	next  int     // guarded by mu
}

func newRecent[K comparable, V any](limit int) *recent[K, V] {
	return &recent[K, V]{limit: limit, all: make(map[K]V)}
}

func (r *recent[K, V]) get(k K) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.all[k]
	return v, ok
}

func (r *recent[K, V]) put(k K, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.putLocked(k, v)
}

func (r *recent[K, V]) putLocked(k K, v V) {
	if _, ok := r.all[k]; !ok {
		if len(r.order) < r.limit {
			r.order = append(r.order, k)
		} else {
			delete(r.all, r.order[r.next])
			r.order[r.next] = k
			r.next = (r.next + 1) % r.limit
		}
	}
	r.all[k] = v
}

// orPut returns the value of k, made by fresh where there is none.
func (r *recent[K, V]) orPut(k K, fresh func() V) V {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.all[k]
	if !ok {
		v = fresh()
		r.putLocked(k, v)
	}
	return v
}

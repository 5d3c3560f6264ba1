package worker

import (
	"sync"
	"time"

	"github.com/sluicefs/sluice"
)

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

// doubts remembers what was sent unchecked, to check what is asked for again at once: its
// receiver may have found it damaged.
type doubts struct {
	last *recent[sluice.BlockID, doubt]
}

type doubt struct {
	off, n      int64
	sent, check time.Duration // boot time of the last sending and the last check
}

// How soon a second request for the same bytes is taken for a complaint, and how seldom
// that makes the worker check: a hot range is asked for often and is not damaged.
const (
	complaintWithin = time.Second
	checkAtMost     = 10 * time.Second
)

// asked notes that bytes are sent and says whether they are to be checked first.
func (d *doubts) asked(b sluice.BlockID, off, n int64, now time.Duration) bool {
	was, ok := d.last.get(b)
	check := ok && was.off == off && was.n == n && now-was.sent < complaintWithin && (was.check == 0 || now-was.check > checkAtMost)
	next := doubt{off: off, n: n, sent: now, check: was.check}
	if check {
		next.check = now
	}
	d.last.put(b, next)
	return check
}

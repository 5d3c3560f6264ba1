package journal

import "sync"

// mailbox hands items from any goroutine to one. It is unbounded by itself: what goes
// in is bounded by the bytes in flight, and blocking senders in a ring of goroutines
// could wait for each other.
type mailbox[T any] struct {
	wake   chan struct{} // has a token when there is something, or when closed
	mu     sync.Mutex
	items  []T
	closed bool
}

func newMailbox[T any]() *mailbox[T] { return &mailbox[T]{wake: make(chan struct{}, 1)} }

// put adds an item and says whether anybody will look at it.
func (m *mailbox[T]) put(items ...T) bool {
	m.mu.Lock()
	ok := !m.closed
	if ok {
		m.items = append(m.items, items...)
	}
	m.mu.Unlock()
	if ok {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
	return ok
}

// take empties the mailbox into items, whose room is used again.
func (m *mailbox[T]) take(into []T) []T {
	clear(into)
	m.mu.Lock()
	defer m.mu.Unlock()
	items := m.items
	m.items = into[:0]
	return items
}

// close refuses further items and returns those not taken.
func (m *mailbox[T]) close() []T {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	items := m.items
	m.items = nil
	return items
}

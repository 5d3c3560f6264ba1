package rpc

import (
	"sync"
	"time"
)

// limiter bounds how many requests are in flight and how many bytes they hold.
type limiter struct {
	maxRequests int
	maxBytes    int64

	mu       sync.Mutex
	requests int           // guarded by mu
	bytes    int64         // guarded by mu
	freed    chan struct{} // guarded by mu: closed at the next release, if somebody waits
	refusing bool          // guarded by mu: waiting was in vain; refuse at once until there is room
}

// try takes room for a request if there is some. A request above maxBytes has room when
// it is alone.
func (l *limiter) try(bytes int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tryLocked(bytes)
}

func (l *limiter) tryLocked(bytes int64) bool {
	if l.requests >= l.maxRequests || l.requests > 0 && l.bytes+bytes > l.maxBytes {
		return false
	}
	l.requests++
	l.bytes += bytes
	l.refusing = false
	return true
}

// acquire takes room for a request, waiting at most wait and until quit is closed. Once
// a wait was in vain the next requests are refused at once, until there is room again.
func (l *limiter) acquire(bytes int64, wait time.Duration, quit <-chan struct{}) bool {
	if l.try(bytes) {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		l.mu.Lock()
		if l.tryLocked(bytes) {
			l.mu.Unlock()
			return true
		}
		if l.refusing {
			l.mu.Unlock()
			return false
		}
		if l.freed == nil {
			l.freed = make(chan struct{})
		}
		freed := l.freed
		l.mu.Unlock()
		select {
		case <-freed:
		case <-quit:
			return false
		case <-timer.C:
			l.mu.Lock()
			l.refusing = true
			l.mu.Unlock()
			return false
		}
	}
}

// release gives room back.
func (l *limiter) release(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests--
	l.bytes -= bytes
	if l.freed != nil {
		close(l.freed)
		l.freed = nil
	}
}

// used returns the requests and bytes in flight.
func (l *limiter) used() (requests int, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.requests, l.bytes
}

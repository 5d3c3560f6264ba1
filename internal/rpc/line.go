package rpc

import (
	"context"
	"errors"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// line is the sending half of a connection. Small frames are put into a queue; whoever
// finds the line free writes the queue, also what others put there meanwhile, with one
// system call. Who sends a piece of payload takes the line for itself.
type line struct {
	conn    net.Conn
	buffers *pool
	raw     rawSender // sendfile and descriptors; zero where the connection cannot
	// token holds one element while somebody writes. Whoever gives it back looks at the
	// queue again, so that nothing put there meanwhile stays behind.
	token   chan struct{}
	waiting atomic.Int32 // how many wait for the token
	since   atomic.Int64 // when the write under way began, unix ns; 0: none is
	onFail  func(error)  // called at most once, without locks
	spawn   func(func()) // runs a goroutine that the connection's owner waits for

	mu    sync.Mutex
	queue []byte // guarded by mu
	spare []byte // guarded by mu: the buffer not in use
	err   error  // guarded by mu: why nothing can be sent any more
}

// Above queueHigh a sender waits for the line; a message above queueCopy is encoded
// outside the lock; spare buffers above queueKeep are let go.
const (
	queueHigh = 1 << 20
	queueCopy = 4 << 10
	queueKeep = 256 << 10
)

func newLine(conn net.Conn, buffers *pool, onFail func(error), spawn func(func())) *line {
	return &line{conn: conn, buffers: buffers, raw: newRawSender(conn), token: make(chan struct{}, 1), onFail: onFail, spawn: spawn}
}

// errNotSent marks a frame of which no byte has left.
var errNotSent = errors.New("connection lost before the request was sent")

// put queues a frame without sending it. It returns the length of the queue.
func (l *line) put(kind frameType, h *header, m Message) (int, error) {
	size := messageSize(m)
	if size > queueCopy {
		return l.putLarge(kind, h, m, size)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, errNotSent
	}
	start := len(l.queue)
	b, err := appendMessage(l.queue, kind, h, m, size)
	if err != nil {
		l.queue = b[:start]
		return 0, err
	}
	l.queue = b
	return len(b), nil
}

func (l *line) putLarge(kind frameType, h *header, m Message, size int) (int, error) {
	buf := l.buffers.get(size + maxHeader + prefixSize)
	defer l.buffers.put(buf)
	b, err := appendMessage(buf[:0], kind, h, m, size)
	if err != nil {
		return 0, err
	}
	return l.putBytes(b)
}

// putBytes queues encoded frames.
func (l *line) putBytes(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, errNotSent
	}
	l.queue = append(l.queue, b...)
	return len(l.queue), nil
}

// send queues a frame and sees to it that it is sent. It waits only while the queue is
// above its bound. yield lets others add to the queue before it is written.
func (l *line) send(ctx context.Context, kind frameType, h *header, m Message, yield bool) error {
	n, err := l.put(kind, h, m)
	if err != nil {
		return err
	}
	if n > queueHigh {
		if err := l.acquire(ctx); err == nil {
			l.drain()
			l.release()
		}
		return nil // the frame is in the queue and leaves with it
	}
	l.flush(yield)
	return nil
}

// flush writes the queue unless somebody else is at it, who then writes all of it. It
// does not wait for the peer: what the connection does not take at once is left to a
// goroutine.
func (l *line) flush(yield bool) {
	select {
	case l.token <- struct{}{}:
		if yield {
			runtime.Gosched()
		}
		l.leave(l.take())
	default:
	}
}

// take empties the queue. The caller holds the line.
func (l *line) take() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.queue
	l.queue, l.spare = l.spare[:0], nil
	return b
}

// restore keeps a written buffer for the next queue.
func (l *line) restore(b []byte) {
	if cap(b) > queueKeep {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.spare = b[:0]
	}
}

// leave writes b and whatever is queued, and gives the line back; without waiting.
func (l *line) leave(b []byte) {
	for {
		if n := l.attempt(b); n < len(b) {
			l.spawn(func() {
				if l.write(b[n:]) == nil {
					l.restore(b)
				}
				l.release()
			})
			return
		}
		l.restore(b)
		<-l.token
		l.mu.Lock()
		empty := len(l.queue) == 0
		l.mu.Unlock()
		if empty {
			return
		}
		select {
		case l.token <- struct{}{}:
			b = l.take()
		default:
			return // the new holder sees the queue
		}
	}
}

// attempt sends what the connection takes at once and returns how much that was.
func (l *line) attempt(b []byte) int {
	if !l.raw.sendfile() || len(b) == 0 {
		return 0
	}
	n, err := l.raw.sendNow(b)
	if err != nil {
		l.fail(err)
		return len(b)
	}
	return n
}

// acquire takes the line.
func (l *line) acquire(ctx context.Context) error {
	select {
	case l.token <- struct{}{}:
		return nil
	default:
	}
	l.waiting.Add(1)
	defer l.waiting.Add(-1)
	select {
	case l.token <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// release gives the line back and writes what was queued by those who found it taken.
func (l *line) release() {
	for {
		<-l.token
		l.mu.Lock()
		empty := len(l.queue) == 0
		l.mu.Unlock()
		if empty {
			return
		}
		select {
		case l.token <- struct{}{}:
			l.drain()
		default:
			return // the new holder sees the queue
		}
	}
}

// releaseWith gives the line back with b, the end of a frame, at the head of the queue.
// If nothing else stands there b stays until something follows.
func (l *line) releaseWith(b []byte) {
	l.mu.Lock()
	others := len(l.queue) > 0
	l.queue = slices.Insert(l.queue, 0, b...)
	l.mu.Unlock()
	if others || l.waiting.Load() > 0 {
		l.release()
		return
	}
	<-l.token
	l.mu.Lock()
	others = len(l.queue) > len(b)
	l.mu.Unlock()
	if others { // queued by somebody who found the line taken
		l.flush(false)
	}
}

// contended says whether somebody waits for the line that the caller holds.
func (l *line) contended() bool {
	if l.waiting.Load() > 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue) > 0
}

// drain writes the queue as it is now. The caller holds the line.
func (l *line) drain() error {
	b := l.take()
	if len(b) == 0 {
		l.restore(b)
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.err
	}
	err := l.write(b)
	l.restore(b)
	return err
}

// write sends b, in order after the queue. The caller holds the line.
func (l *line) write(b []byte) error {
	return l.watch(func() error {
		_, err := l.conn.Write(b)
		return err
	})
}

// watch runs a write, notes when it began, and ends the line if it fails.
func (l *line) watch(write func() error) error {
	l.since.Store(time.Now().UnixNano())
	err := write()
	l.since.Store(0)
	if err != nil {
		l.fail(err)
	}
	return err
}

// fail ends the line: the queue is dropped and nothing is queued any more.
func (l *line) fail(err error) {
	if l.close(err) && l.onFail != nil {
		l.onFail(err)
	}
}

// close is fail without telling; it says whether it was the first.
func (l *line) close(err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return false
	}
	l.err = err
	l.queue, l.spare = nil, nil
	return true
}

// stalled says whether a write has been under way since before t.
func (l *line) stalled(t time.Time) bool {
	s := l.since.Load()
	return s != 0 && s < t.UnixNano()
}

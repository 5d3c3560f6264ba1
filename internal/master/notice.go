package master

import (
	"context"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
)

// maxTracked is how many files one session may hold re-usable grants of, notices it has
// not acknowledged included. Beyond it grants have no lease.
const maxTracked = 8192

// notices knows which sessions may open which files again without asking, and makes
// every change wait until they know of it (DESIGN section 5). It is soft: after a
// restart nobody holds a lease, because the first changes wait until those of an
// earlier primary have run out.
type notices struct {
	boot  func() time.Duration
	lease time.Duration
	quiet time.Duration // on the boot clock: leases of an earlier primary end before it

	mu       sync.Mutex
	sessions map[sluice.SessionID]*listener              // guarded by mu
	files    map[sluice.FileID]map[sluice.SessionID]bool // guarded by mu: who holds a grant
}

// listener is one session's side, guarded by the mutex of notices.
type listener struct {
	held    map[sluice.FileID]bool
	queue   []sluice.FileID // noticed, not acknowledged; the last has number seq
	seq     uint64
	until   time.Duration // on the boot clock: its grants may be used until then
	waiting int           // requests waiting
	wake    chan struct{} // closed and replaced when the queue grows
	acked   chan struct{} // closed and replaced when it shrinks, or the session ends
	gone    bool
}

// first is the number of the oldest notice in the queue.
func (l *listener) first() uint64 { return l.seq - uint64(len(l.queue)) + 1 }

// newNotices returns notices without holders. Leases that an earlier primary gave end
// within quiet.
func newNotices(boot func() time.Duration, lease, quiet time.Duration) *notices {
	return &notices{
		boot: boot, lease: lease, quiet: boot() + quiet,
		sessions: make(map[sluice.SessionID]*listener),
		files:    make(map[sluice.FileID]map[sluice.SessionID]bool),
	}
}

// hold records that the session will hold a grant of the file that it may use again,
// and returns for how long; 0 where it may not, as when nobody is there to be told.
// The caller reads the file's state after it, not before.
func (n *notices) hold(id sluice.SessionID, file sluice.FileID) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.sessions[id]
	if l == nil || l.waiting == 0 && l.until-n.boot() < n.lease/2 || !l.held[file] && len(l.held)+len(l.queue) >= maxTracked {
		return 0
	}
	l.until = max(l.until, n.boot()+n.lease)
	if !l.held[file] {
		l.held[file] = true
		m := n.files[file]
		if m == nil {
			m = make(map[sluice.SessionID]bool)
			n.files[file] = m
		}
		m[id] = true
	}
	return n.lease
}

// pendingNotice is one listener that must know of a change, or lose its lease.
type pendingNotice struct {
	l     *listener
	seq   uint64
	until time.Duration
}

// publish tells the holders of the files that they changed, and returns when each has
// said that it knows, or its lease ran out, or ctx ended (UnknownOutcome: the change is
// made, and not answered). A file of 0 means all.
func (n *notices) publish(ctx context.Context, files []uint64) error {
	if len(files) == 0 {
		return nil
	}
	if left := n.quiet - n.boot(); left > 0 && !sleep(ctx, left) {
		return &sluice.Error{Kind: sluice.UnknownOutcome, Err: ctx.Err()}
	}
	for _, p := range n.enqueue(files) {
		if err := n.settle(ctx, p); err != nil {
			return &sluice.Error{Kind: sluice.UnknownOutcome, Err: err}
		}
	}
	return nil
}

// enqueue puts the notices into the queues.
func (n *notices) enqueue(files []uint64) []pendingNotice {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.sessions) == 0 {
		return nil
	}
	var pending []pendingNotice
	touched := make(map[*listener]bool)
	for _, f := range files {
		file := sluice.FileID(f)
		if file == 0 {
			pending = pending[:0]
			for id, l := range n.sessions {
				n.enqueueAllLocked(id, l)
				pending = append(pending, pendingNotice{l, l.seq, l.until})
			}
			return pending
		}
		for id := range n.files[file] {
			l := n.sessions[id]
			delete(l.held, file)
			l.queue = append(l.queue, file)
			l.seq++
			touched[l] = true
		}
		delete(n.files, file)
	}
	now := n.boot()
	for _, l := range n.sessions {
		if touched[l] {
			close(l.wake)
			l.wake = make(chan struct{})
			pending = append(pending, pendingNotice{l, l.seq, l.until})
		} else if len(l.queue) > 0 && l.until > now { // a repeated request waits as the first did
			if i := lastOf(l.queue, files); i >= 0 {
				pending = append(pending, pendingNotice{l, l.first() + uint64(i), l.until})
			}
		}
	}
	return pending
}

// enqueueAllLocked tells a session to forget everything.
func (n *notices) enqueueAllLocked(id sluice.SessionID, l *listener) {
	if len(l.held) == 0 && len(l.queue) == 0 {
		return
	}
	for f := range l.held {
		n.releaseLocked(id, f)
	}
	clear(l.held)
	l.queue = append(l.queue, 0)
	l.seq++
	close(l.wake)
	l.wake = make(chan struct{})
}

// lastOf returns the place of the last element of queue that is 0 or one of files.
func lastOf(queue []sluice.FileID, files []uint64) int {
	for i := len(queue) - 1; i >= 0; i-- {
		for _, f := range files {
			if queue[i] == 0 || uint64(queue[i]) == f {
				return i
			}
		}
	}
	return -1
}

// settle waits for one listener.
func (n *notices) settle(ctx context.Context, p pendingNotice) error {
	var timer *time.Timer
	for {
		n.mu.Lock()
		done := p.l.gone || p.l.first() > p.seq
		acked, left := p.l.acked, p.until-n.boot()
		n.mu.Unlock()
		if done || left <= 0 {
			return nil
		}
		if timer == nil {
			timer = time.NewTimer(left)
			defer timer.Stop()
		} else {
			timer.Reset(left)
		}
		select {
		case <-acked:
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// await acknowledges up to acked and returns the notices after it, waiting for some at
// most for wait, and until ctx or stop ends or also is closed. The lease it returns
// counts from the sending of the request, which was not after this call.
func (n *notices) await(ctx context.Context, id sluice.SessionID, acked uint64, wait time.Duration, also, stop <-chan struct{}) (upto uint64, files []sluice.FileID, lease time.Duration) {
	n.mu.Lock()
	asked := n.boot()
	l := n.sessions[id]
	if l == nil {
		l = &listener{held: make(map[sluice.FileID]bool), wake: make(chan struct{}), acked: make(chan struct{})}
		n.sessions[id] = l
		if acked > 0 { // of an earlier primary
			l.seq = acked
		}
	}
	if first := l.first(); acked >= first && acked <= l.seq {
		l.queue = append([]sluice.FileID(nil), l.queue[acked-first+1:]...)
		close(l.acked)
		l.acked = make(chan struct{})
	}
	l.waiting++
	wake, empty := l.wake, len(l.queue) == 0
	n.mu.Unlock()
	if empty {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-wake:
		case <-also:
		case <-timer.C:
		case <-stop:
		case <-ctx.Done():
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	l.waiting--
	if l.gone || ctx.Err() != nil {
		return l.seq, nil, 0
	}
	l.until = max(l.until, asked+n.lease)
	return l.seq, append([]sluice.FileID(nil), l.queue...), n.lease
}

// end forgets a session.
func (n *notices) end(id sluice.SessionID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.sessions[id]
	if l == nil {
		return
	}
	for f := range l.held {
		n.releaseLocked(id, f)
	}
	delete(n.sessions, id)
	l.gone = true
	close(l.acked)
	close(l.wake)
	l.acked, l.wake = make(chan struct{}), make(chan struct{})
}

func (n *notices) releaseLocked(id sluice.SessionID, f sluice.FileID) {
	m := n.files[f]
	delete(m, id)
	if len(m) == 0 {
		delete(n.files, f)
	}
}

// count returns how many sessions are told of changes, and of how many files.
func (n *notices) count() (sessions, files int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.sessions), len(n.files)
}

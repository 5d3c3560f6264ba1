package fuse

import (
	"context"
	"time"
)

// The kernel answers ESTALE of an open by looking the name up once more, and hands a
// second ESTALE to the program. A name that is replaced again and again by rename would
// do that to its readers, who on a local file system never fail. So a rename waits a
// moment where somebody is on such a second way.
const (
	retryFor  = 50 * time.Millisecond
	retryMost = 1024
)

// comesBack notes that the kernel looks up the name of a node again because the node was
// replaced.
func (m *Mount) comesBack(id uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes.byID[id]
	if n == nil || !n.gone && !n.old || n.parent == nil || len(m.retries) >= retryMost {
		return
	}
	if at := (place{n.parent.id, n.name}); m.retries[at] == nil {
		m.retries[at] = make(chan struct{})
	}
}

// cameBack notes that an open of a node's name succeeded.
func (m *Mount) cameBack(n *node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.retries) == 0 || n.parent == nil {
		return
	}
	m.endRetryLocked(place{n.parent.id, n.name})
}

func (m *Mount) endRetryLocked(at place) {
	if c := m.retries[at]; c != nil {
		close(c)
		delete(m.retries, at)
	}
}

// letRetry waits, a moment at most, for those who are coming back to a name.
func (m *Mount) letRetry(ctx context.Context, at place) {
	m.mu.Lock()
	c := m.retries[at]
	m.mu.Unlock()
	if c == nil {
		return
	}
	t := time.NewTimer(retryFor)
	defer t.Stop()
	select {
	case <-c:
	case <-ctx.Done():
	case <-t.C:
		m.mu.Lock()
		m.endRetryLocked(at)
		m.mu.Unlock()
	}
}

package local

import (
	"errors"
	"sync"
	"syscall"
)

// syncs lets goroutines that wait for the same directory share one fsync(2): who comes
// while one is running waits for the next, which starts after everything they did.
type syncs struct {
	mu   sync.Mutex
	dirs map[string]*queue // guarded by mu; those that are being synced
}

// queue is what follows a running sync.
type queue struct{ next *batch }

// batch is one sync that several wait for.
type batch struct {
	ready chan struct{} // closed when the sync before it has ended
	done  chan struct{} // closed when err is set
	err   error
}

// do runs f, or waits for a run of f by another that starts after this call.
func (g *syncs) do(dir string, f func() error) error {
	g.mu.Lock()
	q := g.dirs[dir]
	if q == nil {
		if g.dirs == nil {
			g.dirs = make(map[string]*queue)
		}
		g.dirs[dir] = &queue{}
		g.mu.Unlock()
		err := f()
		g.end(dir)
		return err
	}
	b := q.next
	if b != nil {
		g.mu.Unlock()
		<-b.done
		return b.err
	}
	b = &batch{ready: make(chan struct{}), done: make(chan struct{})}
	q.next = b
	g.mu.Unlock()
	<-b.ready
	b.err = f()
	close(b.done)
	g.end(dir)
	return b.err
}

// end hands the directory to the next batch.
func (g *syncs) end(dir string) {
	g.mu.Lock()
	q := g.dirs[dir]
	b := q.next
	q.next = nil
	if b == nil {
		delete(g.dirs, dir)
	}
	g.mu.Unlock()
	if b != nil {
		close(b.ready)
	}
}

// syncDir makes the names in directory n durable.
func (s *Store) syncDir(n string) error {
	if !s.durable {
		return nil
	}
	return s.syncs.do(n, func() error {
		d, err := s.root.Open(n)
		if err != nil {
			return err
		}
		defer d.Close()
		if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) { // EINVAL: it has nothing to sync
			return err
		}
		return nil
	})
}

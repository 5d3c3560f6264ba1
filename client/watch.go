package client

import (
	"context"
	"iter"
	"sync"

	"github.com/sluicefs/sluice"
)

// watchers are those who want to know what changed.
type watchers struct {
	mu  sync.Mutex
	all map[*watcher]struct{} // guarded by mu
}

// watcher is one of them. What it does not fetch in time is summed up as "anything".
type watcher struct {
	c chan sluice.FileID
}

const watchQueue = 1024

// tell passes on which files changed; 0 means anything may have.
func (w *watchers) tell(files []uint64) {
	if len(files) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.all {
		for _, id := range files {
			one.tell(sluice.FileID(id))
		}
	}
}

func (w *watcher) tell(id sluice.FileID) {
	select {
	case w.c <- id:
		return
	default:
	}
	for { // too slow: everything that waits becomes one 0
		select {
		case <-w.c:
			continue
		default:
		}
		break
	}
	select {
	case w.c <- 0:
	default:
	}
}

// Changes implements [sluice.Watcher]. It knows of files that this client opened lately;
// of the others nobody tells it.
func (c *Client) Changes(ctx context.Context) iter.Seq[sluice.FileID] {
	w := &watcher{c: make(chan sluice.FileID, watchQueue)}
	c.watchers.mu.Lock()
	if c.watchers.all == nil {
		c.watchers.all = map[*watcher]struct{}{}
	}
	c.watchers.all[w] = struct{}{}
	c.watchers.mu.Unlock()
	return func(yield func(sluice.FileID) bool) {
		defer func() {
			c.watchers.mu.Lock()
			delete(c.watchers.all, w)
			c.watchers.mu.Unlock()
		}()
		for {
			select {
			case id := <-w.c:
				if !yield(id) {
					return
				}
			case <-ctx.Done():
				return
			case <-c.alive.Done():
				return
			}
		}
	}
}

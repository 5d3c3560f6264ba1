package master

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
)

// The bounds of questions to stores under way. A store that does not answer uses up its
// mount's, and leaves the others theirs.
const (
	maxFlights      = 16384
	maxMountFlights = 512
)

// flightGroup carries out one call per key for all who ask at once. A call goes on when
// its callers have left, until its own deadline.
type flightGroup struct {
	ctx context.Context // of the master: every call ends with it

	mu    sync.Mutex
	calls map[string]*flight     // guarded by mu
	of    map[sluice.MountID]int // guarded by mu: how many of calls; none is 0
	wg    sync.WaitGroup
}

type flight struct {
	done chan struct{} // closed when err is set
	err  error
}

func newFlightGroup(ctx context.Context) *flightGroup {
	return &flightGroup{ctx: ctx, calls: make(map[string]*flight), of: make(map[sluice.MountID]int)}
}

// do runs f once for all who ask for key at the same time, with the deadline limit, and
// returns its error, or that of ctx. Busy: the mount has too many under way.
func (g *flightGroup) do(ctx context.Context, mount sluice.MountID, key string, limit time.Duration, f func(context.Context) error) error {
	g.mu.Lock()
	c := g.calls[key]
	if c == nil {
		if len(g.calls) >= maxFlights || g.of[mount] >= maxMountFlights || g.ctx.Err() != nil {
			g.mu.Unlock()
			return &sluice.Error{Kind: sluice.Busy, Err: errors.New("too many questions to the store are under way; try again")}
		}
		c = &flight{done: make(chan struct{})}
		g.calls[key] = c
		g.of[mount]++
		g.wg.Go(func() { g.run(mount, key, c, limit, f) })
	}
	g.mu.Unlock()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *flightGroup) run(mount sluice.MountID, key string, c *flight, limit time.Duration, f func(context.Context) error) {
	ctx, cancel := context.WithTimeout(g.ctx, limit)
	defer cancel()
	c.err = f(ctx)
	g.mu.Lock()
	delete(g.calls, key)
	if g.of[mount]--; g.of[mount] == 0 {
		delete(g.of, mount)
	}
	g.mu.Unlock()
	close(c.done)
}

// wait returns when no call is under way, after the master's context has ended.
func (g *flightGroup) wait() { g.wg.Wait() }

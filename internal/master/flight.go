package master

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
)

// maxFlights bounds how many questions to stores are under way, for all mounts.
const maxFlights = 4096

// flightGroup carries out one call per key for all who ask at once. A call goes on when
// its callers have left, until its own deadline.
type flightGroup struct {
	ctx context.Context // of the master: every call ends with it

	mu    sync.Mutex
	calls map[string]*flight // guarded by mu
	wg    sync.WaitGroup
}

type flight struct {
	done chan struct{} // closed when err is set
	err  error
}

func newFlightGroup(ctx context.Context) *flightGroup {
	return &flightGroup{ctx: ctx, calls: make(map[string]*flight)}
}

// do runs f once for all who ask for key at the same time, with the deadline limit, and
// returns its error, or that of ctx.
func (g *flightGroup) do(ctx context.Context, key string, limit time.Duration, f func(context.Context) error) error {
	g.mu.Lock()
	c := g.calls[key]
	if c == nil {
		if len(g.calls) >= maxFlights || g.ctx.Err() != nil {
			g.mu.Unlock()
			return &sluice.Error{Kind: sluice.Busy, Err: errors.New("too many questions to stores are under way; try again")}
		}
		c = &flight{done: make(chan struct{})}
		g.calls[key] = c
		g.wg.Go(func() { g.run(key, c, limit, f) })
	}
	g.mu.Unlock()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *flightGroup) run(key string, c *flight, limit time.Duration, f func(context.Context) error) {
	ctx, cancel := context.WithTimeout(g.ctx, limit)
	defer cancel()
	c.err = f(ctx)
	g.mu.Lock()
	delete(g.calls, key)
	g.mu.Unlock()
	close(c.done)
}

// wait returns when no call is under way, after the master's context has ended.
func (g *flightGroup) wait() { g.wg.Wait() }

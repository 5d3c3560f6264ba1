// Package guard puts the interceptors around a mount's store, in the order in which they
// must stand, and says how the store fares. From the outside: trace counts what callers
// see; the breaker answers for a dead store; the deadline bounds the call with all its
// tries; retry repeats it; the limit bounds each try. It has no opinion on what is called.
package guard

import (
	"cmp"
	"log/slog"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/breaker"
	"github.com/sluicefs/sluice/underfs/limit"
	"github.com/sluicefs/sluice/underfs/retry"
	"github.com/sluicefs/sluice/underfs/trace"
)

// Defaults where MountOptions say nothing.
const (
	DefaultTimeout    = 30 * time.Second
	DefaultConcurrent = 64
)

// Config sets a Guard. Zero values are useful.
type Config struct {
	Mount   string              // the mount's path, named in errors
	Options sluice.MountOptions // Timeout, Concurrent, Bandwidth
	Retry   retry.Config        // Resume and, where it is 0, Seed are set here
	Breaker breaker.Config      // Mount is set here
	Logger  *slog.Logger        // nil discards
	Seed    uint64
}

// Guard is a store with its interceptors.
type Guard struct {
	store    underfs.Store
	features underfs.Features
	trace    *trace.Trace
	breaker  *breaker.Breaker
	retry    *retry.Retry
	limit    *limit.Limit
}

// New puts the interceptors around s, which belongs to the guard from here on.
func New(s underfs.Store, cfg Config) *Guard {
	f := s.Features()
	cfg.Retry.Resume = f.Conditional
	cfg.Retry.Seed = cmp.Or(cfg.Retry.Seed, cfg.Seed)
	cfg.Breaker.Mount = cfg.Mount
	g := &Guard{
		features: f,
		trace:    trace.New(cfg.Logger),
		breaker:  breaker.New(cfg.Breaker),
		retry:    retry.New(cfg.Retry),
		limit:    limit.New(cmp.Or(cfg.Options.Concurrent, DefaultConcurrent), cfg.Options.Bandwidth),
	}
	d := &deadline{limit: cmp.Or(cfg.Options.Timeout, DefaultTimeout), mount: cfg.Mount}
	g.store = underfs.Intercept(s, g.trace, g.breaker, d, g.retry, g.limit)
	return g
}

// Open opens a mount's store with its interceptors.
func Open(r *underfs.Registry, store underfs.Config, cfg Config) (*Guard, error) {
	s, err := r.Open(store)
	if err != nil {
		return nil, err
	}
	cfg.Options = store.Options
	return New(s, cfg), nil
}

// Store returns the guarded store. Its capabilities are found with [underfs.As].
func (g *Guard) Store() underfs.Store { return g.store }

// Close closes the store.
func (g *Guard) Close() error { return g.store.Close() }

// Set changes the bounds of calls at once and bytes per second while it runs.
func (g *Guard) Set(concurrent int, bandwidth int64) { g.limit.Set(concurrent, bandwidth) }

// Stats are those of the interceptors.
type Stats struct {
	Trace   trace.Stats
	Breaker breaker.Stats
	Retry   retry.Stats
	Limit   limit.Stats
}

// Stats returns what the interceptors counted.
func (g *Guard) Stats() Stats {
	return Stats{Trace: g.trace.Stats(), Breaker: g.breaker.Stats(), Retry: g.retry.Stats(), Limit: g.limit.Stats()}
}

// Health returns how the store fares, for reports; Skipped and Intents are the caller's
// to fill in.
func (g *Guard) Health() sluice.Health {
	s := g.Stats()
	h := sluice.Health{
		OK:       s.Breaker.State == breaker.Closed && s.Breaker.Failures == 0,
		Message:  s.Breaker.Last,
		Since:    s.Breaker.Since,
		Breaker:  s.Breaker.State.String(),
		InFlight: s.Limit.InFlight,
		Checked:  "checked",
	}
	if g.features.Conditional {
		h.Checked = "conditional"
		if !g.features.CreateIfAbsent || !g.features.ReplaceIf {
			h.Checked += ", writes checked"
		}
	}
	for _, o := range s.Trace.Ops {
		h.Calls += o.Calls
		h.Errors += o.Errors
		if o.Op == underfs.OpRead {
			h.BytesRead += o.Bytes
		} else {
			h.BytesSent += o.Bytes
		}
	}
	if h.Message == "" {
		h.Message = s.Trace.Last
	}
	return h
}

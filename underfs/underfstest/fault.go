package underfstest

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// Fault is what happens to calls of one operation. Several may be injected at once.
type Fault struct {
	Rate    float64       // the share of calls it hits, by the seed; 0 means all
	Skip    int           // so many calls are let through first
	Times   int           // it hits so many calls at most; 0 means no end
	Latency time.Duration // the call waits so long first, or until its context ends
	Hang    bool          // the call waits until its context ends
	Kind    sluice.Kind   // the call fails with this kind; Internal (0) means it does not fail
	After   bool          // it fails after it was done, not instead
	Torn    int64         // the body of a read fails as Unavailable behind so many bytes
	Short   bool          // reads of a body return a few bytes at a time
	Flip    bool          // the object gets another content of equal length while the body is read
}

// Inject adds a fault for calls of op.
func (m *Memory) Inject(op underfs.Op, f Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults[op] = append(m.faults[op], f)
}

// Heal removes every fault. Calls that hang go on hanging.
func (m *Memory) Heal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.faults)
}

// hit counts a call and returns the faults that hit it, as one.
func (m *Memory) hit(op underfs.Op) Fault {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls[op]++
	var sum Fault
	faults := m.faults[op]
	kept := faults[:0]
	for _, f := range faults {
		if f.Skip > 0 {
			f.Skip--
		} else if f.Rate == 0 || m.rng.Float64() < f.Rate {
			sum = merge(sum, f)
			if f.Times == 1 {
				continue
			}
			f.Times = max(f.Times-1, 0)
		}
		kept = append(kept, f)
	}
	m.faults[op] = kept
	return sum
}

// merge joins two faults of one call.
func merge(a, b Fault) Fault {
	a.Latency += b.Latency
	a.Hang = a.Hang || b.Hang
	a.Short = a.Short || b.Short
	a.Flip = a.Flip || b.Flip
	a.Torn = max(a.Torn, b.Torn)
	if b.Kind != 0 {
		a.Kind, a.After = b.Kind, b.After
	}
	return a
}

// errInjected is the cause of every injected failure.
var errInjected = errors.New("injected")

// call runs f with the faults of op around it.
func call[T any](ctx context.Context, s *memStore, op underfs.Op, key underfs.Key, f func() (T, error)) (T, error) {
	var zero T
	fault, err := s.begin(ctx, op, key)
	if err != nil {
		return zero, err
	}
	if fault.Kind != 0 && !fault.After {
		return zero, underfs.Fail(op.String(), key, fault.Kind, errInjected)
	}
	out, err := f()
	if err == nil && fault.Kind != 0 {
		return zero, underfs.Fail(op.String(), key, fault.Kind, errInjected)
	}
	return out, err
}

// begin waits as the faults of op say.
func (s *memStore) begin(ctx context.Context, op underfs.Op, key underfs.Key) (Fault, error) {
	fault := s.m.hit(op)
	if s.closed.Load() {
		return fault, underfs.Failf(op.String(), key, sluice.Invalid, "the store is closed")
	}
	if fault.Hang {
		<-ctx.Done()
	} else if fault.Latency > 0 {
		t := time.NewTimer(fault.Latency)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	return fault, underfs.Fail(op.String(), key, sluice.Unavailable, ctx.Err())
}

// number writes n as versions and upload ids have it.
func number(n uint64) string { return strconv.FormatUint(n, 36) }

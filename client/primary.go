package client

import (
	"context"
	"errors"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// The times of the watch.
const (
	watchEvery = 500 * time.Millisecond
	watchWait  = 500 * time.Millisecond // for the answer to a question that needs no work
)

// watchPrimary turns to another primary where the one known does not answer at all, as a
// process that is stopped or a machine that is gone: connections to it stay open, and
// requests would wait for ever.
func (m *masters) watchPrimary(ctx context.Context) {
	var last *desk
	var ended int64
	for sleep(ctx, watchEvery) == nil {
		d := m.primary.Load()
		if d == nil {
			continue
		}
		quiet := d == last && d.ended.Load() == ended && d.begun.Load() > ended
		last, ended = d, d.ended.Load()
		if quiet && !m.answers(ctx, d) {
			m.turnFrom(ctx, d)
		}
	}
}

// answers says whether a master answers anything.
func (m *masters) answers(ctx context.Context, d *desk) bool {
	err := m.ping(ctx, d)
	return err == nil || answered(err)
}

func (m *masters) ping(ctx context.Context, d *desk) error {
	ctx, cancel := context.WithTimeout(ctx, watchWait)
	defer cancel()
	return d.conn.Call(ctx, wire.MethodPing, &wire.Empty{}, nil)
}

// turnFrom looks for a primary that is not d. If there is one, what waits for d is sent
// again there, under the same request ids.
func (m *masters) turnFrom(ctx context.Context, d *desk) {
	all, err := m.find(ctx)
	if err != nil {
		return
	}
	asked := map[string]bool{d.addr: true}
	for len(all) > 0 && len(asked) < maxMasters {
		addr := all[0]
		all = all[1:]
		if addr == "" || asked[addr] {
			continue
		}
		asked[addr] = true
		other, err := m.desk(addr)
		if err != nil {
			return
		}
		if err = m.ping(ctx, other); err == nil {
			m.primary.CompareAndSwap(d, other)
			m.forsake(d)
			return
		}
		if e, ok := errors.AsType[*sluice.Error](err); ok && e.Kind == sluice.NotPrimary {
			all = append(all, e.Primary)
		}
	}
}

// forsake ends the connection to a master that does not answer; it is made anew when it
// is needed.
func (m *masters) forsake(d *desk) {
	m.mu.Lock()
	gone := m.desks[d.addr] == d
	if gone {
		delete(m.desks, d.addr)
	}
	m.mu.Unlock()
	if gone {
		d.conn.Close()
	}
}

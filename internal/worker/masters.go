package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// masters follows the primary.
type masters struct {
	cfg Config

	mu      sync.Mutex
	conns   map[string]*rpc.Client // guarded by mu
	primary string                 // guarded by mu; "" where it is not known
	over    bool                   // guarded by mu
}

func newMasters(cfg Config) *masters {
	return &masters{cfg: cfg, conns: make(map[string]*rpc.Client)}
}

// call asks the primary; where that is not known, or is it no more, every master once.
func (m *masters) call(ctx context.Context, method rpc.Method, req, resp rpc.Message) error {
	m.mu.Lock()
	addr := m.primary
	m.mu.Unlock()
	tried := make(map[string]bool)
	var last error
	if addr != "" {
		tried[addr] = true
		if last = m.ask(ctx, addr, method, req, resp); !elsewhere(last) && !errors.Is(last, sluice.Timeout) || ctx.Err() != nil {
			return last
		}
	}
	all, err := m.cfg.Masters(ctx)
	if err != nil {
		return sluice.Wrap("find masters", "", err)
	}
	if named := primaryOf(last); named != "" {
		all = append([]string{named}, all...)
	}
	for len(all) > 0 {
		addr, all = all[0], all[1:]
		if addr == "" || tried[addr] {
			continue
		}
		tried[addr] = true
		last = m.ask(ctx, addr, method, req, resp)
		if !elsewhere(last) && !errors.Is(last, sluice.Timeout) || ctx.Err() != nil {
			return last
		}
		if named := primaryOf(last); named != "" && len(tried) < maxMasters {
			all = append([]string{named}, all...)
		}
	}
	if last == nil {
		last = &sluice.Error{Kind: sluice.Unavailable, Err: errors.New("no master is known")}
	}
	return last
}

// maxMasters bounds how many masters one call is tried with.
const maxMasters = 64

// elsewhere says that another master may answer what this one did not.
func elsewhere(err error) bool {
	return err != nil && (errors.Is(err, sluice.NotPrimary) || errors.Is(err, sluice.Unavailable))
}

// primaryOf is the primary that an error names, "" for none.
func primaryOf(err error) string {
	if e, ok := errors.AsType[*sluice.Error](err); ok && e.Kind == sluice.NotPrimary {
		return e.Primary
	}
	return ""
}

func (m *masters) ask(ctx context.Context, addr string, method rpc.Method, req, resp rpc.Message) error {
	c, err := m.conn(addr)
	if err != nil {
		return err
	}
	if method == wire.MethodHeartbeat { // it needs no work: who does not answer is not there
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, beatTimeout/4)
		defer cancel()
	}
	err = c.Call(ctx, method, req, resp)
	if err != nil {
		err = fmt.Errorf("master %s: %w", addr, err)
	}
	var left []*rpc.Client
	m.mu.Lock()
	switch {
	case err == nil && m.primary != addr:
		m.primary = addr
		left = m.leaveLocked(addr)
	case m.primary == addr && (elsewhere(err) || errors.Is(err, sluice.Timeout)):
		m.primary = ""
	}
	m.mu.Unlock()
	for _, c := range left {
		_ = c.Close() // nothing is sent by it
	}
	return err
}

// leaveLocked gives up the connections to all but the primary: requests may wait there
// for a master that will never answer.
func (m *masters) leaveLocked(primary string) []*rpc.Client {
	var left []*rpc.Client
	for addr, c := range m.conns {
		if addr != primary {
			left = append(left, c)
			delete(m.conns, addr)
		}
	}
	return left
}

func (m *masters) conn(addr string) (*rpc.Client, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return nil, errStopping()
	}
	if c := m.conns[addr]; c != nil {
		return c, nil
	}
	if len(m.conns) >= maxMasters {
		return nil, &sluice.Error{Kind: sluice.Unavailable, Err: errors.New("too many addresses of masters")}
	}
	t := rpc.Target{Address: addr}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		t = rpc.Target{Socket: path}
	}
	c := rpc.NewClient(m.cfg.RPC, t)
	m.conns[addr] = c
	return c, nil
}

// close ends the connections.
func (m *masters) close() error {
	m.mu.Lock()
	m.over = true
	conns := m.conns
	m.conns = nil
	m.mu.Unlock()
	var errs []error
	for _, c := range conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

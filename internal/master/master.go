package master

import (
	"context"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
)

// Master is one master, open. Its methods may be called from any goroutine.
type Master struct{ cfg Config }

// Open opens or makes the master in cfg.Dir. See [Config].
func Open(ctx context.Context, cfg Config) (*Master, error) { panic("not built") }

// Handler answers requests of clients and workers.
func (m *Master) Handler() rpc.Handler { panic("not built") }

// Inline says which methods never wait, for rpc.ServerConfig.
func (m *Master) Inline(rpc.Method) bool { return false }

// Identity is what the server says of itself in the handshake.
func (m *Master) Identity() rpc.Identity { panic("not built") }

// Ready says whether it answers requests; the error says why not.
func (m *Master) Ready() error { panic("not built") }

// Stats returns counters and gauges.
func (m *Master) Stats() Stats { panic("not built") }

// As returns the contracts of the words, acting for p. It is for tests and for doors in
// the master's own process that authenticate by themselves.
func (m *Master) As(p sluice.Principal) Desk { panic("not built") }

// Close ends everything and waits for it.
func (m *Master) Close() error { panic("not built") }

// Desk is a master as one principal sees it.
type Desk interface {
	sluice.Master
	sluice.Admin
}

// Stats describes a master at one moment.
type Stats struct{}

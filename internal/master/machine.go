package master

import (
	"fmt"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/journal"
	"github.com/sluicefs/sluice/internal/namespace"
	"github.com/sluicefs/sluice/internal/wire"
)

// machine lets the journal drive the state.
type machine struct{ state *namespace.State }

// Apply implements journal.Machine. An entry that this build cannot read or apply stops
// the member: it must not go on with another state than its peers.
func (m *machine) Apply(e journal.Entry) any {
	entry := &wire.Entry{}
	if err := entry.UnmarshalVT(e.Data); err != nil {
		return journal.Halt{Err: fmt.Errorf("it cannot be decoded: %w", err)}
	}
	answers, err := m.state.Apply(e.Index, entry)
	if err != nil {
		return journal.Halt{Err: err}
	}
	return answers
}

// Applied implements journal.Machine.
func (m *machine) Applied() sluice.Index { return m.state.Applied() }

// Flush implements journal.Machine.
func (m *machine) Flush() (sluice.Index, error) { return m.state.Flush() }

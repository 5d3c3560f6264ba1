package master

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/journal"
	"github.com/sluicefs/sluice/internal/keyvalue"
	"github.com/sluicefs/sluice/internal/namespace"
	"github.com/sluicefs/sluice/internal/wire"
)

// machine lets the journal drive the state.
type machine struct {
	state *namespace.State
	db    keyvalue.DB // where checkpoints are made of; nil: none are
	fs    vfs.FS
}

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

// Checkpoint implements journal.Carrier, by hard links.
func (m *machine) Checkpoint(dir string) (sluice.Index, error) {
	if m.db == nil {
		return 0, &sluice.Error{Op: "checkpoint", Kind: sluice.Unsupported, Err: errors.New("a master that is alone makes none")}
	}
	if _, err := m.state.Flush(); err != nil {
		return 0, err
	}
	if err := m.db.Checkpoint(dir); err != nil {
		return 0, err
	}
	// More may have become durable than the flush has seen: the copy itself says what.
	db, err := keyvalue.OpenPebble(keyvalue.PebbleConfig{FS: m.fs, Dir: dir, CacheBytes: 1 << 20})
	if err != nil {
		return 0, err
	}
	state, err := namespace.Open(db, namespace.Config{CacheRows: 1})
	if err != nil {
		return 0, errors.Join(err, db.Close())
	}
	index := state.Applied()
	return index, db.Close()
}

var _ journal.Carrier = (*machine)(nil)

package journal

import (
	"context"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
)

// Journal is one member's log, open.
type Journal struct{}

// Open opens or makes the journal in cfg.Dir.
func Open(ctx context.Context, cfg Config) (*Journal, error) { return nil, sluice.Unsupported }

// Propose appends data to the log and returns the Machine's answer.
func (j *Journal) Propose(ctx context.Context, data []byte) (any, error) {
	return nil, sluice.Unsupported
}

// ReadBarrier returns an index such that a reader who has applied it reads linearizably.
func (j *Journal) ReadBarrier(ctx context.Context) (sluice.Index, error) {
	return 0, sluice.Unsupported
}

// Status returns how the journal stands.
func (j *Journal) Status() Status { return Status{} }

// Leading returns the term in which this member is the primary and has applied an
// entry of that term, 0 if it is not, and a channel closed when that changes.
func (j *Journal) Leading() (sluice.Term, <-chan struct{}) { return 0, nil }

// Done is closed when the journal has stopped, by Close or by a failure.
func (j *Journal) Done() <-chan struct{} { return nil }

// Close stops the journal.
func (j *Journal) Close() error { return nil }

// Report says what ReadLog found.
type Report struct {
	Cluster  string
	Node     uint64
	Segments int
	Bytes    int64
	First    sluice.Index
	Last     sluice.Index
	Commit   sluice.Index
	Term     sluice.Term
	CutBytes int64
}

// ReadLog reads the log of a stopped master.
func ReadLog(fs vfs.FS, dir string, fn func(Entry) error) (Report, error) {
	return Report{}, sluice.Unsupported
}

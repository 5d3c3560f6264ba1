// Package journal owns the replicated, durable, ordered log of opaque entries, on
// etcd-io/raft and segment files of its own. What it has acknowledged is applied to
// the Machine on every master, in one order, and survives a crash.
//
// It refuses to know what an entry means, and it takes no snapshots of the state: the
// Machine keeps its own state on disk and says how far it is durable; the log is cut
// below that. Only this package knows Raft.
package journal

import (
	"context"

	"github.com/sluicefs/sluice"
)

// Entry is one position of the log.
type Entry struct {
	Index sluice.Index
	Term  sluice.Term
	// Data is what was proposed, not to be changed. It is empty in entries of the
	// journal's own (a new primary's first entry), which only advance the index.
	Data []byte
}

// Machine is the state that the log drives.
type Machine interface {
	// Apply carries out an entry and returns the answer for its proposer. One
	// goroutine calls it, in the order of the log, without a gap. An entry at or
	// below Applied must be ignored.
	Apply(e Entry) any
	// Applied returns the index of the last entry applied. It may be called at any
	// time from any goroutine. Right after a start it says what survived.
	Applied() sluice.Index
	// Flush makes durable what was applied before the call, and returns the highest
	// index that is durable. It is called beside Apply, by one goroutine.
	Flush() (sluice.Index, error)
}

// Status says how a journal stands.
type Status struct {
	Node     uint64
	Term     sluice.Term
	Leader   uint64 // node id of the primary as far as known, 0 if unknown
	Leading  bool   // this one is the primary and has applied an entry of its term
	First    sluice.Index
	Last     sluice.Index // the last entry in the log's files
	Commit   sluice.Index
	Applied  sluice.Index
	Durable  sluice.Index // what the Machine last reported
	Voters   []uint64
	Learners []uint64
	Bytes    int64 // of the log's files
	Segments int
	Syncs    uint64 // disk syncs of the log since the start
	Entries  uint64 // entries written since the start; Entries/Syncs is the group size
	ReadOnly bool   // there is no room on disk; proposals are refused
	FlushErr error  // why the Machine's last Flush failed, nil if it did not
	Err      error  // why the journal stopped by itself, nil while it works
}

var _ = context.Background

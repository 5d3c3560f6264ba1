package journal

import (
	"context"
	"encoding/binary"
	"time"

	"go.etcd.io/raft/v3"
)

// The times of elections, in ticks. A follower that heard of the primary refuses its
// vote to others until electionTicks have passed, of which the first may be short; the
// lease is shorter than that by two ticks and the drift of clocks.
const (
	electionTicks = 10
	leaseTicks    = 7
)

// lease lets the primary answer reads without asking the others each time: a majority
// confirmed it, and votes for nobody else meanwhile. It counts from the sending of the
// question, on the boot-time clock, which goes on while the machine sleeps. Guarded by
// the journal's mutex.
type lease struct {
	until time.Duration
	// barred: a transfer was begun in this term. Its last message may arrive at any time
	// and makes the other campaign whoever holds a lease, so there are none any more.
	barred uint64
}

// leased says whether reads may be answered from here.
func (j *Journal) leased() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.leading != 0 && (j.role.sole || j.cfg.Boot() < j.lease.until)
}

// Leased says whether this member still is the primary for sure: by its lease, else by
// asking the others. It is asked after a read, before the answer leaves.
func (j *Journal) Leased(ctx context.Context) bool {
	if j.leased() {
		return true
	}
	_, err := j.ReadBarrier(ctx)
	return err == nil
}

// extend notes that a majority confirmed a round begun at a time in a term.
func (j *Journal) extendLocked(term uint64, sent time.Duration) {
	if j.role.primary && j.role.term == term && j.lease.barred != term {
		j.lease.until = max(j.lease.until, sent+leaseTicks*j.cfg.Tick)
	}
}

// bar ends the lease for the rest of the term.
func (j *Journal) bar(term uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lease.until, j.lease.barred = 0, term
}

// ask begins a round that confirms that this member is the primary.
func (r *rounds) ask(j *Journal, b *barrier) {
	r.next++
	b.id, b.sent, b.term = r.next, j.cfg.Boot(), j.raft.BasicStatus().Term
	r.open = append(r.open, b)
	j.raft.ReadIndex(binary.BigEndian.AppendUint64(nil, b.id))
}

// tick does what is due from time to time.
func (j *Journal) tick(r *rounds) {
	if !j.mute() {
		j.raft.Tick()
	}
	if j.raft.BasicStatus().RaftState != raft.StateLeader {
		return
	}
	if !j.sole() && len(r.open) < maxRounds {
		r.ask(j, &barrier{})
	}
	for node, at := range j.snaps {
		if j.cfg.Boot()-max(at, j.offers.touched(node)) > snapshotPatience {
			delete(j.snaps, node)
			j.reportSnapshot(node, false)
		}
	}
}

// maxRounds bounds the rounds of the journal's own that nobody confirms.
const maxRounds = 64

func (j *Journal) reportSnapshot(node uint64, done bool) {
	status := raft.SnapshotFailure
	if done {
		status = raft.SnapshotFinish
	}
	j.raft.ReportSnapshot(node, status)
}

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
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
	"golang.org/x/sync/semaphore"

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
	// below Applied must be ignored. An answer of type Halt stops this member before
	// anything later is applied.
	Apply(e Entry) any
	// Applied returns the index of the last entry applied. It may be called at any
	// time from any goroutine. Right after a start it says what survived.
	Applied() sluice.Index
	// Flush makes durable what was applied before the call, and returns the highest
	// index that is durable. It is called beside Apply, by one goroutine.
	Flush() (sluice.Index, error)
}

// Halt is what a Machine answers when it must not go on: an entry that this version
// does not know, or a state that differs from the other members'.
type Halt struct{ Err error }

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
	Members  []Member // with their addresses, where there ever were several
	Bytes    int64    // of the log's files
	Segments int
	Syncs    uint64 // disk syncs of the log since the start
	Entries  uint64 // entries written since the start; Entries/Syncs is the group size
	ReadOnly bool   // there is no room on disk; proposals are refused
	FlushErr error  // why the Machine's last Flush failed, nil if it did not
	Err      error  // why the journal stopped by itself, nil while it works
}

// Journal is one member's log, open. Its methods may be called from any goroutine.
type Journal struct {
	cfg   Config
	store *store
	lock  io.Closer
	room  *semaphore.Weighted

	// The loop's own, after Open.
	raft      *raft.RawNode
	silent    time.Duration            // on the boot clock: before it this member does not vote
	confIndex uint64                   // of the last change of the members
	changing  *change                  // under way
	snaps     map[uint64]time.Duration // members that were told to fetch a checkpoint
	heard     map[uint64]time.Duration // when each was heard of
	fetching  bool
	installed bool   // a checkpoint stands since this start, and no primary is known to know
	incoming  uint64 // the fetch's own: id of the checkpoint that is there in part

	offers  *offers
	fetches sync.WaitGroup

	inbox   *mailbox[any]       // to the loop
	appends *mailbox[appendJob] // to the appender
	applies *mailbox[applyJob]  // to the applier
	flush   chan struct{}       // to the flusher: enough was applied
	stop    chan struct{}       // closed when everything must end
	done    chan struct{}       // closed when every goroutine has ended
	halt    sync.Once           // closes stop
	release sync.Once           // what Close does after done
	closing error               // what Close returns

	mu       sync.Mutex
	waiting  map[uint64]*proposal // by index, handed to the log and not yet applied
	readers  []*barrier           // of known index, waiting for it to be applied
	role     role
	leading  sluice.Term   // see Leading
	changed  chan struct{} // closed and replaced when leading changes
	applied  uint64
	durable  sluice.Index
	flushErr error
	failure  error // why the journal stopped by itself
	lease    lease
}

// role is what Raft last said of this member.
type role struct {
	term, leader uint64
	primary      bool
	sole         bool // the only voter
	commit       uint64
	voters       []uint64
	learners     []uint64
	book         []Member
}

// Open opens or makes the journal in cfg.Dir, brings the Machine up to the log, and
// where this member is the only voter, returns when it is the primary. Errors: Invalid
// for the configuration or another cluster's log; Busy when another process has the
// directory; Corrupt for damage that a crash cannot have caused and for a gap between
// state and log; Unsupported for a later version's files; Timeout, Cancelled.
func Open(ctx context.Context, cfg Config) (*Journal, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.filled()
	j, err := open(cfg)
	if err != nil {
		return nil, sluice.Wrap("open journal", "", err)
	}
	j.start()
	for {
		term, changed := j.Leading()
		if term != 0 || !j.sole() {
			return j, nil
		}
		select {
		case <-changed:
		case <-j.done:
			err = j.cause()
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return nil, errors.Join(sluice.Wrap("open journal", "", err), j.Close())
		}
	}
}

// open readies a journal without its goroutines.
func open(cfg Config) (*Journal, error) {
	if err := cfg.FS.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := syncDir(cfg.FS, cfg.FS.PathDir(cfg.Dir)); err != nil {
		return nil, err
	}
	lock, err := lockDir(cfg.FS, cfg.Dir)
	if err != nil {
		return nil, err
	}
	applied := cfg.Machine.Applied()
	err = clearCheckpoints(cfg)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	s, err := openStore(cfg, applied)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	node, err := raft.NewRawNode(&raft.Config{
		ID: cfg.Node, ElectionTick: 10, HeartbeatTick: 1,
		Storage: s, Applied: uint64(applied), AsyncStorageWrites: true,
		MaxSizePerMsg: 1 << 20, MaxCommittedSizePerReady: 16 << 20, MaxInflightMsgs: 256,
		CheckQuorum: true, PreVote: true, StepDownOnRemoval: true, DisableProposalForwarding: true,
		MaxInflightBytes: maxInflightBytes, Logger: raftLogger{cfg.Log},
	})
	if err != nil {
		s.close()
		return nil, errors.Join(err, lock.Close())
	}
	j := &Journal{
		cfg: cfg, store: s, lock: lock, raft: node, room: semaphore.NewWeighted(cfg.MaxInflight),
		inbox: newMailbox[any](), appends: newMailbox[appendJob](), applies: newMailbox[applyJob](),
		flush: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		waiting: make(map[uint64]*proposal), changed: make(chan struct{}),
		applied: uint64(applied), durable: applied, snaps: make(map[uint64]time.Duration), heard: make(map[uint64]time.Duration),
	}
	j.installed = s.anew
	j.offers = newOffers(j)
	s.offer = j.offers.snapshot
	j.setMembers(s.start)
	return j, nil
}

// maxInflightBytes bounds what is on its way to one other member.
const maxInflightBytes = 32 << 20

// clearCheckpoints removes what an earlier process left of checkpoints.
func clearCheckpoints(cfg Config) error {
	return errors.Join(cfg.FS.RemoveAll(cfg.FS.PathJoin(cfg.Dir, outgoingDir)), cfg.FS.RemoveAll(cfg.FS.PathJoin(cfg.Dir, incomingDir)))
}

// start starts the goroutines and one that waits for them.
func (j *Journal) start() {
	var wg sync.WaitGroup
	wg.Go(j.loop)
	wg.Go(j.appender)
	wg.Go(j.applier)
	wg.Go(j.flusher)
	if j.cfg.Transport != nil {
		wg.Go(j.offers.run)
	}
	go func() {
		wg.Wait()
		j.fetches.Wait()
		j.abandon()
		close(j.done)
	}()
}

// Leading returns the term in which this member is the primary and has applied an
// entry of that term, 0 if it is not, and a channel closed when that changes.
func (j *Journal) Leading() (sluice.Term, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.leading, j.changed
}

// Done is closed when the journal has stopped, by Close or by a failure that
// Status().Err tells. Close must be called in both cases.
func (j *Journal) Done() <-chan struct{} { return j.done }

// Close stops the journal, lets the Machine make its state durable, and releases the
// directory. Proposals under way end as UnknownOutcome. It may be called again.
func (j *Journal) Close() error {
	j.halt.Do(func() { close(j.stop) })
	<-j.done
	j.release.Do(func() {
		_, err := j.cfg.Machine.Flush()
		j.store.close()
		j.closing = sluice.Wrap("close journal", "", errors.Join(err, j.lock.Close()))
	})
	return j.closing
}

// fail stops the journal because of err.
func (j *Journal) fail(err error) {
	j.mu.Lock()
	if j.failure == nil {
		j.failure = err
	}
	j.mu.Unlock()
	if _, ok := errors.AsType[*Arrived](err); !ok {
		j.cfg.Log.Error("the journal has stopped: restart the master when the cause is removed", "cause", err)
	}
	j.halt.Do(func() { close(j.stop) })
}

// cause returns why the journal does not work, once it has ended.
func (j *Journal) cause() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failure != nil {
		return &sluice.Error{Kind: sluice.Unavailable, Err: fmt.Errorf("the journal has stopped: %w", j.failure)}
	}
	return &sluice.Error{Kind: sluice.Unavailable, Err: errors.New("the journal is closed")}
}

// sole says whether this member is the only voter.
func (j *Journal) sole() bool {
	if j.mute() {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.role.sole
}

// mute says that this member has no say yet.
func (j *Journal) mute() bool {
	if j.cfg.Floor == 0 {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.applied < uint64(j.cfg.Floor)
}

// Status returns how the journal stands.
func (j *Journal) Status() Status {
	st := j.store.status()
	j.mu.Lock()
	defer j.mu.Unlock()
	st.Node, st.Term, st.Leader, st.Leading = j.cfg.Node, sluice.Term(j.role.term), j.role.leader, j.leading != 0
	st.Commit, st.Applied, st.Durable = sluice.Index(j.role.commit), sluice.Index(j.applied), j.durable
	st.Voters, st.Learners, st.Members = j.role.voters, j.role.learners, j.role.book
	st.FlushErr, st.Err = j.flushErr, j.failure
	return st
}

// flusher makes the Machine's state durable from time to time, and lets the loop cut
// the log below it.
func (j *Journal) flusher() {
	tick := time.NewTicker(j.cfg.FlushInterval)
	defer tick.Stop()
	for {
		select {
		case <-j.stop:
			return
		case <-tick.C:
		case <-j.flush:
		}
		j.mu.Lock()
		idle := sluice.Index(j.applied) == j.durable
		j.mu.Unlock()
		if idle {
			continue
		}
		durable, err := j.cfg.Machine.Flush()
		j.mu.Lock()
		first := err != nil && j.flushErr == nil
		j.flushErr = err
		if err == nil {
			j.durable = max(j.durable, durable)
			durable = j.durable
		}
		j.mu.Unlock()
		if first {
			j.cfg.Log.Error("the state cannot be made durable: the journal grows until it can", "cause", err)
		}
		if err == nil {
			j.inbox.put(cut{uint64(durable)})
		}
	}
}

package journal

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/sluicefs/sluice"
)

// cut asks the loop to let go of the log, of which the Machine needs nothing up to an
// index.
type cut struct{ index uint64 }

// rounds are the barriers that wait for Raft's confirmation.
type rounds struct {
	next uint64
	open []*barrier
}

// loop is the one goroutine that touches Raft. It waits for nobody: what takes time is
// done by the appender and the applier, whose results come back through the inbox.
func (j *Journal) loop() {
	tick := time.NewTicker(j.cfg.Tick)
	defer tick.Stop()
	var r rounds
	defer func() {
		j.refuseBarriers(&r, j.cause)
		j.endChange(&sluice.Error{Kind: sluice.UnknownOutcome, Err: errors.New("the master has stopped")})
	}()
	if !j.sole() {
		j.silent = j.cfg.Boot() + electionTicks*j.cfg.Tick
	} else {
		// Nobody else can hold a lease or a vote: there is nothing to wait for.
		if err := j.raft.Campaign(); err != nil {
			j.fail(err)
			return
		}
	}
	j.carryOut(nil, &r)
	var items []any
	for {
		select {
		case <-j.stop:
			return
		case <-tick.C:
			j.tick(&r)
		case <-j.inbox.wake:
			items = j.inbox.take(items)
		}
		var batch []*proposal
		for _, item := range items {
			p, ok := item.(*proposal)
			if ok {
				batch = j.propose(batch, p)
				continue
			}
			// Proposals are matched with the entries Raft makes of them, so nothing
			// else may come between.
			if len(batch) > 0 {
				j.carryOut(batch, &r)
				batch = nil
			}
			j.handle(item, &r)
		}
		clear(items)
		items = items[:0]
		j.carryOut(batch, &r)
	}
}

// propose hands one proposal to Raft; those accepted are added to batch.
func (j *Journal) propose(batch []*proposal, p *proposal) []*proposal {
	if err := p.ctx.Err(); err != nil {
		j.finish(p, answer{err: err}) // not in the log: certainly not done
		return batch
	}
	st := j.raft.BasicStatus()
	if st.RaftState != raft.StateLeader {
		j.finish(p, answer{err: sluice.NotPrimary})
		return batch
	}
	if err := j.raft.Propose(p.data); err != nil {
		j.finish(p, answer{err: &sluice.Error{Kind: sluice.Unavailable, Err: err}})
		return batch
	}
	p.term = st.Term
	return append(batch, p)
}

// handle takes whatever else comes in.
func (j *Journal) handle(item any, r *rounds) {
	switch x := item.(type) {
	case []raftpb.Message: // from the appender or the applier
		for _, m := range x {
			if m.To != j.cfg.Node {
				j.post(m)
			} else if err := j.raft.Step(m); err != nil {
				j.cfg.Log.Warn("raft refused a message", "cause", err)
			}
		}
		// Raft takes the next change only when it knows that this one was applied.
		if c := j.changing; c != nil && c.index != 0 && j.raft.BasicStatus().Applied >= c.index {
			j.endChange(nil)
		}
	case []byte:
		j.receive(x)
	case unreachable:
		j.raft.ReportUnreachable(x.node)
	case *change:
		j.begin(x)
	case fetched:
		j.arrive(x)
	case cut:
		if paths := j.store.forget(j.offers.keep(j.store.spare(x.index, uint64(j.cfg.KeepEntries)))); len(paths) > 0 {
			j.appends.put(appendJob{remove: paths})
		}
	case *barrier:
		if j.raft.BasicStatus().RaftState != raft.StateLeader {
			x.answer <- answer{err: sluice.NotPrimary}
			return
		}
		r.ask(j, x)
	}
}

// carryOut does what Raft asks for, until it asks for nothing. batch holds the
// proposals just accepted, in order.
func (j *Journal) carryOut(batch []*proposal, r *rounds) {
	for j.raft.HasReady() {
		rd := j.raft.Ready()
		for _, m := range rd.Messages {
			switch m.Type {
			case raftpb.MsgStorageAppend:
				batch = j.await(m.Entries, batch)
				j.noteChange(m.Entries)
				j.appends.put(appendJob{message: m})
			case raftpb.MsgStorageApply:
				j.applies.put(applyJob{message: m, after: j.changeMembers(m.Entries)})
			default:
				j.post(m)
			}
		}
		for _, rs := range rd.ReadStates {
			j.confirm(rs, r)
		}
		j.noteRole(r)
	}
}

// await files proposals under the indexes of the entries made of them. Only the
// primary's own entries are new here, in the order they were proposed; the journal's
// own have no data.
func (j *Journal) await(entries []raftpb.Entry, batch []*proposal) []*proposal {
	if len(batch) == 0 {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range entries {
		if len(batch) > 0 && e.Type == raftpb.EntryNormal && len(e.Data) > 0 && e.Term == batch[0].term {
			j.waiting[e.Index] = batch[0]
			batch = batch[1:]
		}
	}
	return batch
}

// changeMembers carries out changes of the members among committed entries. The result
// is closed when they are on disk, nil if there are none: only then may the entries be
// applied, so that a state never knows more than the log.
func (j *Journal) changeMembers(entries []raftpb.Entry) <-chan struct{} {
	var confs []members
	for _, e := range entries {
		var cc raftpb.ConfChangeI
		var context []byte
		switch e.Type {
		case raftpb.EntryConfChange:
			var v1 raftpb.ConfChange
			if err := v1.Unmarshal(e.Data); err != nil {
				j.fail(err)
			}
			cc, context = v1, v1.Context
		case raftpb.EntryConfChangeV2:
			var v2 raftpb.ConfChangeV2
			if err := v2.Unmarshal(e.Data); err != nil {
				j.fail(err)
			}
			cc, context = v2, v2.Context
		default:
			continue
		}
		m := members{index: e.Index, conf: *j.raft.ApplyConfChange(cc)}
		m.book = changedBook(j.role.book, context, m.conf) // only this goroutine changes the book
		confs = append(confs, m)
		j.setMembers(m)
	}
	if len(confs) == 0 {
		return nil
	}
	written := make(chan struct{})
	j.appends.put(appendJob{confs: confs, written: written})
	return written
}

// setMembers notes who votes.
func (j *Journal) setMembers(m members) {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := m.conf
	j.confIndex, j.role.book = m.index, m.book
	j.role.voters, j.role.learners = c.Voters, c.Learners
	j.role.sole = slices.Equal(c.Voters, []uint64{j.cfg.Node}) && len(c.VotersOutgoing) == 0
}

// noteRole notes what Raft is now. The applier says when a primary may answer.
func (j *Journal) noteRole(r *rounds) {
	st := j.raft.BasicStatus()
	primary := st.RaftState == raft.StateLeader
	j.mu.Lock()
	was := j.role
	j.role.term, j.role.leader, j.role.primary, j.role.commit = st.Term, st.Lead, primary, st.Commit
	if j.leading != 0 && (!primary || uint64(j.leading) != st.Term) {
		j.setLeadingLocked(0)
	}
	j.mu.Unlock()
	if was.primary && (!primary || was.term != st.Term) {
		j.refuseBarriers(r, func() error { return sluice.NotPrimary })
		j.stepDown()
	}
}

// stepDown answers those who wait for what only a primary can bring about. What is in
// the log may yet be committed by another one.
func (j *Journal) stepDown() {
	j.endChange(&sluice.Error{Kind: sluice.UnknownOutcome, Err: errors.New("this master is not the primary any more; look before you repeat it")})
	clear(j.snaps)
	j.mu.Lock()
	waiting := j.waiting
	j.waiting = make(map[uint64]*proposal)
	j.lease.until = 0
	j.mu.Unlock()
	for _, i := range slices.Sorted(maps.Keys(waiting)) {
		j.finish(waiting[i], answer{err: &sluice.Error{Kind: sluice.UnknownOutcome, Err: errors.New("this master is not the primary any more")}})
	}
}

// setLeadingLocked changes what Leading says and wakes those who watch it.
func (j *Journal) setLeadingLocked(term sluice.Term) {
	if j.leading != term {
		j.leading = term
		close(j.changed)
		j.changed = make(chan struct{})
	}
}

// confirm moves a barrier on: its index is known, it waits for it to be applied.
func (j *Journal) confirm(rs raft.ReadState, r *rounds) {
	id := binary.BigEndian.Uint64(rs.RequestCtx)
	i := slices.IndexFunc(r.open, func(b *barrier) bool { return b.id == id })
	if i < 0 {
		return
	}
	b := r.open[i]
	r.open = slices.Delete(r.open, i, i+1)
	b.index = rs.Index
	j.mu.Lock()
	j.extendLocked(b.term, b.sent)
	if b.answer == nil { // a round of the journal's own
		j.mu.Unlock()
		return
	}
	ready := j.applied >= b.index
	if !ready {
		j.readers = append(j.readers, b)
	}
	j.mu.Unlock()
	if ready {
		b.answer <- answer{index: b.index}
	}
}

// refuseBarriers answers those that Raft has not confirmed.
func (j *Journal) refuseBarriers(r *rounds, cause func() error) {
	for _, b := range r.open {
		if b.answer == nil {
			continue
		}
		b.answer <- answer{err: cause()}
	}
	r.open = nil
}

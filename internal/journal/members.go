package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/sluicefs/sluice"
)

// Progress is how far another member is, as the primary knows it.
type Progress struct {
	Member
	Voter  bool
	Active bool         // it was heard of lately; of this member itself always
	Match  sluice.Index // the last entry that it is known to have on disk
}

// change is a wish to change the members, or to hand on the place of the primary.
type change struct {
	kind    changeKind
	member  Member
	answer  chan error // has room for the one answer
	data    []byte     // of the entry it became
	index   uint64     // of that entry, 0 until it is known
	answers chan []Progress
}

type changeKind int

const (
	changeAdd changeKind = iota + 1
	changePromote
	changeRemove
	changeTransfer
	changeLook
)

// Add takes a member in, that does not vote until [Journal.Promote]. Errors of this and
// the other changes: NotPrimary; Busy (another change is under way; or not yet); Exists,
// NotFound and Invalid, which say what to do; UnknownOutcome; Timeout and Cancelled.
func (j *Journal) Add(ctx context.Context, m Member) error {
	if m.Node == 0 || m.Node >= maxNode || m.Address == "" {
		return changeError(sluice.Invalid, "a master needs an id above 0 and an address")
	}
	return j.change(ctx, &change{kind: changeAdd, member: m})
}

// Promote gives a member its vote. Kind Busy: it has not caught up yet.
func (j *Journal) Promote(ctx context.Context, node uint64) error {
	return j.change(ctx, &change{kind: changePromote, member: Member{Node: node}})
}

// Remove takes a member out, alive or not. Kind Invalid: it is the primary itself, the
// last voter, or one of those without which no majority would be alive.
func (j *Journal) Remove(ctx context.Context, node uint64) error {
	return j.change(ctx, &change{kind: changeRemove, member: Member{Node: node}})
}

// Transfer hands the place of the primary to a voter, 0 being the one that is furthest,
// and returns when this member is not the primary any more. Kind Busy: there is none to
// take it, or it did not take it within some elections' time and this member goes on.
func (j *Journal) Transfer(ctx context.Context, node uint64) error {
	term, changed := j.Leading()
	if err := j.change(ctx, &change{kind: changeTransfer, member: Member{Node: node}}); err != nil {
		return err
	}
	patience := time.NewTimer(3 * electionTicks * j.cfg.Tick)
	defer patience.Stop()
	for {
		now, again := j.Leading()
		if now != term {
			return nil
		}
		select {
		case <-changed:
		case <-patience.C:
			return changeError(sluice.Busy, "the other master did not take the place; this one goes on")
		case <-ctx.Done():
			return sluice.Wrap("transfer", "", ctx.Err())
		}
		changed = again
	}
}

// Progress returns how far every member is. Kind NotPrimary: only a primary knows.
func (j *Journal) Progress(ctx context.Context) ([]Progress, error) {
	c := &change{kind: changeLook, answers: make(chan []Progress, 1)}
	if err := j.change(ctx, c); err != nil {
		return nil, err
	}
	return <-c.answers, nil
}

func (j *Journal) change(ctx context.Context, c *change) error {
	c.answer = make(chan error, 1)
	if !j.inbox.put(c) {
		return sluice.Wrap("change masters", "", j.cause())
	}
	select {
	case err := <-c.answer:
		return sluice.Wrap("change masters", "", err)
	case <-ctx.Done():
	}
	select {
	case err := <-c.answer:
		return sluice.Wrap("change masters", "", err)
	default:
		return &sluice.Error{Op: "change masters", Kind: sluice.UnknownOutcome, Err: ctx.Err()}
	}
}

func changeError(kind sluice.Kind, format string, args ...any) error {
	return &sluice.Error{Op: "change masters", Kind: kind, Err: fmt.Errorf(format, args...)}
}

// begin starts a change. The loop calls it.
func (j *Journal) begin(c *change) {
	st := j.raft.Status()
	if st.RaftState != raft.StateLeader {
		c.answer <- &sluice.Error{Kind: sluice.NotPrimary}
		return
	}
	if c.kind == changeLook {
		c.answers <- j.progress(st)
		c.answer <- nil
		return
	}
	if c.kind == changeTransfer {
		c.answer <- j.transfer(st, c.member.Node)
		return
	}
	if j.changing != nil {
		c.answer <- changeError(sluice.Busy, "another change of the masters is under way; try again")
		return
	}
	cc, err := j.judge(st, c)
	if err != nil {
		c.answer <- err
		return
	}
	if c.data, err = cc.Marshal(); err == nil {
		err = j.raft.ProposeConfChange(cc)
	}
	if err != nil {
		c.answer <- &sluice.Error{Kind: sluice.Busy, Err: err}
		return
	}
	j.changing = c
}

// judge says which change of Raft's a wish is, or why it cannot be.
func (j *Journal) judge(st raft.Status, c *change) (raftpb.ConfChangeV2, error) {
	pr, there := st.Progress[c.member.Node]
	single := raftpb.ConfChangeSingle{NodeID: c.member.Node}
	cc := raftpb.ConfChangeV2{}
	switch c.kind {
	case changeAdd:
		if there {
			return cc, changeError(sluice.Exists, "there is a master %d; for a machine that lost its disk, remove it first", c.member.Node)
		}
		single.Type, cc.Context = raftpb.ConfChangeAddLearnerNode, appendBook(nil, j.introduce(c.member))
	case changePromote:
		switch {
		case !there:
			return cc, changeError(sluice.NotFound, "there is no master %d", c.member.Node)
		case !pr.IsLearner:
			return cc, changeError(sluice.Exists, "master %d has a vote already", c.member.Node)
		case !j.active(c.member.Node) || pr.State != tracker.StateReplicate || pr.Match+promoteLag < st.Commit:
			return cc, changeError(sluice.Busy, "master %d has not caught up yet: it is at entry %d of %d", c.member.Node, pr.Match, st.Commit)
		}
		single.Type = raftpb.ConfChangeAddNode
	case changeRemove:
		if !there {
			return cc, changeError(sluice.NotFound, "there is no master %d", c.member.Node)
		}
		if !pr.IsLearner {
			if err := j.judgeRemove(st, c.member.Node); err != nil {
				return cc, err
			}
		}
		single.Type = raftpb.ConfChangeRemoveNode
	}
	cc.Changes = []raftpb.ConfChangeSingle{single}
	return cc, nil
}

// introduce returns the addresses that go with a new member: its own and, where there
// was only this member, that one's.
func (j *Journal) introduce(m Member) []Member {
	if me := j.member(j.cfg.Node); me.Address == "" && j.cfg.Address != "" {
		return []Member{{Node: j.cfg.Node, Address: j.cfg.Address}, m}
	}
	return []Member{m}
}

// promoteLag is how many entries a member may lack when it gets its vote.
const promoteLag = 1000

// judgeRemove says why a voter cannot go.
func (j *Journal) judgeRemove(st raft.Status, node uint64) error {
	voters, alive := 0, 0
	for id, pr := range st.Progress {
		if pr.IsLearner || id == node {
			continue
		}
		voters++
		if j.active(id) {
			alive++
		}
	}
	switch {
	case voters == 0:
		return changeError(sluice.Invalid, "master %d is the last one with a vote; add another first", node)
	case node == j.cfg.Node:
		return changeError(sluice.Invalid, "master %d is the primary; hand its place on with `sluice admin masters stepdown` first", node)
	case alive <= voters/2:
		return changeError(sluice.Invalid, "without master %d only %d of %d masters would answer, which is no majority; start the others or remove a dead one first", node, alive, voters)
	}
	return nil
}

// transfer begins to hand on the place of the primary.
func (j *Journal) transfer(st raft.Status, node uint64) error {
	if node == j.cfg.Node {
		return changeError(sluice.Exists, "master %d is the primary already", node)
	}
	if node == 0 {
		var best uint64
		for id, pr := range st.Progress {
			if id != j.cfg.Node && !pr.IsLearner && j.active(id) && (node == 0 || pr.Match > best || pr.Match == best && id < node) {
				node, best = id, pr.Match
			}
		}
		if node == 0 {
			return changeError(sluice.Busy, "no other master that has a vote answers")
		}
	}
	pr, ok := st.Progress[node]
	switch {
	case !ok || pr.IsLearner:
		return changeError(sluice.NotFound, "there is no master %d with a vote", node)
	case !j.active(node):
		return changeError(sluice.Busy, "master %d does not answer", node)
	}
	j.bar(st.Term)
	j.raft.TransferLeader(node)
	return nil
}

// active says whether a member was heard of lately.
func (j *Journal) active(node uint64) bool {
	at, ok := j.heard[node]
	return node == j.cfg.Node || ok && j.cfg.Boot()-at < 2*electionTicks*j.cfg.Tick
}

// progress describes the members.
func (j *Journal) progress(st raft.Status) []Progress {
	var out []Progress
	for id, pr := range st.Progress {
		out = append(out, Progress{
			Member: j.member(id), Voter: !pr.IsLearner, Active: j.active(id), Match: sluice.Index(pr.Match),
		})
	}
	slices.SortFunc(out, func(a, b Progress) int { return byNode(a.Member, b.Member) })
	return out
}

// noteChange finds the entry that the change under way became. Where Raft did not like
// it, it became an empty one.
func (j *Journal) noteChange(entries []raftpb.Entry) {
	c := j.changing
	if c == nil || c.index != 0 || len(entries) == 0 {
		return
	}
	for _, e := range entries {
		if e.Type == raftpb.EntryConfChangeV2 && string(e.Data) == string(c.data) {
			c.index = e.Index
			return
		}
	}
	j.endChange(&sluice.Error{Kind: sluice.Busy, Err: errors.New("an earlier change of the masters is not through yet; try again")})
}

// endChange answers the change under way.
func (j *Journal) endChange(err error) {
	if j.changing != nil {
		j.changing.answer <- err
		j.changing = nil
	}
}

// knows says whether a node is a member.
func (r *role) knows(node uint64) bool {
	return slices.Contains(r.voters, node) || slices.Contains(r.learners, node)
}

// changed returns the book after a change: with the addresses of its context, without
// who is no member any more.
func changedBook(book []Member, context []byte, c raftpb.ConfState) []Member {
	r := &reader{b: context}
	var added []Member
	if len(context) > 0 {
		added = r.book()
	}
	all := append(added, book...)
	var out []Member
	for _, m := range all {
		is := slices.Contains(c.Voters, m.Node) || slices.Contains(c.Learners, m.Node)
		if is && !slices.ContainsFunc(out, func(o Member) bool { return o.Node == m.Node }) {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, byNode)
	return out
}

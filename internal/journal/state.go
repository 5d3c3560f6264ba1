package journal

import (
	"encoding/binary"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
)

// members are the voters and learners from an index on, and where they can be reached.
type members struct {
	index uint64
	conf  raftpb.ConfState
	book  []Member // in order of Node; empty where there never was more than one
}

// ground is what a segment stands on: the entry before it, and what Raft remembers.
type ground struct {
	index, term uint64
	hard        raftpb.HardState
	// confs are in order of index. Invariant: the first is not above what the Machine
	// had made durable when the segment was begun, so that a restart finds its own.
	confs []members
	// reset says that nothing before the segment counts: the state came from another
	// member and stands at index.
	reset bool
}

// flagReset is that of a ground, on disk.
const flagReset = 1

// appendGround encodes the data of a kindState record. Where there are neither
// addresses nor flags it ends with the members, as it always has.
func appendGround(dst []byte, g ground) []byte {
	dst = binary.AppendUvarint(dst, g.hard.Term)
	dst = binary.AppendUvarint(dst, g.hard.Vote)
	dst = binary.AppendUvarint(dst, g.hard.Commit)
	dst = binary.AppendUvarint(dst, uint64(len(g.confs)))
	for _, m := range g.confs {
		dst = binary.AppendUvarint(dst, m.index)
		dst = appendConf(dst, m.conf)
	}
	if !g.reset && !slices.ContainsFunc(g.confs, func(m members) bool { return len(m.book) > 0 }) {
		return dst
	}
	flags := uint64(0)
	if g.reset {
		flags = flagReset
	}
	dst = binary.AppendUvarint(dst, flags)
	for _, m := range g.confs {
		dst = appendBook(dst, m.book)
	}
	return dst
}

// appendMembers encodes the data of a kindMembers record.
func appendMembers(dst []byte, m members) []byte {
	dst = appendConf(dst, m.conf)
	if len(m.book) > 0 {
		dst = appendBook(dst, m.book)
	}
	return dst
}

// appendBook encodes addresses.
func appendBook(dst []byte, book []Member) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(book)))
	for _, m := range book {
		dst = binary.AppendUvarint(dst, m.Node)
		dst = binary.AppendUvarint(dst, uint64(len(m.Address)))
		dst = append(dst, m.Address...)
	}
	return dst
}

// appendConf encodes the members: four lists and a flag.
func appendConf(dst []byte, c raftpb.ConfState) []byte {
	for _, list := range [][]uint64{c.Voters, c.Learners, c.VotersOutgoing, c.LearnersNext} {
		dst = binary.AppendUvarint(dst, uint64(len(list)))
		for _, id := range list {
			dst = binary.AppendUvarint(dst, id)
		}
	}
	if c.AutoLeave {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// reader takes numbers off bytes; after the first failure bad stays true.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count reads the length of a list whose items take at least a byte each.
func (r *reader) count() int {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return 0
	}
	return int(n)
}

func (r *reader) conf() raftpb.ConfState {
	var c raftpb.ConfState
	for _, list := range []*[]uint64{&c.Voters, &c.Learners, &c.VotersOutgoing, &c.LearnersNext} {
		for range r.count() {
			*list = append(*list, r.uint())
		}
	}
	c.AutoLeave = r.uint() == 1
	return c
}

func (r *reader) bytes() []byte {
	n := r.count()
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) book() []Member {
	var book []Member
	for range r.count() {
		m := Member{Node: r.uint()}
		m.Address = string(r.bytes())
		book = append(book, m)
	}
	return book
}

// parseGround decodes a kindState record.
func parseGround(rec record) (ground, error) {
	r := &reader{b: rec.data}
	g := ground{index: rec.index, term: rec.term}
	g.hard.Term, g.hard.Vote, g.hard.Commit = r.uint(), r.uint(), r.uint()
	for range r.count() {
		m := members{index: r.uint()}
		m.conf = r.conf()
		g.confs = append(g.confs, m)
	}
	if len(r.b) > 0 {
		g.reset = r.uint()&flagReset != 0
		for i := range g.confs {
			g.confs[i].book = r.book()
		}
	}
	if r.bad || len(r.b) != 0 || len(g.confs) == 0 {
		return ground{}, errBad
	}
	return g, nil
}

// parseConf decodes a kindMembers record.
func parseConf(rec record) (members, error) {
	r := &reader{b: rec.data}
	m := members{index: rec.index, conf: r.conf()}
	if len(r.b) > 0 {
		m.book = r.book()
	}
	if r.bad || len(r.b) != 0 {
		return members{}, errBad
	}
	return m, nil
}

// parseHard decodes a kindHard record.
func parseHard(rec record) (raftpb.HardState, error) {
	if len(rec.data) != 8 {
		return raftpb.HardState{}, errBad
	}
	return raftpb.HardState{Term: rec.term, Vote: binary.LittleEndian.Uint64(rec.data), Commit: rec.index}, nil
}

// hardRecord is the record of a hard state.
func hardRecord(h raftpb.HardState) record {
	return record{kind: kindHard, term: h.Term, index: h.Commit, data: binary.LittleEndian.AppendUint64(nil, h.Vote)}
}

// entryRecord is the record of an entry.
func entryRecord(e raftpb.Entry) record {
	k := kindEntry
	switch e.Type {
	case raftpb.EntryConfChange:
		k = kindConf
	case raftpb.EntryConfChangeV2:
		k = kindConfV2
	}
	return record{kind: k, term: e.Term, index: e.Index, data: e.Data}
}

// entry turns a record back into the entry it was made of.
func (r record) entry() raftpb.Entry {
	e := raftpb.Entry{Term: r.term, Index: r.index}
	switch r.kind {
	case kindConf:
		e.Type = raftpb.EntryConfChange
	case kindConfV2:
		e.Type = raftpb.EntryConfChangeV2
	}
	if len(r.data) > 0 {
		e.Data = slices.Clone(r.data)
	}
	return e
}

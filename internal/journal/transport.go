package journal

import (
	"cmp"
	"context"
	"encoding/binary"

	"go.etcd.io/raft/v3/raftpb"
)

// Member is one of those that keep the log.
type Member struct {
	Node    uint64
	Address string // where the others reach it; the journal hands it to the Transport unread
}

func byNode(a, b Member) int { return cmp.Compare(a.Node, b.Node) }

// maxNode bounds node ids: Raft needs the highest for itself.
const maxNode = 1 << 63

// Transport carries packets between members. It may lose, delay and repeat them, and
// must not change them: it proves to both ends that the other is of the same cluster.
type Transport interface {
	// Send hands a packet on its way to the other member's [Journal.Deliver] and returns
	// at once. The packet is the transport's. Where it must drop one it calls
	// [Journal.Unreachable] at some time.
	Send(to Member, packet []byte)
	// Ask returns what the other member's [Journal.Answer] says to a question. One
	// answer has at most 2 MiB.
	Ask(ctx context.Context, to Member, question []byte) ([]byte, error)
}

// packetKind is the first byte of a packet. The numbers travel: never renumber.
type packetKind byte

const (
	packetRaft      packetKind = 1 // a raftpb.Message
	packetInstalled packetKind = 2 // the checkpoint you named stands: varints node, index
	packetRemoved   packetKind = 3 // you are no member: varint index of the members that say so
)

// Deliver takes in a packet that another member sent; the transport vouches for that.
// It may be called by many at once, and keeps the packet.
func (j *Journal) Deliver(packet []byte) {
	if len(packet) > 0 {
		j.inbox.put(packet)
	}
}

// Unreachable says that packets to a member were lost.
func (j *Journal) Unreachable(node uint64) { j.inbox.put(unreachable{node}) }

type unreachable struct{ node uint64 }

// post sends what Raft has for another member.
func (j *Journal) post(m raftpb.Message) {
	if j.cfg.Transport == nil {
		return
	}
	b := make([]byte, 1+m.Size())
	b[0] = byte(packetRaft)
	if _, err := m.MarshalTo(b[1:]); err != nil {
		j.fail(err)
		return
	}
	if m.Type == raftpb.MsgSnap {
		j.snaps[m.To] = j.cfg.Boot()
	}
	j.cfg.Transport.Send(j.member(m.To), b)
}

// member returns a node with its address, where that is known.
func (j *Journal) member(node uint64) Member {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, m := range j.role.book {
		if m.Node == node {
			return m
		}
	}
	return Member{Node: node}
}

// receive acts on a packet.
func (j *Journal) receive(packet []byte) {
	kind, r := packetKind(packet[0]), &reader{b: packet[1:]}
	switch kind {
	case packetRaft:
		var m raftpb.Message
		if err := m.Unmarshal(packet[1:]); err != nil {
			j.cfg.Log.Warn("a packet of another member cannot be read", "cause", err)
			return
		}
		j.step(m)
	case packetInstalled:
		if node := r.uint(); !r.bad && j.snaps[node] != 0 {
			delete(j.snaps, node)
			j.reportSnapshot(node, true)
		}
	case packetRemoved:
		if index := r.uint(); !r.bad && index >= j.confIndex {
			j.fail(errRemoved)
		}
	}
}

// step hands a message of another member to Raft, but for what must not reach it.
func (j *Journal) step(m raftpb.Message) {
	if m.To != j.cfg.Node || m.From == j.cfg.Node {
		return
	}
	if j.stranger(m.From) {
		j.tellRemoved(m.From)
		return
	}
	j.heard[m.From] = j.cfg.Boot()
	switch m.Type {
	case raftpb.MsgVote, raftpb.MsgPreVote, raftpb.MsgTimeoutNow:
		// What this member promised before it was started it does not know any more. Who
		// hands on its place has given up its lease before.
		if j.cfg.Boot() < j.silent && m.Type != raftpb.MsgTimeoutNow || j.mute() {
			return
		}
	case raftpb.MsgSnap:
		if m.Snapshot != nil && m.Snapshot.Metadata.Index > j.raft.BasicStatus().Commit {
			j.fetch(m)
			return
		}
	}
	if j.installed {
		j.tellInstalled(m)
	}
	if err := j.raft.Step(m); err != nil {
		j.cfg.Log.Debug("raft refused a message", "from", m.From, "cause", err)
	}
}

// tellInstalled tells a primary that waits for it that its checkpoint stands, until it
// sends entries.
func (j *Journal) tellInstalled(m raftpb.Message) {
	switch m.Type {
	case raftpb.MsgApp:
		j.installed = false
	case raftpb.MsgHeartbeat:
		b := binary.AppendUvarint([]byte{byte(packetInstalled)}, j.cfg.Node)
		j.cfg.Transport.Send(j.member(m.From), binary.AppendUvarint(b, uint64(j.cfg.Machine.Applied())))
	}
}

// stranger says that a node is no member, of which only a primary is sure.
func (j *Journal) stranger(node uint64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.leading != 0 && !j.role.knows(node)
}

// tellRemoved lets a member know that it is none any more.
func (j *Journal) tellRemoved(node uint64) {
	if !j.leased() {
		return // perhaps it is me who is not up to date
	}
	j.cfg.Transport.Send(j.member(node), binary.AppendUvarint([]byte{byte(packetRemoved)}, j.confIndex))
}

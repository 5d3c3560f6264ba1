package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/sluicefs/sluice"
)

// Carrier is a Machine whose state can be taken to a member that lies too far behind
// for the log. Without it such a member stays behind.
type Carrier interface {
	Machine
	// Checkpoint makes dir, which is not there, a copy of the state and returns the index
	// of the last entry in it, which is not below what was durable before the call. It is
	// called beside Apply and Flush. The files of dir stand directly in it.
	Checkpoint(dir string) (sluice.Index, error)
}

// Where checkpoints lie, below the journal's directory.
const (
	outgoingDir = "outgoing"
	incomingDir = "incoming"
)

// The bounds of carrying checkpoints.
const (
	chunkBytes       = 1 << 20
	maxFiles         = 1 << 20
	snapshotPatience = 20 * time.Second // without a question of the member it is for
	offerLife        = time.Minute      // of a checkpoint nobody asks for
)

// offer is a checkpoint that stands ready for other members.
type offer struct {
	id    uint64
	dir   string
	at    ground // index and term, and the members as of it
	files []carried
	used  time.Duration // on the boot clock
}

// carried is one file of a checkpoint.
type carried struct {
	name string
	size int64
}

// offers makes and serves at most one checkpoint at a time.
type offers struct {
	j    *Journal
	wake chan struct{} // has room for one: make one

	mu      sync.Mutex
	ready   *offer                   // guarded by mu
	making  bool                     // guarded by mu
	floor   uint64                   // guarded by mu: while making, the log is kept above it
	touches map[uint64]time.Duration // guarded by mu: when a node last asked for a part
	readers sync.WaitGroup           // parts being read
}

func newOffers(j *Journal) *offers {
	return &offers{j: j, wake: make(chan struct{}, 1), touches: make(map[uint64]time.Duration)}
}

// snapshot is what Raft tells a member that lies too far behind. The loop calls it.
func (o *offers) snapshot() (raftpb.Snapshot, error) {
	if _, ok := o.j.cfg.Machine.(Carrier); !ok {
		return raftpb.Snapshot{}, raft.ErrSnapshotTemporarilyUnavailable
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if x := o.ready; x != nil {
		if base, _ := o.j.store.FirstIndex(); x.at.index+1 >= base {
			x.used = o.j.cfg.Boot()
			return raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: x.at.index, Term: x.at.term, ConfState: x.at.confs[0].conf}}, nil
		}
	}
	if !o.making {
		o.making, o.floor = true, o.j.store.base()
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
	return raftpb.Snapshot{}, raft.ErrSnapshotTemporarilyUnavailable
}

// keep returns up to where the log may be cut, at most index.
func (o *offers) keep(index uint64) uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.making {
		index = min(index, o.floor)
	}
	if x := o.ready; x != nil && o.j.cfg.Boot()-x.used < offerLife {
		index = min(index, x.at.index)
	}
	return index
}

// touched returns when a node last asked for a part.
func (o *offers) touched(node uint64) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.touches[node]
}

// run makes checkpoints until the journal stops, and clears away those nobody wants.
func (o *offers) run() {
	tick := time.NewTicker(offerLife)
	defer tick.Stop()
	for {
		select {
		case <-o.j.stop:
			return
		case <-tick.C:
			o.drop(func(x *offer) bool { return o.j.cfg.Boot()-x.used >= offerLife })
			continue
		case <-o.wake:
		}
		o.drop(func(*offer) bool { return true })
		x, err := o.make()
		o.mu.Lock()
		o.making, o.ready = false, x
		o.mu.Unlock()
		if err != nil {
			o.j.cfg.Log.Error("no checkpoint can be made for a member that lies behind", "cause", err)
		}
	}
}

// drop removes the checkpoint if it is one of those.
func (o *offers) drop(which func(*offer) bool) {
	o.mu.Lock()
	x := o.ready
	if x == nil || !which(x) {
		o.mu.Unlock()
		return
	}
	o.ready = nil
	o.mu.Unlock()
	o.readers.Wait()
	if err := o.j.cfg.FS.RemoveAll(x.dir); err != nil {
		o.j.cfg.Log.Warn("an old checkpoint stays", "dir", x.dir, "cause", err)
	}
}

// make makes a checkpoint.
func (o *offers) make() (*offer, error) {
	j := o.j
	x := &offer{id: j.store.rand(), dir: j.cfg.FS.PathJoin(j.cfg.Dir, outgoingDir), used: j.cfg.Boot()}
	if err := j.cfg.FS.RemoveAll(x.dir); err != nil {
		return nil, err
	}
	index, err := j.cfg.Machine.(Carrier).Checkpoint(x.dir)
	if err != nil {
		return nil, err
	}
	if x.at, err = j.store.groundAt(uint64(index)); err != nil {
		return nil, err
	}
	names, err := j.cfg.FS.List(x.dir)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		st, err := j.cfg.FS.Stat(j.cfg.FS.PathJoin(x.dir, name))
		if err != nil {
			return nil, err
		}
		x.files = append(x.files, carried{name: name, size: st.Size()})
	}
	x.used = j.cfg.Boot()
	return x, nil
}

// base returns the index of the entry before the first.
func (s *store) base() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.img.base.index
}

// groundAt describes an entry of the log, with the members as of it.
func (s *store) groundAt(index uint64) (ground, error) {
	term, err := s.Term(index)
	if err != nil {
		return ground{}, fmt.Errorf("entry %d: %w", index, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.img.confAt(index)
	return ground{index: index, term: term, confs: []members{m}}, err
}

// The questions of a member that fetches. The numbers travel: never renumber.
const (
	askFiles = 1 // varint node
	askChunk = 2 // varints node, id, file, offset
)

// Answer answers what another member asked through its transport; the transport vouches
// for that. It may be called by many at once. Errors: Invalid; NotFound where there is
// no such checkpoint any more, so that the other must begin anew; those of the disk.
func (j *Journal) Answer(_ context.Context, question []byte) ([]byte, error) {
	r := &reader{b: question}
	kind, node := r.uint(), r.uint()
	x := j.offers.hold(node)
	if x == nil {
		return nil, &sluice.Error{Op: "fetch checkpoint", Kind: sluice.NotFound, Err: errors.New("there is no checkpoint here")}
	}
	defer j.offers.readers.Done()
	switch kind {
	case askFiles:
		if !r.bad {
			return x.list(), nil
		}
	case askChunk:
		id, file, off := r.uint(), r.uint(), r.uint()
		if id != x.id {
			return nil, &sluice.Error{Op: "fetch checkpoint", Kind: sluice.NotFound, Err: errors.New("that checkpoint is not here any more")}
		}
		if !r.bad && file < uint64(len(x.files)) && off < uint64(x.files[file].size) {
			b, err := x.chunk(j.cfg.FS, x.files[file], int64(off))
			return b, sluice.Wrap("fetch checkpoint", "", err)
		}
	}
	return nil, &sluice.Error{Op: "fetch checkpoint", Kind: sluice.Invalid, Err: errors.New("the question is not understood")}
}

// hold returns the checkpoint that is ready, nil for none. The caller ends its reading.
func (o *offers) hold(node uint64) *offer {
	o.mu.Lock()
	defer o.mu.Unlock()
	x := o.ready
	if x != nil {
		x.used = o.j.cfg.Boot()
		o.touches[node] = x.used
		o.readers.Add(1)
	}
	return x
}

// list encodes what the checkpoint consists of: varint id, the ground, and the files.
func (x *offer) list() []byte {
	b := binary.AppendUvarint(nil, x.id)
	g := encodeOrigin(x.at)
	b = binary.AppendUvarint(b, uint64(len(g)))
	b = append(b, g...)
	b = binary.AppendUvarint(b, uint64(len(x.files)))
	for _, f := range x.files {
		b = binary.AppendUvarint(b, uint64(len(f.name)))
		b = append(b, f.name...)
		b = binary.AppendUvarint(b, uint64(f.size))
	}
	return b
}

// chunk reads a part of a file: 4 bytes CRC-32C, then the bytes.
func (x *offer) chunk(fs vfs.FS, f carried, off int64) ([]byte, error) {
	file, err := fs.Open(fs.PathJoin(x.dir, f.name))
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // only read
	b := make([]byte, 4+min(chunkBytes, f.size-off))
	if n, err := file.ReadAt(b[4:], off); err != nil && (err != io.EOF || n < len(b)-4) {
		return nil, err
	}
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli()))
	return b, nil
}

// encodeOrigin encodes what a state stands on: varints index and term, and the rest as
// in a segment's first record.
func encodeOrigin(g ground) []byte {
	g.reset = true
	b := binary.AppendUvarint(nil, g.index)
	b = binary.AppendUvarint(b, g.term)
	return appendGround(b, g)
}

// parseOrigin is the inverse of encodeOrigin.
func parseOrigin(b []byte) (ground, error) {
	r := &reader{b: b}
	rec := record{index: r.uint(), term: r.uint()}
	rec.data = r.b
	g, err := parseGround(rec)
	if err != nil || r.bad {
		return g, &sluice.Error{Op: "open journal", Kind: sluice.Corrupt, Err: errors.New("what is written of where the state came from is damaged")}
	}
	return g, nil
}

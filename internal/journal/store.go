package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/sluicefs/sluice"
)

// cacheBytes is how much of the log's end is kept in memory, for Raft to read back.
const cacheBytes = 8 << 20

// store is the log on disk. Raft reads it from the loop; one goroutine appends.
type store struct {
	fs      vfs.FS
	dir     string
	log     *slog.Logger
	head    header // of segments to come; seq is that of the current one
	limit   int64  // of a segment
	minFree int64
	rand    func() uint64

	// The appender's own.
	file    vfs.File
	salt    uint32 // checksum of the current segment's salt
	off     int64  // where the next record goes
	durable int64  // synced up to here
	zeroed  int64  // the file is filled with zeros up to here
	buf     []byte
	staged  []staged // entries in buf

	mu         sync.Mutex
	img        image   // segments, base and positions of what is written
	anew       bool    // the log has begun anew at this start
	start      members // as of what the Machine had applied at the start
	offer      func() (raftpb.Snapshot, error)
	cache      []raftpb.Entry // the last entries of img, without a gap
	cached     int64          // bytes in cache
	full       bool           // there is no room for more
	syncs      uint64
	entries    uint64
	totalBytes int64
}

// staged is an entry that is encoded and about to be written.
type staged struct {
	entry raftpb.Entry
	pos   position
}

// openStore reads the log in cfg.Dir and readies it for appending, cutting a torn end.
// applied is what the Machine has: a gap between it and the log is refused.
func openStore(cfg Config, applied sluice.Index) (*store, error) {
	s := &store{
		fs: cfg.FS, dir: cfg.Dir, log: cfg.Log, limit: cfg.SegmentBytes, minFree: cfg.MinFree,
		head: header{node: cfg.Node, cluster: cfg.Cluster}, rand: rand.Uint64,
	}
	if cfg.Rand != nil {
		s.rand = rand.New(cfg.Rand).Uint64
	}
	if err := s.removeTemporary(); err != nil {
		return nil, err
	}
	img, err := readImage(s.fs, s.dir)
	if err != nil {
		return nil, err
	}
	s.img = *img
	if err := s.begin(cfg, applied); err != nil {
		s.close()
		return nil, err
	}
	// Whatever was applied was committed, whether or not that was written down.
	s.img.base.hard.Commit = max(s.img.base.hard.Commit, uint64(applied))
	s.start, err = s.img.confAt(uint64(applied))
	if err != nil {
		s.close()
		return nil, err
	}
	s.probe()
	return s, nil
}

// begin readies the last segment, or makes the first one, or one that stands on a state
// which came from another member.
func (s *store) begin(cfg Config, applied sluice.Index) error {
	var origin ground
	if len(cfg.Origin) > 0 {
		var err error
		if origin, err = parseOrigin(cfg.Origin); err != nil {
			return err
		}
	}
	// A log that has begun anew on that state, or was cut since, begins behind it.
	if len(s.img.segments) > 0 && origin.index > s.img.base.index {
		return s.restart(origin, applied)
	}
	if err := s.refuse(applied); err != nil {
		return err
	}
	if len(s.img.segments) > 0 {
		return errors.Join(s.remove(s.img.stale), s.resume())
	}
	s.img.base.confs = []members{cfg.first()}
	return s.rotate()
}

// restart begins the log anew on a state that came from another member. What was voted
// stays. Should it be cut short, the next start does it again: the state says where it
// came from until the log stands on it.
func (s *store) restart(g ground, applied sluice.Index) error {
	if uint64(applied) != g.index {
		return &sluice.Error{Op: "open journal", Kind: sluice.Corrupt, Err: fmt.Errorf(
			"the state came from another member at entry %d and stands at %d, which the journal in %s does not have: remove this master from the cluster and add it again",
			g.index, applied, s.dir)}
	}
	for _, seg := range s.img.segments[:1] {
		if seg.cluster != s.head.cluster || seg.node != s.head.node {
			return s.refuse(applied)
		}
	}
	old := s.img.stale
	for _, seg := range s.img.segments {
		old = append(old, seg.path)
		s.head.seq = seg.seq
	}
	g.hard = s.img.base.hard
	if g.hard.Term < g.term {
		g.hard.Term, g.hard.Vote = g.term, 0
	}
	g.hard.Commit, g.reset = g.index, true
	s.img = image{base: g}
	if err := s.rotate(); err != nil {
		return err
	}
	s.anew = true
	s.log.Info("the journal begins anew on a state from another member", slog.Uint64("index", g.index), slog.Uint64("term", g.term))
	return s.remove(old)
}

// refuse says no to a log that is not this member's, or does not meet the state.
func (s *store) refuse(applied sluice.Index) error {
	for _, seg := range s.img.segments[:min(1, len(s.img.segments))] {
		if seg.cluster != s.head.cluster || seg.node != s.head.node {
			return &sluice.Error{Op: "open journal", Kind: sluice.Invalid, Err: fmt.Errorf(
				"%s holds the journal of node %d of cluster %q, not of node %d of cluster %q: check the data directory and the configuration",
				s.dir, seg.node, seg.cluster, s.head.node, s.head.cluster)}
		}
	}
	if c, last := s.img.base.hard.Commit, s.img.last(); c > last {
		path := s.img.segments[len(s.img.segments)-1].path
		return damaged(path, s.img.segments[len(s.img.segments)-1].end, fmt.Sprintf("entries up to %d were acknowledged, but the last one here is %d", c, last))
	}
	if a := uint64(applied); a < s.img.base.index || a > s.img.last() {
		return &sluice.Error{Op: "open journal", Kind: sluice.Corrupt, Err: fmt.Errorf(
			"the state stands at entry %d, but the journal in %s holds entries %d to %d: they do not belong together; restore both from one backup",
			a, s.dir, s.img.base.index+1, s.img.last())}
	}
	return nil
}

// removeTemporary removes a segment whose making was cut short.
func (s *store) removeTemporary() error {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if s.fs.PathBase(name) == "next"+tmpSuffix {
			return s.fs.Remove(s.fs.PathJoin(s.dir, name))
		}
	}
	return nil
}

// resume opens the last segment for appending. What follows its good records is made
// zeros, so that no remainder is ever taken for a record later; and the good ones are
// synced, since those of a killed process may be in memory only.
func (s *store) resume() error {
	last := s.img.segments[len(s.img.segments)-1]
	f, err := s.fs.OpenReadWrite(last.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	s.file, s.head.seq, s.salt = f, last.seq, saltSum(last.salt)
	s.off, s.zeroed = last.end, last.size
	if last.torn {
		s.log.Warn("cut the torn end of the journal: it was never acknowledged",
			slog.String("file", last.path), slog.Int64("offset", last.end), slog.Int64("bytes", last.size-last.end),
			slog.Uint64("last", s.img.last()))
		if err := s.fillZeros(last.end, last.size); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	s.durable = s.off
	for _, seg := range s.img.segments {
		s.totalBytes += seg.size
	}
	return nil
}

func (s *store) close() {
	if s.file != nil {
		_ = s.file.Close() // every byte that counts is synced
		s.file = nil
	}
}

// InitialState is part of raft.Storage.
func (s *store) InitialState() (raftpb.HardState, raftpb.ConfState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.img.base.hard, s.start.conf, nil
}

// FirstIndex is part of raft.Storage.
func (s *store) FirstIndex() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.img.base.index + 1, nil
}

// LastIndex is part of raft.Storage.
func (s *store) LastIndex() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.img.last(), nil
}

// Term is part of raft.Storage.
func (s *store) Term(i uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case i < s.img.base.index:
		return 0, raft.ErrCompacted
	case i > s.img.last():
		return 0, raft.ErrUnavailable
	}
	return s.img.termAt(i), nil
}

// Snapshot is part of raft.Storage. It names a checkpoint that the other member then
// fetches; the state itself never goes through Raft.
func (s *store) Snapshot() (raftpb.Snapshot, error) {
	if s.offer == nil {
		return raftpb.Snapshot{}, raft.ErrSnapshotTemporarilyUnavailable
	}
	return s.offer()
}

// Entries is part of raft.Storage: from memory where it can, else from the files.
func (s *store) Entries(lo, hi, maxSize uint64) ([]raftpb.Entry, error) {
	s.mu.Lock()
	last, base := s.img.last(), s.img.base.index
	if lo <= base || hi > last+1 {
		s.mu.Unlock()
		if lo <= base {
			return nil, raft.ErrCompacted
		}
		return nil, raft.ErrUnavailable
	}
	if first := last + 1 - uint64(len(s.cache)); lo >= first {
		ents := slices.Clone(s.cache[lo-first : hi-first])
		s.mu.Unlock()
		return limitSize(ents, maxSize), nil
	}
	pos := slices.Clone(s.img.pos[lo-base-1 : hi-base-1])
	s.mu.Unlock()
	return s.readEntries(pos, maxSize)
}

// limitSize cuts ents to maxSize bytes, but for the first.
func limitSize(ents []raftpb.Entry, maxSize uint64) []raftpb.Entry {
	var size uint64
	for i, e := range ents {
		size += uint64(e.Size())
		if size > maxSize && i > 0 {
			return ents[:i:i]
		}
	}
	return ents
}

// readEntries reads entries back from their files and checks them again.
func (s *store) readEntries(pos []position, maxSize uint64) ([]raftpb.Entry, error) {
	r := &fetcher{fs: s.fs, dir: s.dir}
	defer r.close()
	var ents []raftpb.Entry
	var size uint64
	for _, p := range pos {
		rec, err := r.fetch(p)
		if err != nil {
			return nil, err
		}
		e := rec.entry()
		if size += uint64(e.Size()); size > maxSize && len(ents) > 0 {
			break
		}
		ents = append(ents, e)
	}
	return ents, nil
}

// fetcher reads single records, keeping the last file open.
type fetcher struct {
	fs   vfs.FS
	dir  string
	seq  uint64
	file vfs.File
	salt uint32
	buf  []byte
}

// fetch reads the record at p; its data is good until the next call.
func (r *fetcher) fetch(p position) (record, error) {
	path := r.fs.PathJoin(r.dir, segmentName(p.seq))
	if r.file == nil || r.seq != p.seq {
		r.close()
		f, err := r.fs.Open(path)
		if err != nil {
			return record{}, err
		}
		r.file, r.seq = f, p.seq
		var b [segmentHeader]byte
		if _, err := f.ReadAt(b[:], 0); err != nil {
			return record{}, err
		}
		h, err := parseHeader(b[:])
		if err != nil {
			return record{}, err
		}
		r.salt = saltSum(h.salt)
	}
	r.buf = slices.Grow(r.buf[:0], int(p.size))[:p.size]
	if _, err := r.file.ReadAt(r.buf, p.off); err != nil {
		return record{}, err
	}
	rec, _, err := decodeRecord(r.buf, r.salt)
	if err != nil {
		return record{}, damaged(path, p.off, "a record that was good at the start is bad")
	}
	return rec, nil
}

func (r *fetcher) close() {
	if r.file != nil {
		_ = r.file.Close() // only read
		r.file = nil
	}
}

// status returns the store's part of a Status.
func (s *store) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{
		First: sluice.Index(s.img.base.index + 1), Last: sluice.Index(s.img.last()),
		Bytes: s.totalBytes, Segments: len(s.img.segments),
		Syncs: s.syncs, Entries: s.entries, ReadOnly: s.full,
	}
}

package journal

import (
	"errors"
	"log/slog"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Zeros are written ahead of the records, so that a sync need not change the file's
// length, and so that what was accepted still finds room on a full disk.
const (
	zeroChunk = 1 << 20
	zeroAhead = 8 << 20
)

// batch is what is written and synced together.
type batch struct {
	messages []raftpb.Message // of type MsgStorageAppend
	confs    []members
}

// append writes b and, where somebody waits for it, syncs it. An error for which noRoom
// is true has changed nothing: the same batch may be tried again. After any other the
// log must not be written again, since what a failed sync has kept is unknown.
func (s *store) append(b batch) error {
	s.buf, s.staged = s.buf[:0], s.staged[:0]
	hard := s.img.base.hard
	sync := len(b.confs) > 0
	for _, m := range b.messages {
		sync = sync || len(m.Responses) > 0
		h := raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
		if raft.IsEmptyHardState(h) {
			h = hard
		}
		// The term stands before its entries and the commit index behind them, so that
		// a torn end never leaves an entry above its term, and a commit index above
		// the last entry always is damage.
		if h.Term != hard.Term || h.Vote != hard.Vote {
			s.buf = s.encode(s.buf, hardRecord(raftpb.HardState{Term: h.Term, Vote: h.Vote, Commit: hard.Commit}))
		}
		for _, e := range m.Entries {
			if err := s.stage(e, raftpb.HardState{Term: h.Term, Vote: h.Vote, Commit: hard.Commit}); err != nil {
				return err
			}
		}
		hard = h
	}
	if hard.Commit != s.img.base.hard.Commit {
		s.buf = s.encode(s.buf, hardRecord(hard))
	}
	for _, c := range b.confs {
		s.buf = s.encode(s.buf, record{kind: kindMembers, index: c.index, data: appendMembers(nil, c)})
	}
	if err := s.write(); err != nil {
		return err
	}
	if sync && s.durable != s.off {
		if err := s.sync(); err != nil {
			return err
		}
	}
	s.publish(hard, b.confs)
	return nil
}

// encode appends a record in the current segment's terms.
func (s *store) encode(dst []byte, r record) []byte {
	r.durable = uint32(s.durable)
	return appendRecord(dst, s.salt, r)
}

// stage encodes an entry behind those already in the buffer, in a new segment when it
// does not fit this one. hard is what that one then stands on.
func (s *store) stage(e raftpb.Entry, hard raftpb.HardState) error {
	size := int64(recordSize(len(e.Data)))
	at := s.off + int64(len(s.buf))
	if at+size > s.limit && at > segmentHeader+recordHeader+1024 {
		if err := s.write(); err != nil {
			return err
		}
		s.publish(hard, nil)
		if err := s.rotate(); err != nil {
			return err
		}
		at = s.off
	}
	s.buf = s.encode(s.buf, entryRecord(e))
	s.staged = append(s.staged, staged{e, position{seq: s.head.seq, off: at, size: uint32(size), term: e.Term}})
	return nil
}

// write puts the buffer into the file, unsynced.
func (s *store) write() error {
	if len(s.buf) == 0 {
		return nil
	}
	if err := s.reserve(int64(len(s.buf))); err != nil {
		return err
	}
	if _, err := s.file.WriteAt(s.buf, s.off); err != nil {
		return err
	}
	s.off += int64(len(s.buf))
	s.buf = s.buf[:0]
	return nil
}

// reserve fills the file with zeros for n bytes and some more.
func (s *store) reserve(n int64) error {
	need := s.off + n
	if need > s.zeroed-zeroAhead/2 || s.isFull() {
		goal := max(need, min(need+zeroAhead, s.limit))
		for s.zeroed < goal {
			to := min(s.zeroed+zeroChunk, goal)
			err := s.fillZeros(s.zeroed, to)
			if err != nil {
				if noRoom(err) {
					s.setFull(true)
					if s.zeroed >= need {
						return nil
					}
				}
				return err
			}
			s.mu.Lock()
			s.totalBytes += to - s.zeroed
			s.mu.Unlock()
			s.zeroed = to
		}
	}
	return nil
}

// fillZeros writes zeros over [from, to).
func (s *store) fillZeros(from, to int64) error {
	zeros := make([]byte, min(to-from, zeroChunk))
	for from < to {
		n := min(to-from, int64(len(zeros)))
		if _, err := s.file.WriteAt(zeros[:n], from); err != nil {
			return err
		}
		from += n
	}
	return nil
}

// sync makes durable what is written.
func (s *store) sync() error {
	if err := s.file.SyncData(); err != nil {
		return syncError{err}
	}
	s.durable = s.off
	s.mu.Lock()
	s.syncs++
	s.mu.Unlock()
	return nil
}

// syncError is a failed sync. Even for want of room it is final: the kernel may have
// dropped what it could not write and will not say so again.
type syncError struct{ err error }

func (e syncError) Error() string { return "sync: " + e.err.Error() }

// noRoom says whether err is a full disk, and nothing is lost by trying again.
func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// publish makes written entries known to Raft's reads.
func (s *store) publish(hard raftpb.HardState, confs []members) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.img.base.hard = hard
	for _, c := range confs {
		s.img.base.confs = addConf(s.img.base.confs, c)
	}
	for _, x := range s.staged {
		s.addLocked(x)
	}
	s.entries += uint64(len(s.staged))
	clear(s.staged)
	s.staged = s.staged[:0]
	drop := 0
	for s.cached > cacheBytes && drop < len(s.cache)-1 {
		s.cached -= int64(s.cache[drop].Size())
		drop++
	}
	if drop > 0 {
		s.cache = append([]raftpb.Entry(nil), s.cache[drop:]...)
	}
}

// addLocked adds one entry; it replaces one at its index and all after it.
func (s *store) addLocked(x staged) {
	for s.img.last() >= x.entry.Index {
		s.img.pos = s.img.pos[:len(s.img.pos)-1]
		if n := len(s.cache); n > 0 {
			s.cached -= int64(s.cache[n-1].Size())
			s.cache = s.cache[:n-1]
		}
	}
	s.img.pos = append(s.img.pos, x.pos)
	s.cache = append(s.cache, x.entry)
	s.cached += int64(x.entry.Size())
}

// rotate syncs the current segment and begins the next. The new file appears under its
// name complete, and only when everything before it is durable.
func (s *store) rotate() error {
	if s.file != nil && s.durable != s.off {
		if err := s.sync(); err != nil {
			return err
		}
	}
	h := s.head
	h.seq, h.salt = s.head.seq+1, s.rand()
	s.mu.Lock()
	g := s.img.base
	g.index, g.term = s.img.last(), s.img.termAt(s.img.last())
	s.img.base.reset = false // it is of this one segment
	s.mu.Unlock()
	salt := saltSum(h.salt)
	b := appendHeader(nil, h)
	b = appendRecord(b, salt, record{kind: kindState, index: g.index, term: g.term, data: appendGround(nil, g)})
	size := int64(len(b))
	f, path, err := s.create(h.seq, b)
	if err != nil {
		return err
	}
	s.close()
	s.file, s.head.seq, s.salt = f, h.seq, salt
	s.off, s.durable, s.zeroed = size, size, size
	s.mu.Lock()
	defer s.mu.Unlock()
	s.totalBytes += size
	s.img.segments = append(s.img.segments, scanned{header: h, path: path, size: size, end: size, prev: g.index})
	return nil
}

// create makes a segment that begins with b and syncs it and its name.
func (s *store) create(seq uint64, b []byte) (vfs.File, string, error) {
	tmp := s.fs.PathJoin(s.dir, "next"+tmpSuffix)
	path := s.fs.PathJoin(s.dir, segmentName(seq))
	f, err := s.fs.OpenReadWrite(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, "", err
	}
	if _, err = f.WriteAt(b, 0); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = s.fs.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(s.fs, s.dir)
	}
	if err != nil {
		_ = f.Close()        // the first error counts
		_ = s.fs.Remove(tmp) // where it got that far
		return nil, "", err
	}
	return f, path, nil
}

// syncDir makes the names in dir durable.
func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

// maxKept is how many files of the log are kept for members that lag.
const maxKept = 16

// spare returns up to where the log may be cut when the Machine needs nothing up to an
// index: some is kept for members that lag, unless it is too large.
func (s *store) spare(index, keep uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.img.segments); n > maxKept {
		return min(index, s.img.segments[n-maxKept].prev)
	}
	return index - min(index, keep)
}

// forget takes away from Raft's view the segments that hold only entries up to index,
// and returns their paths, oldest first. The loop calls it, so that no read of Raft's
// is under way.
func (s *store) forget(index uint64) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var paths []string
	for len(s.img.segments) > 1 && s.img.segments[1].prev <= index {
		next := s.img.segments[1]
		term := s.img.termAt(next.prev)
		s.img.pos = append([]position(nil), s.img.pos[next.prev-s.img.base.index:]...)
		s.img.base.index, s.img.base.term = next.prev, term
		paths = append(paths, s.img.segments[0].path)
		s.img.segments = s.img.segments[1:]
	}
	if over := len(s.cache) - len(s.img.pos); over > 0 {
		for _, e := range s.cache[:over] {
			s.cached -= int64(e.Size())
		}
		s.cache = append([]raftpb.Entry(nil), s.cache[over:]...)
	}
	for len(s.img.base.confs) > 1 && s.img.base.confs[1].index <= s.img.base.index {
		s.img.base.confs = s.img.base.confs[1:]
	}
	return paths
}

// remove deletes files one by one, each durably before the next, so that a crash never
// leaves a gap.
func (s *store) remove(paths []string) error {
	for _, p := range paths {
		st, err := s.fs.Stat(p)
		if err == nil {
			err = s.fs.Remove(p)
		}
		if err == nil {
			err = syncDir(s.fs, s.dir)
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.totalBytes -= st.Size()
		s.mu.Unlock()
	}
	return nil
}

func (s *store) isFull() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full
}

func (s *store) setFull(full bool) {
	s.mu.Lock()
	was := s.full
	s.full = full
	s.mu.Unlock()
	if full && !was {
		s.log.Error("no room for the journal: the master is read-only until there is", slog.String("dir", s.dir))
	} else if was && !full {
		s.log.Info("there is room for the journal again", slog.String("dir", s.dir))
	}
}

// probe looks whether there is room: enough free on the disk, and zeros ahead.
func (s *store) probe() {
	if s.minFree > 0 {
		u, err := s.fs.GetDiskUsage(s.dir)
		if err == nil && u.AvailBytes < uint64(s.minFree) {
			s.setFull(true)
			return
		}
	}
	if s.isFull() && s.reserve(0) == nil && s.zeroed >= min(s.off+zeroAhead/2, s.limit) {
		s.setFull(false)
	}
}

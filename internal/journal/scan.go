package journal

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
)

// position is where an entry lies.
type position struct {
	seq  uint64
	off  int64
	size uint32 // of the record
	term uint64
}

// image is the log as its files say: what Raft resumes from.
type image struct {
	segments []scanned
	base     ground // index and term of the entry before the first; hard and confs up to date
	pos      []position
	stale    []string // files before the one that begins anew, oldest first: they do not count
}

// last returns the index of the last entry.
func (m *image) last() uint64 { return m.base.index + uint64(len(m.pos)) }

// termAt returns the term of an entry between base and last.
func (m *image) termAt(index uint64) uint64 {
	if index == m.base.index {
		return m.base.term
	}
	return m.pos[index-m.base.index-1].term
}

// readImage reads every segment of dir. Without any it returns an empty image. What
// follows the good records of a file but the last is of no matter, as long as the next
// file goes on where they end.
func readImage(fs vfs.FS, dir string) (*image, error) {
	seqs, err := listSegments(fs, dir)
	if err != nil {
		return nil, err
	}
	m := &image{}
	for i, seq := range seqs {
		path := fs.PathJoin(dir, segmentName(seq))
		if i > 0 && seq != seqs[i-1]+1 {
			return m, damaged(path, 0, fmt.Sprintf("the file before it is number %d, so at least one is missing", seqs[i-1]))
		}
		if err := m.readSegment(fs, path, seq); err != nil {
			return m, err
		}
	}
	return m, nil
}

// readSegment adds one segment to the image.
func (m *image) readSegment(fs vfs.FS, path string, seq uint64) error {
	b, err := readFile(fs, path)
	if err != nil {
		return err
	}
	s, err := scanSegment(b, path, func(off int64, r record) error { return m.take(path, seq, off, r) })
	if err == nil && s.seq != seq {
		err = damaged(path, 0, fmt.Sprintf("its header says it is number %d", s.seq))
	}
	if n := len(m.segments); err == nil && n > 0 && (m.segments[n-1].cluster != s.cluster || m.segments[n-1].node != s.node) {
		err = damaged(path, 0, "it belongs to another cluster or node than the file before it")
	}
	m.segments = append(m.segments, s)
	return err
}

// begin checks that a segment goes on where the one before ended.
func (m *image) begin(g ground, path string) error {
	if len(m.segments) == 0 || g.reset {
		for _, s := range m.segments {
			m.stale = append(m.stale, s.path)
		}
		m.base, m.pos, m.segments = g, nil, nil
		m.base.reset = false // it is of this one segment
		return nil
	}
	if g.index != m.last() || g.term != m.termAt(g.index) {
		return damaged(path, segmentHeader, fmt.Sprintf("it goes on after entry %d of term %d, but the file before it ends with entry %d of term %d",
			g.index, g.term, m.last(), m.termAt(m.last())))
	}
	m.base.hard = g.hard
	return nil
}

// take brings one record into the image.
func (m *image) take(path string, seq uint64, off int64, r record) error {
	var err error
	switch r.kind {
	case kindHard:
		m.base.hard, err = parseHard(r)
	case kindMembers:
		var c members
		if c, err = parseConf(r); err == nil {
			m.base.confs = addConf(m.base.confs, c)
		}
	case kindState:
		var g ground
		if g, err = parseGround(r); err == nil {
			return m.begin(g, path)
		}
	default:
		return m.takeEntry(path, seq, off, r)
	}
	if err != nil {
		return damaged(path, off, "a record with a right checksum has wrong contents")
	}
	return nil
}

// takeEntry adds an entry; one at an index that is there replaces it and all after it.
func (m *image) takeEntry(path string, seq uint64, off int64, r record) error {
	switch {
	case r.index > m.last()+1:
		return damaged(path, off, fmt.Sprintf("entry %d follows entry %d", r.index, m.last()))
	case r.index < m.base.index:
		m.pos = m.pos[:0]
	case r.index == m.base.index:
		m.pos, m.base.term = m.pos[:0], r.term
	default:
		m.pos = append(m.pos[:r.index-m.base.index-1], position{seq: seq, off: off, size: uint32(recordSize(len(r.data))), term: r.term})
	}
	return nil
}

// addConf adds members, replacing those of the same index or later.
func addConf(confs []members, c members) []members {
	n := len(confs)
	for n > 0 && confs[n-1].index >= c.index {
		n--
	}
	return append(confs[:n:n], c)
}

// confAt returns the members as of an index. They are recorded durably before the
// entry that made them is applied, so what the Machine has applied is always there.
func (m *image) confAt(index uint64) (members, error) {
	for i := len(m.base.confs) - 1; i >= 0; i-- {
		if m.base.confs[i].index <= index {
			return m.base.confs[i], nil
		}
	}
	return members{}, &sluice.Error{Kind: sluice.Corrupt, Err: fmt.Errorf("the members as of entry %d are not in the log", index)}
}

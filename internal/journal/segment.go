package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
)

const (
	segmentMagic   = "SLUICEJL"
	segmentVersion = 1
	segmentHeader  = 128
	segmentSuffix  = ".log"
	tmpSuffix      = ".tmp"
)

// header is the start of a segment.
type header struct {
	seq     uint64 // counted from 1 without a gap
	node    uint64
	salt    uint64
	cluster string
}

func appendHeader(dst []byte, h header) []byte {
	b := make([]byte, segmentHeader)
	copy(b, segmentMagic)
	b[8] = segmentVersion
	binary.LittleEndian.PutUint64(b[16:], h.seq)
	binary.LittleEndian.PutUint64(b[24:], h.node)
	binary.LittleEndian.PutUint64(b[32:], h.salt)
	b[40] = byte(len(h.cluster))
	copy(b[41:], h.cluster)
	binary.LittleEndian.PutUint32(b[124:], crc32.Checksum(b[:124], castagnoli()))
	return append(dst, b...)
}

// parseHeader reads a header. Its error is a *sluice.Error of kind Corrupt or, for a
// later version, Unsupported.
func parseHeader(b []byte) (header, error) {
	bad := func(kind sluice.Kind, text string) (header, error) {
		return header{}, &sluice.Error{Kind: kind, Err: fmt.Errorf("%s", text)}
	}
	if len(b) < segmentHeader || string(b[:8]) != segmentMagic {
		return bad(sluice.Corrupt, "not a segment of a journal")
	}
	if b[8] != segmentVersion {
		return bad(sluice.Unsupported, fmt.Sprintf("written by a later version of sluice (format %d, this one reads %d)", b[8], segmentVersion))
	}
	if crc32.Checksum(b[:124], castagnoli()) != binary.LittleEndian.Uint32(b[124:]) {
		return bad(sluice.Corrupt, "the header fails its checksum")
	}
	n := int(b[40])
	if n > MaxClusterName {
		return bad(sluice.Corrupt, "the header's cluster id is too long")
	}
	return header{
		seq:     binary.LittleEndian.Uint64(b[16:]),
		node:    binary.LittleEndian.Uint64(b[24:]),
		salt:    binary.LittleEndian.Uint64(b[32:]),
		cluster: string(b[41 : 41+n]),
	}, nil
}

// segmentName returns the file name of a segment.
func segmentName(seq uint64) string { return fmt.Sprintf("%010d%s", seq, segmentSuffix) }

// listSegments returns the numbers of the segments in dir, in order.
func listSegments(fs vfs.FS, dir string) ([]uint64, error) {
	names, err := fs.List(dir)
	if err != nil {
		return nil, err
	}
	var seqs []uint64
	for _, name := range names {
		base, ok := strings.CutSuffix(name, segmentSuffix)
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(base, 10, 64); err == nil && segmentName(n) == name {
			seqs = append(seqs, n)
		}
	}
	slices.Sort(seqs)
	return seqs, nil
}

// readFile returns a file's bytes; a segment is bounded by MaxSegmentBytes.
func readFile(fs vfs.FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, st.Size())
	n, err := f.ReadAt(b, 0)
	if err == io.EOF && n == len(b) {
		err = nil
	}
	return b[:n], err
}

// scanned is a segment as found on disk.
type scanned struct {
	header
	path string
	prev uint64 // index of the last entry before it
	size int64  // of the file
	end  int64  // where its good records end
	// torn says that bytes after end are not records and were never acknowledged.
	torn bool
}

// found is called for each record of a segment with its offset.
type found func(off int64, r record) error

// scanSegment reads a segment's records in order. Damage that a crash cannot have
// caused is an error of kind Corrupt; what a crash leaves at the end sets torn.
//
// A crash may lose any part of what was written since the last sync, also the start
// of it. So a bad record is a torn end, unless a good one follows that was written
// when the bad one was already synced.
func scanSegment(b []byte, path string, each found) (scanned, error) {
	h, err := parseHeader(b)
	if err != nil {
		return scanned{}, sluice.Wrap("read "+path, "", err)
	}
	s := scanned{header: h, path: path, size: int64(len(b)), end: segmentHeader}
	salt := saltSum(h.salt)
	for first := true; ; first = false {
		r, n, err := decodeRecord(b[s.end:], salt)
		if first && (err != nil || r.kind != kindState) {
			return s, damaged(path, s.end, "its first record is damaged")
		}
		if err != nil {
			return s, s.classify(b, salt, err)
		}
		if r.kind == kindState && !first {
			return s, damaged(path, s.end, "a first record stands in the middle")
		}
		if first {
			s.prev = r.index
		}
		if err := each(s.end, r); err != nil {
			return s, err
		}
		s.end += int64(n)
	}
}

// classify decides what the bytes after the last good record are.
func (s *scanned) classify(b []byte, salt uint32, cause error) error {
	s.torn = cause == errBad
	zeros := make([]byte, 4096)
	for off := s.end; off < int64(len(b)); {
		if off%4096 == 0 && off+4096 <= int64(len(b)) && bytes.Equal(b[off:off+4096], zeros) {
			off += 4096
			continue
		}
		if r, _, err := decodeRecord(b[off:], salt); err == nil {
			s.torn = true
			if int64(r.durable) > s.end {
				return damaged(s.path, s.end, fmt.Sprintf("a bad record is followed by a good one at offset %d that was written later", off))
			}
		}
		off += recordAlign
	}
	if !s.torn {
		s.torn = !allZero(b[s.end:])
	}
	return nil
}

// damaged is the error for damage that no crash explains.
func damaged(path string, off int64, what string) error {
	return &sluice.Error{Op: "read journal", Kind: sluice.Corrupt, Err: fmt.Errorf(
		"%s at offset %d: %s: acknowledged changes may be missing, so the master does not start on it; see `sluice admin journal verify`, then restore a backup or repair",
		path, off, what)}
}

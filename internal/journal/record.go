package journal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// The bytes of a record are described in docs/format/journal.md.
const (
	recordHeader = 32
	recordAlign  = 8
	// maxData bounds what a length field is believed.
	maxData = 64<<20 + 4096
)

// recordKind says what a record holds. The numbers are on disk: never renumber.
type recordKind uint8

const (
	kindEntry    recordKind = 1 // an entry of the Machine's
	kindConf     recordKind = 2 // an entry that changes the members (raftpb.ConfChange)
	kindConfV2   recordKind = 3 // likewise (raftpb.ConfChangeV2)
	kindHard     recordKind = 4 // term, vote and commit index
	kindState    recordKind = 5 // what a segment stands on; its first record
	kindMembers  recordKind = 6 // the members as of an index
	kindsOnDisk  recordKind = 7
	noRecordKind recordKind = 0
)

// record is one record, decoded. Data points into what it was decoded from.
type record struct {
	kind    recordKind
	durable uint32 // up to where its segment was synced when it was written
	term    uint64
	index   uint64
	data    []byte
}

var (
	// errEnd is where the records of a segment end: zeros, or too little room.
	errEnd = errors.New("end of records")
	// errBad is a record that is not what was written.
	errBad = errors.New("bad record")
)

// recordSize returns the bytes that a record with n bytes of data takes.
func recordSize(n int) int { return (recordHeader + n + recordAlign - 1) &^ (recordAlign - 1) }

// castagnoli returns the table of CRC-32C; the hardware's instruction is used.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// saltSum returns the checksum that those of a segment's records go on from, so that
// bytes of another segment, or put into an entry by somebody, never pass for a record.
func saltSum(salt uint64) uint32 {
	return crc32.Checksum(binary.LittleEndian.AppendUint64(nil, salt), castagnoli())
}

// appendRecord appends r to dst.
func appendRecord(dst []byte, salt uint32, r record) []byte {
	start := len(dst)
	var h [recordHeader]byte
	binary.LittleEndian.PutUint32(h[0:], uint32(len(r.data)))
	h[8] = byte(r.kind)
	binary.LittleEndian.PutUint32(h[12:], r.durable)
	binary.LittleEndian.PutUint64(h[16:], r.term)
	binary.LittleEndian.PutUint64(h[24:], r.index)
	binary.LittleEndian.PutUint32(h[4:], recordSum(h[:], r.data, salt))
	dst = append(dst, h[:]...)
	dst = append(dst, r.data...)
	for len(dst)-start < recordSize(len(r.data)) {
		dst = append(dst, 0)
	}
	return dst
}

// recordSum is the checksum over the header but for the sum itself, and the data.
func recordSum(h, data []byte, salt uint32) uint32 {
	t := castagnoli()
	c := crc32.Update(salt, t, h[:4])
	c = crc32.Update(c, t, h[8:recordHeader])
	return crc32.Update(c, t, data)
}

// decodeRecord reads the record at the start of b and returns the bytes it takes. It
// believes nothing: err is errEnd or errBad.
func decodeRecord(b []byte, salt uint32) (r record, size int, err error) {
	if len(b) < recordHeader {
		if allZero(b) {
			return record{}, 0, errEnd
		}
		return record{}, 0, errBad
	}
	n := binary.LittleEndian.Uint32(b)
	r = record{
		kind:    recordKind(b[8]),
		durable: binary.LittleEndian.Uint32(b[12:]),
		term:    binary.LittleEndian.Uint64(b[16:]),
		index:   binary.LittleEndian.Uint64(b[24:]),
	}
	if r.kind == noRecordKind && allZero(b[:recordHeader]) {
		return record{}, 0, errEnd
	}
	if r.kind == noRecordKind || r.kind >= kindsOnDisk || n > maxData || b[9]|b[10]|b[11] != 0 {
		return record{}, 0, errBad
	}
	size = recordSize(int(n))
	if size > len(b) {
		return record{}, 0, errBad
	}
	r.data = b[recordHeader : recordHeader+int(n) : recordHeader+int(n)]
	if recordSum(b, r.data, salt) != binary.LittleEndian.Uint32(b[4:]) {
		return record{}, 0, errBad
	}
	return r, size, nil
}

// allZero says whether b holds zeros only.
func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

package blockstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/sluicefs/sluice"
)

// The index format; docs/format/blockstore.md describes it byte by byte.
const (
	indexMagic   = "SLUICEBX"
	indexVersion = 1
	headerSize   = 32
	frameSize    = 7   // crc, length and kind before each body
	maxBody      = 128 // bytes; a longer length field is damage
)

// recordKind says what a record of the index tells.
type recordKind uint8

const (
	recBlock  recordKind = iota + 1 // a block file exists
	recPage                         // a page of it is whole, with its checksums
	recDrop                         // the block is gone
	recFlags                        // its flags changed
	recAbsent                       // a page of it must not be used any more
)

// record is one entry of the index. Which fields mean something depends on kind.
type record struct {
	kind   recordKind
	gen    uint64 // names the block file within its directory
	id     sluice.BlockID
	length int64
	flags  uint8
	page   int64
	sums   []uint32 // of the page's chunks, at most 16
}

// Bits of record.flags.
const (
	keptPinned      = 1
	keptUnpersisted = 2
)

// header is the start of an index file.
type header struct {
	worker  sluice.WorkerID
	nextGen uint64
}

var (
	errDamaged = errors.New("damaged")
	errVersion = errors.New("written by a later version")
)

func appendHeader(dst []byte, h header) []byte {
	start := len(dst)
	dst = append(dst, indexMagic...)
	dst = append(dst, indexVersion, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, 0)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(h.worker))
	dst = binary.LittleEndian.AppendUint64(dst, h.nextGen)
	binary.LittleEndian.PutUint32(dst[start+12:], Sum(dst[start:]))
	return dst
}

// parseHeader returns errDamaged for what fails its checksum and errVersion for an
// intact header of another version.
func parseHeader(p []byte) (header, error) {
	if len(p) < headerSize || string(p[:8]) != indexMagic {
		return header{}, errDamaged
	}
	var clean [headerSize]byte
	copy(clean[:], p)
	clear(clean[12:16])
	if Sum(clean[:]) != binary.LittleEndian.Uint32(p[12:]) {
		return header{}, errDamaged
	}
	if p[8] != indexVersion {
		return header{}, fmt.Errorf("%w: version %d, this program knows %d", errVersion, p[8], indexVersion)
	}
	return header{
		worker:  sluice.WorkerID(binary.LittleEndian.Uint64(p[16:])),
		nextGen: binary.LittleEndian.Uint64(p[24:]),
	}, nil
}

// appendRecord encodes r behind dst.
func appendRecord(dst []byte, r *record) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0, 0, byte(r.kind))
	dst = binary.AppendUvarint(dst, r.gen)
	switch r.kind {
	case recBlock:
		dst = binary.LittleEndian.AppendUint64(dst, uint64(r.id.Content.Incarnation))
		dst = binary.AppendUvarint(dst, r.id.Content.Counter)
		dst = binary.AppendUvarint(dst, uint64(r.id.Index))
		dst = binary.AppendUvarint(dst, uint64(r.length))
		dst = append(dst, r.flags)
	case recPage:
		dst = binary.AppendUvarint(dst, uint64(r.page))
		for _, sum := range r.sums {
			dst = binary.LittleEndian.AppendUint32(dst, sum)
		}
	case recFlags:
		dst = append(dst, r.flags)
	case recAbsent:
		dst = binary.AppendUvarint(dst, uint64(r.page))
	}
	binary.LittleEndian.PutUint16(dst[start+4:], uint16(len(dst)-start-frameSize))
	binary.LittleEndian.PutUint32(dst[start:], Sum(dst[start+4:]))
	return dst
}

// parseRecord decodes the record at the start of p into r, whose sums it reuses, and
// returns its size in bytes. Trailing bytes are not looked at.
func parseRecord(p []byte, r *record) (int, error) {
	if len(p) < frameSize {
		return 0, errDamaged
	}
	n := int(binary.LittleEndian.Uint16(p[4:]))
	if n > maxBody || len(p) < frameSize+n || Sum(p[4:frameSize+n]) != binary.LittleEndian.Uint32(p) {
		return 0, errDamaged
	}
	sums := r.sums[:0]
	*r = record{kind: recordKind(p[6]), sums: sums}
	if !parseBody(p[frameSize:frameSize+n], r) {
		return 0, errDamaged
	}
	return frameSize + n, nil
}

// parseBody fills r, whose kind is set, and says whether the body is well-formed.
func parseBody(body []byte, r *record) bool {
	ok := true
	number := func(limit uint64) uint64 {
		v, n := binary.Uvarint(body)
		if n <= 0 || v > limit {
			ok, body = false, nil
			return 0
		}
		body = body[n:]
		return v
	}
	r.gen = number(1<<64 - 1)
	switch r.kind {
	case recBlock:
		if len(body) < 8 {
			return false
		}
		r.id.Content.Incarnation = sluice.Incarnation(binary.LittleEndian.Uint64(body))
		body = body[8:]
		r.id.Content.Counter = number(1<<64 - 1)
		r.id.Index = uint32(number(1<<32 - 1))
		r.length = int64(number(sluice.MaxBlockSize))
		if r.length == 0 {
			return false
		}
		return ok && parseFlags(body, r)
	case recPage:
		r.page = int64(number(sluice.MaxBlockSize/sluice.PageSize - 1))
		if len(body) == 0 || len(body)%4 != 0 || len(body)/4 > chunksPerPage {
			return false
		}
		for ; len(body) > 0; body = body[4:] {
			r.sums = append(r.sums, binary.LittleEndian.Uint32(body))
		}
	case recDrop:
	case recFlags:
		return ok && parseFlags(body, r)
	case recAbsent:
		r.page = int64(number(sluice.MaxBlockSize/sluice.PageSize - 1))
	default:
		return false
	}
	return ok && len(body) == 0
}

func parseFlags(body []byte, r *record) bool {
	if len(body) != 1 || body[0]&^(keptPinned|keptUnpersisted) != 0 {
		return false
	}
	r.flags = body[0]
	return true
}

// scanned is what was found in an index besides its records.
type scanned struct {
	end     int64 // behind the last intact record: appending continues here
	damaged int   // runs of bytes between intact records that are none
}

// scanRecords calls each with every intact record from offset start on. Behind damage
// it looks for the next intact record byte by byte: a flipped bit costs the record it
// lies in, not what follows. What is no record at the end is the torn tail of a crash
// and not counted as damage. The record is each's until it returns.
func scanRecords(r io.ReaderAt, start int64, each func(off int64, rec *record) error) (scanned, error) {
	const window = 1 << 20
	var (
		buf    = make([]byte, 0, window)
		base   = start // file offset of buf[0]
		pos    int
		eof    bool
		inside bool // a run of damage
		rec    = record{sums: make([]uint32, 0, chunksPerPage)}
		out    = scanned{end: start}
	)
	for {
		if len(buf)-pos < frameSize+maxBody && !eof {
			kept := copy(buf[:cap(buf)], buf[pos:])
			base += int64(pos)
			pos = 0
			n, err := r.ReadAt(buf[kept:cap(buf)], base+int64(kept))
			buf = buf[:kept+n]
			if err == io.EOF {
				eof = true
			} else if err != nil {
				return out, err
			}
		}
		if pos >= len(buf) {
			return out, nil
		}
		n, err := parseRecord(buf[pos:], &rec)
		if err != nil {
			inside = true
			pos++
			continue
		}
		if inside {
			inside = false
			out.damaged++
		}
		off := base + int64(pos)
		pos += n
		out.end = base + int64(pos)
		if err := each(off, &rec); err != nil {
			return out, err
		}
	}
}

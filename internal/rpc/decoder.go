package rpc

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
)

// decoder reads frames. It can be interrupted by a read deadline anywhere and goes on
// where it was, so that the role of the reader passes from one caller to the next.
type decoder struct {
	in         inlet
	ahead      int // how much is read at once where a frame is due
	maxFrame   int
	maxMessage int

	phase phase
	kind  frameType
	h     header
	body  []byte // the message; valid until the next call of head

	own  []byte // where a message larger than the inlet's buffer is gathered
	done int    // payload bytes read
	sums [maxSums]uint32
	bad  bool // the trailer's status or a checksum says that the piece is no good
	why  byte // the trailer's status
}

type phase uint8

const (
	phaseHead phase = iota
	phaseBody
	phasePayload
	phaseTrailer
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

func newDecoder(read func([]byte) (int, error), maxMessage int) decoder {
	return decoder{
		in:         inlet{read: read, buf: make([]byte, inletStart)},
		ahead:      inletMax,
		maxMessage: maxMessage,
		maxFrame:   maxHeader + maxTrailer + max(maxMessage, PieceSize),
	}
}

// head reads a frame's header and message. Afterwards the phase is phasePayload if
// payload follows, else phaseHead: then the frame is over.
func (d *decoder) head() error {
	if d.phase == phaseHead {
		if err := d.in.need(prefixSize, d.ahead); err != nil {
			return err
		}
		p, err := parsePrefix(d.in.bytes(), d.maxFrame)
		if err != nil {
			return err
		}
		if err := d.in.need(prefixSize+p.header, d.ahead); err != nil {
			return err
		}
		if err := d.h.parse(d.in.bytes()[prefixSize : prefixSize+p.header]); err != nil {
			return err
		}
		if err := d.h.check(p, d.maxMessage); err != nil {
			return err
		}
		d.in.skip(prefixSize + p.header)
		d.kind, d.phase, d.body, d.own = p.kind, phaseBody, nil, nil
	}
	if err := d.message(); err != nil {
		return err
	}
	d.phase = phaseHead
	if d.h.payload > 0 {
		d.phase, d.done, d.bad, d.sums = phasePayload, 0, false, [maxSums]uint32{}
	}
	return nil
}

// message makes body the frame's message: in place if it fits the buffer, else
// gathered in memory that grows only as bytes arrive.
func (d *decoder) message() error {
	n := int(d.h.body)
	if n <= inletMax && d.own == nil {
		if err := d.in.need(n, inletMax); err != nil {
			return err
		}
		d.body = d.in.bytes()[:n]
		d.in.skip(n)
		return nil
	}
	for len(d.own) < n {
		if len(d.own) == cap(d.own) {
			d.own = grow(d.own, min(n-len(d.own), max(len(d.own), 2*inletMax)))
		}
		room := d.own[len(d.own):min(cap(d.own), n)]
		got, err := d.in.direct(room)
		d.own = d.own[:len(d.own)+got]
		if err != nil {
			return err
		}
	}
	d.body = d.own
	return nil
}

// payload reads the frame's payload into dst, which has its length, checking it while
// it is in the processor's cache; nil discards it. After an error that interrupted it,
// it is called again with the same dst or with nil.
func (d *decoder) payload(dst []byte) error {
	n := int(d.h.payload)
	for d.done < n {
		if dst == nil {
			got, err := d.in.discard(n - d.done)
			d.done += got
			if err != nil {
				return err
			}
			continue
		}
		got, err := d.in.direct(dst[d.done:n])
		d.sum(dst[d.done : d.done+got])
		d.done += got
		if err != nil {
			return err
		}
	}
	d.phase = phaseTrailer
	return nil
}

// sum adds p, which stands at d.done, to the checksums of its chunks.
func (d *decoder) sum(p []byte) {
	at := d.done
	for len(p) > 0 {
		n := min(len(p), chunkSize-at%chunkSize)
		i := at / chunkSize
		d.sums[i] = crc32.Update(d.sums[i], crcTable, p[:n])
		at += n
		p = p[n:]
	}
}

// trailer reads the end of a piece; bad says afterwards whether it is no good.
func (d *decoder) trailer() error {
	n := d.h.trailer()
	// After a large payload the next bytes are likely another one's: do not draw them
	// through the buffer.
	limit := inletMax
	if d.h.payload >= chunkSize {
		limit = n + 2*prefixSize + 64
	}
	if err := d.in.need(n, limit); err != nil {
		return err
	}
	t := d.in.bytes()[:n]
	d.why = t[0]
	d.bad = t[0] != pieceGood
	for i := range int(d.h.sums) {
		if binary.LittleEndian.Uint32(t[1+4*i:]) != d.sums[i] {
			d.bad = true
		}
	}
	d.in.skip(n)
	d.phase = phaseHead
	return nil
}

// ready says whether a whole frame is in the buffer, so that reading it cannot wait.
func (d *decoder) ready() bool {
	b := d.in.bytes()
	if d.phase != phaseHead || len(b) < prefixSize {
		return false
	}
	return uint64(len(b)-prefixSize) >= uint64(binary.LittleEndian.Uint32(b))
}

// inlet is a buffer before a connection. Large reads pass it by.
type inlet struct {
	read  func([]byte) (int, error)
	buf   []byte
	r, w  int
	files []*os.File // descriptors that came with the bytes and are not claimed yet
}

const (
	inletStart = 4 << 10
	inletMax   = 64 << 10
	bulkAhead  = 512 // where most frames are large: do not draw their payload through the buffer
)

func (in *inlet) bytes() []byte { return in.buf[in.r:in.w] }

func (in *inlet) skip(n int) { in.r += n }

// need makes at least n bytes (at most inletMax) stand in the buffer, reading at most
// limit at once.
func (in *inlet) need(n, limit int) error {
	for in.w-in.r < n {
		if in.r == in.w {
			in.r, in.w = 0, 0
		}
		if in.r+n > len(in.buf) {
			in.compact(n)
		}
		got, err := in.fill(in.buf[in.w:min(len(in.buf), in.w+limit)])
		in.w += got
		if err != nil {
			return err
		}
		if in.w == len(in.buf) && len(in.buf) < inletMax {
			in.resize(min(4*len(in.buf), inletMax))
		}
	}
	return nil
}

func (in *inlet) compact(n int) {
	if n > len(in.buf) {
		in.resize(inletMax)
		return
	}
	in.w = copy(in.buf, in.buf[in.r:in.w])
	in.r = 0
}

func (in *inlet) resize(n int) {
	b := make([]byte, n)
	in.w = copy(b, in.buf[in.r:in.w])
	in.r, in.buf = 0, b
}

// fill reads at least a byte. Bytes that come together with an error are kept; the
// error comes again at the next read.
func (in *inlet) fill(p []byte) (int, error) {
	for range 100 {
		n, err := in.read(p)
		if n > 0 {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

// direct reads into p what the buffer has, else from the connection.
func (in *inlet) direct(p []byte) (int, error) {
	if in.r < in.w {
		n := copy(p, in.buf[in.r:in.w])
		in.r += n
		return n, nil
	}
	if len(p) >= inletStart {
		return in.fill(p)
	}
	if err := in.need(1, inletMax); err != nil {
		return 0, err
	}
	return in.direct(p)
}

// discard throws away up to n bytes.
func (in *inlet) discard(n int) (int, error) {
	if in.r == in.w {
		if err := in.need(1, inletMax); err != nil {
			return 0, err
		}
	}
	n = min(n, in.w-in.r)
	in.r += n
	return n, nil
}

// claim takes the oldest descriptor that came with the bytes, nil if there is none.
func (in *inlet) claim() *os.File {
	if len(in.files) == 0 {
		return nil
	}
	f := in.files[0]
	in.files = in.files[1:]
	return f
}

// close closes the descriptors nobody claimed.
func (in *inlet) close() {
	for _, f := range in.files {
		f.Close()
	}
	in.files = nil
}

// interrupted says whether err is a read deadline that passed: nothing is lost.
func interrupted(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// claimIf is claim if a descriptor was announced.
func (in *inlet) claimIf(announced bool) *os.File {
	if !announced {
		return nil
	}
	return in.claim()
}

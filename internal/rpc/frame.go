package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// frameType says what a frame is. The numbers travel on the wire.
type frameType uint8

const (
	frameClientHello frameType = iota + 1
	frameServerHello
	frameClientProof
	frameWelcome
	frameRequest // client: a message, announcing the payload that follows in pieces
	framePiece   // either: up to 256 KiB of a call's payload, ending in status and checksums
	frameAnswer  // server: the end of a call
	frameCancel  // client: the caller gave up
	frameCredit  // client: payload bytes it has taken off the wire
	frameGoaway  // server: it shuts down, no further requests on this connection
)

// A frame begins with 8 bytes (numbers little-endian):
//
//	0       4     5  6              8
//	length  type  0  header length  header, message, payload, trailer
//
// length counts what follows the 8 bytes. The trailer is there if the payload is: a
// status byte and 4 bytes for each checksum.
const (
	prefixSize = 8
	maxHeader  = 256
	maxHello   = 32 << 10
	chunkSize  = 64 << 10
	maxSums    = PieceSize / chunkSize
	maxTrailer = 1 + 4*maxSums
)

// Piece status, the first byte of a trailer.
const (
	pieceGood   = 0
	pieceFailed = 1 // the sender could not read the bytes: they are padding
)

var (
	errFrame   = errors.New("malformed frame")
	errTooLong = errors.New("frame above its limit")
)

// header is what a frame says about itself and its call, encoded as a protobuf
// message with the field numbers noted here.
type header struct {
	call    uint64 // 1
	method  Method // 2
	timeout uint64 // 3: microseconds the caller still waits, 0 for ever
	send    uint64 // 4: payload bytes that will follow the request
	recv    uint64 // 5: payload bytes the caller has room for
	body    uint32 // 6: bytes of the message in this frame
	payload uint32 // 7: bytes of payload in this frame
	sums    uint32 // 8: checksums in the trailer
	credit  uint64 // 9: payload bytes taken off the wire since the last credit
	file    bool   // 10: a descriptor comes with this frame
	failed  bool   // 11: the message is an error
}

func (h *header) trailer() int {
	if h.payload == 0 {
		return 0
	}
	return 1 + 4*int(h.sums)
}

// append adds the encoded header to b.
func (h *header) append(b []byte) []byte {
	field := func(n byte, v uint64) {
		if v != 0 {
			b = append(b, n<<3)
			b = protowire.AppendVarint(b, v)
		}
	}
	field(1, h.call)
	field(2, uint64(h.method))
	field(3, h.timeout)
	field(4, h.send)
	field(5, h.recv)
	field(6, uint64(h.body))
	field(7, uint64(h.payload))
	field(8, uint64(h.sums))
	field(9, h.credit)
	field(10, protowire.EncodeBool(h.file))
	field(11, protowire.EncodeBool(h.failed))
	return b
}

// parse decodes a header. Unknown fields are skipped, so that later versions may add
// some.
func (h *header) parse(b []byte) error {
	*h = header{}
	for len(b) > 0 {
		tag, n := uint64(b[0]), 1
		if tag >= 0x80 {
			if tag, n = protowire.ConsumeVarint(b); n < 0 {
				return errFrame
			}
		}
		b = b[n:]
		if tag&7 != uint64(protowire.VarintType) || tag>>3 > 11 || tag>>3 == 0 {
			n := protowire.ConsumeFieldValue(protowire.Number(tag>>3), protowire.Type(tag&7), b)
			if n < 0 || tag>>3 == 0 || tag>>3 > uint64(protowire.MaxValidNumber) {
				return errFrame
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return errFrame
		}
		b = b[n:]
		if !h.set(tag>>3, v) {
			return errFrame
		}
	}
	return nil
}

func (h *header) set(field, v uint64) bool {
	const max32 = 1<<32 - 1
	switch field {
	case 1:
		h.call = v
	case 2:
		h.method = Method(v)
		return v < 1<<16
	case 3:
		h.timeout = v
	case 4:
		h.send = v
	case 5:
		h.recv = v
	case 6:
		h.body = uint32(v)
		return v <= max32
	case 7:
		h.payload = uint32(v)
		return v <= max32
	case 8:
		h.sums = uint32(v)
		return v <= max32
	case 9:
		h.credit = v
	case 10:
		h.file = v != 0
	case 11:
		h.failed = v != 0
	}
	return true
}

// prefix is the decoded beginning of a frame.
type prefix struct {
	length int // of what follows the prefix
	kind   frameType
	header int
}

func parsePrefix(b []byte, limit int) (prefix, error) {
	length := binary.LittleEndian.Uint32(b)
	p := prefix{kind: frameType(b[4]), header: int(binary.LittleEndian.Uint16(b[6:]))}
	if uint64(length) > uint64(limit) {
		return p, fmt.Errorf("%w: %d bytes, at most %d are accepted", errTooLong, length, limit)
	}
	p.length = int(length)
	if b[5] != 0 || p.header > maxHeader || p.header > p.length {
		return p, errFrame
	}
	return p, nil
}

// check says whether the parts of a frame fill it exactly and are within bounds.
func (h *header) check(p prefix, maxMessage int) error {
	total := uint64(p.header) + uint64(h.body) + uint64(h.payload)
	if h.payload > 0 {
		total += 1 + 4*uint64(h.sums)
	}
	switch {
	case total != uint64(p.length):
		return fmt.Errorf("%w: its parts do not fill it", errFrame)
	case uint64(h.body) > uint64(maxMessage):
		return fmt.Errorf("%w: a message of %d bytes, at most %d are accepted", errTooLong, h.body, maxMessage)
	case h.payload > PieceSize:
		return fmt.Errorf("%w: a piece of %d bytes, at most %d are accepted", errTooLong, h.payload, PieceSize)
	case p.kind == framePiece && h.payload == 0, p.kind != framePiece && h.payload != 0:
		return fmt.Errorf("%w: payload where there is none to be", errFrame)
	case h.payload > 0 && int(h.sums) != sumsFor(int64(h.payload)):
		return fmt.Errorf("%w: %d checksums for %d bytes", errFrame, h.sums, h.payload)
	}
	return nil
}

// sumsFor returns how many checksums n bytes have.
func sumsFor(n int64) int { return int((n + chunkSize - 1) / chunkSize) }

// appendPrefix adds a frame's prefix and header; extra is what follows the header.
func appendPrefix(b []byte, kind frameType, h *header, extra int) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, byte(kind), 0, 0, 0)
	b = h.append(b)
	n := len(b) - start - prefixSize
	binary.LittleEndian.PutUint32(b[start:], uint32(n+extra))
	binary.LittleEndian.PutUint16(b[start+6:], uint16(n))
	return b
}

// appendTrailer adds a piece's trailer.
func appendTrailer(b []byte, status byte, sums []uint32) []byte {
	b = append(b, status)
	for _, s := range sums {
		b = binary.LittleEndian.AppendUint32(b, s)
	}
	return b
}

// appendMessage adds a frame made of a header and a message (nil: an empty one). The
// header's body is set from the message.
func appendMessage(b []byte, kind frameType, h *header, m Message, size int) ([]byte, error) {
	h.body = uint32(size)
	b = appendPrefix(b, kind, h, size)
	if size == 0 {
		return b, nil
	}
	start := len(b)
	b = grow(b, size)[:start+size]
	n, err := m.MarshalToSizedBufferVT(b[start:])
	if err != nil {
		return b, fmt.Errorf("encode message: %w", err)
	}
	if n != size {
		return b, fmt.Errorf("encode message: %d bytes where %d were announced", n, size)
	}
	return b, nil
}

func messageSize(m Message) int {
	if m == nil {
		return 0
	}
	return m.SizeVT()
}

// grow returns b with room for n more bytes.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	c := make([]byte, len(b), max(2*cap(b), len(b)+n))
	copy(c, b)
	return c
}

package rpc

import "os"

// Method says which handler a request is for. rpc gives the numbers no meaning.
type Method uint16

// Message is what vtprotobuf generates for a protobuf message.
type Message interface {
	SizeVT() int
	MarshalToSizedBufferVT(b []byte) (int, error)
	UnmarshalVT(b []byte) error
}

// Payload is the raw bytes that go with a call. Neither slice may be touched until the
// call has returned; then both are the caller's again, whatever the outcome.
type Payload struct {
	Send []byte    // sent with the request
	Sums []uint32  // CRC-32C of each 64 KiB of Send, the last of which may be short; nil: computed here
	Recv []byte    // where the answer's bytes go; its length is the room the server may fill
	Bulk bool      // use a bulk connection, whatever the size
	File **os.File // receives the descriptor passed with the answer, if one was; the caller closes it
}

// Sizes of the wire, in bytes.
const (
	// PieceSize is the most payload that one frame carries. Each piece ends in a status
	// and the CRC-32C of each of its chunks of 64 KiB.
	PieceSize = 256 << 10
	// MetadataPayload is the most payload that travels on the metadata connection.
	MetadataPayload = 64 << 10
	// DefaultMaxMessage bounds one encoded message unless a configuration says otherwise.
	DefaultMaxMessage = 8 << 20
	// DefaultMaxPayload bounds what one call sends, and what one answer may fill.
	DefaultMaxPayload = 64 << 20
)

package sluice

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// FileID names an inode for ever; it is never used again. 1 is the root.
type FileID uint64

// RootID is the id of the root directory.
const RootID FileID = 1

// Incarnation is the random number of one life of a cluster's state. Format,
// restore, tail repair and forced recovery replace it, so that content ids given
// out before are never mistaken for later ones.
type Incarnation uint64

// ContentID names one immutable version of a file's bytes, for ever.
type ContentID struct {
	Incarnation Incarnation
	Counter     uint64
}

// IsZero says whether the id names nothing (a directory, or a file without content).
func (c ContentID) IsZero() bool { return c == ContentID{} }

// String returns the id as "incarnation-counter" in hexadecimal.
func (c ContentID) String() string {
	return fmt.Sprintf("%016x-%x", uint64(c.Incarnation), c.Counter)
}

// Compare orders ids by incarnation, then counter.
func (c ContentID) Compare(d ContentID) int {
	return cmp.Or(cmp.Compare(c.Incarnation, d.Incarnation), cmp.Compare(c.Counter, d.Counter))
}

// ParseContentID reads what [ContentID.String] writes.
func ParseContentID(s string) (ContentID, error) {
	a, b, ok := strings.Cut(s, "-")
	if ok {
		i, err1 := strconv.ParseUint(a, 16, 64)
		n, err2 := strconv.ParseUint(b, 16, 64)
		if err1 == nil && err2 == nil {
			return ContentID{Incarnation(i), n}, nil
		}
	}
	return ContentID{}, &Error{Op: "parse content id", Kind: Invalid, Err: fmt.Errorf("%q is not incarnation-counter in hexadecimal", s)}
}

// BlockID names one block of a content: nothing needs to be looked up to know it.
type BlockID struct {
	Content ContentID
	Index   uint32 // counted from 0; block i holds bytes [i*BlockSize, (i+1)*BlockSize)
}

// String returns the id as "content.index".
func (b BlockID) String() string { return b.Content.String() + "." + strconv.Itoa(int(b.Index)) }

// MountID names one entry of the mount table for ever; 0 is "no mount".
type MountID uint64

// WorkerID names a worker by the random number kept in its directories.
type WorkerID uint64

// String returns the id in hexadecimal, as reports show it.
func (w WorkerID) String() string { return fmt.Sprintf("%016x", uint64(w)) }

// SessionID names one client session, a random number chosen by the client.
type SessionID uint64

// Index is a position in the journal.
type Index uint64

// Term counts the elections of the masters.
type Term uint64

// Epoch counts the renewals of one lease; an expiry names the epoch it saw.
type Epoch uint64

// Sizes of the cache's units, in bytes. A block is a sparse file of pages; a page is
// what is fetched from an under store; a chunk is what carries one checksum.
const (
	ChunkSize        = 64 << 10
	PageSize         = 1 << 20
	DefaultBlockSize = 128 << 20
	MaxBlockSize     = 64 << 30
)

// RequestID makes a mutation happen once: the same id sent again is answered with
// the remembered answer and never executed twice.
type RequestID struct {
	Session SessionID
	Seq     uint64 // counted from 1 within the session
	Lowest  uint64 // the lowest sequence number whose answer the client has not seen
}

package sluice

import "context"

// Worker is what the client library asks of one worker. Each call carries a [Grant].
type Worker interface {
	BlockReader
	BlockWriter
}

// BlockReader reads cached blocks, filling what is missing from the store.
type BlockReader interface {
	// ReadBlock fills p from byte off of the block, straight into p, verified. It never
	// reads past the end of the block or the file: asking for more is kind Invalid.
	// Kind Changed where the store has another version, Lost where bytes existed only
	// here and are gone, Unavailable where the store does not answer.
	ReadBlock(ctx context.Context, g Grant, b BlockID, off int64, p []byte, r ReadType) (int, error)
	// OpenBlock passes a descriptor of the block file. Kind Unsupported over a network,
	// NotFound where nothing of the block is cached.
	OpenBlock(ctx context.Context, g Grant, b BlockID) (*LocalBlock, error)
}

// BlockWriter takes new content, from its start to its end.
type BlockWriter interface {
	// Write appends p at byte off of the file. A piece repeated at the same offset is
	// taken once. At most MaxWrite bytes.
	Write(ctx context.Context, g Grant, off int64, p []byte) error
	// Seal ends the content: for write types that go through, its bytes are durable and
	// not yet visible in the store when it returns, or held here for one PUT.
	Seal(ctx context.Context, g Grant, length int64) (Sealed, error)
	// Discard drops a content that was not committed.
	Discard(ctx context.Context, g Grant) error
}

// MaxWrite is the most one Write may carry, in bytes.
const MaxWrite = 1 << 20

// LocalBlock is a block file of a worker on this host, opened for reading. Only pages
// marked in Pages may be read, and a chunk only trusted after its checksum was
// compared. The file never changes where a page is marked. The receiver closes FD.
type LocalBlock struct {
	FD     uintptr
	Length int64    // bytes of the block
	Pages  []byte   // bitmap of the pages present, bit i%8 of byte i/8
	Sums   []uint32 // CRC-32C of each 64 KiB chunk; only those in present pages mean anything
	Mapped bool     // on huge pages: a mapping is faster than pread
}

// Has says whether page i is present.
func (b *LocalBlock) Has(i int64) bool {
	return i/8 < int64(len(b.Pages)) && b.Pages[i/8]&(1<<(i%8)) != 0
}

// Sealed is a content that is complete and safe but not published.
type Sealed struct {
	Content  ContentID
	Length   int64    // bytes
	Checksum uint32   // CRC-32C of the whole content
	Holders  []Holder // workers that hold its blocks
	Worker   WorkerID // the one to be told to PUT, and to discard
	Prepared Prepared // what lies in the store, zero for MUST_CACHE
}

// Prepared is an upload that waits to be made visible, in the driver's words. A master
// can complete it where Inline is false; else the worker that has the bytes must.
type Prepared struct {
	Inline bool     // the bytes are still with the uploader: one PUT makes them visible
	Upload string   // a multipart upload's id, or a temporary name
	Parts  []string // ETags of the parts in order
	Tag    string   // what the finished object can be recognised by, where the store keeps it
}

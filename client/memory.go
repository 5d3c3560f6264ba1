package client

import (
	"hash/crc32"
	"sync"
)

// Sizes of buffers, in bytes.
const (
	pieceSize = 1 << 20  // what is fetched or sent at once; sluice.MaxWrite
	smallSize = 64 << 10 // where a file being written begins
)

// buffers hands out at most so many buffers of one size; they are made when first
// needed and kept.
type buffers struct {
	size   int
	tokens chan struct{} // one element for each buffer handed out

	mu   sync.Mutex
	free [][]byte // guarded by mu
}

func newBuffers(size int, total int64) *buffers {
	return &buffers{size: size, tokens: make(chan struct{}, max(2, total/int64(size)))}
}

// try returns a buffer of full length, or nil where all are handed out.
func (b *buffers) try() []byte {
	select {
	case b.tokens <- struct{}{}:
		return b.take()
	default:
		return nil
	}
}

func (b *buffers) take() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.free); n > 0 {
		buf := b.free[n-1]
		b.free = b.free[:n-1]
		return buf
	}
	return make([]byte, b.size)
}

// put gives back what try returned; nil is nothing.
func (b *buffers) put(buf []byte) {
	if cap(buf) < b.size {
		return
	}
	b.mu.Lock()
	b.free = append(b.free, buf[:b.size])
	b.mu.Unlock()
	<-b.tokens
}

// castagnoli is written once at start and only read.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum returns the CRC-32C of p.
func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

package blockstore

import (
	"context"
	"io"
	"os"
	"sync"

	"github.com/sluicefs/sluice"
)

// Handle is a block file opened for reading, as it can be passed to another process.
// While it is open the block's space stays charged, even when the block is dropped.
type Handle struct {
	store *Store
	block *block
	file  File
	once  sync.Once
	err   error

	Length   int64
	Pages    []byte   // bitmap of the pages present at the opening, bit i%8 of byte i/8
	Sums     []uint32 // CRC-32C of each chunk; only those in present pages mean anything
	Mapped   bool     // on huge pages: a mapping is faster than pread
	Volatile bool     // in memory: nothing between the file and its reader can rot
	// Verified says that every page is present and was filled since the start, or
	// checked chunk by chunk: who reads it without checking breaks no promise.
	Verified bool
}

// OpenBlock opens a block for reading by descriptor. Kind NotFound where no page of
// it is here. The caller closes the handle.
func (s *Store) OpenBlock(ctx context.Context, id sluice.BlockID) (*Handle, error) {
	b, err := s.acquire(ctx, id, func(*block) error { return nil })
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, errGone("open block", id)
	}
	b.home.touch(b)
	h := &Handle{store: s, block: b, Length: b.length, Volatile: b.home.volatile}
	h.Mapped = b.home.huge && b.length >= hugePage
	if !s.snapshot(h) {
		s.release(b)
		return nil, errGone("open block", id)
	}
	// A descriptor of its own: the store's can write.
	if h.file, err = s.cfg.Disk.Open(b.path(), ReadOnly); err != nil {
		s.release(b)
		if err := s.trouble(b.home, b, err); sluice.KindOf(err) != sluice.NotFound && !b.home.out() {
			return nil, err
		}
		return nil, errGone("open block", id)
	}
	return h, nil
}

// snapshot copies what is known of the block into h; false where no page is present.
func (s *Store) snapshot(h *Handle) bool {
	b, shard := h.block, s.shard(h.block.id.Content)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if b.has(flagDead) || b.count(bitPresent()) == 0 {
		return false
	}
	h.Pages = b.bitmap()
	h.Sums = make([]uint32, 0, b.chunks())
	h.Verified = true
	for page := range b.pages() {
		present := b.get(bitPresent(), page)
		h.Verified = h.Verified && present && b.pageVerified(page)
		if present {
			h.Sums = append(h.Sums, b.pageSums(page)...)
		} else {
			h.Sums = h.Sums[:len(h.Sums)+len(b.pageSums(page))]
		}
	}
	return true
}

// pageVerified says whether a present page was filled since the start or checked.
func (b *block) pageVerified(page int64) bool {
	if b.get(bitFilled(), page) {
		return true
	}
	for c := page * chunksPerPage; c < min((page+1)*chunksPerPage, b.chunks()); c++ {
		if !b.verified(c) {
			return false
		}
	}
	return true
}

// OS returns the descriptor to pass, read-only and the handle's own; false where the
// disk has none.
func (h *Handle) OS() (*os.File, bool) {
	d, ok := h.file.(Descriptor)
	if !ok {
		return nil, false
	}
	return d.OS(), true
}

// ReadAt reads unchecked bytes, as the receiver of the descriptor would. Like
// [io.ReaderAt].
func (h *Handle) ReadAt(p []byte, off int64) (int, error) { return h.file.ReadAt(p, off) }

var _ io.ReaderAt = (*Handle)(nil)

// Close lets go of the block. Further calls return what the first did.
func (h *Handle) Close() error {
	h.once.Do(func() {
		h.err = h.file.Close()
		h.store.release(h.block)
	})
	return h.err
}

package blockstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluicefs/sluice"
)

// Read fills p from byte off of the block. What it returns was checked: a chunk is
// compared with its checksum the first time it is touched after the start, and a
// chunk that fails is dropped with its page and reported as missing.
//
// Kind NotFound, with a [*MissingError], where pages of the range are not here: then
// nothing is read but for n good bytes in front of a chunk that was dropped. Invalid:
// the range does not lie in the block. Unavailable: the directory's disk fails.
func (s *Store) Read(ctx context.Context, id sluice.BlockID, off int64, p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	if off < 0 {
		return 0, fail("read block", sluice.Invalid, fmt.Errorf("offset %d", off))
	}
	first, last := off/sluice.PageSize, (off+int64(len(p))-1)/sluice.PageSize
	b, err := s.acquire(ctx, id, func(b *block) error {
		if off+int64(len(p)) > b.length {
			return fail("read block", sluice.Invalid, fmt.Errorf("bytes %d to %d of a block of %d", off, off+int64(len(p)), b.length))
		}
		var missing []int64
		for page := first; page <= last; page++ {
			if !b.get(bitPresent(), page) {
				missing = append(missing, page)
			}
		}
		return errMissing(id, missing)
	})
	if err != nil {
		return 0, err
	}
	if b == nil {
		return 0, errMissing(id, pagesOf(first, last))
	}
	defer s.release(b)
	b.home.touch(b)
	n, err = s.readVerified(b, off, p)
	s.counts.readBytes.Add(int64(n))
	return n, err
}

func pagesOf(first, last int64) []int64 {
	pages := make([]int64, 0, last-first+1)
	for page := first; page <= last; page++ {
		pages = append(pages, page)
	}
	return pages
}

// errMissing is nil for no pages.
func errMissing(id sluice.BlockID, pages []int64) error {
	if len(pages) == 0 {
		return nil
	}
	return fail("read block", sluice.NotFound, &MissingError{Block: id, Pages: pages})
}

// verifyStep is how many bytes are read before they are checked: few enough to lie
// in the processor's cache still.
const verifyStep = 4 * sluice.ChunkSize

// readVerified reads from a block that the caller holds.
func (s *Store) readVerified(b *block, off int64, p []byte) (n int, err error) {
	for n < len(p) {
		at := off + int64(n)
		chunk := at / sluice.ChunkSize
		var got int
		switch rest := p[n:]; {
		case b.verified(chunk):
			got, err = s.readPlain(b, at, rest[:b.run(at, int64(len(rest)))])
		case at%sluice.ChunkSize == 0 && int64(len(rest)) >= b.chunkLen(chunk):
			got, err = s.readChunks(b, chunk, rest[:min(len(rest), verifyStep)])
		default:
			got, err = s.readPartial(b, at, rest)
		}
		n += got
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// run is how many of n bytes from off on lie in verified chunks.
func (b *block) run(off, n int64) int64 {
	end := off
	for end < off+n && b.verified(end/sluice.ChunkSize) {
		end = (end/sluice.ChunkSize + 1) * sluice.ChunkSize
	}
	return min(end-off, n)
}

func (s *Store) readPlain(b *block, off int64, p []byte) (int, error) {
	n, err := b.live.file.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	return n, s.unreadable(b, off+int64(n), err)
}

// readChunks reads and checks the whole chunks that p has room for, from chunk on.
func (s *Store) readChunks(b *block, chunk int64, p []byte) (int, error) {
	off := chunk * sluice.ChunkSize
	end := min(off+int64(len(p)), b.length)
	if end < b.length {
		end -= end % sluice.ChunkSize
	}
	n := int(end - off)
	if _, err := s.readPlain(b, off, p[:n]); err != nil {
		return 0, err
	}
	for at := 0; at < n; chunk++ {
		piece := p[at:min(at+sluice.ChunkSize, n)]
		if !b.verified(chunk) && !s.check(b, chunk, piece) {
			return at, s.corrupt(b, chunk)
		}
		at += len(piece)
	}
	return n, nil
}

// readPartial checks a chunk of which only a part is asked for.
func (s *Store) readPartial(b *block, off int64, p []byte) (int, error) {
	scratch := s.chunks.Get().(*[sluice.ChunkSize]byte)
	defer s.chunks.Put(scratch)
	chunk := off / sluice.ChunkSize
	whole := scratch[:b.chunkLen(chunk)]
	if n, err := s.readChunks(b, chunk, whole); err != nil || n < len(whole) {
		return 0, err
	}
	return copy(p, whole[off%sluice.ChunkSize:]), nil
}

// check compares a chunk with its checksum and remembers success.
func (s *Store) check(b *block, chunk int64, p []byte) bool {
	if Sum(p) != b.chunkSum(chunk) {
		return false
	}
	b.setVerified(chunk, true)
	return true
}

// unreadable turns an error of reading a block file into an answer.
func (s *Store) unreadable(b *block, off int64, err error) error {
	if err == nil {
		err = errLength
	}
	if err := s.trouble(b.home, b, err); sluice.KindOf(err) != sluice.NotFound && !b.home.out() {
		return err
	}
	return errMissing(b.id, []int64{off / sluice.PageSize})
}

// corrupt drops the page of a chunk that failed its checksum.
func (s *Store) corrupt(b *block, chunk int64) error {
	page := chunk / chunksPerPage
	h := s.shard(b.id.Content)
	h.mu.Lock()
	was := !b.has(flagDead) && b.get(bitPresent(), page)
	if was {
		b.put(bitPresent(), page, false)
		b.put(bitFilled(), page, false)
		for c := page * chunksPerPage; c < min((page+1)*chunksPerPage, b.chunks()); c++ {
			b.setVerified(c, false)
		}
	}
	h.mu.Unlock()
	if was {
		s.counts.corrupt.Add(1)
		s.lose(b)
		s.log.Error("a chunk failed its checksum: page dropped", "block", b.id.String(), "chunk", chunk,
			"directory", b.home.path, "only_copy", b.has(flagUnpersisted))
		err := b.home.log.append(appendRecord(nil, &record{kind: recAbsent, gen: b.gen, page: page}), false)
		if err != nil {
			s.trouble(b.home, nil, err)
		}
	}
	return errMissing(b.id, []int64{page})
}

// Info describes a block; false where nothing of it is here or it is quarantined.
func (s *Store) Info(id sluice.BlockID) (Info, bool) {
	if s.quarantined(id.Content) {
		return Info{}, false
	}
	h := s.shard(id.Content)
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.blocks[id]
	if b == nil {
		return Info{}, false
	}
	return s.infoLocked(b), true
}

// Has returns the bitmap of the pages of a block that are here, bit i%8 of byte i/8,
// and its length; nil and 0 where nothing of it is here. The bitmap is the caller's.
func (s *Store) Has(id sluice.BlockID) (pages []byte, length int64) {
	i, _ := s.Info(id)
	return i.Pages, i.Length
}

func (s *Store) infoLocked(b *block) Info {
	i := Info{
		ID: b.id, Length: b.length, Present: b.present(), Pages: b.bitmap(),
		Pinned: b.has(flagPinned), Unpersisted: b.has(flagUnpersisted), Tier: s.cfg.Tiers[b.home.tier].Name,
	}
	i.Complete = i.Present == i.Length
	return i
}

// bitmap is a copy of the bitmap of present pages in bytes.
func (b *block) bitmap() []byte {
	out := make([]byte, (b.pages()+7)/8)
	for page := range b.pages() {
		if b.get(bitPresent(), page) {
			out[page/8] |= 1 << (page % 8)
		}
	}
	return out
}

// errGone says that a block is not here.
func errGone(op string, id sluice.BlockID) error {
	return fail(op, sluice.NotFound, fmt.Errorf("block %v is not cached", id))
}

var errClosed = errors.New("closed already")

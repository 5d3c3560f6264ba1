package blockstore

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/policy"
)

// BeginOptions say what kind of block is written.
type BeginOptions struct {
	Size        int64  // expected bytes, for placing it; 0 is unknown. More may be written.
	Unpersisted bool   // it will exist only here: never evicted until SetPersisted
	Pinned      bool   // never evicted until Unpin
	Tier        string // start looking for room at this tier; "" is the first
}

// BlockWriter writes one block from its start to its end. Nothing of it is seen, nor
// survives a restart, before Finish. It is for one goroutine. Exactly one of Finish
// and Abort ends it; an Abort after either does nothing.
type BlockWriter struct {
	store    *Store
	id       sluice.BlockID
	opts     BeginOptions
	home     *dir
	gen      uint64
	path     string
	file     File
	written  int64
	extended int64 // the file's length
	reserved int64 // bytes charged so far
	sums     []uint32
	part     uint32 // checksum of the last, unfinished chunk
	ended    bool
}

// Begin starts writing a block. Kind Exists where the block is here, Busy where it is
// being written, Stale where its incarnation is not live, NoSpace as for FillPage.
func (s *Store) Begin(ctx context.Context, id sluice.BlockID, opts BeginOptions) (*BlockWriter, error) {
	const op = "begin block"
	if opts.Tier != "" && !slices.ContainsFunc(s.cfg.Tiers, func(t TierConfig) bool { return t.Name == opts.Tier }) {
		return nil, fail(op, sluice.Invalid, fmt.Errorf("there is no tier %q", opts.Tier))
	}
	if opts.Size < 0 || opts.Size > sluice.MaxBlockSize {
		return nil, fail(op, sluice.Invalid, fmt.Errorf("size %d", opts.Size))
	}
	if s.quarantined(id.Content) {
		return nil, fail(op, sluice.Stale, errors.New("the block's incarnation is not live"))
	}
	h := s.shard(id.Content)
	h.mu.Lock()
	_, writing := h.writing[id]
	here := h.blocks[id] != nil
	if !writing && !here {
		h.writing[id] = struct{}{}
	}
	h.mu.Unlock()
	switch {
	case writing:
		return nil, fail(op, sluice.Busy, errors.New("the block is being written"))
	case here:
		return nil, fail(op, sluice.Exists, fmt.Errorf("block %v is cached", id))
	}
	w := &BlockWriter{store: s, id: id, opts: opts}
	if err := w.open(ctx); err != nil {
		s.unwrite(id)
		return nil, err
	}
	return w, nil
}

func (s *Store) unwrite(id sluice.BlockID) {
	h := s.shard(id.Content)
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.writing, id)
}

// open finds room for the first bytes and makes the file.
func (w *BlockWriter) open(ctx context.Context) error {
	size := max(w.opts.Size, 1)
	d, n, err := w.store.place(ctx, w.opts.Tier, size, nil, func(d *dir) int64 { return d.pageCharge(size, 0) })
	if err != nil {
		return err
	}
	return w.enter(d, n)
}

// enter makes the file in d, where n bytes are reserved for it.
func (w *BlockWriter) enter(d *dir, n int64) error {
	gen := d.gen()
	path := newBlock(w.id, 1, gen, d).path()
	f, err := w.store.cfg.Disk.Open(path, CreateNew)
	if err != nil {
		d.release(n)
		return w.store.trouble(d, nil, fmt.Errorf("create block file: %w", err))
	}
	w.home, w.gen, w.path, w.file, w.reserved, w.extended = d, gen, path, f, n, 0
	return nil
}

// move takes what was written to another directory that has room up to end.
func (w *BlockWriter) move(ctx context.Context, end int64) error {
	size := max(w.opts.Size, end)
	d, n, err := w.store.place(ctx, "", size, w.home, func(d *dir) int64 {
		if d.huge {
			return roundUp(end, hugePage) // the most that extend will ask for
		}
		return roundUp(end, d.unit)
	})
	if err != nil {
		return err
	}
	old := *w
	if err := w.enter(d, n); err != nil {
		return err
	}
	buf := make([]byte, sluice.PageSize)
	for off := int64(0); off < w.written && err == nil; off += sluice.PageSize {
		piece := buf[:min(sluice.PageSize, w.written-off)]
		if _, err = old.file.ReadAt(piece, off); err != nil {
			err = w.store.trouble(old.home, nil, fmt.Errorf("read block: %w", err))
		} else if _, err = w.file.WriteAt(piece, off); err != nil {
			err = w.store.trouble(w.home, nil, fmt.Errorf("write block: %w", err))
		}
	}
	if err != nil {
		w.discard()
		*w = old
		return err
	}
	old.discard()
	return nil
}

// WriteAt appends p at off, which is where the last write ended. A piece that was
// written already is taken once. It implements no interface of io: an error leaves
// nothing of p written that counts, and the same piece may be tried again.
//
// Kind Invalid where off leaves a gap or p is new in part only, TooLarge above
// [sluice.MaxBlockSize], NoSpace and Unavailable as for FillPage.
func (w *BlockWriter) WriteAt(ctx context.Context, p []byte, off int64) error {
	return w.WriteSummed(ctx, p, off, nil)
}

// WriteSummed is [BlockWriter.WriteAt] of bytes whose CRC-32C the caller knows for each
// chunk of p, the last of which may be short. They are used where off is at the start of
// a chunk; nil: they are computed here.
func (w *BlockWriter) WriteSummed(ctx context.Context, p []byte, off int64, sums []uint32) error {
	const op = "write block"
	end := off + int64(len(p))
	switch {
	case w.ended:
		return fail(op, sluice.Invalid, errClosed)
	case off >= 0 && end <= w.written:
		return nil
	case off != w.written:
		return fail(op, sluice.Invalid, fmt.Errorf("bytes %d to %d after %d were written", off, end, w.written))
	case end > sluice.MaxBlockSize:
		return fail(op, sluice.TooLarge, fmt.Errorf("a block of %d bytes", end))
	}
	if err := w.extend(ctx, end); err != nil {
		return err
	}
	if _, err := w.file.WriteAt(p, off); err != nil {
		return w.store.trouble(w.home, nil, fmt.Errorf("write block: %w", err))
	}
	w.written = end
	if sums != nil && off%sluice.ChunkSize == 0 {
		w.take(sums, int64(len(p)))
	} else {
		w.sum(p)
	}
	return nil
}

// extend reserves space up to end and, on huge pages, gives the file its length
// before the bytes come: what is allocated beforehand would be small pages for ever.
func (w *BlockWriter) extend(ctx context.Context, end int64) error {
	length := end
	switch {
	case !w.home.huge:
	case w.opts.Size > 0:
		length = max(end, min(roundUp(end, hugePage), w.opts.Size))
	case end >= sluice.PageSize:
		length = roundUp(end, hugePage)
	}
	if need := roundUp(length, w.home.unit); need > w.reserved {
		if err := w.store.take(ctx, w.home, need-w.reserved, patient); err != nil {
			if sluice.KindOf(err) != sluice.NoSpace || w.move(ctx, end) != nil {
				return err
			}
			return w.extend(ctx, end)
		}
		w.reserved = need
	}
	if !w.home.huge || length <= w.extended {
		return nil
	}
	if err := w.file.Truncate(length); err != nil {
		return w.store.trouble(w.home, nil, fmt.Errorf("extend block file: %w", err))
	}
	w.extended = length
	return nil
}

// take adds n bytes with known checksums, which begin with a chunk.
func (w *BlockWriter) take(sums []uint32, n int64) {
	if n%sluice.ChunkSize != 0 {
		sums, w.part = sums[:len(sums)-1], sums[len(sums)-1]
	}
	w.sums = append(w.sums, sums...)
}

// sum adds p to the checksums.
func (w *BlockWriter) sum(p []byte) {
	at := int(w.written-int64(len(p))) % sluice.ChunkSize
	for len(p) > 0 {
		n := min(len(p), sluice.ChunkSize-at)
		w.part = crc32.Update(w.part, castagnoli, p[:n])
		p, at = p[n:], at+n
		if at == sluice.ChunkSize {
			w.sums = append(w.sums, w.part)
			w.part, at = 0, 0
		}
	}
}

// Written is the number of bytes written so far.
func (w *BlockWriter) Written() int64 { return w.written }

// Checksum is the CRC-32C of all bytes written so far.
func (w *BlockWriter) Checksum() (sum uint32) {
	for _, s := range w.sums {
		sum = Combine(sum, s, sluice.ChunkSize)
	}
	return Combine(sum, w.part, w.written%sluice.ChunkSize)
}

// Finish makes the block readable, whole. With sync its bytes and then its index
// entry are durable when it returns (in memory there is nothing to sync to). After
// an error the block is gone, as after Abort. Kind Invalid for a block of no bytes.
func (w *BlockWriter) Finish(ctx context.Context, sync bool) (Info, error) {
	if w.ended {
		return Info{}, fail("finish block", sluice.Invalid, errClosed)
	}
	if w.written == 0 {
		w.Abort()
		return Info{}, fail("finish block", sluice.Invalid, errors.New("a block of no bytes"))
	}
	if w.written%sluice.ChunkSize != 0 {
		w.sums = append(w.sums, w.part)
	}
	b := w.block()
	if err := w.seal(b, sync); err != nil {
		w.Abort()
		return Info{}, w.store.trouble(w.home, nil, err)
	}
	w.ended = true
	return w.publish(b), nil
}

// block makes the finished block.
func (w *BlockWriter) block() *block {
	b := newBlock(w.id, w.written, w.gen, w.home)
	for page := range b.pages() {
		first := page * chunksPerPage
		b.setSums(page, w.sums[first:min(first+chunksPerPage, int64(len(w.sums)))])
		b.put(bitPresent(), page, true)
		b.put(bitCharged(), page, true)
		b.put(bitFilled(), page, true)
	}
	b.set(flagIndexed)
	if w.opts.Unpersisted {
		b.set(flagUnpersisted)
	}
	if w.opts.Pinned {
		b.set(flagPinned)
	}
	return b
}

// seal writes the file's length, then data, then the index, each synced where asked.
func (w *BlockWriter) seal(b *block, sync bool) error {
	if w.extended > w.written {
		if err := w.file.Truncate(w.written); err != nil {
			return fmt.Errorf("cut block file: %w", err)
		}
	}
	if sync && !w.home.volatile {
		if err := w.file.Sync(); err != nil {
			return fmt.Errorf("sync block: %w", err)
		}
		if err := w.store.cfg.Disk.SyncDir(w.home.path + "/" + blocksDir); err != nil {
			return fmt.Errorf("sync directory: %w", err)
		}
	}
	return w.home.log.append(appendBlock(nil, b), sync)
}

// appendBlock encodes all that the index keeps of b.
func appendBlock(dst []byte, b *block) []byte {
	dst = appendRecord(dst, &record{kind: recBlock, gen: b.gen, id: b.id, length: b.length, flags: b.kept()})
	for page := range b.pages() {
		if b.get(bitPresent(), page) {
			dst = appendRecord(dst, &record{kind: recPage, gen: b.gen, page: page, sums: b.pageSums(page)})
		}
	}
	return dst
}

// publish puts the block into its shard.
func (w *BlockWriter) publish(b *block) Info {
	s, h := w.store, w.store.shard(w.id.Content)
	n := b.charge()
	w.home.release(w.reserved - n)
	kept := b.kept()
	b.live = &live{file: w.file}
	b.refs.Store(1)
	h.mu.Lock()
	delete(h.writing, w.id)
	if _, ok := h.pins[w.id.Content]; ok {
		b.set(flagPinned)
	}
	h.insertLocked(b)
	w.home.admit(b, n, policy.Hash(b.id))
	info := s.infoLocked(b)
	h.mu.Unlock()
	s.files.add(s, b)
	s.counts.written.Add(1)
	s.counts.writtenBytes.Add(b.length)
	if b.kept() != kept { // pinned while the index was written
		s.noteFlags(b)
	}
	if w.home.out() {
		s.kill(b, always)
	}
	s.release(b)
	return info
}

// Abort drops what was written.
func (w *BlockWriter) Abort() error {
	if w.ended {
		return nil
	}
	w.ended = true
	w.discard()
	w.store.unwrite(w.id)
	return nil
}

// discard removes the file and gives its space back.
func (w *BlockWriter) discard() {
	w.file.Close()
	if !w.home.out() {
		// The index may know the block if only its sync failed; the file is an orphan if
		// this fails, which the next start removes.
		var entry [frameSize + maxBody]byte
		w.home.log.append(appendRecord(entry[:0], &record{kind: recDrop, gen: w.gen}), false)
		w.store.cfg.Disk.Remove(w.path)
	}
	w.home.release(w.reserved)
}

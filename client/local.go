package client

import (
	"container/list"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// localBlock is a block file of a worker on this host, read in place. Chunks are
// verified the first time they are touched; which ones were is shared by all handles.
type localBlock struct {
	id      sluice.BlockID
	file    *os.File
	fd      int
	length  int64
	pages   []byte // bitmap; never changes, a fresher one comes with another localBlock
	whole   bool   // all pages are present
	sums    []uint32
	checked []atomic.Uint64 // bitmap of chunks
	refs    atomic.Int64    // shared while in the cache, and one for each read; 0: closed
	wanted  atomic.Bool     // it must not stay: the worker asks for it
	from    *holding        // nil: nobody counts it
	number  uint64          // within from
	used    atomic.Bool     // since eviction looked last
	misses  atomic.Int32    // reads of absent pages: by now they may be there
	scratch *sync.Pool      // of *[sluice.ChunkSize]byte
	place   *list.Element   // guarded by the mutex of locals; nil: not in the cache
}

var (
	errAbsent = errors.New("the page is not in the block file")
	errBad    = errors.New("the chunk fails its checksum")
)

// newBlock makes a block of f, which it takes over.
func (l *locals) newBlock(id sluice.BlockID, f *os.File, a *wire.OpenBlockAnswer) *localBlock {
	b := &localBlock{id: id, scratch: &l.scratch, file: f, fd: int(f.Fd()), length: a.Length, pages: a.Pages, sums: sums(a.Sums)}
	chunks := (a.Length + sluice.ChunkSize - 1) / sluice.ChunkSize
	if int64(len(b.sums)) < chunks { // without checksums nothing can be trusted
		b.pages = nil
	}
	b.checked = make([]atomic.Uint64, (chunks+63)/64)
	b.whole = true
	for i := range (a.Length + sluice.PageSize - 1) / sluice.PageSize {
		b.whole = b.whole && b.has(i)
	}
	b.refs.Store(shared)
	return b
}

// shared is the cache's part of a block's references. Whoever comes when it is gone does
// not get the block, so that readers who overlap do not keep it for ever.
const shared = 1 << 32

func (b *localBlock) has(page int64) bool {
	return page/8 < int64(len(b.pages)) && b.pages[page/8]&(1<<(page%8)) != 0
}

// cost is what the block occupies in memory, in bytes, roughly.
func (b *localBlock) cost() int64 {
	return 512 + int64(len(b.pages)+4*len(b.sums)+8*len(b.checked))
}

// acquire keeps the file open until release. It fails where it is to be closed.
func (b *localBlock) acquire() bool {
	for {
		n := b.refs.Load()
		if n < shared {
			return false
		}
		if b.refs.CompareAndSwap(n, n+1) {
			if !b.used.Load() {
				b.used.Store(true)
			}
			return true
		}
	}
}

func (b *localBlock) release() { b.leave(1) }

// discard gives the cache's part back.
func (b *localBlock) discard() { b.leave(shared) }

func (b *localBlock) leave(refs int64) {
	if b.refs.Add(-refs) != 0 {
		return
	}
	b.file.Close()
	if b.from != nil {
		b.from.letGo(b)
	}
}

func (b *localBlock) isChecked(chunk int64) bool {
	return b.checked[chunk/64].Load()&(1<<(chunk%64)) != 0
}

// readAt fills p with verified bytes from off, which must lie in the block. It returns
// how many are good: fewer only with errAbsent, errBad or an error of the disk.
func (b *localBlock) readAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		rest, at := p[n:], off+int64(n)
		if !b.whole {
			end := b.presentUntil(at, at+int64(len(rest)))
			if end == at {
				return n, errAbsent
			}
			rest = rest[:end-at]
		}
		m, err := b.readRun(rest, at)
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// presentUntil returns how far, at most to end, the pages from at on are present.
func (b *localBlock) presentUntil(at, end int64) int64 {
	for page := at / sluice.PageSize; at < end && b.has(page); page++ {
		at = min(end, (page+1)*sluice.PageSize)
	}
	return at
}

// checkRun is how many chunks are read before they are verified: they are in the
// processor's cache still.
const checkRun = 4

// readRun reads some of p, which lies in present pages: a run of verified chunks, or a
// few chunks that it verifies.
func (b *localBlock) readRun(p []byte, off int64) (int, error) {
	first, last := off/sluice.ChunkSize, (off+int64(len(p))-1)/sluice.ChunkSize
	chunk := first
	for chunk <= last && b.isChecked(chunk) {
		chunk++
	}
	if chunk > last {
		return len(p), b.pread(p, off)
	}
	if chunk > first {
		n := int(chunk*sluice.ChunkSize - off)
		return n, b.pread(p[:n], off)
	}
	start := chunk * sluice.ChunkSize
	n := 0
	if start == off {
		for chunk <= last && chunk < first+checkRun && !b.isChecked(chunk) && n+b.chunkLen(chunk) <= len(p) {
			n += b.chunkLen(chunk)
			chunk++
		}
	}
	if n == 0 {
		return b.readPart(p, off, first)
	}
	if err := b.pread(p[:n], off); err != nil {
		return 0, err
	}
	for done, c := 0, first; done < n; c++ {
		m := b.chunkLen(c)
		if !b.check(c, p[done:done+m]) {
			return done, errBad
		}
		done += m
	}
	return n, nil
}

// readPart reads what p wants of one chunk that was not verified yet and does not fit
// into p.
func (b *localBlock) readPart(p []byte, off, chunk int64) (int, error) {
	buf, ok := b.scratch.Get().(*[sluice.ChunkSize]byte)
	if !ok {
		buf = new([sluice.ChunkSize]byte)
	}
	defer b.scratch.Put(buf)
	whole := buf[:b.chunkLen(chunk)]
	start := chunk * sluice.ChunkSize
	if err := b.pread(whole, start); err != nil {
		return 0, err
	}
	if !b.check(chunk, whole) {
		return 0, errBad
	}
	return copy(p, whole[off-start:]), nil
}

func (b *localBlock) chunkLen(chunk int64) int {
	return int(min(sluice.ChunkSize, b.length-chunk*sluice.ChunkSize))
}

func (b *localBlock) check(chunk int64, p []byte) bool {
	if checksum(p) != b.sums[chunk] {
		return false
	}
	b.checked[chunk/64].Or(1 << (chunk % 64))
	return true
}

func (b *localBlock) pread(p []byte, off int64) error {
	for len(p) > 0 {
		n, err := unix.Pread(b.fd, p, off)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		default:
			p, off = p[n:], off+int64(n)
		}
	}
	return nil
}

// locals are the block files kept open, bounded by number and memory.
type locals struct {
	max     int
	maxCost int64
	scratch sync.Pool

	mu    sync.Mutex
	byID  map[sluice.BlockID]*localBlock // guarded by mu
	order *list.List                     // guarded by mu: the next to be looked at for eviction at the back
	cost  int64                          // guarded by mu
	over  bool                           // guarded by mu
}

func newLocals(n int, memory int64) *locals {
	return &locals{max: n, maxCost: memory, byID: map[sluice.BlockID]*localBlock{}, order: list.New()}
}

// find returns the open file of a block, acquired, or nil.
func (l *locals) find(id sluice.BlockID) *localBlock {
	l.mu.Lock()
	b := l.byID[id]
	l.mu.Unlock()
	if b == nil || !b.acquire() {
		return nil
	}
	return b
}

// add takes b in, in place of an older one of the same block.
func (l *locals) add(b *localBlock) {
	l.mu.Lock()
	if l.over || b.wanted.Load() {
		l.mu.Unlock()
		b.discard()
		return
	}
	var gone []*localBlock
	if old := l.byID[b.id]; old != nil {
		gone = append(gone, l.takeLocked(old))
	}
	for l.order.Len() > 0 && (len(l.byID) >= l.max || l.cost+b.cost() > l.maxCost) {
		e := l.order.Back()
		v := e.Value.(*localBlock)
		if v.used.Swap(false) {
			l.order.MoveToFront(e)
			continue
		}
		gone = append(gone, l.takeLocked(v))
	}
	b.place = l.order.PushFront(b)
	l.byID[b.id] = b
	l.cost += b.cost()
	l.mu.Unlock()
	for _, old := range gone {
		old.discard()
	}
}

// remove lets go of b, so that it is asked for again.
func (l *locals) remove(b *localBlock) {
	l.mu.Lock()
	in := b.place != nil
	if in {
		l.takeLocked(b)
	}
	l.mu.Unlock()
	if in {
		b.discard()
	}
}

// giveUp lets go of blocks that must not stay, or not come in.
func (l *locals) giveUp(blocks []*localBlock) {
	for _, b := range blocks {
		b.wanted.Store(true)
		l.remove(b)
	}
}

func (l *locals) takeLocked(b *localBlock) *localBlock {
	l.order.Remove(b.place)
	b.place = nil
	delete(l.byID, b.id)
	l.cost -= b.cost()
	return b
}

func (l *locals) close() {
	l.mu.Lock()
	l.over = true
	all := l.byID
	l.byID = map[sluice.BlockID]*localBlock{}
	for _, b := range all {
		l.order.Remove(b.place)
		b.place = nil
	}
	l.mu.Unlock()
	for _, b := range all {
		b.discard()
	}
}

// forget lets go of the blocks of contents, so that their space can be used again.
func (l *locals) forget(extents []sluice.Extent) {
	l.mu.Lock()
	var gone []*localBlock
	for _, e := range extents {
		if int(e.Count) <= len(l.byID) {
			for i := range e.Count {
				if b := l.byID[sluice.BlockID{Content: e.Content, Index: e.First + i}]; b != nil {
					gone = append(gone, l.takeLocked(b))
				}
			}
			continue
		}
		for id, b := range l.byID {
			if id.Content == e.Content {
				gone = append(gone, l.takeLocked(b))
			}
		}
	}
	l.mu.Unlock()
	for _, b := range gone {
		b.discard()
	}
}

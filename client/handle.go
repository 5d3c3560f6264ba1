package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/sluicefs/sluice"
)

// handle is a file opened for reading.
type handle struct {
	c      *Client
	path   sluice.Path
	info   sluice.FileInfo
	opened atomic.Pointer[opened]
	asking chan struct{} // holds one element while the master is asked again

	// blocks are the local block files used last, by index in the file; nil for files of
	// very many blocks, which are looked up each time.
	blocks []atomic.Pointer[localBlock]
	// remote counts the reads left before a local block file is asked for again; noLocal:
	// no worker on this host serves this file.
	remote atomic.Int32
	pause  atomic.Int32

	mu    sync.Mutex
	over  atomic.Bool
	ahead *ahead // guarded by mu: nil until something was read remotely

	life context.Context // ends with Close; reading ahead derives from it
	end  context.CancelFunc
}

var (
	_ sluice.Handle    = (*handle)(nil)
	_ sluice.LocalFile = (*handle)(nil)
)

// maxBlocks is how many block files a handle remembers.
const maxBlocks = 4096

func newHandle(c *Client, path sluice.Path, o *opened) *handle {
	h := &handle{c: c, path: path, info: o.info, asking: make(chan struct{}, 1)}
	h.info.Path = path
	h.opened.Store(o)
	n := 0
	for _, e := range o.info.Extents {
		n += int(min(e.Count, maxBlocks+1))
	}
	if n <= maxBlocks {
		h.blocks = make([]atomic.Pointer[localBlock], n)
	}
	return h
}

// Info implements [sluice.Handle].
func (h *handle) Info() sluice.FileInfo { return h.info }

// Close implements [sluice.Handle].
func (h *handle) Close() error {
	if h.over.Swap(true) {
		return nil
	}
	h.mu.Lock()
	a, end := h.ahead, h.end
	h.mu.Unlock()
	if end != nil {
		end()
	}
	if a != nil {
		a.close()
	}
	return nil
}

// ReadAt implements [sluice.Handle].
func (h *handle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if h.over.Load() {
		return 0, h.fail(&sluice.Error{Kind: sluice.Invalid, Err: errors.New("the file is closed")})
	}
	if off < 0 {
		return 0, h.fail(&sluice.Error{Kind: sluice.Invalid, Err: fmt.Errorf("offset %d is negative", off)})
	}
	if err := ctx.Err(); err != nil {
		return 0, h.fail(err)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if off >= h.info.Length {
		return 0, io.EOF
	}
	want := int(min(int64(len(p)), h.info.Length-off))
	n, err := h.read(ctx, p[:want], off)
	if err != nil {
		return n, h.fail(err)
	}
	if want < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *handle) fail(err error) error { return sluice.Wrap("read", h.path, err) }

// spot is a place in a file: a block, where in it, and how far it goes.
type spot struct {
	id     sluice.BlockID
	nth    int   // of the file's blocks
	off    int64 // in the block
	length int64 // of the block
}

// locate finds the block of byte off, which must lie in the file.
func (h *handle) locate(off int64) (spot, bool) {
	start, nth := int64(0), 0
	for i, e := range h.info.Extents {
		size := int64(e.Count) * e.BlockSize
		if i == len(h.info.Extents)-1 {
			size = h.info.Length - start
		}
		if e.BlockSize > 0 && off < start+size {
			in := off - start
			k := in / e.BlockSize
			return spot{
				id:  sluice.BlockID{Content: e.Content, Index: e.First + uint32(k)},
				nth: nth + int(k), off: in % e.BlockSize, length: min(e.BlockSize, size-k*e.BlockSize),
			}, true
		}
		start += size
		nth += int(e.Count)
	}
	return spot{}, false
}

// read fills p, which lies in the file: from local block files where it can, else from
// workers, reading ahead. It returns how many bytes are good.
func (h *handle) read(ctx context.Context, p []byte, off int64) (n int, err error) {
	for n < len(p) {
		m, gap, err := h.readLocal(ctx, p[n:], off+int64(n))
		n += m
		if err != nil {
			return n, err
		}
		if n == len(p) {
			return n, nil
		}
		m, err = h.readAhead(ctx, p[n:n+gap], off+int64(n))
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// readLocal reads as much of p as lies in local block files. gap is how many bytes of p
// behind that do not.
func (h *handle) readLocal(ctx context.Context, p []byte, off int64) (n, gap int, err error) {
	for n < len(p) {
		s, ok := h.locate(off + int64(n))
		if !ok {
			return n, 0, errLayout(off + int64(n))
		}
		b := h.local(ctx, s)
		if b == nil {
			return n, len(p) - n, nil
		}
		want := p[n : n+int(min(int64(len(p)-n), s.length-s.off))]
		m, err := b.readAt(want, s.off)
		n += m
		if err == nil {
			b.release()
			continue
		}
		gap = b.gap(s.off+int64(m), len(want)-m, err)
		h.c.localMiss(b, err)
		b.release()
		return n, gap, nil
	}
	return n, 0, nil
}

// gap returns how many of the n bytes from at on cannot be read after err.
func (b *localBlock) gap(at int64, n int, err error) int {
	if !errors.Is(err, errAbsent) {
		return min(n, int(sluice.ChunkSize-at%sluice.ChunkSize))
	}
	end := at
	for page := at / sluice.PageSize; end < at+int64(n) && !b.has(page); page++ {
		end = (page + 1) * sluice.PageSize
	}
	return min(n, int(end-at))
}

func errLayout(off int64) error {
	return &sluice.Error{Kind: sluice.Internal, Err: fmt.Errorf("byte %d of the file lies in no block", off)}
}

// missesBeforeReopen is how often an absent page is read through the worker before its
// block file is asked for again: the worker has filled more of it meanwhile.
const missesBeforeReopen = 8

// localMiss notes why a local block file could not serve a read.
func (c *core) localMiss(b *localBlock, err error) {
	if errors.Is(err, errAbsent) {
		if b.misses.Add(1) >= missesBeforeReopen {
			c.locals.remove(b)
		}
		return
	}
	c.log.Warn("local block file is bad; read it through its worker", "block", b.id.String(), "err", err)
	c.locals.remove(b)
}

// never is a pause that does not end.
const never = 1 << 30

// local returns the block file of s, acquired, or nil where there is none here.
func (h *handle) local(ctx context.Context, s spot) *localBlock {
	if s.nth < len(h.blocks) {
		if b := h.blocks[s.nth].Load(); b != nil && b.acquire() {
			return b
		}
	}
	if b := h.c.locals.find(s.id); b != nil {
		if b.misses.Load() == 0 {
			return h.keep(s, b)
		}
		h.c.locals.remove(b)
		b.release()
	}
	if h.pause.Load() == never || h.remote.Load() > 0 && h.remote.Add(-1) >= 0 {
		return nil
	}
	b, err := h.c.openLocal(ctx, h.access(), s)
	if err != nil {
		// Not here, or not yet: ask again later, less and less often.
		pause := min(1024, max(4, 2*h.pause.Load()))
		if errors.Is(err, sluice.Unsupported) {
			pause = never
		}
		h.pause.Store(pause)
		h.remote.Store(pause)
		return nil
	}
	h.pause.Store(0)
	return h.keep(s, b)
}

func (h *handle) keep(s spot, b *localBlock) *localBlock {
	if s.nth < len(h.blocks) {
		h.blocks[s.nth].Store(b)
	}
	return b
}

// openLocal asks the worker on this host for a descriptor of the block. It returns it
// acquired. Kind Unsupported: no worker on this host is a likely one.
func (c *core) openLocal(ctx context.Context, o *opened, s spot) (*localBlock, error) {
	for i, w := range c.workers.search(s.id, o.holders) {
		if !w.local(ctx) {
			if i < len(o.holders)+1 {
				continue
			}
			break
		}
		b, err := w.holding.openBlock(ctx, w, o.grant, s.id)
		if err != nil {
			return nil, err
		}
		if b.length != s.length {
			b.discard()
			return nil, &sluice.Error{Kind: sluice.Internal, Err: fmt.Errorf("the block has %d bytes instead of %d", b.length, s.length)}
		}
		b.acquire()
		c.locals.add(b)
		return b, nil
	}
	return nil, &sluice.Error{Kind: sluice.Unsupported}
}

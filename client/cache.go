package client

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/policy"
)

// Free implements [sluice.Cacher].
func (c *Client) Free(ctx context.Context, path sluice.Path) (sluice.FreeResult, error) {
	var (
		mu  sync.Mutex
		sum sluice.FreeResult
	)
	err := c.each(ctx, path, func(ctx context.Context, info sluice.FileInfo) error {
		bytes, kept, err := c.freeFile(ctx, info)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			return err
		case kept:
			sum.Kept++
		default:
			sum.Files++
		}
		sum.Bytes += bytes
		return nil
	})
	return sum, sluice.Wrap("free", path, err)
}

// freeFile drops the cached blocks of one file from every worker.
func (c *Client) freeFile(ctx context.Context, info sluice.FileInfo) (bytes int64, kept bool, err error) {
	if info.Pinned || info.Persistence != sluice.Persisted {
		return 0, true, nil
	}
	contents := contentsOf(&info)
	if len(contents) == 0 {
		return 0, false, nil
	}
	o, err := c.open(ctx, info.Path, 0, sluice.OpenOptions{Freshness: sluice.NeverAsk()})
	if errors.Is(err, sluice.NotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	for _, id := range c.workers.ids() {
		w := c.workers.get(id)
		if w == nil {
			continue
		}
		n, k, err := w.free(ctx, o.grant, contents...)
		if err != nil {
			return bytes, kept, err
		}
		bytes += n
		kept = kept || k > 0
	}
	c.locals.forget(info.Extents)
	return bytes, kept, nil
}

// contentsOf returns the contents of a file, each once.
func contentsOf(info *sluice.FileInfo) []sluice.ContentID {
	var out []sluice.ContentID
	for _, e := range info.Extents {
		if !slices.Contains(out, e.Content) {
			out = append(out, e.Content)
		}
	}
	return out
}

// each calls f for every complete file at and below path, several at once. It ends at
// the first error.
func (c *Client) each(ctx context.Context, path sluice.Path, f func(context.Context, sluice.FileInfo) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	turn := make(chan struct{}, filesAtOnce)
	var wg sync.WaitGroup
	visit := func(info sluice.FileInfo) bool {
		if info.Type != sluice.File || !info.Complete {
			return true
		}
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			return false
		}
		wg.Go(func() {
			defer func() { <-turn }()
			if err := f(ctx, info); err != nil {
				cancel(err)
			}
		})
		return true
	}
	err := c.visit(ctx, path, visit)
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// filesAtOnce is how many files are loaded or freed at once.
const filesAtOnce = 8

// visit calls f with path, if it is a file, or with everything below it.
func (c *Client) visit(ctx context.Context, path sluice.Path, f func(sluice.FileInfo) bool) error {
	info, err := c.Stat(ctx, path, sluice.StatOptions{})
	if err != nil {
		return err
	}
	if !info.IsDir() {
		f(info)
		return nil
	}
	for info, err := range c.List(ctx, path, sluice.ListOptions{Recursive: true}) {
		if err != nil {
			return err
		}
		if !f(info) {
			return ctx.Err()
		}
	}
	return nil
}

// Load implements [sluice.Cacher]. Several files, and several parts of a large one, are
// read at once. Files that cannot be loaded are counted, and the first failure is
// returned once everything else is done.
func (c *Client) Load(ctx context.Context, path sluice.Path, progress func(sluice.LoadProgress)) error {
	l := &load{progress: progress}
	err := c.each(ctx, path, func(ctx context.Context, info sluice.FileInfo) error {
		l.add(sluice.LoadProgress{Found: 1, Planned: info.Length})
		err := c.loadFile(ctx, info.Path, l)
		if err == nil {
			l.add(sluice.LoadProgress{Files: 1})
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		l.add(sluice.LoadProgress{Failed: 1})
		l.fail(err)
		return nil
	})
	if err == nil {
		err = l.first
	}
	return sluice.Wrap("load", path, err)
}

// load is a Load under way.
type load struct {
	mu       sync.Mutex
	progress func(sluice.LoadProgress)
	sum      sluice.LoadProgress // guarded by mu
	first    error               // guarded by mu
}

// add counts d and tells. progress is called by one goroutine at a time.
func (l *load) add(d sluice.LoadProgress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sum.Files += d.Files
	l.sum.Bytes += d.Bytes
	l.sum.Found += d.Found
	l.sum.Planned += d.Planned
	l.sum.Failed += d.Failed
	if l.progress != nil {
		l.progress(l.sum)
	}
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == nil {
		l.first = err
	}
}

// loadPart is how much of a file one goroutine reads in a row, loadParts how many parts
// of a file are read at once.
const (
	loadPart  = 64 << 20
	loadParts = 4
)

// loadFile reads what of a file is not in a block file here yet.
func (c *Client) loadFile(ctx context.Context, path sluice.Path, l *load) error {
	f, err := c.Open(ctx, path, sluice.OpenOptions{})
	if err != nil {
		return err
	}
	h := f.(*handle)
	defer h.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	turn := make(chan struct{}, loadParts)
	var wg sync.WaitGroup
	for off := int64(0); off < h.info.Length && ctx.Err() == nil; off += loadPart {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			if err := h.loadRange(ctx, off, min(off+loadPart, h.info.Length), l); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// loadRange reads bytes [off, end) through their workers and forgets them.
func (h *handle) loadRange(ctx context.Context, off, end int64, l *load) error {
	buf := make([]byte, pieceSize)
	for off < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, ok := h.locate(off)
		if !ok {
			return errLayout(off)
		}
		n := min(pieceSize-s.off%pieceSize, s.length-s.off, end-off)
		if !h.present(ctx, s, n) {
			if err := h.fetch(ctx, s, buf[:n], off); err != nil {
				return err
			}
		}
		off += n
		l.add(sluice.LoadProgress{Bytes: n})
	}
	return nil
}

// present says whether the n bytes at s lie in a block file here.
func (h *handle) present(ctx context.Context, s spot, n int64) bool {
	b := h.local(ctx, s)
	if b == nil {
		return false
	}
	defer b.release()
	if b.whole || b.presentUntil(s.off, s.off+n) == s.off+n {
		return true
	}
	h.c.localMiss(b, errAbsent)
	return false
}

// Persist implements [sluice.Cacher]: the bytes are written again, through, and take the
// place of the cached ones if nobody replaced them meanwhile (kind Stale). Kind
// Unsupported outside mounts.
func (c *Client) Persist(ctx context.Context, path sluice.Path) error {
	return sluice.Wrap("persist", path, c.persist(ctx, path))
}

func (c *Client) persist(ctx context.Context, path sluice.Path) error {
	info, err := c.Stat(ctx, path, sluice.StatOptions{})
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return &sluice.Error{Kind: sluice.IsDirectory, Err: errors.New("persist the files in it")}
	case info.Mount == 0:
		return &sluice.Error{Kind: sluice.Unsupported, Err: errors.New("it lies in no mount: move it below one")}
	case info.Persistence == sluice.Persisted:
		return nil
	}
	h, err := c.Open(ctx, path, sluice.OpenOptions{})
	if err != nil {
		return err
	}
	defer h.Close()
	was := h.Info()
	w, err := c.Create(ctx, path, sluice.CreateOptions{
		Mode: was.Mode, Write: sluice.CacheThrough, BlockSize: was.BlockSize(), Base: was.Content(),
		TTL: was.TTL, TTLAction: was.TTLAction, Pinned: was.Pinned,
	})
	if err != nil {
		return err
	}
	buf := make([]byte, pieceSize)
	for off := int64(0); off < was.Length; {
		n, err := h.ReadAt(ctx, buf, off)
		if err != nil && err != io.EOF {
			return errors.Join(err, w.Abort(ctx))
		}
		if _, err := w.Write(ctx, buf[:n]); err != nil {
			return errors.Join(err, w.Abort(ctx))
		}
		off += int64(n)
	}
	_, err = w.Close(ctx)
	return err
}

// Cached implements [sluice.Cacher]. Workers that do not answer are left out.
func (c *Client) Cached(ctx context.Context, path sluice.Path) ([]sluice.Location, error) {
	o, err := c.open(ctx, path, 0, sluice.OpenOptions{Freshness: sluice.NeverAsk()})
	if err != nil {
		return nil, sluice.Wrap("locate", path, err)
	}
	contents := contentsOf(&o.info)
	var out []sluice.Location
	for _, id := range c.workers.ids() {
		w := c.workers.get(id)
		if w == nil || len(contents) == 0 {
			continue
		}
		bytes, err := w.held(ctx, o.grant, contents...)
		if ctx.Err() != nil {
			return nil, sluice.Wrap("locate", path, ctx.Err())
		}
		if err != nil {
			c.log.Warn("worker does not say what it holds", "worker", id.String(), "err", err)
			continue
		}
		l := sluice.Location{Worker: id, Host: w.info.Host}
		for _, n := range bytes {
			l.Bytes += n
		}
		if l.Bytes > 0 {
			out = append(out, l)
		}
	}
	return out, nil
}

// Hosts implements [sluice.Locator].
func (c *Client) Hosts(ctx context.Context, path sluice.Path) ([][]string, error) {
	o, err := c.open(ctx, path, 0, sluice.OpenOptions{Freshness: sluice.NeverAsk()})
	if err != nil {
		return nil, sluice.Wrap("locate", path, err)
	}
	v := c.workers.view.Load()
	if v == nil {
		return nil, nil
	}
	names := make(map[sluice.WorkerID]string, len(v.Workers))
	for _, w := range v.Workers {
		names[w.ID] = w.Host
	}
	var out [][]string
	for _, e := range o.info.Extents {
		for i := range e.Count {
			out = append(out, hosts(sluice.BlockID{Content: e.Content, Index: e.First + i}, o.holders, v.Workers, names))
		}
	}
	return out, nil
}

// hostsPerBlock is how many host names Hosts returns for a block.
const hostsPerBlock = 3

func hosts(b sluice.BlockID, holders []sluice.Holder, workers []sluice.WorkerInfo, names map[sluice.WorkerID]string) []string {
	var out []string
	add := func(id sluice.WorkerID) {
		if name := names[id]; name != "" && !slices.Contains(out, name) && len(out) < hostsPerBlock {
			out = append(out, name)
		}
	}
	for _, h := range holders {
		if h.Content == b.Content && h.First <= b.Index && b.Index-h.First < h.Count {
			add(h.Worker)
		}
	}
	for _, id := range policy.Rank(b, workers) {
		add(id)
	}
	return out
}

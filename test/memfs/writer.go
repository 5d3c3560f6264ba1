package memfs

import (
	"context"

	"github.com/sluicefs/sluice"
)

// Create implements sluice.Contents. A new name is an incomplete entry until Close.
func (f *FS) Create(_ context.Context, p sluice.Path, o sluice.CreateOptions) (sluice.Writer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, err := f.findLocked("create", p)
	switch {
	case err != nil && sluice.KindOf(err) != sluice.NotFound:
		return nil, err
	case old != nil && o.Exclusive:
		return nil, &sluice.Error{Op: "create", Path: p, Kind: sluice.Exists}
	case old != nil && old.info.IsDir():
		return nil, &sluice.Error{Op: "create", Path: p, Kind: sluice.IsDirectory}
	case !o.Base.IsZero() && (old == nil || old.info.Content() != o.Base):
		return nil, &sluice.Error{Op: "create", Path: p, Kind: sluice.Stale}
	}
	if err := f.parentLocked("create", p, o.Parents); err != nil {
		return nil, err
	}
	if old == nil {
		if o.Mode == 0 {
			o.Mode = 0o644
		}
		old = f.inode(p, sluice.File, o.Mode)
		old.info.Complete = false
		f.nodes[p] = old
	}
	return &fileWriter{fs: f, node: old, opts: o}, nil
}

// fileWriter is a new content of a node, wherever it is moved meanwhile.
type fileWriter struct {
	fs   *FS
	node *node
	opts sluice.CreateOptions
	data []byte
	done bool
}

// Write implements sluice.Writer.
func (w *fileWriter) Write(ctx context.Context, p []byte) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, sluice.Wrap("write", w.node.info.Path, err)
	}
	w.data = append(w.data, p...)
	return len(p), nil
}

// Abort implements sluice.Writer.
func (w *fileWriter) Abort(context.Context) error {
	w.fs.mu.Lock()
	defer w.fs.mu.Unlock()
	if p := w.node.info.Path; !w.done && !w.node.info.Complete && w.fs.nodes[p] == w.node {
		delete(w.fs.nodes, p)
	}
	w.done = true
	return nil
}

// Close implements sluice.Writer.
func (w *fileWriter) Close(context.Context) (sluice.FileInfo, error) {
	w.fs.mu.Lock()
	defer w.fs.mu.Unlock()
	n, p := w.node, w.node.info.Path
	fail := func(k sluice.Kind) (sluice.FileInfo, error) {
		return sluice.FileInfo{}, &sluice.Error{Op: "close", Path: p, Kind: k}
	}
	switch {
	case w.done:
		return fail(sluice.Invalid)
	case w.fs.fail[p] != nil:
		return sluice.FileInfo{}, sluice.Wrap("close", p, w.fs.fail[p])
	case w.fs.nodes[p] != n:
		return fail(sluice.NotFound)
	case !w.opts.Base.IsZero() && n.info.Content() != w.opts.Base:
		return fail(sluice.Stale)
	}
	w.done = true
	n.data = w.data
	n.info.Complete = true
	n.info.Length = int64(len(w.data))
	n.info.Pinned = n.info.Pinned || w.opts.Pinned
	n.info.Mtime = w.fs.now()
	n.info.Ctime, n.info.Atime = n.info.Mtime, n.info.Mtime
	if w.opts.Write == sluice.MustCache {
		n.info.Persistence = sluice.CacheOnly
	}
	n.info.Extents = nil
	if len(w.data) > 0 {
		w.fs.next++
		n.info.Extents = []sluice.Extent{{Content: sluice.ContentID{Incarnation: 1, Counter: w.fs.next}, Count: 1, BlockSize: sluice.DefaultBlockSize}}
	}
	return n.shown(false), nil
}

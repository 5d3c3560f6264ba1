package fuse

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/sluicefs/sluice"
)

// Lookup implements fuse.RawFileSystem.
func (m *Mount) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	ctx, end := m.request(cancel, h)
	defer end()
	tick := m.now()
	dir, path, err := m.child(h.NodeId, name)
	if err != nil {
		if errors.Is(err, sluice.Invalid) {
			return fuse.ENOENT // a name that cannot be, is not
		}
		return status(err)
	}
	info, err := m.as(h).Stat(ctx, path, sluice.StatOptions{})
	if err != nil {
		if errors.Is(err, sluice.NotFound) {
			m.miss(dir, name, tick)
		}
		return status(err)
	}
	m.enter(dir, name, info, tick, out)
	return fuse.OK
}

// enter answers with the node of what was seen at a name.
func (m *Mount) enter(dir *node, name string, info sluice.FileInfo, tick uint64, out *fuse.EntryOut) *node {
	m.mu.Lock()
	n := m.enterLocked(dir, name, info, tick)
	m.mu.Unlock()
	m.answer(n, out)
	return n
}

// miss notes that a name is not there: what was known under it is gone, unless it was
// moved by this mount meanwhile.
func (m *Mount) miss(dir *node, name string, tick uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.nodes.byName[place{dir.id, name}]; n != nil && n.touched <= tick && !n.busyLocked() {
		m.outdateLocked(n)
	}
}

// GetAttr implements fuse.RawFileSystem.
func (m *Mount) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	ctx, end := m.request(cancel, &in.InHeader)
	defer end()
	n := m.find(in.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	if s := n.staged.Load(); s != nil {
		s.observe()
	}
	err := m.look(ctx, n, m.as(&in.InHeader))
	m.mu.Lock()
	kept := n.gone || n.opens > 0
	m.mu.Unlock()
	if err != nil && !(err == syscall.ESTALE && kept) {
		return status(err)
	}
	if err == nil {
		out.SetTimeout(m.attrFor(n))
	}
	m.fill(n, &out.Attr)
	return fuse.OK
}

// look brings the attributes of a node up to date, unless they are this mount's own to
// say. ESTALE: its name leads to something else by now.
func (m *Mount) look(ctx context.Context, n *node, fs sluice.FS) error {
	tick := m.now()
	m.mu.Lock()
	own := n.gone || n.old || n.busyLocked()
	path, err := m.pathLocked(n)
	m.mu.Unlock()
	if err != nil || own {
		return err
	}
	info, err := fs.Stat(ctx, path, sluice.StatOptions{})
	switch {
	case errors.Is(err, sluice.NotFound):
		return syscall.ESTALE
	case err != nil:
		return err
	}
	return m.refresh(n, info, tick)
}

// refresh takes in what was seen of a node. ESTALE: its name leads to something else.
func (m *Mount) refresh(n *node, info sluice.FileInfo, tick uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case n.touched > tick || n.busyLocked():
		return nil
	case n.same(&info):
		n.info = info
		return nil
	default:
		m.outdateLocked(n)
		return syscall.ESTALE
	}
}

// Readlink implements fuse.RawFileSystem.
func (m *Mount) Readlink(cancel <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	ctx, end := m.request(cancel, h)
	defer end()
	n, path, err := m.path(h.NodeId)
	if err != nil {
		return nil, status(err)
	}
	m.mu.Lock()
	target := n.info.Target
	m.mu.Unlock()
	if target != "" { // a link never changes: another one is another inode
		return []byte(target), fuse.OK
	}
	info, err := m.as(h).Stat(ctx, path, sluice.StatOptions{})
	if err != nil {
		return nil, status(err)
	}
	if info.Type != sluice.Symlink {
		return nil, fuse.EINVAL
	}
	return []byte(info.Target), fuse.OK
}

// space is what statfs answered last.
type space struct {
	total, free, files int64
	at                 time.Time
}

// spaceFor is how long the answer counts, spaceBlock the unit it is given in.
const (
	spaceFor   = 5 * time.Second
	spaceBlock = 4096
)

// StatFs implements fuse.RawFileSystem: the room of all workers' tiers, which is what
// can be cached and what files kept in the cache alone can take.
func (m *Mount) StatFs(cancel <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	m.mu.Lock()
	s := m.space
	m.mu.Unlock()
	admin, ok := m.opts.FS.(sluice.Admin)
	if ok && time.Since(s.at) > spaceFor {
		ctx, end := m.request(cancel, h)
		defer end()
		if r, err := admin.Report(ctx); err == nil {
			s = space{at: time.Now(), files: r.Files}
			for _, w := range r.Workers {
				for _, t := range w.Tiers {
					s.total += t.Quota
					s.free += t.Free
				}
			}
			m.mu.Lock()
			m.space = s
			m.mu.Unlock()
		}
	}
	if s.total == 0 { // not known: room enough, so that nobody refuses to try
		s.total, s.free = 1<<50, 1<<50
	}
	*out = fuse.StatfsOut{
		Bsize: spaceBlock, Frsize: spaceBlock, NameLen: sluice.MaxName,
		Blocks: uint64(s.total / spaceBlock), Bfree: uint64(s.free / spaceBlock), Bavail: uint64(s.free / spaceBlock),
		Files: uint64(s.files) + 1<<32, Ffree: 1 << 32,
	}
	return fuse.OK
}

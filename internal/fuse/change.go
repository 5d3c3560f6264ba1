package fuse

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
)

// added answers with the node of what this mount made.
func (m *Mount) added(dir *node, name string, info sluice.FileInfo, out *fuse.EntryOut) {
	m.mu.Lock()
	n := m.enterLocked(dir, name, info, m.nodes.tick)
	m.touchLocked(n)
	m.touchLocked(dir)
	m.mu.Unlock()
	m.answer(n, out)
}

// Mkdir implements fuse.RawFileSystem.
func (m *Mount) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	ctx, end := m.request(cancel, &in.InHeader)
	defer end()
	dir, path, err := m.child(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	mode := sluice.Mode(in.Mode) & sluice.ModeMask
	fs := m.as(&in.InHeader)
	info, err := fs.Mkdir(ctx, path, sluice.MkdirOptions{Mode: mode})
	if err == nil && mode == 0 { // which Mkdir takes for its default
		info, err = fs.SetAttr(ctx, path, sluice.AttrChange{Mode: &mode})
	}
	if err != nil {
		return status(err)
	}
	m.added(dir, name, info, out)
	return fuse.OK
}

// Symlink implements fuse.RawFileSystem.
func (m *Mount) Symlink(cancel <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	ctx, end := m.request(cancel, h)
	defer end()
	dir, path, err := m.child(h.NodeId, name)
	if err != nil {
		return status(err)
	}
	info, err := m.as(h).Symlink(ctx, target, path)
	if err != nil {
		return status(err)
	}
	m.added(dir, name, info, out)
	return fuse.OK
}

// Unlink implements fuse.RawFileSystem.
func (m *Mount) Unlink(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return m.remove(cancel, h, name)
}

// Rmdir implements fuse.RawFileSystem.
func (m *Mount) Rmdir(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return m.remove(cancel, h, name)
}

func (m *Mount) remove(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	ctx, end := m.request(cancel, h)
	defer end()
	dir, path, err := m.child(h.NodeId, name)
	if err != nil {
		return status(err)
	}
	if m.opts.ReadOnly {
		return fuse.EROFS
	}
	done := m.vanishing(ctx, dir, name, nil)
	err = m.as(h).Remove(ctx, path, sluice.RemoveOptions{})
	done(err == nil)
	return status(err)
}

// vanishing prepares for a name of this mount going away, or being given to another
// file: what has it open goes on with the bytes there are. except is the node that takes
// the name. The caller says whether it happened.
func (m *Mount) vanishing(ctx context.Context, dir *node, name string, except *node) (done func(bool)) {
	n := m.named(dir, name)
	var kept *handle
	if n != nil && n != except && n.kind == sluice.File && m.isOpen(n) {
		if h := (&handle{node: m.hold(n.id, false, false)}); h.node != nil {
			kept = h
			if err := m.salvage(ctx, n); err != nil {
				m.opts.Log.Warn("a file that is open is being removed and could not be kept whole for its readers", "name", name, "err", err)
			}
		}
	}
	return func(happened bool) {
		m.mu.Lock()
		m.touchLocked(dir)
		if now := m.nodes.byName[place{dir.id, name}]; happened && now != nil && now != except {
			m.goneLocked(now)
		}
		m.mu.Unlock()
		if kept != nil {
			m.letGo(kept)
		}
	}
}

func (m *Mount) isOpen(n *node) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return n.opens > 0
}

// goneLocked takes a node's name away.
func (m *Mount) goneLocked(n *node) {
	m.unlistLocked(n)
	n.gone = true
	m.touchLocked(n)
	m.dropLocked(n)
}

// salvage makes what is open of a node independent of the file system, by copying what is
// not here yet. Readers by passthrough have their block file already.
func (m *Mount) salvage(ctx context.Context, n *node) error {
	if m.staging == nil {
		return nil
	}
	m.mu.Lock()
	pass := n.passing != nil
	m.mu.Unlock()
	if pass {
		return nil
	}
	s := n.staged.Load()
	if s == nil {
		f, err := m.openVersion(ctx, n, m.opts.FS)
		if err != nil {
			return err
		}
		s = m.stage(n, f)
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	return s.settle(ctx)
}

// Rename implements fuse.RawFileSystem.
func (m *Mount) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	ctx, end := m.request(cancel, &in.InHeader)
	defer end()
	if in.Flags&^unix.RENAME_NOREPLACE != 0 {
		return fuse.EINVAL // exchange and whiteout: what rename(2) answers where there are none
	}
	if m.opts.ReadOnly {
		return fuse.EROFS
	}
	dir, from, err := m.child(in.NodeId, oldName)
	if err != nil {
		return status(err)
	}
	todir, to, err := m.child(in.Newdir, newName)
	if err != nil {
		return status(err)
	}
	n := m.named(dir, oldName)
	if n != nil {
		if s := n.staged.Load(); s != nil { // not while it is published under its old name
			if err := s.enter(ctx); err != nil {
				return status(err)
			}
			defer s.leave()
		}
	}
	m.letRetry(ctx, place{todir.id, newName})
	noReplace := in.Flags&unix.RENAME_NOREPLACE != 0
	done := func(bool) {}
	if !noReplace {
		done = m.vanishing(ctx, todir, newName, n)
	}
	err = m.as(&in.InHeader).Rename(ctx, from, to, sluice.RenameOptions{NoReplace: noReplace})
	done(err == nil)
	if err != nil {
		return status(err)
	}
	m.moved(dir, oldName, todir, newName)
	return fuse.OK
}

// named returns the node that lies at a name, nil if none is known.
func (m *Mount) named(dir *node, name string) *node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.nodes.byName[place{dir.id, name}]
}

// moved gives the node of a name another one.
func (m *Mount) moved(dir *node, oldName string, todir *node, newName string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.touchLocked(dir)
	m.touchLocked(todir)
	if n := m.nodes.byName[place{dir.id, oldName}]; n != nil {
		m.placeLocked(n, todir, newName)
		m.touchLocked(n)
	}
}

// SetAttr implements fuse.RawFileSystem.
func (m *Mount) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	ctx, end := m.request(cancel, &in.InHeader)
	defer end()
	n := m.find(in.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	if m.opts.ReadOnly {
		return fuse.EROFS
	}
	fs := m.as(&in.InHeader)
	if size, ok := in.GetSize(); ok {
		if err := m.setSize(ctx, n, fs, in, size); err != nil {
			return status(err)
		}
	}
	change, err := m.attrChange(n, in)
	if err == nil {
		err = m.change(ctx, n, fs, change)
	}
	if err != nil {
		return status(err)
	}
	out.SetTimeout(m.attrFor(n))
	m.fill(n, &out.Attr)
	return fuse.OK
}

// setSize is the part of SetAttr about the length.
func (m *Mount) setSize(ctx context.Context, n *node, fs sluice.FS, in *fuse.SetAttrIn, size uint64) error {
	if size > maxLength {
		return syscall.EFBIG
	}
	if fh, ok := in.GetFh(); ok {
		if h := m.handle(fh); h != nil && h.write {
			if s := h.node.staged.Load(); s != nil {
				if err := s.enter(ctx); err != nil {
					return err
				}
				defer s.leave()
				return s.truncate(int64(size))
			}
		}
	}
	return m.resize(ctx, n, fs, int64(size))
}

// attrChange translates what the kernel wants changed, besides the length.
func (m *Mount) attrChange(n *node, in *fuse.SetAttrIn) (c sluice.AttrChange, err error) {
	if mode, ok := in.GetMode(); ok {
		c.Mode = new(sluice.Mode(mode) & sluice.ModeMask)
	} else if in.Valid&fuse.FATTR_KILL_SUIDGID != 0 {
		m.mu.Lock()
		if mode := n.info.Mode; mode&0o6000 != 0 && n.kind == sluice.File {
			c.Mode = new(mode &^ 0o6000)
		}
		m.mu.Unlock()
	}
	if uid, ok := in.GetUID(); ok {
		c.Owner = new(m.people.owner(uid))
	}
	if gid, ok := in.GetGID(); ok {
		c.Group = new(m.people.group(gid))
	}
	if t, ok := in.GetMTime(); ok {
		c.Mtime = &t
	}
	if t, ok := in.GetATime(); ok {
		c.Atime = &t
	}
	return c, nil
}

// change changes attributes of a node. Times of a file with bytes to publish wait for
// that, which would set them anew.
func (m *Mount) change(ctx context.Context, n *node, fs sluice.FS, c sluice.AttrChange) error {
	if s := n.staged.Load(); s != nil {
		s.mu.Lock()
		if s.dirty {
			if c.Mtime != nil {
				s.touched, s.seen, c.Mtime = *c.Mtime, true, nil
			}
			if c.Atime != nil {
				s.atime, c.Atime = *c.Atime, nil
			}
		}
		s.mu.Unlock()
	}
	if c.Mode == nil && c.Owner == nil && c.Group == nil && c.Mtime == nil && c.Atime == nil {
		return nil
	}
	m.mu.Lock()
	path, err := m.pathLocked(n)
	if n.gone { // nobody but the holders of descriptors sees it
		n.local(c)
	}
	gone := n.gone
	m.mu.Unlock()
	if gone {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := fs.SetAttr(ctx, path, c)
	if err != nil {
		if errors.Is(err, sluice.NotFound) {
			return syscall.ESTALE
		}
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n.same(&info) || n.busyLocked() && n.file == info.ID {
		content, length := n.info.Extents, n.info.Length
		n.info = info
		if n.busyLocked() {
			n.info.Extents, n.info.Length = content, length
		}
		m.touchLocked(n)
	}
	return nil
}

// local changes the attributes of a file without a name.
func (n *node) local(c sluice.AttrChange) {
	set(&n.info.Mode, c.Mode)
	set(&n.info.Owner, c.Owner)
	set(&n.info.Group, c.Group)
	set(&n.info.Mtime, c.Mtime)
	set(&n.info.Atime, c.Atime)
	n.info.Ctime = time.Now()
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

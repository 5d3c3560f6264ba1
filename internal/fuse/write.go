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

// openWrite opens for writing: it joins the staged file of the node, or makes one over
// the version the node stands for.
func (m *Mount) openWrite(ctx context.Context, h *handle, truncate bool) error {
	n := h.node
	s := n.staged.Load()
	if s == nil || !s.ahead() && !truncate && !m.isGone(n) {
		var base sluice.Handle
		if !truncate {
			fs := h.fs
			if m.opts.Speak {
				fs = m.opts.FS // who may only write has the rest copied up all the same
			}
			f, err := m.openVersion(ctx, n, fs)
			if err != nil {
				return err
			}
			base = f
		}
		s = m.stage(n, base)
	}
	h.mode = modeStaged
	if !truncate {
		return nil
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	s.on = sluice.ContentID{}
	return s.truncate(0)
}

// stage gives a node a staged file over base, which it takes over, unless it has one.
func (m *Mount) stage(n *node, base sluice.Handle) *staged {
	fresh := m.newStaged(base)
	m.mu.Lock()
	s := n.staged.Load()
	if s == nil {
		n.staged.Store(fresh)
		s = fresh
	}
	m.mu.Unlock()
	if s != fresh && base != nil {
		base.Close()
	}
	return s
}

// Create implements fuse.RawFileSystem.
func (m *Mount) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	ctx, end := m.request(cancel, &in.InHeader)
	defer end()
	dir, path, err := m.child(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	if m.opts.ReadOnly {
		return fuse.EROFS
	}
	// Whoever creates counts as a writer, even for reading: its close publishes the file.
	h := &handle{fs: m.as(&in.InHeader), write: true, mode: modeStaged}
	mode := sluice.Mode(in.Mode) & sluice.ModeMask
	w, info, err := m.make(ctx, h.fs, path, mode)
	if errors.Is(err, sluice.Exists) && in.Flags&syscall.O_EXCL == 0 {
		return m.openExisting(cancel, in, name, out)
	}
	if err != nil {
		return status(err)
	}
	s := m.newStaged(nil)
	s.writer, s.fresh, s.freshAs, s.dirty = w, true, mode, true
	m.mu.Lock()
	h.node = m.enterLocked(dir, name, info, m.nodes.tick)
	h.node.opens++
	h.node.writers++
	h.node.staged.Store(s)
	m.touchLocked(h.node)
	m.touchLocked(dir)
	m.mu.Unlock()
	if err := m.register(h, &out.OpenOut); err != nil {
		m.letGo(h)
		return status(err)
	}
	m.answer(h.node, &out.EntryOut)
	return fuse.OK
}

// make creates an entry that is filled when the descriptor is closed.
func (m *Mount) make(ctx context.Context, fs sluice.FS, path sluice.Path, mode sluice.Mode) (sluice.Writer, sluice.FileInfo, error) {
	w, err := fs.Create(ctx, path, sluice.CreateOptions{Exclusive: true, Mode: mode, Write: m.opts.Write})
	if err != nil {
		return nil, sluice.FileInfo{}, err
	}
	var info sluice.FileInfo
	switch e, ok := w.(sluice.EntryWriter); {
	case mode == 0: // which Create takes for its default
		info, err = fs.SetAttr(ctx, path, sluice.AttrChange{Mode: new(sluice.Mode)})
	case ok:
		info = e.Entry()
	default:
		info, err = fs.Stat(ctx, path, sluice.StatOptions{})
	}
	if err != nil {
		return nil, info, errors.Join(err, w.Abort(context.WithoutCancel(ctx)))
	}
	return w, info, nil
}

// openExisting is Create where somebody was faster.
func (m *Mount) openExisting(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if st := m.Lookup(cancel, &in.InHeader, name, &out.EntryOut); st != fuse.OK {
		return st
	}
	open := fuse.OpenIn{InHeader: in.InHeader, Flags: in.Flags &^ (syscall.O_CREAT | syscall.O_EXCL)}
	open.NodeId = out.NodeId
	st := m.Open(cancel, &open, &out.OpenOut)
	if st != fuse.OK {
		m.Forget(out.NodeId, 1)
	}
	return st
}

// Mknod implements fuse.RawFileSystem, for regular files.
func (m *Mount) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if in.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	ctx, end := m.request(cancel, &in.InHeader)
	defer end()
	dir, path, err := m.child(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	w, _, err := m.make(ctx, m.as(&in.InHeader), path, sluice.Mode(in.Mode)&sluice.ModeMask)
	if err != nil {
		return status(err)
	}
	info, err := w.Close(context.WithoutCancel(ctx))
	if err != nil {
		return status(err)
	}
	m.added(dir, name, info, out)
	return fuse.OK
}

// Write implements fuse.RawFileSystem.
func (m *Mount) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	h := m.handle(in.Fh)
	if h == nil {
		return 0, fuse.EBADF
	}
	s := h.node.staged.Load()
	if s == nil {
		return 0, fuse.EBADF
	}
	ctx, end := m.request(cancel, &in.InHeader)
	defer end()
	if err := s.enter(ctx); err != nil {
		return 0, status(err)
	}
	defer s.leave()
	if err := s.write(ctx, data, int64(in.Offset)); err != nil {
		return 0, status(err)
	}
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		m.killPrivileges(ctx, h.node)
	}
	return uint32(len(data)), fuse.OK
}

// killPrivileges takes setuid and setgid from a file that somebody else wrote to.
func (m *Mount) killPrivileges(ctx context.Context, n *node) {
	m.mu.Lock()
	mode := n.info.Mode
	path, err := m.pathLocked(n)
	m.mu.Unlock()
	if err != nil || mode&0o6000 == 0 {
		return
	}
	mode &^= 0o6000
	if info, err := m.opts.FS.SetAttr(ctx, path, sluice.AttrChange{Mode: &mode}); err == nil {
		m.learn(n, info)
	} else {
		m.opts.Log.Warn("setuid or setgid could not be taken from a file that was written; its publication does", "path", string(path), "err", err)
	}
}

// Flush implements fuse.RawFileSystem: every close of a descriptor comes here.
func (m *Mount) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	h := m.handle(in.Fh)
	if h == nil || !h.write {
		return fuse.OK
	}
	return status(m.publish(m.life, h.node, h.fs))
}

// Fsync implements fuse.RawFileSystem: the bytes are durable in the staging directory,
// with what is needed to publish them after a crash.
func (m *Mount) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h := m.handle(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	s := h.node.staged.Load()
	if s == nil || !s.ahead() {
		return fuse.OK
	}
	ctx, end := m.request(cancel, &in.InHeader)
	defer end()
	if err := s.enter(ctx); err != nil {
		return status(err)
	}
	defer s.leave()
	if m.isGone(h.node) {
		return fuse.OK
	}
	return status(m.note(h.node, s))
}

// Fallocate implements fuse.RawFileSystem.
func (m *Mount) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	h := m.handle(in.Fh)
	if h == nil || !h.write {
		return fuse.EBADF
	}
	s := h.node.staged.Load()
	if s == nil {
		return fuse.EBADF
	}
	off, end := int64(in.Offset), int64(in.Offset+in.Length)
	if off < 0 || end < off || end > maxLength {
		return fuse.Status(syscall.EFBIG)
	}
	ctx, done := m.request(cancel, &in.InHeader)
	defer done()
	if err := s.enter(ctx); err != nil {
		return status(err)
	}
	defer s.leave()
	s.mu.Lock()
	size := s.size
	s.mu.Unlock()
	switch in.Mode {
	case unix.FALLOC_FL_KEEP_SIZE:
		return fuse.OK // room is taken page by page
	case 0:
		if end > size {
			return status(s.truncate(end))
		}
		return fuse.OK
	case unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE:
		return status(s.zero(ctx, off, end))
	case unix.FALLOC_FL_ZERO_RANGE:
		if end > size {
			if err := s.truncate(end); err != nil {
				return status(err)
			}
		}
		return status(s.zero(ctx, off, end))
	default:
		return fuse.Status(syscall.EOPNOTSUPP)
	}
}

// resize is truncate and ftruncate.
func (m *Mount) resize(ctx context.Context, n *node, fs sluice.FS, size int64) error {
	h := &handle{node: m.hold(n.id, true, false), fs: fs, write: true}
	if h.node == nil {
		return syscall.ESTALE
	}
	defer m.letGo(h)
	m.mu.Lock()
	others := n.writers > 1
	same := n.info.Length == size && n.staged.Load() == nil
	m.mu.Unlock()
	if same {
		now := time.Now()
		return m.change(ctx, n, fs, sluice.AttrChange{Mtime: &now})
	}
	if err := m.openWrite(ctx, h, size == 0 && n.staged.Load() == nil); err != nil {
		return err
	}
	s := n.staged.Load()
	if err := s.enter(ctx); err != nil {
		return err
	}
	err := s.truncate(size)
	s.leave()
	if err != nil || others {
		return err // the others publish it when they close
	}
	return m.publish(m.life, n, fs)
}

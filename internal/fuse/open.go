package fuse

import (
	"cmp"
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
)

// handle is an open file.
type handle struct {
	node   *node
	fs     sluice.FS     // acts for the one who opened
	file   sluice.Handle // the version that was opened; nil where the staged file is read
	write  bool
	append bool
	mode   openMode
}

// openMode is how the bytes of a handle come.
type openMode string

// The modes, as the attribute user.sluice.mode shows them.
const (
	modePass     openMode = "passthrough" // the kernel reads the block file
	modeBuffered openMode = "buffered"    // through this process into the kernel's pages
	modeDirect   openMode = "direct"      // through this process, by O_DIRECT
	modeStaged   openMode = "staged"      // through this process from the staged file
	modeClosed   openMode = "closed"      // nobody has it open
)

// modeXAttr is the attribute that shows the mode of a file's last open.
const modeXAttr = "user.sluice.mode"

// Open implements fuse.RawFileSystem.
func (m *Mount) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	ctx, end := m.request(cancel, &in.InHeader)
	defer end()
	h := &handle{
		fs: m.as(&in.InHeader), write: in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY || in.Flags&syscall.O_TRUNC != 0,
		append: in.Flags&syscall.O_APPEND != 0, mode: modeBuffered,
	}
	if in.Flags&syscall.O_DIRECT != 0 {
		h.mode = modeDirect
	}
	if h.write && m.opts.ReadOnly {
		return fuse.EROFS
	}
	if h.node = m.hold(in.NodeId, h.write, h.mode == modeDirect); h.node == nil {
		m.comesBack(in.NodeId)
		return fuse.Status(syscall.ESTALE)
	}
	var err error
	if h.write {
		err = m.openWrite(ctx, h, in.Flags&syscall.O_TRUNC != 0)
	} else {
		err = m.openRead(ctx, h)
	}
	if err == nil {
		err = m.register(h, out)
	}
	if err != nil {
		m.letGo(h)
		return status(err)
	}
	m.cameBack(h.node)
	return fuse.OK
}

// hold counts a handle of a node before it is open, so that the node stays. nil: the
// node is of an old version, or a writer or O_DIRECT would meet readers by passthrough,
// whom the kernel lets no other kind join; either way the name has to be looked up again.
func (m *Mount) hold(id uint64, write, direct bool) *node {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes.byID[id]
	if n == nil || n.kind != sluice.File || n.old || n.gone && n.staged.Load() == nil {
		return nil
	}
	if (write || direct) && n.passing != nil {
		m.outdateLocked(n)
		return nil
	}
	n.opens++
	if write {
		n.writers++
	}
	return n
}

// letGo is the end of a handle, registered or not.
func (m *Mount) letGo(h *handle) {
	m.mu.Lock()
	n := h.node
	n.opens--
	if h.write {
		n.writers--
	}
	var end *staged
	if n.opens == 0 {
		end = n.staged.Swap(nil)
	}
	var pass *backing
	if h.mode == modePass {
		if n.passing.users--; n.passing.users == 0 {
			pass, n.passing = n.passing, nil
		}
	}
	m.dropLocked(n)
	m.mu.Unlock()
	if pass != nil {
		pass.close(m)
	}
	if end != nil {
		m.retire(end, n)
	}
	if h.file != nil {
		h.file.Close()
	}
}

// openRead opens for reading: the staged file where there is one, else the version that
// the node stands for.
func (m *Mount) openRead(ctx context.Context, h *handle) error {
	n := h.node
	if s := n.staged.Load(); s != nil && (s.ahead() || m.isGone(n)) {
		return nil
	}
	f, err := m.openVersion(ctx, n, h.fs)
	if err != nil {
		if errors.Is(err, sluice.Busy) && n.staged.Load() != nil {
			return nil
		}
		return err
	}
	h.file = f
	return nil
}

func (m *Mount) isGone(n *node) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return n.gone
}

// openVersion opens the version that a node stands for. ESTALE: its path leads to another
// one.
func (m *Mount) openVersion(ctx context.Context, n *node, fs sluice.FS) (sluice.Handle, error) {
	tick := m.now()
	m.mu.Lock()
	path, err := m.pathLocked(n)
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	f, err := fs.Open(ctx, path, sluice.OpenOptions{})
	if err != nil {
		if errors.Is(err, sluice.NotFound) {
			m.mu.Lock()
			m.outdateLocked(n)
			m.mu.Unlock()
			return nil, syscall.ESTALE
		}
		if errors.Is(err, sluice.IsDirectory) || errors.Is(err, sluice.Invalid) { // is it a file still?
			err = cmp.Or(m.look(ctx, n, m.opts.FS), err)
		}
		return nil, err
	}
	info := f.Info()
	if err := m.refresh(n, info, tick); err != nil {
		f.Close()
		return nil, err
	}
	m.mu.Lock()
	same := n.same(&info)
	m.mu.Unlock()
	if !same && n.staged.Load() == nil { // published by us between the two looks
		f.Close()
		return nil, syscall.ESTALE
	}
	return f, nil
}

// register gives a handle its number and says how the kernel is to read it.
func (m *Mount) register(h *handle, out *fuse.OpenOut) error {
	m.passthrough(h, out)
	if h.mode != modePass {
		out.OpenFlags |= fuse.FOPEN_KEEP_CACHE // pages are of the node's version
		if h.mode == modeDirect {
			out.OpenFlags = fuse.FOPEN_DIRECT_IO
		}
	}
	if !h.write && h.node.staged.Load() == nil {
		out.OpenFlags |= fuse.FOPEN_NOFLUSH
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.handles)+len(m.dirs) >= m.opts.Handles {
		return syscall.ENFILE
	}
	m.lastFh++
	m.handles[m.lastFh] = h
	out.Fh = m.lastFh
	return nil
}

// handle returns an open file by its number, or nil.
func (m *Mount) handle(fh uint64) *handle {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.handles[fh]
}

// Release implements fuse.RawFileSystem.
func (m *Mount) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	m.mu.Lock()
	h := m.handles[in.Fh]
	delete(m.handles, in.Fh)
	m.mu.Unlock()
	if h == nil {
		return
	}
	if s := h.node.staged.Load(); s != nil && h.write {
		// A mapping may have changed it after the last close that somebody waited for.
		if err := m.publish(m.life, h.node, h.fs); err != nil {
			m.opts.Log.Warn("a file written through a mapping was not published", "file", uint64(h.node.file), "err", err)
		}
	}
	m.letGo(h)
}

// Read implements fuse.RawFileSystem.
func (m *Mount) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h := m.handle(in.Fh)
	if h == nil {
		return nil, fuse.EBADF
	}
	ctx, end := m.request(cancel, &in.InHeader)
	defer end()
	buf = buf[:min(len(buf), int(in.Size))]
	n, err := h.readAt(ctx, buf, int64(in.Offset))
	if err != nil && err != io.EOF {
		return nil, status(err) // never a part: the kernel would show zeros behind it
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (h *handle) readAt(ctx context.Context, p []byte, off int64) (int, error) {
	if s := h.node.staged.Load(); s != nil {
		return s.readAt(ctx, p, off)
	}
	if h.file == nil {
		return 0, syscall.ESTALE
	}
	return h.file.ReadAt(ctx, p, off)
}

// Lseek implements fuse.RawFileSystem: everything is data, with a hole at the end.
func (m *Mount) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	h := m.handle(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	var a fuse.Attr
	m.fill(h.node, &a)
	switch {
	case in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE:
		return fuse.EINVAL
	case in.Offset >= a.Size:
		return fuse.Status(syscall.ENXIO)
	case in.Whence == unix.SEEK_DATA:
		out.Offset = in.Offset
	default:
		out.Offset = a.Size
	}
	return fuse.OK
}

// Ioctl implements fuse.RawFileSystem.
func (m *Mount) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(syscall.ENOTTY)
}

// Link implements fuse.RawFileSystem: the namespace gives an inode one name.
func (m *Mount) Link(<-chan struct{}, *fuse.LinkIn, string, *fuse.EntryOut) fuse.Status {
	return fuse.Status(syscall.EOPNOTSUPP)
}

// Tmpfile implements fuse.RawFileSystem.
func (m *Mount) Tmpfile(<-chan struct{}, *fuse.CreateIn, *fuse.CreateOut) fuse.Status {
	return fuse.Status(syscall.EOPNOTSUPP)
}

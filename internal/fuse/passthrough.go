package fuse

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
)

// backing is the block file that the kernel reads for a node. There is one for all
// passthrough handles of the node, from the first to the last: the kernel takes no other
// and refuses every other kind of open meanwhile.
type backing struct {
	id      int32
	users   int // guarded by the mutex of nodes
	release func()
}

func (b *backing) close(m *Mount) {
	if errno := m.server.UnregisterBackingFd(b.id); errno != 0 {
		m.opts.Log.Warn("a backing file was not unregistered", "err", errno)
	}
	b.release()
}

// passthrough lets the kernel read the block file where the handle's whole content lies
// verified in one, and no other kind of handle is open. Where it cannot be, the handle
// stays what it is: there is no failure.
func (m *Mount) passthrough(h *handle, out *fuse.OpenOut) {
	if !m.pass || h.write || h.mode != modeBuffered || h.file == nil {
		return
	}
	if m.join(h, nil, out) {
		return
	}
	b := m.newBacking(h)
	if b != nil && !m.join(h, b, out) {
		b.close(m) // somebody opened it in another way meanwhile
	}
}

// join makes h a user of the node's backing file, which becomes b where there is none.
func (m *Mount) join(h *handle, b *backing, out *fuse.OpenOut) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := h.node
	if n.staged.Load() != nil || n.writers > 0 {
		return false
	}
	if n.passing == nil {
		// Whoever is still opening counts: it may become buffered.
		if b == nil || n.opens > 1 {
			return false
		}
		n.passing = b
	} else if b != nil {
		return false
	}
	n.passing.users++
	h.mode = modePass
	out.OpenFlags |= fuse.FOPEN_PASSTHROUGH
	out.BackingID = n.passing.id
	return true
}

// newBacking registers the block file of a handle; nil where there is none such.
func (m *Mount) newBacking(h *handle) *backing {
	l, ok := h.file.(sluice.LocalFile)
	if !ok {
		return nil
	}
	m.mu.Lock()
	alone := h.node.opens == 1
	m.mu.Unlock()
	if !alone {
		return nil
	}
	ctx, cancel := context.WithCancel(m.life)
	defer cancel()
	fd, release, err := l.Local(ctx)
	if err != nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(fd), &st); err != nil || st.Size != h.file.Info().Length {
		release()
		return nil
	}
	id, errno := m.server.RegisterBackingFd(&fuse.BackingMap{Fd: int32(fd)})
	if errno != 0 {
		m.opts.Log.Debug("the kernel takes no backing file", "err", errno)
		release()
		return nil
	}
	return &backing{id: id, release: release}
}

package fuse

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
)

// userXAttr begins the names that are kept. Others belong to the kernel or to root.
const userXAttr = "user."

// GetXAttr implements fuse.RawFileSystem.
func (m *Mount) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if name == modeXAttr {
		return m.modeOf(h.NodeId, dest)
	}
	if !strings.HasPrefix(name, userXAttr) {
		return 0, fuse.Status(syscall.EOPNOTSUPP)
	}
	all, st := m.xattrs(cancel, h)
	if st != fuse.OK {
		return 0, st
	}
	value, ok := all[name]
	if !ok {
		return 0, fuse.ENOATTR
	}
	return give(dest, value)
}

// give copies a value into the kernel's buffer, or tells how long it is.
func give(dest, value []byte) (uint32, fuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

// modeOf answers how the bytes of a file come.
func (m *Mount) modeOf(id uint64, dest []byte) (uint32, fuse.Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes.byID[id]
	if n == nil || n.kind != sluice.File {
		return 0, fuse.ENOATTR
	}
	mode := modeClosed
	switch {
	case n.staged.Load() != nil:
		mode = modeStaged
	case n.passing != nil:
		mode = modePass
	case n.opens > 0:
		mode = modeBuffered
		for _, h := range m.handles {
			if h.node == n && h.mode == modeDirect {
				mode = modeDirect
			}
		}
	}
	return give(dest, []byte(mode))
}

// ListXAttr implements fuse.RawFileSystem.
func (m *Mount) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	all, st := m.xattrs(cancel, h)
	if st != fuse.OK {
		return 0, st
	}
	var list []byte
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if strings.HasPrefix(name, userXAttr) {
			list = append(append(list, name...), 0)
		}
	}
	return give(dest, list)
}

func (m *Mount) xattrs(cancel <-chan struct{}, h *fuse.InHeader) (map[string][]byte, fuse.Status) {
	ctx, end := m.request(cancel, h)
	defer end()
	_, path, err := m.path(h.NodeId)
	if err != nil {
		return nil, status(err)
	}
	info, err := m.as(h).Stat(ctx, path, sluice.StatOptions{XAttrs: true})
	if err != nil {
		return nil, status(err)
	}
	return info.XAttrs, fuse.OK
}

// SetXAttr implements fuse.RawFileSystem.
func (m *Mount) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	mode := sluice.XAttrAny
	switch in.Flags {
	case 0:
	case unix.XATTR_CREATE:
		mode = sluice.XAttrCreate
	case unix.XATTR_REPLACE:
		mode = sluice.XAttrReplace
	default:
		return fuse.EINVAL
	}
	return m.changeXAttr(cancel, &in.InHeader, name, append([]byte{}, data...), mode)
}

// RemoveXAttr implements fuse.RawFileSystem.
func (m *Mount) RemoveXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return m.changeXAttr(cancel, h, name, nil, sluice.XAttrReplace)
}

func (m *Mount) changeXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string, value []byte, mode sluice.XAttrMode) fuse.Status {
	if !strings.HasPrefix(name, userXAttr) {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	if name == modeXAttr {
		return fuse.EACCES
	}
	ctx, end := m.request(cancel, h)
	defer end()
	n, path, err := m.path(h.NodeId)
	if err != nil {
		return status(err)
	}
	if m.opts.ReadOnly {
		return fuse.EROFS
	}
	info, err := m.as(h).SetAttr(ctx, path, sluice.AttrChange{XAttrs: map[string][]byte{name: value}, XAttrMode: mode})
	switch {
	case err == nil:
		m.learn(n, info)
		return fuse.OK
	case errors.Is(err, sluice.NotFound) && mode == sluice.XAttrReplace:
		return fuse.ENOATTR
	case errors.Is(err, sluice.TooLarge):
		return fuse.Status(syscall.E2BIG)
	default:
		return status(err)
	}
}

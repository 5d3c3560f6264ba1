package fuse

import (
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/sluicefs/sluice"
)

// node is what the kernel knows by a number: a directory, a link, or one version of a
// file. Numbers are never used again.
type node struct {
	id     uint64
	file   sluice.FileID
	kind   sluice.Type
	staged atomic.Pointer[staged] // what is being written; nil: nothing since it was opened

	// The rest is guarded by the mutex of nodes.

	parent  *node  // nil for the root
	name    string // in parent, as last seen
	lookups uint64 // references that the kernel has
	info    sluice.FileInfo
	touched uint64 // the tick at which this mount changed it last
	old     bool   // the name leads to another version by now: no more opens
	gone    bool   // the name was removed or given to another file
	opens   int    // handles
	writers int    // handles that may write
	passing *backing
}

// nodes is the table of all nodes. Invariant: byFile holds the newest node of each file
// that the kernel or a handle knows, and no node that is old or gone. byName holds the
// same nodes, except the root, under where they lie.
type nodes struct {
	byID   map[uint64]*node
	byFile map[sluice.FileID]*node
	byName map[place]*node
	next   uint64
	tick   uint64 // counts what this mount changed
}

// place is a name in a directory.
type place struct {
	dir  uint64
	name string
}

const rootNode = fuse.FUSE_ROOT_ID

// now returns the tick: what a question asked from here on answers is not older.
func (m *Mount) now() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.nodes.tick
}

// find returns the node of a number; nil: the kernel made it up.
func (m *Mount) find(id uint64) *node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.nodes.byID[id]
}

// pathLocked returns where a node lies.
func (m *Mount) pathLocked(n *node) (sluice.Path, error) {
	if n.gone || n.old && n.opens == 0 {
		return "", syscall.ESTALE
	}
	var names []string
	for at := n; at.parent != nil; at = at.parent {
		if at.gone {
			return "", syscall.ESTALE
		}
		names = append(names, at.name)
		if len(names) > sluice.MaxPath {
			return "", syscall.ELOOP
		}
	}
	p := m.opts.Root
	for i := len(names) - 1; i >= 0; i-- {
		p = p.Join(names[i])
	}
	if len(p) > sluice.MaxPath {
		return "", syscall.ENAMETOOLONG
	}
	return p, nil
}

// path returns where the node of a number lies.
func (m *Mount) path(id uint64) (*node, sluice.Path, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes.byID[id]
	if n == nil {
		return nil, "", syscall.ESTALE
	}
	p, err := m.pathLocked(n)
	return n, p, err
}

// child returns where name in the directory of a number lies.
func (m *Mount) child(id uint64, name string) (*node, sluice.Path, error) {
	dir, p, err := m.path(id)
	if err != nil {
		return nil, "", err
	}
	if len(name) > sluice.MaxName {
		return nil, "", syscall.ENAMETOOLONG
	}
	c, err := p.Child(name)
	if err != nil && len(p)+1+len(name) > sluice.MaxPath {
		return nil, "", syscall.ENAMETOOLONG
	}
	return dir, c, err
}

// same says whether info describes the version that the node stands for.
func (n *node) same(info *sluice.FileInfo) bool {
	if n.file != info.ID || n.kind != info.Type {
		return false
	}
	return n.kind != sluice.File || n.info.Content() == info.Content() && n.info.Length == info.Length
}

// busyLocked says whether this mount's own view of the file counts, whatever others did.
func (n *node) busyLocked() bool {
	s := n.staged.Load()
	return s != nil && s.ahead()
}

// enterLocked returns the node for what was seen at name in parent, as known at the
// given tick, with one more reference: the one there is, or a fresh one where the file
// has another version.
func (m *Mount) enterLocked(parent *node, name string, info sluice.FileInfo, tick uint64) *node {
	n := m.nodes.byFile[info.ID]
	switch {
	case n == nil:
	case n.kind == info.Type && (n.same(&info) || n.touched > tick || n.busyLocked()):
		if n.touched <= tick {
			n.info = info
			m.placeLocked(n, parent, name)
		}
		n.lookups++
		return n
	default:
		m.outdateLocked(n)
	}
	m.nodes.next++
	n = &node{id: m.nodes.next, file: info.ID, kind: info.Type, info: info, lookups: 1}
	m.nodes.byID[n.id] = n
	m.nodes.byFile[n.file] = n
	m.placeLocked(n, parent, name)
	return n
}

// placeLocked notes where a node lies. What lay there is not there any more.
func (m *Mount) placeLocked(n, parent *node, name string) {
	at := place{parent.id, name}
	if n.parent != nil {
		if from := (place{n.parent.id, n.name}); from != at && m.nodes.byName[from] == n {
			delete(m.nodes.byName, from)
		}
	}
	n.parent, n.name = parent, name
	if there := m.nodes.byName[at]; there != nil && there != n {
		m.outdateLocked(there)
	}
	m.nodes.byName[at] = n
}

// unlistLocked takes a node out of what names and files lead to.
func (m *Mount) unlistLocked(n *node) {
	if m.nodes.byFile[n.file] == n {
		delete(m.nodes.byFile, n.file)
	}
	if n.parent != nil && m.nodes.byName[place{n.parent.id, n.name}] == n {
		delete(m.nodes.byName, place{n.parent.id, n.name})
	}
}

// outdateLocked makes a node that of an old version.
func (m *Mount) outdateLocked(n *node) {
	n.old = true
	m.unlistLocked(n)
	m.dropLocked(n)
}

// dropLocked lets go of a node that nobody knows any more.
func (m *Mount) dropLocked(n *node) {
	if n.lookups > 0 || n.opens > 0 || n.id == rootNode {
		return
	}
	delete(m.nodes.byID, n.id)
	m.unlistLocked(n)
}

// Forget implements fuse.RawFileSystem.
func (m *Mount) Forget(id, count uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes.byID[id]
	if n == nil {
		return
	}
	n.lookups -= min(count, n.lookups)
	m.dropLocked(n)
}

// touchLocked notes that this mount changed a node.
func (m *Mount) touchLocked(n *node) {
	m.nodes.tick++
	n.touched = m.nodes.tick
}

// learn takes over what the file system answered about a node after a change of ours.
func (m *Mount) learn(n *node, info sluice.FileInfo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n.file != info.ID {
		return
	}
	if n.same(&info) {
		n.info = info
		m.touchLocked(n)
	}
}

// fill answers the kernel's question for the attributes of a node.
func (m *Mount) fill(n *node, out *fuse.Attr) {
	m.mu.Lock()
	info, gone := n.info, n.gone
	m.mu.Unlock()
	m.fillInfo(&info, out)
	if s := n.staged.Load(); s != nil {
		s.fill(out)
	}
	if gone {
		out.Nlink = 0
	}
}

// fillInfo translates attributes.
func (m *Mount) fillInfo(info *sluice.FileInfo, out *fuse.Attr) {
	*out = fuse.Attr{
		Ino: uint64(info.ID), Size: uint64(max(info.Length, 0)), Blocks: uint64(max(info.Length, 0)+511) / 512,
		Mode: uint32(info.Mode) | typeBits(info.Type), Nlink: max(info.Links, 1), Blksize: 1 << 20,
		Owner: fuse.Owner{Uid: m.people.uid(info.Owner), Gid: m.people.gid(info.Group)},
	}
	mtime, ctime, atime := info.Mtime, info.Ctime, info.Atime
	if ctime.IsZero() {
		ctime = mtime
	}
	if atime.IsZero() {
		atime = mtime
	}
	setTimes(out, &atime, &mtime, &ctime)
	if info.IsDir() { // one link says that the directories below are not counted
		out.Size, out.Blocks, out.Blksize = 4096, 8, 4096
	}
}

// setTimes is Attr.SetTimes for times that may be the zero time.
func setTimes(out *fuse.Attr, times ...*time.Time) {
	for _, t := range times {
		if t.IsZero() {
			*t = time.Unix(0, 0)
		}
	}
	out.SetTimes(times[0], times[1], times[2])
}

func typeBits(t sluice.Type) uint32 {
	switch t {
	case sluice.Directory:
		return syscall.S_IFDIR
	case sluice.Symlink:
		return syscall.S_IFLNK
	default:
		return syscall.S_IFREG
	}
}

// answer is the answer to a lookup.
func (m *Mount) answer(n *node, out *fuse.EntryOut) {
	out.NodeId, out.Generation = n.id, 1
	out.SetEntryTimeout(m.opts.EntryFor)
	out.SetAttrTimeout(m.attrFor(n))
	m.fill(n, &out.Attr)
}

// attrFor is how long the kernel may remember the attributes of a node.
func (m *Mount) attrFor(n *node) time.Duration {
	if n.staged.Load() != nil {
		return 0 // they change with every write through any handle
	}
	return m.opts.AttrFor
}

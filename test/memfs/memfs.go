// Package memfs is the file system of the words kept in memory: what doors are tested
// against before a cluster. It owns the semantics that a door can see and refuses
// caching, stores and permissions; errors can be planted per path.
package memfs

import (
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
)

// FS is an empty file system until somebody fills it. Many goroutines may use it.
type FS struct {
	*tree
	who sluice.Principal // owns what is made
}

// tree is what all views of one file system share.
type tree struct {
	mu     sync.Mutex
	next   uint64
	nodes  map[sluice.Path]*node
	mounts map[sluice.Path]sluice.MountInfo
	fail   map[sluice.Path]error
	now    func() time.Time
}

type node struct {
	info sluice.FileInfo
	data []byte
}

// New returns a file system whose times come from now.
func New(now func() time.Time) *FS {
	t := &tree{nodes: map[sluice.Path]*node{}, mounts: map[sluice.Path]sluice.MountInfo{}, fail: map[sluice.Path]error{}, now: now}
	f := &FS{t, sluice.Principal{User: "tester", Groups: []string{"staff"}, Super: true}}
	f.nodes[sluice.Root] = f.inode(sluice.Root, sluice.Directory, 0o755)
	return f
}

// Fail makes every operation on path fail with err, until it is nil.
func (f *FS) Fail(path sluice.Path, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail[path] = err
}

func (f *FS) inode(p sluice.Path, t sluice.Type, mode sluice.Mode) *node {
	f.next++
	now := f.now()
	return &node{info: sluice.FileInfo{Path: p, ID: sluice.FileID(f.next), Type: t, Mode: mode, Owner: f.who.User, Group: f.who.Groups[0], Mtime: now, Ctime: now, Links: 1, Complete: true}}
}

// findLocked returns the node at p or kind NotFound.
func (f *FS) findLocked(op string, p sluice.Path) (*node, error) {
	if err := f.fail[p]; err != nil {
		return nil, sluice.Wrap(op, p, err)
	}
	if n := f.nodes[p]; n != nil {
		return n, nil
	}
	return nil, &sluice.Error{Op: op, Path: p, Kind: sluice.NotFound}
}

// parentLocked checks that p may be made.
func (f *FS) parentLocked(op string, p sluice.Path, make bool) error {
	parent, err := f.findLocked(op, p.Parent())
	if err != nil && make && sluice.KindOf(err) == sluice.NotFound {
		if err := f.parentLocked(op, p.Parent(), true); err != nil {
			return err
		}
		parent = f.inode(p.Parent(), sluice.Directory, 0o755)
		f.nodes[p.Parent()] = parent
		err = nil
	}
	if err != nil {
		return err
	}
	if !parent.info.IsDir() {
		return &sluice.Error{Op: op, Path: p, Kind: sluice.NotDirectory}
	}
	return nil
}

// childrenLocked returns the names below p in order.
func (f *FS) childrenLocked(p sluice.Path) []string {
	var names []string
	for q := range f.nodes {
		if q != sluice.Root && q.Parent() == p {
			names = append(names, q.Name())
		}
	}
	slices.Sort(names)
	return names
}

// As implements sluice.FS: what p makes belongs to p, who needs at least one group.
func (f *FS) As(p sluice.Principal) sluice.FS { return &FS{f.tree, p} }

// Stat implements sluice.Tree.
func (f *FS) Stat(_ context.Context, p sluice.Path, o sluice.StatOptions) (sluice.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.findLocked("stat", p)
	if err != nil {
		return sluice.FileInfo{}, err
	}
	return n.shown(o.XAttrs), nil
}

func (n *node) shown(xattrs bool) sluice.FileInfo {
	info := n.info
	info.XAttrs = nil
	if xattrs {
		info.XAttrs = maps.Clone(n.info.XAttrs)
	}
	return info
}

// List implements sluice.Tree.
func (f *FS) List(ctx context.Context, p sluice.Path, o sluice.ListOptions) iter.Seq2[sluice.FileInfo, error] {
	return func(yield func(sluice.FileInfo, error) bool) { f.list(ctx, p, o, yield) }
}

func (f *FS) list(ctx context.Context, p sluice.Path, o sluice.ListOptions, yield func(sluice.FileInfo, error) bool) bool {
	f.mu.Lock()
	n, err := f.findLocked("list", p)
	var names []string
	if err == nil {
		names = f.childrenLocked(p)
	}
	f.mu.Unlock()
	if err != nil {
		yield(sluice.FileInfo{}, err)
		return false
	}
	if !n.info.IsDir() {
		return yield(n.shown(false), nil)
	}
	for _, name := range names {
		if name <= o.After {
			continue
		}
		info, err := f.Stat(ctx, p.Join(name), sluice.StatOptions{})
		if !yield(info, err) || err != nil {
			return false
		}
		if o.Recursive && info.IsDir() && !f.list(ctx, info.Path, sluice.ListOptions{Recursive: true}, yield) {
			return false
		}
	}
	return true
}

// Mkdir implements sluice.Tree.
func (f *FS) Mkdir(_ context.Context, p sluice.Path, o sluice.MkdirOptions) (sluice.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n, err := f.findLocked("mkdir", p); err == nil {
		if o.Parents && n.info.IsDir() {
			return n.shown(false), nil
		}
		return sluice.FileInfo{}, &sluice.Error{Op: "mkdir", Path: p, Kind: sluice.Exists}
	} else if sluice.KindOf(err) != sluice.NotFound {
		return sluice.FileInfo{}, err
	}
	if err := f.parentLocked("mkdir", p, o.Parents); err != nil {
		return sluice.FileInfo{}, err
	}
	if o.Mode == 0 {
		o.Mode = 0o755
	}
	n := f.inode(p, sluice.Directory, o.Mode)
	f.nodes[p] = n
	return n.shown(false), nil
}

// Rename implements sluice.Tree.
func (f *FS) Rename(_ context.Context, from, to sluice.Path, o sluice.RenameOptions) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.findLocked("rename", from)
	if err != nil {
		return err
	}
	if from != to && from.Contains(to) {
		return &sluice.Error{Op: "rename", Path: from, Kind: sluice.Invalid, Err: fmt.Errorf("%s lies below it", to)}
	}
	if old := f.nodes[to]; old != nil && from != to {
		switch {
		case o.NoReplace:
			return &sluice.Error{Op: "rename", Path: to, Kind: sluice.Exists}
		case old.info.IsDir() && !n.info.IsDir():
			return &sluice.Error{Op: "rename", Path: to, Kind: sluice.IsDirectory}
		case !old.info.IsDir() && n.info.IsDir():
			return &sluice.Error{Op: "rename", Path: to, Kind: sluice.NotDirectory}
		case old.info.IsDir() && len(f.childrenLocked(to)) > 0:
			return &sluice.Error{Op: "rename", Path: to, Kind: sluice.NotEmpty}
		}
	}
	if err := f.parentLocked("rename", to, false); err != nil {
		return err
	}
	for _, p := range slices.Collect(maps.Keys(f.nodes)) {
		if from.Contains(p) {
			moved := f.nodes[p]
			delete(f.nodes, p)
			moved.info.Path = sluice.Path(strings.TrimSuffix(string(to.Join(from.Rel(p))), "/"))
			f.nodes[moved.info.Path] = moved
		}
	}
	return nil
}

// Remove implements sluice.Tree.
func (f *FS) Remove(_ context.Context, p sluice.Path, o sluice.RemoveOptions) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.findLocked("remove", p)
	if err != nil {
		return err
	}
	if n.info.IsDir() && !o.Recursive && len(f.childrenLocked(p)) > 0 {
		return &sluice.Error{Op: "remove", Path: p, Kind: sluice.NotEmpty}
	}
	for _, q := range slices.Collect(maps.Keys(f.nodes)) {
		if p.Contains(q) {
			delete(f.nodes, q)
		}
	}
	return nil
}

// SetAttr implements sluice.Tree.
func (f *FS) SetAttr(ctx context.Context, p sluice.Path, c sluice.AttrChange) (sluice.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.findLocked("setattr", p)
	if err != nil {
		return sluice.FileInfo{}, err
	}
	for q, below := range f.nodes {
		if q == p || c.Recursive && p.Contains(q) {
			if err := below.change(c); err != nil {
				return sluice.FileInfo{}, sluice.Wrap("setattr", q, err)
			}
		}
	}
	return n.shown(true), nil
}

func (n *node) change(c sluice.AttrChange) error {
	set(&n.info.Mode, c.Mode)
	set(&n.info.Owner, c.Owner)
	set(&n.info.Group, c.Group)
	set(&n.info.Mtime, c.Mtime)
	set(&n.info.Atime, c.Atime)
	set(&n.info.TTL, c.TTL)
	set(&n.info.TTLAction, c.TTLAction)
	set(&n.info.Pinned, c.Pinned)
	for name, value := range c.XAttrs {
		_, there := n.info.XAttrs[name]
		switch {
		case there && c.XAttrMode == sluice.XAttrCreate:
			return &sluice.Error{Kind: sluice.Exists}
		case !there && c.XAttrMode == sluice.XAttrReplace:
			return &sluice.Error{Kind: sluice.NotFound, Err: fmt.Errorf("no attribute %q", name)}
		case value == nil:
			delete(n.info.XAttrs, name)
			continue
		case n.info.XAttrs == nil:
			n.info.XAttrs = map[string][]byte{}
		}
		n.info.XAttrs[name] = slices.Clone(value)
	}
	return nil
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// Symlink implements sluice.Tree.
func (f *FS) Symlink(_ context.Context, target string, p sluice.Path) (sluice.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.nodes[p] != nil {
		return sluice.FileInfo{}, &sluice.Error{Op: "symlink", Path: p, Kind: sluice.Exists}
	}
	if err := f.parentLocked("symlink", p, false); err != nil {
		return sluice.FileInfo{}, err
	}
	n := f.inode(p, sluice.Symlink, 0o777)
	n.info.Target, n.info.Length = target, int64(len(target))
	f.nodes[p] = n
	return n.shown(false), nil
}

// Open implements sluice.Contents.
func (f *FS) Open(_ context.Context, p sluice.Path, _ sluice.OpenOptions) (sluice.Handle, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.findLocked("open", p)
	if err != nil {
		return nil, err
	}
	if n.info.Type != sluice.File {
		return nil, &sluice.Error{Op: "open", Path: p, Kind: sluice.IsDirectory}
	}
	if !n.info.Complete {
		return nil, &sluice.Error{Op: "open", Path: p, Kind: sluice.Busy}
	}
	return &handle{info: n.shown(false), data: n.data}, nil
}

type handle struct {
	info sluice.FileInfo
	data []byte
}

func (h *handle) Info() sluice.FileInfo { return h.info }
func (h *handle) Close() error          { return nil }
func (h *handle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, sluice.Wrap("read", h.info.Path, err)
	}
	if off >= int64(len(h.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

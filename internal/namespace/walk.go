package namespace

import (
	"fmt"
	"strings"
	"time"

	"github.com/sluicefs/sluice"
)

// fail makes the error of an answer. The desk says operation and path.
func fail(kind sluice.Kind, format string, args ...any) error {
	return &sluice.Error{Kind: kind, Err: fmt.Errorf(format, args...)}
}

func kindError(kind sluice.Kind) error { return &sluice.Error{Kind: kind} }

// at is where a node lies.
type at struct {
	parent sluice.FileID
	name   string
	node   *node
}

// place is what walking a path found.
type place struct {
	path    sluice.Path
	at               // the entry; node is nil where it is not there
	dir     at       // its directory; node is nil for the root, or where that is not there
	deepest at       // the deepest directory on the way that is there, the entry not included
	missing []string // names that are not there, the entry's own last
	mount   *mountRow
	// The store's key is base, then what of the path begins at rest.
	base string
	rest int
	// moved is the highest index at which a directory on the way came to its place.
	moved sluice.Index
}

// found says whether the entry is there.
func (p *place) found() bool { return p.node != nil }

// mountID is that of the mount, 0 outside.
func (p *place) mountID() sluice.MountID {
	if p.mount == nil {
		return 0
	}
	return p.mount.mount.ID
}

// key is the store's key for the path, remembered keys honoured.
func (p *place) key() string {
	if p.mount == nil {
		return ""
	}
	return joinKey(p.base, string(p.path[min(p.rest, len(p.path)):]))
}

// ownKey is the key that the path alone implies.
func (p *place) ownKey() string {
	if p.mount == nil {
		return ""
	}
	return p.mount.mount.Path.Rel(p.path)
}

func joinKey(base, rest string) string {
	switch {
	case base == "":
		return rest
	case rest == "":
		return base
	default:
		return base + "/" + rest
	}
}

// walk follows path from the root. What is missing is no error; a file on the way is
// NotDirectory, a directory that by may not search is Permission. by nil may everything.
func walk(v view, by *sluice.Principal, path sluice.Path) (place, error) {
	p := place{path: path}
	root, err := child(v, rootKeyParent, "")
	if err != nil {
		return p, err
	}
	if root == nil {
		return p, fail(sluice.Unavailable, "the cluster is not formatted yet")
	}
	p.at = at{rootKeyParent, "", root}
	for i := 1; i < len(path); {
		end := len(path)
		if j := strings.IndexByte(string(path[i:]), '/'); j >= 0 {
			end = i + j
		}
		if err := p.step(v, by, string(path[i:end]), end); err != nil {
			return p, err
		}
		if p.node == nil {
			p.missing = append(p.missing, string(path[i:end]))
			if end < len(path) {
				p.missing = append(p.missing, strings.Split(string(path[end+1:]), "/")...)
				p.dir = at{}
				p.at = at{name: p.missing[len(p.missing)-1]}
			}
			return p, nil
		}
		i = end + 1
	}
	return p, nil
}

// step goes from the entry, which must be a directory, to its child name, which ends at
// byte end of the path.
func (p *place) step(v view, by *sluice.Principal, name string, end int) error {
	if !p.node.dir() {
		return fail(sluice.NotDirectory, "%s is a %s", p.path[:end-len(name)-1], p.node.kind())
	}
	if !allowed(by, p.node, MayExecute) {
		return fail(sluice.Permission, "%s may not search %s", by.User, p.path[:max(1, end-len(name)-1)])
	}
	n, err := child(v, p.node.id, name)
	if err != nil {
		return err
	}
	p.dir, p.deepest = p.at, p.at
	p.at = at{p.node.id, name, n}
	if n == nil {
		return nil
	}
	if n.has(flagMount) {
		if p.mount = v.table().byRoot[n.id]; p.mount == nil {
			return fail(sluice.Internal, "the mount point %s has no mount", p.path[:end])
		}
		p.base, p.rest, p.moved = "", end+1, 0
	}
	if n.has(flagKey) {
		p.base, p.rest = n.key, end+1
	}
	if n.dir() {
		p.moved = max(p.moved, n.moved)
	}
	return nil
}

// walkTo is walk to an entry that must be there.
func walkTo(v view, by *sluice.Principal, path sluice.Path) (place, error) {
	p, err := walk(v, by, path)
	if err == nil && !p.found() {
		err = kindError(sluice.NotFound)
	}
	return p, err
}

// pathOf returns the path of an inode, false where it is not in the tree.
func pathOf(v view, id sluice.FileID) (sluice.Path, bool, error) {
	var names []string
	size := 0
	for id != sluice.RootID {
		r, err := as[nameRow](v.get(nameKey(id)))
		if err != nil {
			return "", false, err
		}
		if r == nil || r.parent&detachedBit != 0 || len(names) > sluice.MaxPath {
			return "", false, nil
		}
		names = append(names, r.name)
		size += len(r.name) + 1
		id = r.parent
	}
	if len(names) == 0 {
		return sluice.Root, true, nil
	}
	var b strings.Builder
	b.Grow(size)
	for i := len(names) - 1; i >= 0; i-- {
		b.WriteByte('/')
		b.WriteString(names[i])
	}
	return sluice.Path(b.String()), true, nil
}

// locate finds an inode in the tree; found is false where it is not there, or lies in a
// directory that a mount shadows.
func locate(v view, id sluice.FileID) (place, error) {
	path, ok, err := pathOf(v, id)
	if err != nil || !ok {
		return place{}, err
	}
	p, err := walk(v, nil, path)
	if err == nil && p.node != nil && p.node.id != id {
		return place{}, nil
	}
	return p, err
}

// allowed says whether by has every permission of want on the inode. Nil and the
// superuser have.
func allowed(by *sluice.Principal, n *node, want Access) bool {
	if by == nil || by.Super {
		return true
	}
	mode := n.perm.mode
	switch {
	case by.User == n.perm.owner:
		mode >>= 6
	case by.In(n.perm.group):
		mode >>= 3
	}
	return Access(mode&7)&want == want
}

// owns says whether by may do what only the owner may.
func owns(by *sluice.Principal, n *node) bool {
	return by == nil || by.Super || by.User == n.perm.owner
}

// mayUnlink says whether by may take or replace an entry of dir: write and search on
// it, and where it is sticky, ownership of the entry or the directory.
func mayUnlink(by *sluice.Principal, dir, n *node) error {
	if !allowed(by, dir, MayWrite|MayExecute) {
		return fail(sluice.Permission, "%s may not change the directory", by.User)
	}
	if n != nil && dir.perm.mode&0o1000 != 0 && !owns(by, n) && !owns(by, dir) {
		return fail(sluice.Permission, "the directory is sticky and %s owns neither it nor the entry", by.User)
	}
	return nil
}

// info is the node's description with what its place says of the store.
func (p *place) info() sluice.FileInfo {
	info := p.node.info(p.path)
	if p.mount != nil {
		info.Mount = p.mount.mount.ID
		if p.node.inStore() && p.node.persist == sluice.Persisted {
			info.Key = p.key()
			return info
		}
	}
	info.Store, info.StoreAt = "", time.Time{}
	return info
}

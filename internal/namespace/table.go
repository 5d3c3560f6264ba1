package namespace

import (
	"maps"
	"slices"
	"strings"

	"github.com/sluicefs/sluice"
)

// mountTable is the mounts at one moment. It is replaced, never changed.
type mountTable struct {
	rows   []*mountRow // in path order
	byRoot map[sluice.FileID]*mountRow
}

// with returns the table with a mount added or replaced.
func (t *mountTable) with(r *mountRow) *mountTable {
	n := t.without(r.mount.ID)
	n.rows = append(n.rows, r)
	slices.SortFunc(n.rows, func(a, b *mountRow) int { return strings.Compare(string(a.mount.Path), string(b.mount.Path)) })
	n.byRoot[r.root] = r
	return n
}

// without returns the table without a mount.
func (t *mountTable) without(id sluice.MountID) *mountTable {
	n := &mountTable{byRoot: maps.Clone(t.byRoot)}
	if n.byRoot == nil {
		n.byRoot = map[sluice.FileID]*mountRow{}
	}
	for _, r := range t.rows {
		if r.mount.ID == id {
			delete(n.byRoot, r.root)
		} else {
			n.rows = append(n.rows, r)
		}
	}
	return n
}

// byID returns a mount, nil if there is none.
func (t *mountTable) byID(id sluice.MountID) *mountRow {
	for _, r := range t.rows {
		if r.mount.ID == id {
			return r
		}
	}
	return nil
}

// at returns the mount whose mount point is path, nil if there is none.
func (t *mountTable) at(path sluice.Path) *mountRow {
	for _, r := range t.rows {
		if r.mount.Path == path {
			return r
		}
	}
	return nil
}

// inside returns a mount below path, path itself not included; nil if there is none.
func (t *mountTable) inside(path sluice.Path) *mountRow {
	for _, r := range t.rows {
		if r.mount.Path != path && path.Contains(r.mount.Path) {
			return r
		}
	}
	return nil
}

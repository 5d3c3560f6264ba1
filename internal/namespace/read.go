package namespace

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/sluicefs/sluice"
)

// Stat describes a path. Kinds: NotFound, NotDirectory, Permission.
func (s *State) Stat(by sluice.Principal, path sluice.Path, xattrs bool) (sluice.FileInfo, error) {
	var info sluice.FileInfo
	err := s.look(func(v view) error {
		p, err := walkTo(v, &by, path)
		if err != nil {
			return err
		}
		info = p.info()
		if !xattrs {
			return nil
		}
		info.XAttrs = map[string][]byte{}
		if !p.node.has(flagXAttrs) {
			return nil
		}
		if !owns(&by, p.node) && !allowed(&by, p.node, MayRead) {
			return fail(sluice.Permission, "%s may not read its extended attributes", by.User)
		}
		x, err := as[xattrsRow](v.get(xattrsKey(p.node.id)))
		if x != nil {
			for name, value := range x.values {
				info.XAttrs[name] = slices.Clone(value)
			}
		}
		return err
	})
	if err != nil {
		return sluice.FileInfo{}, err
	}
	return info, nil
}

// maxList bounds the entries of one page.
const maxList = 10_000

// List returns at most limit (0: 10,000, which is also the most) children behind after
// in byte order of their names; of a file, itself. Kinds as of Stat; reading the
// directory must be allowed.
func (s *State) List(by sluice.Principal, path sluice.Path, after string, limit int) (sluice.ListPage, error) {
	if limit <= 0 || limit > maxList {
		limit = maxList
	}
	var page sluice.ListPage
	err := s.lookAt(func(v view) error {
		p, err := walkTo(v, &by, path)
		if err != nil {
			return err
		}
		if !p.node.dir() {
			if after == "" {
				page.Entries = []sluice.FileInfo{p.info()}
			}
			return nil
		}
		if !allowed(&by, p.node, MayRead) {
			return fail(sluice.Permission, "%s may not list the directory", by.User)
		}
		page.Entries = make([]sluice.FileInfo, 0, min(limit, 64))
		return children(v, p.node.id, after, func(name string, n *node) (bool, error) {
			if len(page.Entries) >= limit {
				page.More = true
				return false, nil
			}
			c := p.childPlace(v, name, n)
			page.Entries = append(page.Entries, c.info())
			return true, nil
		})
	})
	return page, err
}

// childPlace is the place of an entry of the directory at p.
func (p *place) childPlace(v view, name string, n *node) place {
	c := place{path: p.path.Join(name), at: at{p.node.id, name, n}, mount: p.mount, base: p.base, rest: p.rest}
	if n.has(flagMount) {
		c.mount, c.base, c.rest = v.table().byRoot[n.id], "", len(c.path)+1
	}
	if n.has(flagKey) {
		c.base, c.rest = n.key, len(c.path)+1
	}
	return c
}

// Resolve returns what is known of a path, whoever asks. A file on the way is as if
// nothing were there.
func (s *State) Resolve(path sluice.Path) Resolved {
	var r Resolved
	err := s.look(func(v view) error {
		p, err := walk(v, nil, path)
		if errors.Is(err, sluice.NotDirectory) {
			err = nil
			p.at, p.missing = at{}, nil
		}
		if err != nil {
			return err
		}
		r = Resolved{Found: p.found(), Key: p.key()}
		if p.found() {
			r.Info = p.info()
			r.Incomplete = !r.Info.Complete
		}
		if p.deepest.node != nil {
			r.HasParent = true
			up := path.Parent()
			for range max(0, len(p.missing)-1) {
				up = up.Parent()
			}
			d := place{path: up, at: p.deepest}
			r.Parent = d.info()
		}
		if p.mount != nil {
			r.InMount, r.Mount, r.MountEpoch = true, p.mount.mount, p.mount.epoch
		}
		return nil
	})
	if err != nil {
		return Resolved{}
	}
	return r
}

// FileByID describes an inode of the tree.
func (s *State) FileByID(id sluice.FileID) (sluice.FileInfo, bool) {
	var info sluice.FileInfo
	found := false
	err := s.look(func(v view) error {
		p, err := locate(v, id)
		if found = err == nil && p.found(); found {
			info = p.info()
		}
		return err
	})
	return info, err == nil && found
}

// Access says whether by has the permissions want on a path, and search on all above.
// Kinds: NotFound, NotDirectory, Permission.
func (s *State) Access(by sluice.Principal, path sluice.Path, want Access) error {
	return s.look(func(v view) error {
		p, err := walkTo(v, &by, path)
		if err == nil && !allowed(&by, p.node, want) {
			err = fail(sluice.Permission, "%s has not the permission", by.User)
		}
		return err
	})
}

// Mounts returns the mount table in path order.
func (s *State) Mounts() []MountRow {
	s.mu.RLock()
	t := s.mounts
	s.mu.RUnlock()
	out := make([]MountRow, len(t.rows))
	for i, r := range t.rows {
		out[i] = MountRow{Mount: r.mount, Root: r.root, Epoch: r.epoch, Secrets: maps.Clone(r.secrets)}
	}
	return out
}

// Tick returns the journal time of the last entry.
func (s *State) Tick() time.Duration {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return time.Duration(s.meta.tick)
}

// Wall returns the wall time of the last entry.
func (s *State) Wall() time.Time {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return fromNano(s.meta.wall)
}

// Incarnations returns the live ones, the present one last; none before Format.
func (s *State) Incarnations() []sluice.Incarnation {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.meta.incarnation)
}

// Terms returns what Format laid down, with defaults filled in.
func (s *State) Terms() Terms {
	s.mu.RLock()
	defer s.mu.RUnlock()
	m := s.meta
	return Terms{Cluster: m.cluster, Lease: time.Duration(m.lease), Window: int(m.window), Version: m.version}
}

// Stats returns sizes and counters.
func (s *State) Stats() Stats {
	st := Stats{Sessions: int(s.sessions.Load()), Intents: int(s.intents.Load())}
	st.CachedRows, st.CacheHits, st.CacheMisses = s.cache.stats()
	_ = s.lookAt(func(v view) error {
		st.Applied = v.(*snapshotView).meta.applied
		return v.scan([]byte{tagCounts}, []byte{tagCounts + 1}, func(_ string, r row) (bool, error) {
			c := r.(*countsRow)
			st.Files += c.files
			st.Dirs += c.dirs
			st.Bytes += c.bytes
			st.Unpersisted += c.unpersisted
			return true, nil
		})
	})
	return st
}

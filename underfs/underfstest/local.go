package underfstest

import (
	"cmp"
	"context"
	"strings"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// localStore adds what a directory can do and S3 cannot.
type localStore struct{ *memStore }

// Mkdir implements underfs.Directories.
func (s *localStore) Mkdir(ctx context.Context, key underfs.Key, mode sluice.Mode) (underfs.Object, error) {
	return call(ctx, s.memStore, underfs.OpMkdir, key, func() (underfs.Object, error) {
		m := s.m
		m.mu.Lock()
		defer m.mu.Unlock()
		dir := underfs.Key(strings.TrimSuffix(string(key), "/") + "/")
		if m.objects[dir] != nil || m.objects[dir[:len(dir)-1]] != nil {
			return underfs.Object{}, underfs.Failf("mkdir", key, sluice.Exists, "something lies there")
		}
		return m.putLocked(dir, nil, underfs.CreateOptions{Mode: cmp.Or(mode, 0o755)}).obj, nil
	})
}

// Rename implements underfs.Renamer.
func (s *localStore) Rename(ctx context.Context, from, to underfs.Key, cond underfs.Condition) (underfs.Object, error) {
	return call(ctx, s.memStore, underfs.OpRename, from, func() (underfs.Object, error) {
		m := s.m
		m.mu.Lock()
		defer m.mu.Unlock()
		b := m.objects[from]
		switch {
		case b == nil:
			return underfs.Object{}, underfs.Failf("rename", from, sluice.NotFound, "nothing lies there")
		case strings.HasSuffix(string(from), "/") != strings.HasSuffix(string(to), "/"):
			return underfs.Object{}, underfs.Failf("rename", from, sluice.Invalid, "both keys end in a slash, or none")
		case b.obj.Dir && strings.HasPrefix(string(to), string(from)):
			return underfs.Object{}, underfs.Failf("rename", from, sluice.Invalid, "a directory cannot lie below itself")
		}
		cond.Absent = cond.Version == ""
		if err := m.checkLocked("rename", to, cond); err != nil {
			return underfs.Object{}, err
		}
		m.parentsLocked(to)
		if b.obj.Dir {
			for _, k := range append([]underfs.Key(nil), m.sortedLocked()...) {
				if strings.HasPrefix(string(k), string(from)) {
					m.moveLocked(k, to+k[len(from):])
				}
			}
		} else {
			m.moveLocked(from, to)
		}
		return m.objects[to].obj, nil
	})
}

// moveLocked gives one object another key, and the version that a ctime gives it.
func (m *Memory) moveLocked(from, to underfs.Key) {
	b := *m.objects[from]
	mtime := b.obj.Mtime
	m.dropLocked(from)
	m.placeLocked(to, &b)
	b.obj.Mtime = mtime
}

// SetAttr implements underfs.Attributer.
func (s *localStore) SetAttr(ctx context.Context, key underfs.Key, change sluice.AttrChange) (underfs.Object, error) {
	return call(ctx, s.memStore, underfs.OpSetAttr, key, func() (underfs.Object, error) {
		m := s.m
		m.mu.Lock()
		defer m.mu.Unlock()
		old := m.objects[key]
		if old == nil {
			return underfs.Object{}, underfs.Failf("set attributes", key, sluice.NotFound, "nothing lies there")
		}
		b := *old
		mtime := b.obj.Mtime
		m.placeLocked(key, &b)
		b.obj.Mtime = mtime
		if change.Mode != nil {
			b.obj.Mode = *change.Mode
		}
		if change.Owner != nil {
			b.obj.Owner = *change.Owner
		}
		if change.Group != nil {
			b.obj.Group = *change.Group
		}
		if change.Mtime != nil {
			b.obj.Mtime = *change.Mtime
		}
		return b.obj, nil
	})
}

// What each kind of store can do.
var (
	_ underfs.Completer   = (*memStore)(nil)
	_ underfs.Copier      = (*memStore)(nil)
	_ underfs.Sweeper     = (*memStore)(nil)
	_ underfs.Prober      = (*memStore)(nil)
	_ underfs.Renamer     = (*localStore)(nil)
	_ underfs.Directories = (*localStore)(nil)
	_ underfs.Attributer  = (*localStore)(nil)
)

package namenode

import (
	"context"
	"errors"
	"path"
	"strings"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// Delete implements underfs.Store: what lies there is looked at, then deleted.
func (s *Store) Delete(ctx context.Context, key underfs.Key, cond underfs.Condition) error {
	st, err := s.stat(ctx, "delete", key)
	if err != nil {
		return err
	}
	switch {
	case key == "":
		return underfs.Failf("delete", key, sluice.Invalid, "the mount's top is not deleted")
	case st.Dir && !isDirKey(key):
		return underfs.Failf("delete", key, sluice.IsDirectory, "a directory's key ends in a slash")
	case cond.Version != "" && st.version() != cond.Version:
		return underfs.Failf("delete", key, sluice.Changed, "another version lies there")
	}
	return fail("delete", key, s.cfg.Node.Delete(ctx, s.path(key)))
}

// Mkdir implements underfs.Directories. Missing parents are made with mode 0755. Two who
// make one directory at the same moment may both be told that they did.
func (s *Store) Mkdir(ctx context.Context, key underfs.Key, m sluice.Mode) (underfs.Object, error) {
	if err := s.target(ctx, "mkdir", key); err != nil {
		return underfs.Object{}, err
	}
	m = mode(m, 0o755)
	name := s.path(key)
	if _, err := s.cfg.Node.Stat(ctx, name); !errors.Is(err, sluice.NotFound) {
		if err == nil {
			err = &sluice.Error{Kind: sluice.Exists, Err: errors.New("something lies there")}
		}
		return underfs.Object{}, fail("mkdir", key, err)
	}
	if err := s.parents(ctx, key); err != nil {
		return underfs.Object{}, fail("mkdir", key, err)
	}
	if err := s.cfg.Node.Mkdirs(ctx, name, m); err != nil {
		return underfs.Object{}, fail("mkdir", key, err)
	}
	st, err := s.cfg.Node.Stat(ctx, name)
	if err == nil && st.Mode&sluice.ModeMask != m {
		if err = s.cfg.Node.SetMode(ctx, name, m); err == nil {
			st, err = s.cfg.Node.Stat(ctx, name)
		}
	}
	if err != nil {
		return underfs.Object{}, Rekind("mkdir", sluice.UnknownOutcome, err)
	}
	return object(key, &st), nil
}

// Rename implements underfs.Renamer by one call that overwrites nothing, unless cond names
// the version that is replaced: then that is looked at first.
func (s *Store) Rename(ctx context.Context, from, to underfs.Key, cond underfs.Condition) (underfs.Object, error) {
	if err := s.target(ctx, "rename", to); err != nil {
		return underfs.Object{}, err
	}
	switch {
	case from == "" || isDirKey(from) != isDirKey(to):
		return underfs.Object{}, underfs.Failf("rename", from, sluice.Invalid, "a directory is renamed to a directory (both keys end in a slash), a file to a file")
	case isDirKey(from) && strings.HasPrefix(string(to), string(from)):
		return underfs.Object{}, underfs.Failf("rename", from, sluice.Invalid, "a directory does not go below itself")
	}
	st, err := s.stat(ctx, "rename", from)
	if err != nil {
		return underfs.Object{}, err
	}
	if st.Dir && !isDirKey(from) {
		return underfs.Object{}, underfs.Failf("rename", from, sluice.IsDirectory, "a directory's key ends in a slash")
	}
	if cond.Version != "" {
		if err := s.expect(ctx, "rename", to, cond.Version); err != nil {
			return underfs.Object{}, err
		}
	}
	if err := s.move(ctx, from, to, cond.Version != ""); err != nil {
		return underfs.Object{}, fail("rename", from, err)
	}
	if after, err := s.cfg.Node.Stat(ctx, s.path(to)); err == nil {
		st = after
	} // else it is what it was: a rename changes nothing but the name
	return object(to, &st), nil
}

// move renames, and makes the directories above to if that is what is missing.
func (s *Store) move(ctx context.Context, from, to underfs.Key, overwrite bool) error {
	err := s.cfg.Node.Rename(ctx, s.path(from), s.path(to), overwrite)
	if !errors.Is(err, sluice.NotFound) {
		return s.explain(ctx, to, err)
	}
	if _, err := s.cfg.Node.Stat(ctx, s.path(from)); err != nil {
		return err
	}
	if err := s.parents(ctx, to); err != nil {
		return err
	}
	return s.cfg.Node.Rename(ctx, s.path(from), s.path(to), overwrite)
}

// SetAttr implements underfs.Attributer: mode, owner, group, mtime and atime, one call for
// each kind; the other fields are not the store's. A new mtime is a new version of the same
// content.
func (s *Store) SetAttr(ctx context.Context, key underfs.Key, change sluice.AttrChange) (underfs.Object, error) {
	if _, err := s.stat(ctx, "set attributes", key); err != nil {
		return underfs.Object{}, err
	}
	name := s.path(key)
	var err error
	if change.Owner != nil || change.Group != nil {
		err = s.cfg.Node.SetOwner(ctx, name, value(change.Owner), value(change.Group))
	}
	if err == nil && change.Mode != nil {
		err = s.cfg.Node.SetMode(ctx, name, *change.Mode&sluice.ModeMask)
	}
	if err == nil && (change.Mtime != nil || change.Atime != nil) {
		err = s.cfg.Node.SetTimes(ctx, name, change.Mtime, change.Atime)
	}
	if err != nil {
		return underfs.Object{}, fail("set attributes", key, err)
	}
	st, err := s.cfg.Node.Stat(ctx, name)
	if err != nil {
		return underfs.Object{}, fail("set attributes", key, err)
	}
	return object(key, &st), nil
}

// value returns what s points to, or "".
func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// Sweep implements underfs.Sweeper. keep is asked with the upload's name and its tag. A
// file that is still open is left alone however old: the name node itself closes it when
// its writer has been dead for the lease's hard limit (20 minutes), and its age counts from
// there.
func (s *Store) Sweep(ctx context.Context, age time.Duration, keep func(string) bool) (int, error) {
	if err := s.begin(ctx, "sweep", ""); err != nil {
		return 0, err
	}
	dir := path.Join(s.cfg.Top, tempDir)
	removed, after := 0, ""
	for {
		batch, more, err := s.cfg.Node.List(ctx, dir, after)
		if errors.Is(err, sluice.NotFound) {
			return removed, nil
		}
		if err != nil {
			return removed, fail("sweep", "", err)
		}
		for i := range batch {
			st := &batch[i]
			after = st.Name
			tag, ours := tagOf(st.Name)
			if !ours || st.Dir || st.Open || time.Since(time.UnixMilli(st.Mtime)) < age || keep != nil && (keep(st.Name) || tag != "" && keep(tag)) {
				continue
			}
			err := s.cfg.Node.Delete(ctx, path.Join(dir, st.Name))
			if err != nil && !errors.Is(err, sluice.NotFound) {
				return removed, fail("sweep", "", err)
			}
			if err == nil {
				removed++
			}
		}
		if !more || len(batch) == 0 {
			return removed, nil
		}
	}
}

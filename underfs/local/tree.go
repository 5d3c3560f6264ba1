package local

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// Delete implements underfs.Store. A version is checked, then the file is unlinked.
func (s *Store) Delete(ctx context.Context, key underfs.Key, cond underfs.Condition) error {
	if err := ctx.Err(); err != nil {
		return underfs.Fail("delete", key, sluice.Unavailable, err)
	}
	n, err := find("delete", key)
	if err != nil {
		return err
	}
	if n == "." {
		return underfs.Failf("delete", key, sluice.Invalid, "the mount's top is not deleted")
	}
	if cond.Version != "" {
		if err := s.expect(key, n, cond.Version); err != nil {
			if _, gone := s.root.Lstat(n); errors.Is(gone, syscall.ENOENT) {
				err = gone
			}
			return fail("delete", key, err)
		}
	}
	if err := s.unlink(n, strings.HasSuffix(string(key), "/")); err != nil {
		if errors.Is(err, syscall.ENOTDIR) && !strings.HasSuffix(string(key), "/") {
			return underfs.Fail("delete", key, sluice.NotFound, err)
		}
		return fail("delete", key, err)
	}
	if err := s.syncDir(path.Dir(n)); err != nil {
		return underfs.Fail("delete", key, sluice.UnknownOutcome, err)
	}
	return nil
}

// unlink removes a file, or with dir an empty directory, and never the other one.
func (s *Store) unlink(n string, dir bool) error {
	d, err := s.root.Open(path.Dir(n))
	if err != nil {
		return err
	}
	defer d.Close()
	flags := 0
	if dir {
		flags = unix.AT_REMOVEDIR
	}
	return unix.Unlinkat(int(d.Fd()), path.Base(n), flags)
}

// Mkdir implements underfs.Directories. Missing parents are made with mode 0755.
func (s *Store) Mkdir(ctx context.Context, key underfs.Key, mode sluice.Mode) (underfs.Object, error) {
	if err := ctx.Err(); err != nil {
		return underfs.Object{}, underfs.Fail("mkdir", key, sluice.Unavailable, err)
	}
	n, err := target("mkdir", key)
	if err != nil {
		return underfs.Object{}, err
	}
	if mode == 0 {
		mode = 0o755
	}
	if err := s.parents(n); err != nil {
		return underfs.Object{}, fail("mkdir", key, err)
	}
	if err := s.root.Mkdir(n, fs.FileMode(mode&0o777)); err != nil {
		return underfs.Object{}, fail("mkdir", key, err)
	}
	if err := s.root.Chmod(n, fileMode(mode)); err != nil { // past the umask
		return underfs.Object{}, fail("mkdir", key, err)
	}
	if err := s.syncDir(path.Dir(n)); err != nil {
		return underfs.Object{}, underfs.Fail("mkdir", key, sluice.UnknownOutcome, err)
	}
	o, err := s.lstat(key, n)
	return o, fail("mkdir", key, err)
}

// fileMode turns our mode into the standard library's.
func fileMode(m sluice.Mode) fs.FileMode {
	f := fs.FileMode(m & 0o777)
	if m&0o4000 != 0 {
		f |= fs.ModeSetuid
	}
	if m&0o2000 != 0 {
		f |= fs.ModeSetgid
	}
	if m&0o1000 != 0 {
		f |= fs.ModeSticky
	}
	return f
}

// Rename implements underfs.Renamer, by renameat2(2) without replacement unless cond
// names the version that is replaced.
func (s *Store) Rename(ctx context.Context, from, to underfs.Key, cond underfs.Condition) (underfs.Object, error) {
	if err := ctx.Err(); err != nil {
		return underfs.Object{}, underfs.Fail("rename", from, sluice.Unavailable, err)
	}
	nf, err := find("rename", from)
	if err != nil {
		return underfs.Object{}, err
	}
	nt, err := target("rename", to)
	if err != nil {
		return underfs.Object{}, err
	}
	if nf == "." || strings.HasSuffix(string(from), "/") != strings.HasSuffix(string(to), "/") {
		return underfs.Object{}, underfs.Failf("rename", from, sluice.Invalid, "a directory is renamed to a directory (both keys end in a slash), a file to a file")
	}
	if _, err := s.Stat(ctx, from); err != nil {
		return underfs.Object{}, sluice.Wrap("rename", "", err)
	}
	if err := s.move(nf, nt, from, to, cond); err != nil {
		return underfs.Object{}, fail("rename", from, err)
	}
	for _, dir := range []string{path.Dir(nt), path.Dir(nf)} {
		if err := s.syncDir(dir); err != nil {
			return underfs.Object{}, underfs.Fail("rename", from, sluice.UnknownOutcome, err)
		}
		if path.Dir(nt) == path.Dir(nf) {
			break
		}
	}
	o, err := s.lstat(to, nt)
	return o, fail("rename", to, err)
}

// move renames one file or directory.
func (s *Store) move(nf, nt string, from, to underfs.Key, cond underfs.Condition) error {
	fi, err := s.root.Lstat(nf)
	if err != nil {
		return err
	}
	if fi.IsDir() && !strings.HasSuffix(string(from), "/") {
		return underfs.Failf("rename", from, sluice.IsDirectory, "a directory's key ends in a slash")
	}
	if err := s.parents(nt); err != nil {
		return err
	}
	if cond.Version != "" {
		if err := s.expect(to, nt, cond.Version); err != nil {
			return err
		}
		return s.root.Rename(nf, nt)
	}
	df, err := s.root.Open(path.Dir(nf))
	if err != nil {
		return err
	}
	defer df.Close()
	dt, err := s.root.Open(path.Dir(nt))
	if err != nil {
		return err
	}
	defer dt.Close()
	err = unix.Renameat2(int(df.Fd()), path.Base(nf), int(dt.Fd()), path.Base(nt), unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// NFS and some others cannot: a window between the check and the rename remains.
	if _, err := s.root.Lstat(nt); err == nil {
		return syscall.EEXIST
	}
	return s.root.Rename(nf, nt)
}

// Copy implements underfs.Copier by copy_file_range(2), which shares extents where the
// file system can.
func (s *Store) Copy(ctx context.Context, from underfs.Key, v sluice.Version, to underfs.Key, cond underfs.Condition) (underfs.Object, error) {
	if err := ctx.Err(); err != nil {
		return underfs.Object{}, underfs.Fail("copy", from, sluice.Unavailable, err)
	}
	src, st, err := s.openFile("copy", from)
	if err != nil {
		return underfs.Object{}, err
	}
	defer src.Close()
	if v != "" && version(st) != v {
		return underfs.Object{}, underfs.Failf("copy", from, sluice.Changed, "the file was replaced or written to")
	}
	if _, err := target("copy", to); err != nil {
		return underfs.Object{}, err
	}
	dst, temp, err := s.temporary("copy")
	if err != nil {
		return underfs.Object{}, fail("copy", to, err)
	}
	u := &upload{s: s, key: to, f: dst, temp: temp, opts: underfs.CreateOptions{
		Length: st.Size, Mode: sluice.Mode(st.Mode) & sluice.ModeMask, Owner: s.owners.user(st.Uid), Group: s.owners.group(st.Gid),
	}}
	defer func() { _ = u.Abort(context.WithoutCancel(ctx)) }()
	if err := copyRange(ctx, dst, src, st.Size); err != nil {
		return underfs.Object{}, fail("copy", from, err)
	}
	u.off = st.Size
	if after, err := fstat(src); err != nil || version(after) != version(st) {
		return underfs.Object{}, underfs.Failf("copy", from, sluice.Changed, "the file was written to while it was copied")
	}
	if _, err := u.Prepare(ctx); err != nil {
		return underfs.Object{}, err
	}
	return u.Commit(ctx, cond)
}

// copyRange copies n bytes in steps that a context can end.
func copyRange(ctx context.Context, dst, src *os.File, n int64) error {
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		m, err := io.CopyN(dst, src, min(n, 64<<20)) // *os.File uses copy_file_range
		n -= m
		if err == io.EOF {
			return underfs.Failf("copy", "", sluice.Changed, "the file became shorter")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// SetAttr implements underfs.Attributer: mode, owner, group, mtime and atime; the other
// fields are not the store's. The version that is returned is another one (ctime), the
// content is the same. An unknown user or group is kind Invalid.
func (s *Store) SetAttr(ctx context.Context, key underfs.Key, change sluice.AttrChange) (underfs.Object, error) {
	if err := ctx.Err(); err != nil {
		return underfs.Object{}, underfs.Fail("set attributes", key, sluice.Unavailable, err)
	}
	n, err := find("set attributes", key)
	if err != nil {
		return underfs.Object{}, err
	}
	o, err := s.Stat(ctx, key)
	if err != nil {
		return underfs.Object{}, sluice.Wrap("set attributes", "", err)
	}
	if err := s.setAttr(n, o, change); err != nil {
		return underfs.Object{}, fail("set attributes", key, err)
	}
	o, err = s.lstat(key, n)
	return o, fail("set attributes", key, err)
}

// setAttr changes the attributes of n, which is o.
func (s *Store) setAttr(n string, o underfs.Object, change sluice.AttrChange) error {
	uid, gid, ok := -1, -1, true
	if change.Owner != nil {
		if uid, ok = userID(*change.Owner); !ok {
			return underfs.Failf("set attributes", o.Key, sluice.Invalid, "there is no user %q on this machine", *change.Owner)
		}
	}
	if change.Group != nil {
		if gid, ok = groupID(*change.Group); !ok {
			return underfs.Failf("set attributes", o.Key, sluice.Invalid, "there is no group %q on this machine", *change.Group)
		}
	}
	if uid >= 0 || gid >= 0 {
		if err := s.root.Lchown(n, uid, gid); err != nil {
			return err
		}
	}
	if o.Target != "" {
		return nil // a symbolic link has no mode, and times that matter to nobody
	}
	if change.Mode != nil {
		if err := s.root.Chmod(n, fileMode(*change.Mode)); err != nil {
			return err
		}
	}
	if change.Mtime != nil || change.Atime != nil {
		var mtime, atime time.Time // the zero time leaves it
		if change.Mtime != nil {
			mtime = *change.Mtime
		}
		if change.Atime != nil {
			atime = *change.Atime
		}
		return s.root.Chtimes(n, atime, mtime)
	}
	return nil
}

// Sweep implements underfs.Sweeper. keep is asked with the upload's name and its tag.
func (s *Store) Sweep(ctx context.Context, age time.Duration, keep func(string) bool) (int, error) {
	d, err := s.root.Open(tempDir)
	if errors.Is(err, syscall.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, fail("sweep", "", err)
	}
	defer d.Close()
	removed := 0
	for {
		if err := ctx.Err(); err != nil {
			return removed, underfs.Fail("sweep", "", sluice.Unavailable, err)
		}
		batch, err := d.ReadDir(256)
		for _, e := range batch {
			tag, ours := tagOf(e.Name())
			fi, err := s.root.Lstat(tempDir + "/" + e.Name())
			if err != nil || !ours || time.Since(fi.ModTime()) < age || keep != nil && (keep(e.Name()) || tag != "" && keep(tag)) {
				continue
			}
			if s.root.Remove(tempDir+"/"+e.Name()) == nil {
				removed++
			}
		}
		if err == io.EOF {
			return removed, nil
		}
		if err != nil {
			return removed, fail("sweep", "", err)
		}
	}
}

package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// tempDir holds the files of uploads under way, at the top of the mount. One directory,
// so that what dead writers left is found without walking the tree.
const tempDir = tempPrefix

// Steps in which a long write is handed to the disk before the final sync, in bytes.
const flushStep = 16 << 20

// smallWrite is the length up to which space is not reserved beforehand, in bytes.
const smallWrite = 1 << 20

// errGone says that an upload is not there.
var errGone = errors.New("the upload is gone: completed, aborted or swept")

// Create makes a temporary file. Its directory lies at the top of the mount: a key below
// another file system mounted further down cannot be committed (kind Unsupported).
func (s *Store) Create(ctx context.Context, key underfs.Key, opts underfs.CreateOptions) (underfs.Upload, error) {
	if err := ctx.Err(); err != nil {
		return nil, underfs.Fail("create", key, sluice.Unavailable, err)
	}
	if strings.HasSuffix(string(key), "/") {
		return nil, underfs.Failf("create", key, sluice.Invalid, "a file's key does not end in a slash")
	}
	if _, err := target("create", key); err != nil {
		return nil, err
	}
	f, temp, err := s.temporary(opts.Tag)
	if err != nil {
		return nil, fail("create", key, err)
	}
	u := &upload{s: s, key: key, opts: opts, f: f, temp: temp}
	if opts.Length > smallWrite {
		// A file system that cannot reserve says so, and fills up as it goes.
		if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, opts.Length); errors.Is(err, unix.ENOSPC) {
			_ = u.Abort(ctx)
			return nil, fail("create", key, err)
		}
	}
	return u, nil
}

// temporary makes a file with a name of its own in the directory of temporary files.
func (s *Store) temporary(tag string) (*os.File, string, error) {
	for {
		temp := tempDir + "/" + tempName(tag, s.serial.Add(1))
		f, err := s.root.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		switch {
		case err == nil:
			return f, temp, nil
		case errors.Is(err, syscall.ENOENT):
			if err := s.root.Mkdir(tempDir, 0o700); err != nil && !errors.Is(err, syscall.EEXIST) {
				return nil, "", err
			}
			if err := s.syncDir("."); err != nil {
				return nil, "", err
			}
		case !errors.Is(err, syscall.EEXIST): // another process counts from 1 too
			return nil, "", err
		}
	}
}

// tempName makes a file name of a tag and a number that tells names apart.
func tempName(tag string, n uint64) string {
	clean := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '_'
	}, tag)
	return "u-" + clean[:min(len(clean), 180)] + "-" + strconv.FormatUint(n, 36)
}

// tagOf returns the tag in a name made by tempName.
func tagOf(temp string) (string, bool) {
	rest, ok := strings.CutPrefix(temp, "u-")
	i := strings.LastIndexByte(rest, '-')
	if !ok || i < 0 {
		return "", false
	}
	return rest[:i], true
}

// upload is a temporary file that becomes key.
type upload struct {
	s       *Store
	key     underfs.Key
	opts    underfs.CreateOptions
	f       *os.File // nil when it is closed
	temp    string
	off     int64 // bytes written
	flushed int64 // bytes handed to the disk

	prepared *sluice.Prepared
	done     *underfs.Object // what Commit returned
}

// Write implements underfs.Upload.
func (u *upload) Write(ctx context.Context, p []byte) error {
	if err := ctx.Err(); err != nil {
		return underfs.Fail("write", u.key, sluice.Unavailable, err)
	}
	if u.f == nil {
		return underfs.Fail("write", u.key, sluice.Invalid, errGone)
	}
	if u.opts.Length >= 0 && int64(len(p)) > u.opts.Length-u.off {
		return underfs.Failf("write", u.key, sluice.Invalid, "more than the %d bytes that were announced", u.opts.Length)
	}
	n, err := u.f.Write(p)
	u.off += int64(n)
	if err != nil {
		return fail("write", u.key, err)
	}
	if u.s.durable && u.off-u.flushed >= flushStep {
		// Only a hint: the final sync is what counts.
		_ = unix.SyncFileRange(int(u.f.Fd()), u.flushed, u.off-u.flushed, unix.SYNC_FILE_RANGE_WRITE)
		u.flushed = u.off
	}
	return nil
}

// Prepare implements underfs.Upload: owner and mode, then fsync(2).
func (u *upload) Prepare(ctx context.Context) (sluice.Prepared, error) {
	if u.prepared != nil {
		return *u.prepared, nil
	}
	if err := ctx.Err(); err != nil {
		return sluice.Prepared{}, underfs.Fail("prepare", u.key, sluice.Unavailable, err)
	}
	if u.f == nil {
		return sluice.Prepared{}, underfs.Fail("prepare", u.key, sluice.Invalid, errGone)
	}
	if u.opts.Length >= 0 && u.off != u.opts.Length {
		return sluice.Prepared{}, underfs.Failf("prepare", u.key, sluice.Invalid, "%d bytes were announced and %d written", u.opts.Length, u.off)
	}
	p, err := u.s.seal(u.f, u.temp, u.opts)
	if err != nil {
		return sluice.Prepared{}, fail("prepare", u.key, err)
	}
	u.f = nil
	u.prepared = &p
	return p, nil
}

// seal gives a temporary file its attributes, makes it durable and closes it.
func (s *Store) seal(f *os.File, temp string, opts underfs.CreateOptions) (sluice.Prepared, error) {
	if err := chown(f, opts.Owner, opts.Group); err != nil {
		return sluice.Prepared{}, err
	}
	mode := opts.Mode
	if mode == 0 {
		mode = 0o644
	}
	if err := unix.Fchmod(int(f.Fd()), uint32(mode&sluice.ModeMask)); err != nil {
		return sluice.Prepared{}, err
	}
	if s.durable {
		if err := f.Sync(); err != nil {
			return sluice.Prepared{}, err
		}
		if !s.entries {
			if err := s.syncDir(tempDir); err != nil {
				return sluice.Prepared{}, err
			}
		}
	}
	st, err := fstat(f)
	if err != nil {
		return sluice.Prepared{}, err
	}
	p := sluice.Prepared{Upload: path.Base(temp), Parts: []string{identity(st)}, Tag: opts.Tag}
	return p, f.Close()
}

// chown gives f to owner and group where this process may. Without the right to, files
// belong to whom Sluice runs as, as they do for every other program; unknown names too.
func chown(f *os.File, owner, group string) error {
	uid, gid := -1, -1
	if n, ok := userID(owner); owner != "" && ok {
		uid = n
	}
	if n, ok := groupID(group); group != "" && ok {
		gid = n
	}
	if uid < 0 && gid < 0 {
		return nil
	}
	if err := f.Chown(uid, gid); err != nil && !errors.Is(err, syscall.EPERM) {
		return err
	}
	return nil
}

// Commit implements underfs.Upload.
func (u *upload) Commit(ctx context.Context, cond underfs.Condition) (underfs.Object, error) {
	if u.done != nil {
		return *u.done, nil
	}
	if u.prepared == nil {
		return underfs.Object{}, underfs.Failf("commit", u.key, sluice.Invalid, "it was not prepared")
	}
	o, err := u.s.Complete(ctx, u.key, *u.prepared, cond)
	if err == nil {
		u.done = &o
	}
	return o, err
}

// Abort implements underfs.Upload.
func (u *upload) Abort(context.Context) error {
	if u.done != nil || u.temp == "" {
		return nil
	}
	if u.f != nil {
		u.f.Close()
		u.f = nil
	}
	err := u.s.root.Remove(u.temp)
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return fail("abort", u.key, err)
	}
	u.temp = ""
	return nil
}

// Complete makes a prepared file visible under key, by link(2) where nothing may be there
// and by rename(2) else. Completed before, it returns what lies there; kind NotFound
// where neither the upload nor its result is found.
func (s *Store) Complete(ctx context.Context, key underfs.Key, p sluice.Prepared, cond underfs.Condition) (underfs.Object, error) {
	if err := ctx.Err(); err != nil {
		return underfs.Object{}, underfs.Fail("commit", key, sluice.Unavailable, err)
	}
	n, err := target("commit", key)
	if err != nil {
		return underfs.Object{}, err
	}
	temp, err := tempPath(p)
	if err != nil {
		return underfs.Object{}, underfs.Fail("commit", key, sluice.Invalid, err)
	}
	if err := s.publish(temp, n, key, p, cond); err != nil {
		return underfs.Object{}, fail("commit", key, err)
	}
	if err := s.syncDir(path.Dir(n)); err != nil {
		return underfs.Object{}, underfs.Fail("commit", key, sluice.UnknownOutcome, err)
	}
	o, err := s.lstat(key, n)
	return o, fail("commit", key, err)
}

// tempPath returns the name of a prepared file below the root.
func tempPath(p sluice.Prepared) (string, error) {
	if p.Upload == "" || strings.ContainsAny(p.Upload, "/\x00") || len(p.Parts) != 1 {
		return "", fmt.Errorf("%q is no upload of this driver", p.Upload)
	}
	return tempDir + "/" + p.Upload, nil
}

// publish gives the temporary file its name n.
func (s *Store) publish(temp, n string, key underfs.Key, p sluice.Prepared, cond underfs.Condition) error {
	if _, err := s.root.Lstat(temp); errors.Is(err, syscall.ENOENT) {
		return s.published(n, p)
	}
	if cond.Version != "" {
		if err := s.expect(key, n, cond.Version); err != nil {
			return err
		}
	}
	if err := s.parents(n); err != nil {
		return err
	}
	if !cond.Absent {
		return s.root.Rename(temp, n)
	}
	err := s.root.Link(temp, n)
	if errors.Is(err, syscall.EEXIST) && s.published(n, p) == nil {
		err = nil // linked by a Complete that died before it removed the other name
	}
	if err != nil {
		return err
	}
	return s.root.Remove(temp)
}

// published says whether n is the file that p describes.
func (s *Store) published(n string, p sluice.Prepared) error {
	fi, err := s.root.Lstat(n)
	if err == nil {
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && identity(st) == p.Parts[0] {
			return nil
		}
	}
	return underfs.Fail("commit", "", sluice.NotFound, errGone)
}

// expect says whether the version of n is v.
func (s *Store) expect(key underfs.Key, n string, v sluice.Version) error {
	o, err := s.lstat(key, n)
	switch {
	case errors.Is(err, syscall.ENOENT):
		return underfs.Failf("check version", key, sluice.Changed, "it is gone")
	case err != nil:
		return err
	case o.Version != v:
		return underfs.Failf("check version", key, sluice.Changed, "another version lies there")
	}
	return nil
}

// parents makes the missing directories above n, durable from the top.
func (s *Store) parents(n string) error {
	dir := path.Dir(n)
	if dir == "." {
		return nil
	}
	if fi, err := s.root.Stat(dir); err == nil {
		if !fi.IsDir() {
			return syscall.ENOTDIR
		}
		return nil
	}
	if err := s.parents(dir); err != nil {
		return err
	}
	if err := s.root.Mkdir(dir, 0o755); err != nil && !errors.Is(err, syscall.EEXIST) {
		return err
	}
	return s.syncDir(path.Dir(dir))
}

// AbortPrepared implements underfs.Completer.
func (s *Store) AbortPrepared(ctx context.Context, key underfs.Key, p sluice.Prepared) error {
	if err := ctx.Err(); err != nil {
		return underfs.Fail("abort", key, sluice.Unavailable, err)
	}
	temp, err := tempPath(p)
	if err != nil {
		return underfs.Fail("abort", key, sluice.Invalid, err)
	}
	if err := s.root.Remove(temp); err != nil && !errors.Is(err, syscall.ENOENT) {
		return fail("abort", key, err)
	}
	return nil
}

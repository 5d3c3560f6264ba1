package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// tempPrefix begins every name that is ours alone; listings never show one.
const tempPrefix = ".sluice-tmp"

// errHidden refuses keys that are not a name of this store.
var errHidden = errors.New("names that begin with " + tempPrefix + " are kept for uploads")

// name returns the file name of key below the root. What no file can be called (an empty
// or dotted component, a zero byte) and our own names are refused.
func name(key underfs.Key) (string, error) {
	s := strings.TrimSuffix(string(key), "/")
	if s == "" {
		if key == "" {
			return ".", nil
		}
		return "", fs.ErrInvalid
	}
	for c := range strings.SplitSeq(s, "/") {
		switch {
		case c == "" || c == "." || c == ".." || strings.IndexByte(c, 0) >= 0:
			return "", fs.ErrInvalid
		case strings.HasPrefix(c, tempPrefix):
			return "", errHidden
		}
	}
	return s, nil
}

// find is name for calls that look for what is there: what cannot be is NotFound.
func find(op string, key underfs.Key) (string, error) {
	s, err := name(key)
	if err != nil {
		return "", underfs.Fail(op, key, sluice.NotFound, err)
	}
	return s, nil
}

// target is name for calls that make something: what cannot be is Invalid.
func target(op string, key underfs.Key) (string, error) {
	s, err := name(key)
	if err == nil && s == "." {
		err = errors.New("the mount's top is always there")
	}
	if err != nil {
		return "", underfs.Fail(op, key, sluice.Invalid, err)
	}
	return s, nil
}

// Stat describes key by one lstat(2). The Key of a directory ends in "/".
func (s *Store) Stat(ctx context.Context, key underfs.Key) (underfs.Object, error) {
	if err := ctx.Err(); err != nil {
		return underfs.Object{}, underfs.Fail("stat", key, sluice.Unavailable, err)
	}
	n, err := find("stat", key)
	if err != nil {
		return underfs.Object{}, err
	}
	o, err := s.lstat(key, n)
	if errors.Is(err, syscall.ENOTDIR) {
		return underfs.Object{}, underfs.Fail("stat", key, sluice.NotFound, err)
	}
	if err == nil && strings.HasSuffix(string(key), "/") && !o.Dir {
		return underfs.Object{}, underfs.Failf("stat", key, sluice.NotFound, "it is no directory")
	}
	return o, fail("stat", key, err)
}

// lstat describes the file called n, whose key is key with or without a "/" at the end.
func (s *Store) lstat(key underfs.Key, n string) (underfs.Object, error) {
	fi, err := s.root.Lstat(n)
	if err != nil {
		return underfs.Object{}, err
	}
	return s.object(key, n, fi)
}

// errSpecial is for sockets, devices and pipes, which have no content.
var errSpecial = errors.New("neither a file nor a directory nor a symbolic link")

// object turns fi into an Object.
func (s *Store) object(key underfs.Key, n string, fi os.FileInfo) (underfs.Object, error) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return underfs.Object{}, errors.New("the system does not tell inodes")
	}
	o := underfs.Object{
		Key:    underfs.Key(strings.TrimSuffix(string(key), "/")),
		Mtime:  fi.ModTime(),
		Mode:   sluice.Mode(st.Mode) & sluice.ModeMask,
		Owner:  s.owners.user(st.Uid),
		Group:  s.owners.group(st.Gid),
		Native: true,
	}
	switch fi.Mode().Type() {
	case 0:
		o.Length, o.Version = fi.Size(), version(st)
	case fs.ModeDir:
		o.Dir = true
		if o.Key != "" {
			o.Key += "/"
		}
	case fs.ModeSymlink:
		t, err := s.root.Readlink(n)
		if err != nil {
			return underfs.Object{}, err
		}
		o.Target, o.Length, o.Version = t, int64(len(t)), version(st)
	default:
		return underfs.Object{}, underfs.Fail("stat", key, sluice.Unsupported, errSpecial)
	}
	return o, nil
}

// version names one state of a file: inode, length, mtime and ctime in nanoseconds.
func version(st *syscall.Stat_t) sluice.Version {
	b := make([]byte, 0, 64)
	b = strconv.AppendUint(b, st.Ino, 16)
	b = append(b, '-')
	b = strconv.AppendInt(b, st.Size, 16)
	b = append(b, '-')
	b = strconv.AppendInt(b, st.Mtim.Nano(), 16)
	b = append(b, '-')
	b = strconv.AppendInt(b, st.Ctim.Nano(), 16)
	return sluice.Version(b)
}

// identity is what stays of a version when the file is renamed or linked.
func identity(st *syscall.Stat_t) string {
	v := string(version(st))
	return v[:strings.LastIndexByte(v, '-')]
}

// fstat is what a file descriptor says of itself.
func fstat(f *os.File) (*syscall.Stat_t, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, errors.New("the system does not tell inodes")
	}
	return st, nil
}

// fail turns an error of the file system into ours.
func fail(op string, key underfs.Key, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*sluice.Error](err); ok {
		return e
	}
	return underfs.Fail(op, key, kind(err), err)
}

// kind returns the kind of a system call's error.
func kind(err error) sluice.Kind {
	no, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		switch _, isPath := errors.AsType[*fs.PathError](err); {
		case errors.Is(err, os.ErrClosed):
			return sluice.Invalid
		case isPath: // os.Root: the path leads out of the directory
			return sluice.Permission
		}
		return sluice.KindOf(err)
	}
	switch no {
	case unix.ENOENT:
		return sluice.NotFound
	case unix.EEXIST:
		return sluice.Exists
	case unix.ENOTEMPTY:
		return sluice.NotEmpty
	case unix.EISDIR:
		return sluice.IsDirectory
	case unix.ENOTDIR:
		return sluice.NotDirectory
	case unix.EACCES, unix.EPERM:
		return sluice.Permission
	case unix.EROFS:
		return sluice.ReadOnly
	case unix.ENOSPC, unix.EDQUOT:
		return sluice.NoSpace
	case unix.EFBIG:
		return sluice.TooLarge
	case unix.ENAMETOOLONG, unix.EINVAL, unix.ELOOP:
		return sluice.Invalid
	case unix.EOPNOTSUPP, unix.ENOSYS, unix.EXDEV:
		return sluice.Unsupported
	default: // EIO, ESTALE, ETIMEDOUT, EMFILE, ENOMEM, ...: the disk or server is not well
		return sluice.Unavailable
	}
}

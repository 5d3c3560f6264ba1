package fuse

import (
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/sluicefs/sluice"
)

// errno is the total table from kinds to what a system call answers.
func errno(k sluice.Kind) syscall.Errno {
	switch k {
	case sluice.NotFound:
		return syscall.ENOENT
	case sluice.Exists:
		return syscall.EEXIST
	case sluice.NotEmpty:
		return syscall.ENOTEMPTY
	case sluice.IsDirectory:
		return syscall.EISDIR
	case sluice.NotDirectory:
		return syscall.ENOTDIR
	case sluice.Permission:
		return syscall.EACCES
	case sluice.Unauthenticated:
		return syscall.EPERM
	case sluice.Invalid:
		return syscall.EINVAL
	case sluice.ReadOnly:
		return syscall.EROFS
	case sluice.NoSpace:
		return syscall.ENOSPC
	case sluice.Quota:
		return syscall.EDQUOT
	case sluice.Changed, sluice.Stale:
		return syscall.ESTALE
	case sluice.Unavailable, sluice.NotPrimary:
		return syscall.EIO
	case sluice.Timeout:
		return syscall.ETIMEDOUT
	case sluice.Cancelled:
		return syscall.EINTR
	case sluice.Unsupported:
		return syscall.EOPNOTSUPP
	case sluice.Busy:
		return syscall.EBUSY
	case sluice.CrossMount:
		return syscall.EXDEV
	case sluice.TooLarge:
		return syscall.EFBIG
	case sluice.Internal, sluice.Lost, sluice.Corrupt, sluice.Diverged, sluice.Archived, sluice.UnknownOutcome:
		return syscall.EIO
	default:
		return 0 // a kind nobody has thought of: the test that ranges over all kinds fails
	}
}

// status is what the kernel is told of err; nil is OK. An errno of this host (of the
// staging directory, say) stays what it is.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	if _, ours := errors.AsType[*sluice.Error](err); !ours {
		if e, ok := errors.AsType[syscall.Errno](err); ok {
			return fuse.Status(e)
		}
	}
	if e := errno(sluice.KindOf(err)); e != 0 {
		return fuse.Status(e)
	}
	return fuse.EIO
}

package blockstore

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
)

// MountTmpfs makes dir a tmpfs of its own with at most size bytes, on huge pages
// where the kernel has them. Where dir is one already it is kept, with its files, and
// resized. note is empty, or says why dir is only a directory of the file system it
// lies in: mounting takes a superuser. It fails only where there can be no directory.
func MountTmpfs(dir string, size int64) (note string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", sluice.Wrap("mount tmpfs", "", err)
	}
	point, err := IsMountPoint(dir)
	if err != nil {
		return "", sluice.Wrap("mount tmpfs", "", err)
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME)
	if point {
		if u, err := (OSDisk{}).Usage(dir); err != nil || !u.Volatile {
			return "", fail("mount tmpfs", sluice.Invalid, fmt.Errorf("%s is a mount point of something else: choose another directory", dir))
		}
		flags |= unix.MS_REMOUNT
	}
	for _, huge := range []string{"huge=within_size,", ""} {
		if err = unix.Mount("sluice", dir, "tmpfs", flags, fmt.Sprintf("%ssize=%d,mode=0700", huge, size)); err == nil {
			return hugeNote(huge), nil
		}
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			break
		}
	}
	if point {
		return "", fail("mount tmpfs", sluice.KindOf(err), fmt.Errorf("resize %s to %d bytes: %w", dir, size, err))
	}
	return fmt.Sprintf("no tmpfs of its own (%v): a directory", err), nil
}

func hugeNote(huge string) string {
	if huge == "" {
		return "tmpfs without huge pages: the kernel has none"
	}
	return ""
}

// Unmount takes a tmpfs of MountTmpfs away with all that is in it. A directory that
// is no mount point is left alone. Kind Busy while files in it are open.
func Unmount(dir string) error {
	point, err := IsMountPoint(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && !point {
		return nil
	}
	if err == nil {
		err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	}
	if errors.Is(err, unix.EBUSY) {
		return fail("unmount tmpfs", sluice.Busy, fmt.Errorf("%s is in use: close what reads it", dir))
	}
	return sluice.Wrap("unmount tmpfs", "", err)
}

// IsMountPoint says whether another file system is mounted on dir.
func IsMountPoint(dir string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Lstat(dir, &here); err != nil {
		return false, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if err := unix.Lstat(dir+"/..", &above); err != nil {
		return false, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	return here.Dev != above.Dev || here.Ino == above.Ino, nil
}

package fuse

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// clean makes a mount point usable on which a process died that served it: the kernel
// answers ENOTCONN there until it is unmounted. A mount that lives is left alone.
func clean(at string) error {
	if dead(at) {
		if !Mounted(at) {
			return fmt.Errorf("%s answers %w and is no mount of ours; unmount it first", at, unix.ENOTCONN)
		}
		if err := detach(at); err != nil {
			return fmt.Errorf("unmount what a killed process left at %s: %w", at, err)
		}
	}
	if _, err := os.Stat(at); err != nil {
		return err
	}
	if Mounted(at) {
		return fmt.Errorf("%s is mounted already; sluice umount %s ends that", at, at)
	}
	return nil
}

// dead says whether a path is a mount whose process is gone. Attributes may be remembered
// by the kernel still, but what a file system has in room is asked each time.
func dead(at string) bool {
	var st unix.Statfs_t
	return errors.Is(unix.Statfs(at, &st), unix.ENOTCONN)
}

// Mounted says whether the topmost mount at a path is one of ours, alive or dead.
func Mounted(at string) bool {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	ours := false
	for line := range bytes.Lines(b) {
		left, right, ok := strings.Cut(string(line), " - ")
		fields := strings.Fields(left)
		if ok && len(fields) > 4 && unescape(fields[4]) == at {
			ours = strings.HasPrefix(right, "fuse.sluice ")
		}
	}
	return ours
}

// unescape reads a path as /proc writes it: space, tab, newline and backslash are octal.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// detach unmounts a path whoever uses it, by fusermount3 where this process may not.
func detach(at string) error {
	err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	if e := exec.Command("fusermount3", "-u", "-z", at).Run(); e != nil {
		return errors.Join(err, e)
	}
	return nil
}

// Unmount ends the mount at a path, which may be dead. Busy mounts answer EBUSY unless
// lazy: then the name is free at once and the mount ends with its last user.
func Unmount(at string, lazy bool) error {
	if !Mounted(at) {
		return fmt.Errorf("nothing of sluice is mounted at %s", at)
	}
	if lazy || dead(at) {
		return detach(at)
	}
	err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	return errors.Join(exec.Command("fusermount3", "-u", at).Run())
}

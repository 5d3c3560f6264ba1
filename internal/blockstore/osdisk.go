package blockstore

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
)

// OSDisk is the disks of this machine. The zero value is ready.
type OSDisk struct{}

var _ Disk = OSDisk{}

type osFile struct{ *os.File }

// Size implements [File].
func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Sync implements [File] with fdatasync, which covers the data and the length.
func (f osFile) Sync() error { return unix.Fdatasync(int(f.Fd())) }

// OS implements [Descriptor].
func (f osFile) OS() *os.File { return f.File }

// Open implements [Disk]. Files are for this user only: no world-readable blocks.
func (OSDisk) Open(name string, mode OpenMode) (File, error) {
	flags := os.O_RDONLY
	switch mode {
	case ReadWrite:
		flags = os.O_RDWR
	case CreateNew:
		flags = os.O_RDWR | os.O_CREATE | os.O_EXCL
	}
	f, err := os.OpenFile(name, flags, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Rename implements [Disk].
func (OSDisk) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements [Disk].
func (OSDisk) Remove(name string) error { return os.Remove(name) }

// List implements [Disk].
func (OSDisk) List(dir string, each func(name string) error) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(4096)
		for _, name := range names {
			if err := each(name); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// MakeDir implements [Disk].
func (OSDisk) MakeDir(dir string) error { return os.MkdirAll(dir, 0o700) }

// SyncDir implements [Disk].
func (OSDisk) SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Lock implements [Disk] with flock, which the kernel releases when the process dies.
func (OSDisk) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &sluice.Error{Op: "lock " + name, Kind: sluice.Busy,
				Err: errors.New("another process uses this directory: stop it, or give each worker directories of its own")}
		}
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}

// Usage implements [Disk].
func (OSDisk) Usage(dir string) (Usage, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Usage{}, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	u := Usage{
		Total: int64(st.Blocks) * st.Bsize,
		Free:  int64(st.Bavail) * st.Bsize,
		Unit:  min(int64(st.Bsize), 64<<10), // network file systems name their transfer size
	}
	if st.Type == unix.TMPFS_MAGIC {
		u.Volatile = true
		u.Huge = hugeMount(dir)
		u.Unit = int64(os.Getpagesize())
	}
	return u, nil
}

// hugeMount says whether the tmpfs that holds dir was mounted with huge pages.
func hugeMount(dir string) bool {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return false
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	}
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return false
	}
	defer f.Close()
	huge, longest := false, -1
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 {
			continue
		}
		point := unescapeMount(fields[1])
		if abs != point && !strings.HasPrefix(abs, strings.TrimSuffix(point, "/")+"/") || len(point) < longest {
			continue
		}
		longest = len(point)
		huge = fields[2] == "tmpfs" && strings.Contains(","+fields[3], ",huge=") && !strings.Contains(","+fields[3], ",huge=never")
	}
	return huge
}

// unescapeMount undoes the octal escapes of /proc/self/mounts.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

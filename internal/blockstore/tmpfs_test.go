package blockstore

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/sluicefs/sluice"
)

// mountTmpfs mounts a tmpfs for the test, or skips it where that is not permitted.
func mountTmpfs(t *testing.T, size int64) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting takes a superuser")
	}
	dir := filepath.Join(t.TempDir(), "mem tier") // a space: the kernel escapes it
	note, err := MountTmpfs(dir, size)
	if err != nil {
		t.Fatal(err)
	}
	if point, _ := IsMountPoint(dir); !point {
		t.Skip("mounting is not permitted here:", note)
	}
	t.Cleanup(func() {
		if err := Unmount(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// allocated is what the kernel has allocated to the files below dir, in bytes.
func allocated(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			return err
		}
		n += st.Blocks * 512
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// On a real tmpfs with huge pages the store charges what the kernel allocates.
func TestHugeTmpfs(t *testing.T) {
	dir := mountTmpfs(t, 64<<20)
	s := openAt(t, dir, 64<<20)
	d := s.dirs[0]
	if !d.volatile {
		t.Fatal("a tmpfs is not seen as memory")
	}
	if !d.huge {
		t.Skip("the kernel has no huge pages for tmpfs")
	}
	check := func(what string) {
		t.Helper()
		st := s.Stats().Tiers[0]
		if got := allocated(t, dir); got > st.Used {
			t.Errorf("%s: the store charges %d bytes, the kernel has allocated %d", what, st.Used, got)
		}
		if err := s.Check(); err != nil {
			t.Error(err)
		}
	}
	small, big := pattern(1, 10_000), pattern(2, 7*sluice.PageSize+123)
	fillAll(t, s, blockID(1, 0), small)
	check("a small block")
	if used := s.Stats().Tiers[0].Used; used > 64<<10 {
		t.Errorf("a small block and the index are charged %d bytes", used)
	}
	fillOne(t, s, blockID(2, 0), big, 1)
	check("one page of a large block")
	fillAll(t, s, blockID(2, 0), big)
	check("a large block")
	for i, opts := range []BeginOptions{{}, {Size: int64(len(big))}, {Size: 24 << 20}} {
		id := blockID(3, uint32(i))
		if err := writeBlock(t, s, id, big, opts); err != nil {
			t.Fatal(err)
		}
		check("a written block")
		wantRead(t, s, id, big)
	}
	h, err := s.OpenBlock(t.Context(), blockID(3, 1))
	if err != nil {
		t.Fatal(err)
	}
	if f, ok := h.OS(); !ok || !h.Mapped || !h.Verified || !h.Volatile {
		t.Errorf("handle: descriptor %v, %+v", ok, h)
	} else if _, err := f.WriteAt([]byte{1}, 0); err == nil {
		t.Error("a passed descriptor can write")
	}
	h.Close()
	s.DropContent(t.Context(), blockID(3, 0).Content)
	check("after dropping")

	// Mounted already: kept with its files, and resized.
	if _, err := MountTmpfs(dir, 128<<20); err != nil {
		t.Fatal(err)
	}
	wantRead(t, s, blockID(2, 0), big)
	if u, err := s.cfg.Disk.Usage(dir); err != nil || u.Total != 128<<20 {
		t.Errorf("after resizing: %+v, %v", u, err)
	}
	s.Close()
}

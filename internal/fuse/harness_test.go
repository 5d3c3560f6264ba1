package fuse

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/test/memfs"
)

// needKernel skips where nothing can be mounted.
func needKernel(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: mounting needs root; nothing of the mount was tested")
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("SKIPPED: no FUSE here (%v); nothing of the mount was tested", err)
	}
	f.Close()
}

// mounted mounts fs for the length of the test and returns the mount and where it is.
func mounted(t testing.TB, fs sluice.FS, change func(*Options)) (*Mount, string) {
	t.Helper()
	needKernel(t)
	at := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	opts := Options{FS: fs, Mountpoint: at, Staging: t.TempDir(), Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if change != nil {
		change(&opts)
	}
	m, err := New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := m.Close(ctx); err != nil {
			t.Errorf("close the mount: %v", err)
		}
		for unix.Unmount(at, unix.MNT_DETACH) == nil { // whatever went wrong, leave nothing behind
		}
	})
	return m, at
}

// inMemory returns a file system in memory with the clock of this host.
func inMemory() *memfs.FS { return memfs.New(time.Now) }

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func wantFile(t testing.TB, name, want string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != want {
		t.Fatalf("%s holds %.60q (%d bytes), want %.60q (%d bytes)", filepath.Base(name), b, len(b), want, len(want))
	}
}

package fuse

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/test/memfs"
)

// local is a file system in memory whose handles also lie in a file of this host.
type local struct {
	*memfs.FS
	dir  string
	held *atomic.Int64 // descriptors given and not released
	none *atomic.Bool  // gives none
}

func newLocal(t testing.TB) local {
	return local{inMemory(), t.TempDir(), new(atomic.Int64), new(atomic.Bool)}
}

func (l local) As(sluice.Principal) sluice.FS { return l }

func (l local) Open(ctx context.Context, p sluice.Path, o sluice.OpenOptions) (sluice.Handle, error) {
	h, err := l.FS.Open(ctx, p, o)
	if err != nil {
		return nil, err
	}
	return localHandle{h, l}, nil
}

type localHandle struct {
	sluice.Handle
	l local
}

// Local implements sluice.LocalFile. The file holds other bytes than the handle gives, so
// that a test sees who read.
func (h localHandle) Local(context.Context) (uintptr, func(), error) {
	if h.l.none.Load() {
		return 0, nil, sluice.Unavailable
	}
	info := h.Info()
	f, err := os.Create(filepath.Join(h.l.dir, info.Content().String()))
	if err != nil {
		return 0, nil, err
	}
	if _, err := f.WriteString(strings.Repeat("k", int(info.Length))); err != nil {
		return 0, nil, err
	}
	h.l.held.Add(1)
	return f.Fd(), func() { f.Close(); h.l.held.Add(-1) }, nil
}

func modeOf(t testing.TB, name string) string {
	t.Helper()
	b := make([]byte, 100)
	n, err := unix.Getxattr(name, modeXAttr, b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// passing opens a file by passthrough, or skips where this kernel has none.
func passing(t testing.TB, m *Mount, name string) *os.File {
	t.Helper()
	if !m.pass {
		t.Skip("SKIPPED: this kernel has no passthrough")
	}
	f := open(t, name, os.O_RDONLY)
	if mode := modeOf(t, name); mode != string(modePass) {
		t.Fatalf("the mode is %q, want passthrough", mode)
	}
	return f
}

func at0(t testing.TB, f *os.File) string {
	t.Helper()
	b := make([]byte, 100)
	n, _ := f.ReadAt(b, 0)
	return string(b[:n])
}

func TestPassthrough(t *testing.T) {
	fs := newLocal(t)
	m, at := mounted(t, fs, nil)
	put(t, fs, "/f", "12345")
	f := passing(t, m, at+"/f")
	g := passing(t, m, at+"/f") // joins the same backing file
	if fs.held.Load() != 1 {
		t.Errorf("%d descriptors are held for two readers, want 1", fs.held.Load())
	}
	if got := at0(t, f) + at0(t, g); got != "kkkkkkkkkk" {
		t.Errorf("read %q: not from the block file", got)
	}
	f.Close()
	g.Close()
	wantSoon(t, "the block file is let go of", func() bool { return fs.held.Load() == 0 })
	wantSoon(t, "the mode is closed", func() bool { return modeOf(t, at+"/f") == string(modeClosed) })
}

// TestWhilePassing: nobody gets EIO because somebody reads by passthrough.
func TestWhilePassing(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(t *testing.T, fs local, at string)
		want string
	}{
		{"replace", func(t *testing.T, fs local, at string) { write(t, at+"/f", "replaced") }, "replaced"},
		{"replace elsewhere", func(t *testing.T, fs local, _ string) { put(t, fs, "/f", "replaced") }, "replaced"},
		{"append", func(t *testing.T, _ local, at string) {
			f := open(t, at+"/f", os.O_WRONLY|os.O_APPEND)
			_, err := f.WriteString("+")
			must(t, err)
			must(t, f.Close())
		}, "12345+"},
		{"edit", func(t *testing.T, _ local, at string) {
			f := open(t, at+"/f", os.O_RDWR)
			_, err := f.WriteAt([]byte("X"), 1)
			must(t, err)
			must(t, f.Close())
		}, "1X345"},
		{"truncate", func(t *testing.T, _ local, at string) { must(t, os.Truncate(at+"/f", 2)) }, "12"},
		{"rename over", func(t *testing.T, _ local, at string) {
			write(t, at+"/g", "other")
			must(t, os.Rename(at+"/g", at+"/f"))
		}, "other"},
		{"open direct", func(t *testing.T, _ local, at string) {
			f := open(t, at+"/f", os.O_RDONLY|unix.O_DIRECT)
			b := make([]byte, 4096)
			n, err := f.Read(b)
			if err != nil || string(b[:n]) != "12345" {
				t.Errorf("read %q, %v", b[:n], err)
			}
		}, "12345"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := newLocal(t)
			m, at := mounted(t, fs, nil)
			put(t, fs, "/f", "12345")
			f := passing(t, m, at+"/f")
			c.do(t, fs, at)
			if got := at0(t, f); got != "kkkkk" {
				t.Errorf("the reader by passthrough sees %q, want its version", got)
			}
			if got := get(t, fs.FS, "/f"); got != c.want {
				t.Errorf("the file holds %q, want %q", got, c.want)
			}
			g := open(t, at+"/f", os.O_RDONLY)
			if got := len(at0(t, g)); got != len(c.want) {
				t.Errorf("a new reader sees %d bytes, want %d", got, len(c.want))
			}
		})
	}
}

// TestBufferedFirst: a reader by passthrough cannot join a buffered one; nobody notices.
func TestBufferedFirst(t *testing.T) {
	fs := newLocal(t)
	_, at := mounted(t, fs, nil)
	put(t, fs, "/f", "12345")
	fs.none.Store(true)
	f := open(t, at+"/f", os.O_RDONLY)
	fs.none.Store(false)
	g := open(t, at+"/f", os.O_RDONLY)
	if at0(t, f) != "12345" || at0(t, g) != "12345" {
		t.Errorf("read %q and %q", at0(t, f), at0(t, g))
	}
	if mode := modeOf(t, at+"/f"); mode != string(modeBuffered) {
		t.Errorf("the mode is %q", mode)
	}
}

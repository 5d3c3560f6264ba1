package fuse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/test/memfs"
)

// counted counts what reaches the file system.
type counted struct {
	*memfs.FS
	creates, opens, stats *atomic.Int64
}

func newCounted() counted {
	return counted{inMemory(), new(atomic.Int64), new(atomic.Int64), new(atomic.Int64)}
}

func (c counted) As(sluice.Principal) sluice.FS { return c }

func (c counted) Create(ctx context.Context, p sluice.Path, o sluice.CreateOptions) (sluice.Writer, error) {
	c.creates.Add(1)
	return c.FS.Create(ctx, p, o)
}

func (c counted) Stat(ctx context.Context, p sluice.Path, o sluice.StatOptions) (sluice.FileInfo, error) {
	c.stats.Add(1)
	return c.FS.Stat(ctx, p, o)
}

// put writes a file behind the mount's back.
func put(t testing.TB, fs sluice.FS, p sluice.Path, text string) sluice.FileInfo {
	t.Helper()
	w, err := fs.Create(t.Context(), p, sluice.CreateOptions{})
	if err == nil {
		_, err = w.Write(t.Context(), []byte(text))
	}
	if err != nil {
		t.Fatal(err)
	}
	info, err := w.Close(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// get reads a file behind the mount's back.
func get(t testing.TB, fs sluice.FS, p sluice.Path) string {
	t.Helper()
	h, err := fs.Open(t.Context(), p, sluice.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(sluice.NewReader(t.Context(), h, 0)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func open(t testing.TB, name string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, flags, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCloseWithoutChangesCostsNothing(t *testing.T) {
	fs := newCounted()
	_, at := mounted(t, fs, nil)
	put(t, fs, "/f", "hello")
	before := fs.creates.Load()
	f := open(t, at+"/f", os.O_RDWR)
	b := make([]byte, 5)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "hello" {
		t.Fatalf("read %q, %v", b, err)
	}
	must(t, f.Close())
	if n := fs.creates.Load() - before; n != 0 {
		t.Errorf("%d contents were created for no change", n)
	}
}

func TestAppendCopiesUpOnlyWhatItTouches(t *testing.T) {
	fs := inMemory()
	m, at := mounted(t, fs, nil)
	old := strings.Repeat("x", 10*stagedPage) + "tail"
	put(t, fs, "/f", old)
	f := open(t, at+"/f", os.O_WRONLY|os.O_APPEND)
	_, err := f.WriteString("more")
	must(t, err)
	m.staging.mu.Lock()
	used := m.staging.used
	m.staging.mu.Unlock()
	if used != stagedPage {
		t.Errorf("%d bytes are staged for an append of 4, want one page of %d", used, stagedPage)
	}
	must(t, f.Close())
	if got := get(t, fs, "/f"); got != old+"more" {
		t.Errorf("published %d bytes that end in %q", len(got), got[len(got)-10:])
	}
	wantSoon(t, "the staging directory is empty", func() bool { // the kernel releases in its own time
		m.staging.mu.Lock()
		defer m.staging.mu.Unlock()
		entries, _ := filepath.Glob(m.staging.dir + "/*")
		return m.staging.used == 0 && len(entries) == 0
	})
}

func TestSeenByOthersOnlyWhole(t *testing.T) {
	fs := inMemory()
	_, at := mounted(t, fs, nil)
	put(t, fs, "/f", "old")
	f := open(t, at+"/f", os.O_RDWR)
	_, err := f.WriteAt([]byte("NEW and longer"), 0)
	must(t, err)
	wantFile(t, at+"/f", "NEW and longer") // this mount sees it at once
	if got := get(t, fs, "/f"); got != "old" {
		t.Errorf("others see %q before the close", got)
	}
	must(t, f.Close())
	if got := get(t, fs, "/f"); got != "NEW and longer" {
		t.Errorf("others see %q after the close", got)
	}
}

// TestLoser: of two writers of one version the second close fails, and its bytes are kept.
func TestLoser(t *testing.T) {
	fs := inMemory()
	m, at := mounted(t, fs, nil)
	put(t, fs, "/f", "base")
	f := open(t, at+"/f", os.O_RDWR)
	_, err := f.WriteAt([]byte("mine"), 0)
	must(t, err)
	put(t, fs, "/f", "theirs")
	if err := f.Close(); !errors.Is(err, syscall.ESTALE) {
		t.Fatalf("close says %v, want ESTALE", err)
	}
	wantFile(t, at+"/f", "theirs")
	dir := filepath.Dir(m.staging.dir)
	must(t, m.Close(t.Context()))
	left, err := Leftovers(dir)
	must(t, err)
	if len(left) != 1 || left[0].Path != "/f" || !left[0].Lost || left[0].Length != 4 {
		t.Fatalf("kept: %+v", left)
	}
	if err := left[0].Publish(t.Context(), fs); !errors.Is(err, sluice.Stale) {
		t.Errorf("recovery over another version says %v, want stale", err)
	}
	if got := get(t, fs, "/f"); got != "theirs" {
		t.Errorf("recovery left %q", got)
	}
	must(t, left[0].Drop())
}

func TestTruncatingWriterWins(t *testing.T) {
	fs := inMemory()
	_, at := mounted(t, fs, nil)
	put(t, fs, "/f", "base")
	f := open(t, at+"/f", os.O_WRONLY|os.O_TRUNC)
	_, err := f.WriteString("mine")
	must(t, err)
	put(t, fs, "/f", "theirs")
	must(t, f.Close())
	if got := get(t, fs, "/f"); got != "mine" {
		t.Errorf("the file holds %q", got)
	}
}

func TestReaderKeepsItsVersion(t *testing.T) {
	fs := inMemory()
	_, at := mounted(t, fs, nil)
	put(t, fs, "/f", "first version")
	f := open(t, at+"/f", os.O_RDONLY)
	put(t, fs, "/f", "second")
	wantFile(t, at+"/f", "second") // an open leads to the new one at once
	b := make([]byte, 20)
	n, _ := f.ReadAt(b, 0)
	if string(b[:n]) != "first version" {
		t.Errorf("the open reader sees %q", b[:n])
	}
	var before, after unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &before))
	must(t, unix.Stat(at+"/f", &after))
	if before.Ino != after.Ino {
		t.Errorf("the inode number changed from %d to %d", before.Ino, after.Ino)
	}
}

func TestRemovedWhileOpen(t *testing.T) {
	fs := inMemory()
	_, at := mounted(t, fs, nil)
	text := strings.Repeat("0123456789", 20000)
	for _, how := range []string{"unlink", "rename over", "unlink unpublished"} {
		t.Run(how, func(t *testing.T) {
			name := at + "/f"
			var f *os.File
			if how == "unlink unpublished" {
				f = open(t, name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
				_, err := f.WriteString(text)
				must(t, err)
			} else {
				write(t, name, text)
				f = open(t, name, os.O_RDWR)
			}
			if how == "rename over" {
				write(t, at+"/g", "other")
				must(t, os.Rename(at+"/g", name))
			} else {
				must(t, os.Remove(name))
			}
			b := make([]byte, len(text))
			if _, err := f.ReadAt(b, 0); err != nil || string(b) != text {
				t.Errorf("what was open cannot be read any more: %v", err)
			}
			_, err := f.WriteAt([]byte("still writable"), 5)
			must(t, err)
			must(t, f.Close())
			if _, err := fs.Stat(t.Context(), "/f", sluice.StatOptions{}); (err == nil) != (how == "rename over") {
				t.Errorf("afterwards the name says %v", err)
			}
			os.Remove(name)
		})
	}
}

func TestRenameOfAnOpenFile(t *testing.T) {
	fs := inMemory()
	_, at := mounted(t, fs, nil)
	must(t, os.Mkdir(at+"/d", 0o755))
	f := open(t, at+"/new", os.O_RDWR|os.O_CREATE)
	_, err := f.WriteString("text")
	must(t, err)
	must(t, os.Rename(at+"/new", at+"/d/moved"))
	must(t, os.Rename(at+"/d", at+"/e"))
	must(t, f.Close())
	if got := get(t, fs, "/e/moved"); got != "text" {
		t.Errorf("published %q", got)
	}
}

func TestTimesSetBeforeTheCloseStay(t *testing.T) {
	fs := inMemory()
	_, at := mounted(t, fs, nil)
	f := open(t, at+"/f", os.O_RDWR|os.O_CREATE)
	_, err := f.WriteString("text")
	must(t, err)
	when := unix.Timeval{Sec: 1_000_000_000, Usec: 7}
	must(t, unix.Futimes(int(f.Fd()), []unix.Timeval{when, when}))
	must(t, f.Close())
	info, err := fs.Stat(t.Context(), "/f", sluice.StatOptions{})
	must(t, err)
	if info.Mtime.UnixMicro() != 1_000_000_000_000_007 {
		t.Errorf("the time is %v", info.Mtime)
	}
}

func TestParallelAppends(t *testing.T) {
	fs := inMemory()
	_, at := mounted(t, fs, nil)
	var all sync.WaitGroup
	const writers, lines = 8, 50
	for w := range writers {
		all.Go(func() {
			f, err := os.OpenFile(at+"/log", os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
			if err != nil {
				t.Error(err)
				return
			}
			for i := range lines {
				if _, err := fmt.Fprintf(f, "%d %d\n", w, i); err != nil {
					t.Error(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	got := strings.Split(strings.TrimSpace(get(t, fs, "/log")), "\n")
	slices.Sort(got)
	if got = slices.Compact(got); len(got) != writers*lines {
		t.Errorf("%d different lines of %d arrived", len(got), writers*lines)
	}
}

func TestQuota(t *testing.T) {
	fs := inMemory()
	_, at := mounted(t, fs, func(o *Options) { o.Quota = 4 * stagedPage })
	f := open(t, at+"/f", os.O_RDWR|os.O_CREATE)
	_, err := f.Write(make([]byte, 5*stagedPage))
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a write beyond the quota says %v, want ENOSPC", err)
	}
	must(t, f.Truncate(0))
	_, err = f.WriteAt(make([]byte, 4*stagedPage), 0)
	must(t, err)
}

func TestSharedMapping(t *testing.T) {
	fs := inMemory()
	_, at := mounted(t, fs, nil)
	write(t, at+"/f", strings.Repeat(".", 10000))
	f := open(t, at+"/f", os.O_RDWR)
	// Its pages come with the call: while a fault waits for this very process, the
	// collector would wait for the thread that faults.
	b, err := unix.Mmap(int(f.Fd()), 0, 10000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	must(t, err)
	copy(b[5000:], "mapped")
	must(t, unix.Msync(b, unix.MS_SYNC))
	must(t, unix.Munmap(b))
	must(t, f.Close())
	if got := get(t, fs, "/f"); got[5000:5006] != "mapped" || len(got) != 10000 {
		t.Errorf("the mapping's bytes were not published: %q", got[4990:5010])
	}
}

func TestReadOnly(t *testing.T) {
	fs := inMemory()
	put(t, fs, "/f", "text")
	_, at := mounted(t, fs, func(o *Options) { o.ReadOnly, o.Staging = true, "" })
	wantFile(t, at+"/f", "text")
	for what, err := range map[string]error{
		"create": os.WriteFile(at+"/g", nil, 0o644), "write": os.WriteFile(at+"/f", nil, 0o644), "mkdir": os.Mkdir(at+"/d", 0o755),
		"remove": os.Remove(at + "/f"), "rename": os.Rename(at+"/f", at+"/g"), "chmod": os.Chmod(at+"/f", 0o600), "symlink": os.Symlink("f", at+"/l"),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s says %v, want EROFS", what, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	fs := inMemory()
	_, at := mounted(t, fs, nil)
	write(t, at+"/f", "text")
	write(t, at+"/h", "text")
	for what, c := range map[string]struct{ got, want error }{
		"link":     {os.Link(at+"/f", at+"/g"), syscall.EOPNOTSUPP},
		"fifo":     {unix.Mkfifo(at+"/p", 0o600), syscall.EOPNOTSUPP},
		"exchange": {unix.Renameat2(unix.AT_FDCWD, at+"/f", unix.AT_FDCWD, at+"/h", unix.RENAME_EXCHANGE), syscall.EINVAL},
		"security": {unix.Setxattr(at+"/f", "trusted.x", nil, 0), syscall.EOPNOTSUPP},
		"name":     {os.Mkdir(at+"/"+strings.Repeat("n", 256), 0o755), syscall.ENAMETOOLONG},
		"control":  {os.Mkdir(at+"/a\nb", 0o755), syscall.EINVAL},
		"again":    {clean(at), nil},
	} {
		if c.want == nil && c.got == nil || c.want != nil && !errors.Is(c.got, c.want) {
			t.Errorf("%s says %v, want %v", what, c.got, c.want)
		}
	}
}

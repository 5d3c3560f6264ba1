package local_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/local"
)

// mustWrite writes a file behind the driver's back.
func mustWrite(t *testing.T, name, data string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

// list returns the keys of one level, and how many were skipped.
func list(t *testing.T, s underfs.Store, req underfs.ListRequest) (keys []underfs.Key, skipped int) {
	t.Helper()
	page, err := s.List(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range page.Objects {
		keys = append(keys, o.Key)
	}
	return keys, page.Skipped
}

func TestNothingOutside(t *testing.T) {
	outside := t.TempDir()
	mustWrite(t, outside+"/secret", "secret")
	dir := t.TempDir()
	for link, to := range map[string]string{"abs": outside, "file": outside + "/secret", "up": "../" + filepath.Base(outside), "loop": "loop"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dir)
	for _, key := range []underfs.Key{"abs/secret", "file", "up/secret", "loop/x", "../" + underfs.Key(filepath.Base(outside)) + "/secret"} {
		if r, err := s.Read(t.Context(), underfs.ReadRequest{Key: key, Length: 1}); err == nil {
			b, _ := io.ReadAll(r)
			t.Errorf("read %s gave %q from outside", key, b)
			r.Close()
		}
	}
	if _, err := s.List(t.Context(), underfs.ListRequest{Prefix: "abs/"}); err == nil {
		t.Error("listed a directory outside")
	}
	if err := s.Delete(t.Context(), "abs/secret", underfs.Condition{}); err == nil {
		t.Error("deleted a file outside")
	}
	o, err := s.Stat(t.Context(), "abs")
	if err != nil || o.Target != outside || o.Dir {
		t.Errorf("stat of a link: %+v, %v; want the target and no directory", o, err)
	}
	if keys, _ := list(t, s, underfs.ListRequest{Recursive: true}); !slices.Equal(keys, []underfs.Key{"abs", "file", "loop", "up"}) {
		t.Errorf("a recursive listing follows links: %q", keys)
	}
	if err := s.Delete(t.Context(), "file", underfs.Condition{}); err != nil {
		t.Errorf("delete of a link: %v", err)
	}
	if _, err := os.Stat(outside + "/secret"); err != nil {
		t.Errorf("the link's target is gone: %v", err)
	}
}

func TestOddFiles(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, dir+"/good", "x")
	mustWrite(t, dir+"/bad\xff", "x")
	mustWrite(t, dir+"/new\nline", "x")
	mustWrite(t, dir+"/.sluice-tmp-x", "x")
	if err := unix.Mkfifo(dir+"/pipe", 0o644); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	keys, skipped := list(t, s, underfs.ListRequest{})
	if want := []underfs.Key{"bad\xff", "good", "new\nline"}; !slices.Equal(keys, want) || skipped != 3 {
		t.Errorf("listed %q and skipped %d; want %q and 3 (a pipe and two names that are no paths)", keys, skipped, want)
	}
	if _, err := s.Read(t.Context(), underfs.ReadRequest{Key: "pipe", Length: 1}); !errors.Is(err, sluice.Unsupported) {
		t.Errorf("read of a pipe: %v, want kind unsupported", err)
	}
	if _, err := s.Stat(t.Context(), ".sluice-tmp-x"); !errors.Is(err, sluice.NotFound) {
		t.Errorf("stat of a hidden name: %v", err)
	}
	if _, err := s.Create(t.Context(), "d/.sluice-tmp-y", underfs.CreateOptions{Length: -1}); !errors.Is(err, sluice.Invalid) {
		t.Errorf("create of a hidden name: %v", err)
	}
}

// A file that is written to in place while it is read is not confirmed.
func TestWrittenInPlace(t *testing.T) {
	dir := t.TempDir()
	name := dir + "/f"
	mustWrite(t, name, strings.Repeat("a", 100_000))
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(name, old, old); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	for what, change := range map[string]func() error{
		"same length": func() error { return os.WriteFile(name, bytes.Repeat([]byte("b"), 100_000), 0o644) },
		"shorter":     func() error { return os.Truncate(name, 10) },
		"longer":      func() error { return os.Truncate(name, 200_000) },
		"touched":     func() error { return os.Chtimes(name, old, old.Add(1)) },
	} {
		mustWrite(t, name, strings.Repeat("a", 100_000))
		if err := os.Chtimes(name, old, old); err != nil {
			t.Fatal(err)
		}
		o, err := s.Stat(t.Context(), "f")
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Read(t.Context(), underfs.ReadRequest{Key: "f", Version: o.Version, Length: 100_000})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 50_000)); err != nil {
			t.Fatal(err)
		}
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(r); !errors.Is(err, sluice.Changed) {
			t.Errorf("%s: the read ended with %v, want kind changed", what, err)
		}
		r.Close()
	}
}

// A commit that was cut off between its steps is finished by repeating it.
func TestCompleteAfterCrash(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	u, err := s.Create(t.Context(), "d/f", underfs.CreateOptions{Length: 3, Tag: "t/1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Write(t.Context(), []byte("abc")); err != nil {
		t.Fatal(err)
	}
	p, err := u.Prepare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The state between link(2) and the removal of the temporary name.
	if err := os.Mkdir(dir+"/d", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(dir+"/.sluice-tmp/"+p.Upload, dir+"/d/f"); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir)
	c, _ := underfs.As[underfs.Completer](again)
	for range 2 {
		o, err := c.Complete(t.Context(), "d/f", p, underfs.Condition{Absent: true})
		if err != nil || o.Length != 3 {
			t.Fatalf("complete: %+v, %v", o, err)
		}
	}
	left, err := os.ReadDir(dir + "/.sluice-tmp")
	if err != nil || len(left) != 0 {
		t.Errorf("temporary files left: %v, %v", left, err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir + "/.sluice-tmp"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the empty directory of temporary files is still there: %v", err)
	}
}

func BenchmarkRead(b *testing.B) {
	dir := b.TempDir()
	const n = 64 << 20
	if err := os.WriteFile(dir+"/f", make([]byte, n), 0o644); err != nil {
		b.Fatal(err)
	}
	s, err := local.Driver{}.Open(underfs.Config{URI: dir})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	o, err := s.Stat(b.Context(), "f")
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	i := int64(0)
	for b.Loop() {
		r, err := s.Read(b.Context(), underfs.ReadRequest{Key: "f", Version: o.Version, Offset: i % 64 << 20, Length: 1 << 20})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(r, buf); err != nil {
			b.Fatal(err)
		}
		r.Close()
		i++
	}
}

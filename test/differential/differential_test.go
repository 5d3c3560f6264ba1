// Package differential plays the same random operations against Sluice on a local store
// and against a plain directory, and compares what both answer and what both hold.
package differential

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/internal/cluster"
)

// TestMain sets how long it takes: a few seconds, or with SLUICE_SOAK=1 many minutes.
// Flags given on the command line win.
func TestMain(m *testing.M) {
	checks := "25"
	if os.Getenv("SLUICE_SOAK") != "" {
		checks = "3000"
	}
	for name, value := range map[string]string{"rapid.checks": checks, "rapid.nofailfile": "true", "rapid.shrinktime": "10s"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// TestSameAsDirectory: kinds match errnos, listings, attributes and contents are equal,
// also of what was changed in the store behind Sluice's back, and across restarts of the
// master.
func TestSameAsDirectory(t *testing.T) {
	c := cluster.Start(t, cluster.Options{})
	store := c.MountLocal("/m", sluice.MountOptions{})
	plain := t.TempDir()
	fs := c.Client(t)
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		run := fmt.Sprintf("run%d", runs)
		p := &pair{t: rt, ctx: t.Context(), fs: fs, top: sluice.Path("/m/" + run), store: filepath.Join(store, run), plain: filepath.Join(plain, run)}
		p.same("mkdir "+run, p.sluiceMkdir("", false), os.Mkdir(p.plain, 0o755))
		for range rapid.IntRange(5, 60).Draw(rt, "steps") {
			p.step(func() { c.RestartMaster() })
		}
		p.compareAll()
	})
	t.Logf("%d sequences; replay one with the -rapid.seed that rapid prints on failure", runs)
}

// pair is one tree in both worlds.
type pair struct {
	t     *rapid.T
	ctx   context.Context
	fs    *client.Client
	top   sluice.Path // the tree as Sluice shows it
	store string      // the same tree behind Sluice
	plain string      // the model
}

// names are few, so that operations meet.
func names() []string { return []string{"a", "b", "c", "dd", "ü x"} }

// path draws a place below the top.
func (p *pair) path(label string) string {
	return filepath.Join(rapid.SliceOfN(rapid.SampledFrom(names()), 1, 3).Draw(p.t, label)...)
}

// link draws the name of a symlink. Links lie beside the tree: nothing is reached through
// them, since Sluice interprets none and a kernel does.
func (p *pair) link(label string) string {
	return rapid.SampledFrom([]string{"l0", "l1"}).Draw(p.t, label)
}

func (p *pair) at(rel string) sluice.Path {
	if rel == "" {
		return p.top
	}
	return p.top + "/" + sluice.Path(rel)
}

func (p *pair) os(rel string) string { return filepath.Join(p.plain, rel) }

// content draws bytes; lengths are those at which something may be off by one.
func (p *pair) content() []byte {
	n := rapid.SampledFrom([]int{0, 1, 5, 4096, 65535, 65536, 65537, 1<<20 - 1, 1 << 20, 1<<20 + 1}).Draw(p.t, "length")
	seed := rapid.Byte().Draw(p.t, "seed")
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i>>8) + byte(i)*3
	}
	return b
}

// kind translates what the kernel says.
func kind(err error) sluice.Kind {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return sluice.KindOf(err)
	}
	switch errno {
	case syscall.ENOENT, syscall.ENODATA:
		return sluice.NotFound
	case syscall.EEXIST:
		return sluice.Exists
	case syscall.ENOTEMPTY:
		return sluice.NotEmpty
	case syscall.EISDIR:
		return sluice.IsDirectory
	case syscall.ENOTDIR:
		return sluice.NotDirectory
	case syscall.EINVAL, syscall.ENAMETOOLONG:
		return sluice.Invalid
	default:
		return sluice.Internal
	}
}

// same compares how an operation ended in both worlds.
func (p *pair) same(what string, got, want error) {
	p.t.Helper()
	switch {
	case got == nil && want == nil:
	case got == nil || want == nil || sluice.KindOf(got) != kind(want):
		p.t.Fatalf("%s: Sluice says %v, a directory says %v", what, got, want)
	}
}

// compareAll compares both trees from the top, the store's own included.
func (p *pair) compareAll() {
	p.t.Helper()
	p.compareTree("")
	ours, theirs := tree(p.t, p.store), tree(p.t, p.plain)
	if !slices.Equal(ours, theirs) {
		p.t.Fatalf("the store holds\n%q\na directory\n%q", ours, theirs)
	}
}

// tree is everything below dir, a line for each.
func tree(t *rapid.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		line := rel
		switch {
		case d.Type()&os.ModeSymlink != 0:
			return nil // Sluice keeps those it makes to itself
		case d.Type().IsRegular():
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", len(b), b[:min(len(b), 8)])
		default:
			line += "/"
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// compareTree compares a directory and everything below it.
func (p *pair) compareTree(rel string) {
	p.t.Helper()
	for _, info := range p.compareList(rel, sluice.Freshness{}) {
		below := filepath.Join(rel, info.Path.Name())
		switch info.Type {
		case sluice.Directory:
			p.compareTree(below)
		case sluice.File:
			p.compareContent(below, sluice.Freshness{})
		}
	}
}

// compareList lists in both worlds and returns the entries.
func (p *pair) compareList(rel string, f sluice.Freshness) []sluice.FileInfo {
	p.t.Helper()
	var infos []sluice.FileInfo
	var got, want []string
	var gotErr error
	for info, err := range p.fs.List(p.ctx, p.at(rel), sluice.ListOptions{Freshness: f}) {
		if err != nil {
			gotErr = err
			break
		}
		infos = append(infos, info)
		got = append(got, ours(info))
	}
	if fi, err := os.Lstat(p.os(rel)); err == nil && !fi.IsDir() {
		p.same("list "+rel, gotErr, nil) // Sluice lists a file as itself
		if len(infos) != 1 || infos[0].Type == sluice.Directory || infos[0].Path != p.at(rel) {
			p.t.Fatalf("list of the file %s: %q", rel, got)
		}
		return infos
	}
	entries, err := os.ReadDir(p.os(rel))
	p.same("list "+rel, gotErr, err)
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			p.t.Fatal(err)
		}
		want = append(want, p.theirs(filepath.Join(rel, e.Name()), fi))
	}
	if !slices.Equal(got, want) {
		p.t.Fatalf("list %q:\n%q, a directory has\n%q", rel, got, want)
	}
	return infos
}

// ours is what an entry is in one line.
func ours(i sluice.FileInfo) string {
	line := fmt.Sprintf("%s %v", i.Path.Name(), i.Type)
	switch i.Type {
	case sluice.File:
		line += fmt.Sprintf(" %d %o", i.Length, i.Mode)
	case sluice.Directory:
		line += fmt.Sprintf(" %o", i.Mode)
	case sluice.Symlink:
		line += " -> " + i.Target
	}
	return line
}

// theirs is the same of a plain entry.
func (p *pair) theirs(rel string, fi os.FileInfo) string {
	switch {
	case fi.IsDir():
		return fmt.Sprintf("%s directory %o", fi.Name(), fi.Mode().Perm())
	case fi.Mode().IsRegular():
		return fmt.Sprintf("%s file %d %o", fi.Name(), fi.Size(), fi.Mode().Perm())
	default:
		target, err := os.Readlink(p.os(rel))
		if err != nil {
			p.t.Fatal(err)
		}
		return fmt.Sprintf("%s symlink -> %s", fi.Name(), target)
	}
}

// compareContent reads in both worlds, whole and a piece.
func (p *pair) compareContent(rel string, f sluice.Freshness) {
	p.t.Helper()
	want, wantErr := os.ReadFile(p.os(rel))
	h, err := p.fs.Open(p.ctx, p.at(rel), sluice.OpenOptions{Freshness: f})
	p.same("open "+rel, err, wantErr)
	if err != nil {
		return
	}
	defer h.Close()
	got, err := io.ReadAll(sluice.NewReader(p.ctx, h, 0))
	if err != nil || !bytes.Equal(got, want) {
		p.t.Fatalf("read %s: %d bytes (%v), a directory has %d; first difference at %d", rel, len(got), err, len(want), differ(got, want))
	}
	off := rapid.IntRange(0, len(want)+10).Draw(p.t, "offset")
	piece := make([]byte, rapid.IntRange(1, 70_000).Draw(p.t, "piece"))
	n, err := h.ReadAt(p.ctx, piece, int64(off))
	wantPiece := make([]byte, len(piece))
	wantN, wantErr := bytes.NewReader(want).ReadAt(wantPiece, int64(off))
	if n != wantN || (err == io.EOF) != (wantErr == io.EOF) || err != nil && err != io.EOF || !bytes.Equal(piece[:n], wantPiece[:wantN]) {
		p.t.Fatalf("read %s at %d of %d: %d bytes, %v; want %d, %v", rel, off, len(want), n, err, wantN, wantErr)
	}
}

func differ(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

package differential

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"pgregory.net/rapid"

	"github.com/sluicefs/sluice"
)

// step does one operation in both worlds.
func (p *pair) step(restart func()) {
	p.t.Helper()
	steps := map[string]func(){
		"write": p.write, "replace": p.write, "create": p.create, "deep": p.deep, "mkdir": p.mkdir, "parents": p.parents, "remove": p.remove,
		"tree": p.removeTree, "rename": p.rename, "move": p.rename, "list": p.list, "stat": p.stat, "read": p.read, "chmod": p.chmod,
		"xattr": p.xattr, "symlink": p.symlink, "behind": p.behind,
	}
	name := rapid.SampledFrom(slices.Sorted(maps.Keys(steps))).Draw(p.t, "op")
	if rapid.IntRange(0, 150).Draw(p.t, "luck") == 77 {
		restart()
	}
	steps[name]()
}

// put writes a file through Sluice.
func (p *pair) put(rel string, data []byte, opts sluice.CreateOptions) error {
	w, err := p.fs.Create(p.ctx, p.at(rel), opts)
	if err != nil {
		return err
	}
	defer w.Abort(context.WithoutCancel(p.ctx))
	for piece := range slices.Chunk(data, 300_000) {
		if _, err := w.Write(p.ctx, piece); err != nil {
			return err
		}
	}
	_, err = w.Close(p.ctx)
	return err
}

func (p *pair) write() {
	rel, data := p.path("path"), p.content()
	mode := rapid.SampledFrom([]os.FileMode{0o644, 0o600}).Draw(p.t, "mode")
	_, err := os.Stat(p.os(rel))
	want := os.WriteFile(p.os(rel), data, mode)
	if want == nil && err != nil {
		want = os.Chmod(p.os(rel), mode) // without the umask
	}
	p.same("write "+rel, p.put(rel, data, sluice.CreateOptions{Mode: sluice.Mode(mode)}), want)
	if want == nil {
		p.compareContent(rel, sluice.Freshness{})
	}
}

func (p *pair) create() {
	rel, data := p.path("path"), p.content()
	f, want := os.OpenFile(p.os(rel), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if want == nil {
		_, err := f.Write(data)
		want = errors.Join(err, f.Chmod(0o644), f.Close())
	}
	p.same("create "+rel, p.put(rel, data, sluice.CreateOptions{Exclusive: true}), want)
}

// deep writes a file and makes what is missing above it.
func (p *pair) deep() {
	rel, data := p.path("path"), p.content()
	want := os.MkdirAll(filepath.Dir(p.os(rel)), 0o755)
	if want == nil {
		want = os.WriteFile(p.os(rel), data, 0o644)
	}
	p.same("create -p "+rel, p.put(rel, data, sluice.CreateOptions{Parents: true}), want)
}

func (p *pair) sluiceMkdir(rel string, parents bool) error {
	_, err := p.fs.Mkdir(p.ctx, p.at(rel), sluice.MkdirOptions{Parents: parents})
	return err
}

func (p *pair) mkdir() {
	rel := p.path("path")
	p.same("mkdir "+rel, p.sluiceMkdir(rel, false), os.Mkdir(p.os(rel), 0o755))
}

func (p *pair) parents() {
	rel := p.path("path")
	want := os.MkdirAll(p.os(rel), 0o755)
	got := p.sluiceMkdir(rel, true)
	if errors.Is(want, syscall.ENOTDIR) && errors.Is(got, sluice.Exists) {
		return // the last name is a file: mkdir -p says that it exists, os.MkdirAll that it is no directory
	}
	p.same("mkdir -p "+rel, got, want)
}

func (p *pair) remove() {
	rel := p.path("path")
	if rapid.IntRange(0, 9).Draw(p.t, "link") == 0 {
		rel = p.link("path")
	}
	p.same("remove "+rel, p.fs.Remove(p.ctx, p.at(rel), sluice.RemoveOptions{}), os.Remove(p.os(rel)))
}

func (p *pair) removeTree() {
	rel := p.path("path")
	_, want := os.Lstat(p.os(rel))
	if want == nil {
		want = os.RemoveAll(p.os(rel))
	}
	p.same("rm -r "+rel, p.fs.Remove(p.ctx, p.at(rel), sluice.RemoveOptions{Recursive: true}), want)
}

func (p *pair) rename() {
	from, to := p.path("from"), p.path("to")
	_, missing := os.Lstat(p.os(from))
	got := p.fs.Rename(p.ctx, p.at(from), p.at(to), sluice.RenameOptions{})
	want := syscall.Rename(p.os(from), p.os(to)) // os.Rename looks first and says other things
	if errors.Is(want, syscall.EEXIST) {
		want = syscall.ENOTEMPTY
	}
	if got != nil && want != nil && (missing != nil || strings.HasPrefix(to, from+"/") || strings.HasPrefix(from, to+"/")) {
		return // more than one reason at once: which is said first is nobody's promise
	}
	p.same("rename "+from+" to "+to, got, want)
}

func (p *pair) list() {
	p.compareList(rapid.SampledFrom([]string{"", "a", "b", "a/b", "a/a"}).Draw(p.t, "dir"), sluice.Freshness{})
}

func (p *pair) read() {
	rel := p.path("path")
	if fi, err := os.Stat(p.os(rel)); err == nil && fi.IsDir() {
		_, err := p.fs.Open(p.ctx, p.at(rel), sluice.OpenOptions{})
		p.same("open "+rel, err, syscall.EISDIR)
		return
	}
	p.compareContent(rel, sluice.Freshness{})
}

func (p *pair) stat() { p.compareStat(p.path("path"), sluice.Freshness{}) }

func (p *pair) compareStat(rel string, f sluice.Freshness) {
	p.t.Helper()
	fi, want := os.Lstat(p.os(rel))
	info, got := p.fs.Stat(p.ctx, p.at(rel), sluice.StatOptions{Freshness: f})
	p.same("stat "+rel, got, want)
	if want == nil && ours(info) != p.theirs(rel, fi) {
		p.t.Fatalf("stat %s: %s, a directory has %s", rel, ours(info), p.theirs(rel, fi))
	}
}

func (p *pair) chmod() {
	rel := p.path("path")
	mode := rapid.SampledFrom([]os.FileMode{0o755, 0o700, 0o640, 0o444}).Draw(p.t, "mode")
	_, got := p.fs.SetAttr(p.ctx, p.at(rel), sluice.AttrChange{Mode: new(sluice.Mode(mode))})
	p.same("chmod "+rel, got, os.Chmod(p.os(rel), mode))
	p.compareStat(rel, sluice.Freshness{})
}

// xattr sets or removes an attribute, where the file system of the model has them.
func (p *pair) xattr() {
	rel := p.path("path")
	if syscall.Setxattr(p.plain, "user.try", []byte("x"), 0) != nil {
		return
	}
	name := rapid.SampledFrom([]string{"user.one", "user.two"}).Draw(p.t, "name")
	value := rapid.SampledFrom([][]byte{nil, []byte("v"), {0, 1, 255}}).Draw(p.t, "value")
	how, flag := sluice.XAttrAny, 0
	switch rapid.IntRange(0, 2).Draw(p.t, "how") {
	case 1:
		how, flag = sluice.XAttrCreate, 1
	case 2:
		how, flag = sluice.XAttrReplace, 2
	}
	var want error
	if value == nil {
		how = sluice.XAttrReplace // a removal of what is not there fails
		want = syscall.Removexattr(p.os(rel), name)
	} else {
		want = syscall.Setxattr(p.os(rel), name, value, flag)
	}
	_, got := p.fs.SetAttr(p.ctx, p.at(rel), sluice.AttrChange{XAttrs: map[string][]byte{name: value}, XAttrMode: how})
	p.same("xattr "+name+" of "+rel, got, want)
	info, err := p.fs.Stat(p.ctx, p.at(rel), sluice.StatOptions{XAttrs: true})
	buf := make([]byte, 64)
	n, wantErr := syscall.Getxattr(p.os(rel), name, buf)
	if (wantErr == nil) != (err == nil && info.XAttrs[name] != nil) || wantErr == nil && !bytes.Equal(info.XAttrs[name], buf[:n]) {
		p.t.Fatalf("xattr %s of %s: %q (%v), a directory has %q (%v)", name, rel, info.XAttrs[name], err, buf[:max(n, 0)], wantErr)
	}
}

func (p *pair) symlink() {
	rel, target := p.link("path"), rapid.SampledFrom([]string{"a", "../x", "/nowhere at all"}).Draw(p.t, "target")
	_, got := p.fs.Symlink(p.ctx, target, p.at(rel))
	p.same("symlink "+rel, got, os.Symlink(target, p.os(rel)))
	p.compareStat(rel, sluice.Freshness{})
}

// behind changes the store directly and then asks with freshness always.
func (p *pair) behind() {
	rel := p.path("path")
	var do func(dir string) error
	switch rapid.IntRange(0, 3).Draw(p.t, "what") {
	case 0, 1:
		// A new inode each time: within one tick of the clock that is what differs.
		data := p.content()
		do = func(dir string) error {
			// What a user has set of the attributes stays when the content changes.
			mode := os.FileMode(0o644)
			if fi, err := os.Lstat(filepath.Join(p.plain, rel)); err == nil {
				if fi.IsDir() {
					return nil
				}
				mode = fi.Mode().Perm()
			}
			tmp := filepath.Join(dir, "behind")
			if err := os.WriteFile(tmp, data, 0o644); err != nil {
				return err
			}
			if err := errors.Join(os.Chmod(tmp, mode), os.Rename(tmp, filepath.Join(dir, rel))); err != nil {
				return errors.Join(os.Remove(tmp), err)
			}
			return nil
		}
	case 2:
		do = func(dir string) error { return os.Mkdir(filepath.Join(dir, rel), 0o755) }
	default:
		// Not a directory: those made through Sluice outlive their disappearance in the store.
		do = func(dir string) error { return syscall.Unlink(filepath.Join(dir, rel)) }
	}
	if err, err2 := do(p.store), do(p.plain); kind2(err) != kind2(err2) {
		p.t.Fatalf("the store behind %s was not as the model: %v, %v", rel, err, err2)
	}
	p.compareStat(rel, sluice.Always())
	for dir := filepath.Dir(rel); ; dir = filepath.Dir(dir) {
		if dir == "." {
			p.compareList("", sluice.Always())
			return
		}
		p.compareStat(dir, sluice.Always())
	}
}

// kind2 tells success from failure and failures from each other.
func kind2(err error) int {
	if err == nil {
		return -1
	}
	return int(kind(err))
}

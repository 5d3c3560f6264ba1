package fuse

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sluicefs/sluice"
)

// wantSoon waits until it is so, for what the kernel tells a mount in its own time.
func wantSoon(t testing.TB, what string, is func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s: it did not", what)
		}
	}
}

func TestLargeDirectory(t *testing.T) {
	fs := inMemory()
	_, at := mounted(t, fs, nil)
	const entries = 3000
	for i := range entries {
		put(t, fs, sluice.Path(fmt.Sprintf("/file-%05d", i)), "x")
	}
	for _, plus := range []bool{false, true} {
		list, err := os.ReadDir(at)
		must(t, err)
		if len(list) != entries || list[17].Name() != "file-00017" {
			t.Fatalf("%d entries, want %d", len(list), entries)
		}
		if plus {
			for _, e := range list[:100] {
				if i, err := e.Info(); err != nil || i.Size() != 1 {
					t.Fatalf("%s: %v, %v", e.Name(), i, err)
				}
			}
		}
	}
}

// TestPositionsStay: a position in a directory stays behind the same name while entries
// come and go.
func TestPositionsStay(t *testing.T) {
	fs := inMemory()
	_, at := mounted(t, fs, nil)
	for i := range 1000 {
		put(t, fs, sluice.Path(fmt.Sprintf("/f%04d", i)), "x")
	}
	d := open(t, at, os.O_RDONLY)
	first := readDirents(t, d)
	where, next := first[len(first)/2].off, first[len(first)/2+1].name
	for i := range 100 { // before the position
		if name := fmt.Sprintf("f%04d", i); name < next && i < 10 {
			must(t, fs.Remove(t.Context(), sluice.Root.Join(name), sluice.RemoveOptions{}))
		}
		put(t, fs, sluice.Path(fmt.Sprintf("/e%04d", i)), "x")
	}
	_, err := d.Seek(where, io.SeekStart)
	must(t, err)
	if again := readDirents(t, d); again[0].name != next {
		t.Errorf("after seekdir comes %q, want %q", again[0].name, next)
	}
	_, err = d.Seek(0, io.SeekStart)
	must(t, err)
	var all []string
	for {
		part := readDirents(t, d)
		if len(part) == 0 {
			break
		}
		for _, e := range part {
			all = append(all, e.name)
		}
	}
	if len(all) != 2+1000-10+100 || !slices.Contains(all, "e0099") || slices.Contains(all, "f0009") {
		t.Errorf("after rewinddir there are %d entries", len(all))
	}
}

type dirent struct {
	name string
	off  int64
}

// readDirents is one call of getdents.
func readDirents(t *testing.T, d *os.File) (all []dirent) {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := unix.Getdents(int(d.Fd()), buf)
	must(t, err)
	for b := buf[:n]; len(b) > 0; {
		off := int64(uint64(b[8]) | uint64(b[9])<<8 | uint64(b[10])<<16 | uint64(b[11])<<24)
		size := int(b[16]) | int(b[17])<<8
		name := b[19:size]
		for i, c := range name {
			if c == 0 {
				name = name[:i]
				break
			}
		}
		all = append(all, dirent{string(name), off})
		b = b[size:]
	}
	return all
}

func TestPackedNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.StringMatching(`[a-c]{1,6}`), 1, 200).Draw(t, "names")
		var n names
		for _, name := range all {
			n.add(name)
		}
		for len(all) > 0 {
			if n.last() != all[len(all)-1] || n.count != len(all) {
				t.Fatalf("the last of %d is %q, want %q of %d", n.count, n.last(), all[len(all)-1], len(all))
			}
			all = all[:rapid.IntRange(0, len(all)-1).Draw(t, "cut")]
			n.cut(len(all))
			if len(all) == 0 && n.last() != "" {
				t.Fatalf("the last of none is %q", n.last())
			}
			if rapid.Bool().Draw(t, "more") && len(all) < 100 {
				n.add("more")
				all = append(all, "more")
			}
		}
	})
}

// stuck never answers about /stuck.
type stuck struct {
	sluice.FS
	asked chan struct{}
}

func (s stuck) As(sluice.Principal) sluice.FS { return s }
func (s stuck) Stat(ctx context.Context, p sluice.Path, o sluice.StatOptions) (sluice.FileInfo, error) {
	if p == "/stuck" {
		s.asked <- struct{}{}
		<-ctx.Done()
		return sluice.FileInfo{}, sluice.Wrap("stat", p, ctx.Err())
	}
	return s.FS.Stat(ctx, p, o)
}

// TestToldToEnd: a program that handles SIGTERM gets EINTR for it, also where another
// signal came first.
func TestToldToEnd(t *testing.T) {
	fs := stuck{inMemory(), make(chan struct{}, 100)}
	_, at := mounted(t, fs, nil)
	script := "trap 'echo alarm' ALRM; trap 'echo told; exit 7' TERM; true < " + at + "/stuck; echo over"
	cmd := exec.Command("/bin/sh", "-c", script)
	var out bytes.Buffer
	cmd.Stdout = &out
	must(t, cmd.Start())
	<-fs.asked
	must(t, cmd.Process.Signal(unix.SIGALRM))
	must(t, cmd.Process.Signal(unix.SIGTERM))
	_ = cmd.Wait()
	if s := out.String(); !strings.Contains(s, "told") {
		t.Errorf("it said %q", s)
	}
}

// TestKilledWhileWaiting: a process that waits for a store can be killed.
func TestKilledWhileWaiting(t *testing.T) {
	fs := stuck{inMemory(), make(chan struct{}, 100)}
	_, at := mounted(t, fs, nil)
	p, err := os.StartProcess("/bin/cat", []string{"cat", at + "/stuck"}, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	must(t, err)
	<-fs.asked
	must(t, p.Signal(unix.SIGTERM))
	s, err := p.Wait()
	must(t, err)
	if s.Success() {
		t.Error("it succeeded")
	}
}

//go:build e2e

package mount

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// binary is what TestMain has built.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "slb")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "sluice")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/sluice").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// site is a cluster of real processes and a mount point.
type site struct {
	t      *testing.T
	binary string
	data   string
	at     string // the mount point; /s below it goes through to a store
}

// start starts everything, or skips.
func start(t *testing.T) *site {
	t.Helper()
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		t.Skipf("SKIPPED: the mount needs root and /dev/fuse: %v", err)
	} else {
		f.Close()
	}
	// t.TempDir has the test's name in it, too long for a socket.
	dir, err := os.MkdirTemp("", "slm")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, binary: binary, data: filepath.Join(dir, "data"), at: filepath.Join(dir, "mnt")}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	store := filepath.Join(dir, "store")
	for _, d := range []string{store, s.at} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	up := exec.Command(s.binary, "up", "--set", "data="+s.data, "--set", "master.http=", "--set", "worker.http=", "--set", "worker.mem_size=512MiB", "--set", "master.session_lease=5s")
	var log bytes.Buffer
	up.Stdout, up.Stderr = &log, &log
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for unix.Unmount(s.at, unix.MNT_DETACH) == nil {
		}
		_ = up.Process.Signal(syscall.SIGTERM)
		if err := up.Wait(); err != nil {
			t.Errorf("sluice up: %v", err)
		}
		// A mount that was taken away ends a moment later, and with it its open block files.
		s.until("the cache is cleared", func() bool {
			out, err := exec.Command(s.binary, "up", "--clear", "--yes", "--set", "data="+s.data).CombinedOutput()
			if err != nil {
				t.Logf("clear: %v\n%s", err, out)
			}
			return err == nil
		})
		if t.Failed() {
			t.Logf("sluice up said:\n%s", log.String())
		}
	})
	s.until("the cluster is there", func() bool {
		return exec.Command(s.binary, "--set", "data="+s.data, "fs", "mount", "/s", "file://"+store).Run() == nil
	})
	return s
}

func (s *site) until(what string, is func() bool) {
	s.t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline.C:
			s.t.Fatalf("%s: not within a minute", what)
		}
	}
}

// sluice runs the binary and returns what it says.
func (s *site) sluice(args ...string) string {
	s.t.Helper()
	return s.run(filepath.Dir(s.at), s.binary, append([]string{"--set", "data=" + s.data}, args...)...)
}

// mount mounts in the background.
func (s *site) mount(options ...string) {
	s.t.Helper()
	s.sluice(append([]string{"mount", "-d", s.at}, options...)...)
}

// served starts a mount as a child, to be killed.
func (s *site) served() *exec.Cmd {
	s.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(s.binary, "--set", "data="+s.data, "mount", s.at, "--ready-fd", "3")
	cmd.Stderr, cmd.ExtraFiles = os.Stderr, []*os.File{w}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	w.Close()
	defer r.Close()
	b := make([]byte, 1000)
	if n, _ := r.Read(b); string(b[:n]) != "ok" {
		s.t.Fatalf("mount: %s", b[:n])
	}
	return cmd
}

// run runs a program in a directory.
func (s *site) run(dir, name string, args ...string) string {
	s.t.Helper()
	out, err := s.try(dir, name, args...)
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return out
}

func (s *site) try(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@t", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@t",
		"GOFLAGS=-mod=mod -buildvcs=false", "HOME="+filepath.Dir(s.data), "GOMODCACHE="+filepath.Join(filepath.Dir(s.data), "mod"), "GOCACHE="+goCache())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func goCache() string {
	out, _ := exec.Command("go", "env", "GOCACHE").Output()
	return strings.TrimSpace(string(out))
}

// needs skips where a program is not there.
func needs(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("SKIPPED: no %s here", name)
	}
}

// plant makes a small tree to work on, and returns what it holds.
func plant(t *testing.T, dir string) map[string]string {
	t.Helper()
	for i := range 40 {
		name := filepath.Join(dir, string(rune('a'+i%5)), "file"+strings.Repeat("x", i))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, bytes.Repeat([]byte{byte(i)}, i*i*97), 0o600+fs.FileMode(i%2)*0o044); err != nil {
			t.Fatal(err)
		}
		when := time.Unix(1_500_000_000+int64(i), 0)
		if err := os.Chtimes(name, when, when); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a/file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return seen(t, dir)
}

// seen is a tree in a form that compares: modes, times, targets and bytes.
func seen(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := d.Info()
		if err != nil || d.IsDir() {
			return err
		}
		text := i.Mode().String() + i.ModTime().String()
		if i.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(p)
			all[strings.TrimPrefix(p, dir)] = target
			return err
		}
		b, err := os.ReadFile(p)
		all[strings.TrimPrefix(p, dir)] = text + string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

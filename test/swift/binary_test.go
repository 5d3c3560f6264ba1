//go:build e2e

package swift

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sluicefs/sluice/client"
)

// site is a Sluice of real processes.
type site struct {
	*world
	binary, dir, data string
}

// up builds the binary and starts a cluster.
func up(w *world) *site {
	w.Helper()
	s := &site{world: w, dir: w.TempDir()}
	s.binary, s.data = filepath.Join(s.dir, "sluice"), filepath.Join(s.dir, "data")
	if out, err := exec.Command("go", "build", "-o", s.binary, "../../cmd/sluice").CombinedOutput(); err != nil {
		w.Fatalf("build: %v\n%s", err, out)
	}
	log, err := os.Create(filepath.Join(s.dir, "up.log"))
	w.must(err)
	defer log.Close()
	cmd := s.command("up", "--set", "master.http=", "--set", "worker.http=", "--set", "worker.mem_size=256MiB")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	w.must(cmd.Start())
	w.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // may have ended by itself
		_ = cmd.Wait()
		if w.Failed() {
			text, _ := os.ReadFile(log.Name())
			w.Logf("sluice up: %s", text[max(0, len(text)-3000):])
		}
		if out, err := s.command("up", "--clear", "--yes").CombinedOutput(); err != nil {
			w.Errorf("up --clear: %v: %s", err, out)
		}
	})
	s.ready()
	return s
}

// ready waits until there is a primary and a live worker.
func (s *site) ready() {
	s.Helper()
	c, err := client.New(s.Context(), client.Config{Masters: client.Static("unix:" + filepath.Join(s.data, "run", "master.sock"))})
	s.must(err)
	defer func() { s.must(c.Close(s.Context())) }()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		r, err := c.Report(s.Context())
		if err == nil && len(r.Workers) > 0 && r.Workers[0].Live {
			return
		}
		if n == 600 {
			s.Fatalf("the cluster does not get ready: %v", err)
		}
		<-tick.C
	}
}

func (s *site) command(args ...string) *exec.Cmd {
	cmd := exec.Command(s.binary, args...)
	cmd.Env = append(os.Environ(), "SLUICE_DATA="+s.data)
	return cmd
}

// run runs the command line, which must succeed, and returns what it printed.
func (s *site) run(stdin string, args ...string) string {
	s.Helper()
	cmd := s.command(args...)
	var out, fail bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &fail
	if err := cmd.Run(); err != nil {
		s.Fatalf("sluice %s: %v: %s", strings.Join(args, " "), err, fail.String())
	}
	return out.String()
}

// mount mounts a prefix of the container c at a path.
func (s *site) mount(path, prefix string) {
	s.Helper()
	cfg := s.config(prefix)
	args := []string{"fs", "mount", path, cfg.URI, "--secrets-stdin"}
	for name, value := range cfg.Properties {
		args = append(args, "-o", name+"="+value)
	}
	s.run("key="+cfg.Secrets["key"]+"\n", args...)
}

// binary: the whole program from its outermost door, compared with what another client of
// Swift sees.
func binary(w *world) {
	s := up(w)
	small, large := content(20, 1000), content(21, 7*partSize+11)
	file := filepath.Join(s.dir, "large")
	w.must(os.WriteFile(file, large, 0o600))
	w.do(http.MethodPut, "c/lake/theirs/small", string(small))
	w.do(http.MethodPut, "more", "")
	w.do(http.MethodPut, "more/part/1", string(large[:partSize]))
	w.do(http.MethodPut, "more/part/2", string(large[partSize:2*partSize]))
	w.do(http.MethodPut, "c/lake/theirs/dynamic", "", "X-Object-Manifest", "more/part/")
	s.mount("/lake", "lake")

	if got := s.run("", "fs", "mounts"); !strings.Contains(got, "/lake") || !strings.Contains(got, "ok") {
		w.Errorf("mounts: %s", got)
	}
	if got := s.run("", "fs", "ls", "/lake/theirs"); !strings.Contains(got, "small") || !strings.Contains(got, "dynamic") {
		w.Errorf("ls: %s", got)
	}
	s.same("/lake/theirs/small", small)
	s.same("/lake/theirs/dynamic", large[:2*partSize])

	s.run("", "fs", "mkdir", "/lake/ours")
	s.run("", "fs", "put", file, "/lake/ours/large")
	s.run("", "fs", "put", file, "/lake/ours/gone")
	s.theirs("lake/ours/large", large)
	s.run("", "fs", "free", "/lake/ours/large")
	s.same("/lake/ours/large", large) // from the store

	s.run("", "fs", "mv", "/lake/ours/large", "/lake/ours/moved")
	s.theirs("lake/ours/moved", large)
	s.run("", "fs", "mv", "/lake/ours", "/lake/renamed")
	s.eventually([]string{"lake/renamed/gone", "lake/renamed/moved", "lake/theirs/dynamic", "lake/theirs/small"})
	s.theirs("lake/renamed/moved", large)
	s.run("", "fs", "free", "/lake/renamed/moved")
	s.same("/lake/renamed/moved", large)

	w.do(http.MethodPut, "c/lake/theirs/small", string(large[:500])) // behind our back
	if got := s.run("", "fs", "cat", "/lake/theirs/small"); got != string(small) && got != string(large[:500]) {
		w.Errorf("a replaced object reads as %d bytes of no version", len(got))
	}
	s.run("", "fs", "rm", "-r", "/lake/renamed")
	s.run("", "fs", "mv", "/lake/theirs/dynamic", "/lake/dynamic")
	s.run("", "fs", "rm", "-r", "/lake/theirs")
	s.eventually([]string{"lake/dynamic"})
	s.theirs("lake/dynamic", large[:2*partSize])
	s.run("", "fs", "rm", "/lake/dynamic")
	s.eventually(nil)
	if got := s.names("more", ""); len(got) != 2 {
		w.Errorf("of another client's two segments these are left: %q", got)
	}
	s.run("", "fs", "unmount", "/lake")
}

// same compares what Sluice reads.
func (s *site) same(path string, want []byte) {
	s.Helper()
	if got := s.run("", "fs", "cat", path); got != string(want) {
		s.Errorf("cat %s: %d bytes that are not the %d of the store", path, len(got), len(want))
	}
}

// theirs compares what another client reads.
func (s *site) theirs(name string, want []byte) {
	s.Helper()
	if _, got := s.do(http.MethodGet, "c/"+name, ""); got != string(want) {
		s.Errorf("another client reads %s as %d bytes that are not the %d written", name, len(got), len(want))
	}
}

// eventually waits until another client sees exactly these names: the store follows a
// rename or removal of a directory.
func (s *site) eventually(want []string) {
	s.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		got := s.names("c", "lake/")
		if slices.Equal(got, want) {
			return
		}
		if n == 600 {
			s.Fatalf("another client sees %q, want %q", got, want)
		}
		<-tick.C
	}
}

//go:build e2e

package scale

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
)

// soak says whether the full sizes are asked for.
func soak() bool { return os.Getenv("SLUICE_SOAK") != "" }

// site is a data directory with real servers on it.
type site struct {
	t      *testing.T
	binary string
	data   string
	procs  map[string]*exec.Cmd
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{t: t, binary: filepath.Join(dir, "sluice"), data: filepath.Join(dir, "d"), procs: map[string]*exec.Cmd{}}
	build := exec.Command("go", "build", "-o", s.binary, "../../cmd/sluice")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		for _, role := range []string{"worker", "master"} {
			s.end(role, syscall.SIGKILL)
		}
		if out, err := exec.Command(s.binary, "up", "--clear", "--yes", "--set", "data="+s.data).CombinedOutput(); err != nil {
			t.Errorf("up --clear: %v: %s", err, out)
		}
	})
	return s
}

// launch starts a server.
func (s *site) launch(role string, set ...string) {
	s.t.Helper()
	args := []string{role, "--set", "master.http=", "--set", "worker.http=", "--set", "data=" + s.data}
	for _, v := range set {
		args = append(args, "--set", v)
	}
	log, err := os.OpenFile(filepath.Join(filepath.Dir(s.data), role+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(s.binary, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.procs[role] = cmd
}

// end ends a server by a signal and waits for it.
func (s *site) end(role string, sig syscall.Signal) {
	cmd := s.procs[role]
	if cmd == nil {
		return
	}
	delete(s.procs, role)
	_ = cmd.Process.Signal(sig)
	_ = cmd.Wait() // killed, or ended as told
}

// connect makes a client.
func (s *site) connect(cfg client.Config) *client.Client {
	s.t.Helper()
	cfg.Masters = client.Static("unix:" + filepath.Join(s.data, "run", "master.sock"))
	c, err := client.New(s.t.Context(), cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close(context.Background()) }) // the servers may be gone
	return c
}

// until asks until there is no error, for two minutes, and returns how long that took.
func (s *site) until(what string, ask func() error) time.Duration {
	s.t.Helper()
	begin := time.Now()
	for {
		err := ask()
		if err == nil {
			return time.Since(begin)
		}
		if time.Since(begin) > 2*time.Minute {
			s.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// worker waits for a live worker and returns its report.
func (s *site) worker(c *client.Client) (w sluice.WorkerReport) {
	s.t.Helper()
	s.until("a worker gets ready", func() error {
		r, err := c.Report(s.t.Context())
		if err != nil {
			return err
		}
		for _, w = range r.Workers {
			if w.Live {
				return nil
			}
		}
		return fmt.Errorf("none is live")
	})
	return w
}

// resident returns the resident memory of a process in bytes, files of tmpfs left out.
func (s *site) resident(role string) int64 {
	s.t.Helper()
	return residentOf(s.t, s.procs[role].Process.Pid)
}

func residentOf(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		fields := bytes.Fields(line)
		if len(fields) >= 2 && string(fields[0]) == "RssAnon:" {
			n, err := strconv.ParseInt(string(fields[1]), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no RssAnon in /proc")
	return 0
}

//go:build e2e

package ha

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/internal/auth"
)

// kills is how often the primary is killed: 5, and 200 in the long form.
func kills() int {
	if os.Getenv("SLUICE_SOAK") != "" {
		return 200
	}
	return 5
}

// TestPrimaryDies kills the primary again and again, stops and resumes it, and hands its
// place on, under load: what was acknowledged is there, nothing happened twice, and no
// read was older than what was acknowledged before it.
func TestPrimaryDies(t *testing.T) {
	s := start(t)
	l := newLoad(s)
	l.run()
	for round := range kills() {
		victim := s.primary()
		s.kill(victim)
		l.progress("kill")
		s.launch(victim)
		s.whole()
		t.Logf("kill %d: %s", round+1, strings.Join(l.longest(), "; "))
	}

	paused := s.primary()
	s.signal(paused, syscall.SIGSTOP)
	l.progress("stop")
	s.signal(paused, syscall.SIGCONT)
	s.whole()
	s.deposed(paused)

	if err := s.client.TransferMaster(t.Context(), 0); err != nil {
		t.Errorf("hand the primary's place on: %v", err)
	}
	l.progress("transfer")

	last := s.primary()
	s.signal(last, syscall.SIGTERM)
	if err := s.procs[last].Wait(); err != nil {
		t.Errorf("master %d told to stop: %v\n%s", last, err, s.log(last))
	}
	l.progress("planned stop")
	l.stop()
	for _, line := range l.longest() {
		t.Logf("longest wait of %d clients, %s", clients, line)
	}
	l.verify()
}

// TestGrow makes three masters of one, replaces one that lost its disk, and loses the
// first: nothing is gone.
func TestGrow(t *testing.T) {
	s := site0(t, 4)
	s.launch(1, "--set", "master.listen="+s.addrs[0]) // alone
	s.until("the key", func(context.Context) error { _, err := os.Stat(s.key); return err })
	s.connect()
	ctx := t.Context()
	mkdir := func(p sluice.Path) {
		t.Helper()
		if _, err := s.client.Mkdir(ctx, p, sluice.MkdirOptions{}); err != nil {
			t.Fatalf("mkdir %s: %v", p, err)
		}
	}
	mkdir("/alone")
	s.signal(1, syscall.SIGTERM)
	if err := s.procs[1].Wait(); err != nil {
		t.Fatalf("%v\n%s", err, s.log(1))
	}
	one := "1=" + s.addrs[0]
	s.launch(1, "--peers", one)
	mkdir("/several")
	join := func(n int) {
		t.Helper()
		if err := s.client.AddMaster(ctx, uint64(n), s.addrs[n-1]); err != nil {
			t.Fatalf("add master %d: %v", n, err)
		}
		s.launch(n, "--join", "--id", fmt.Sprint(n), "--peers", fmt.Sprintf("%d=%s,%s", n, s.addrs[n-1], one))
		s.voter(n)
	}
	join(2)
	join(3)
	s.kill(3)
	if err := os.RemoveAll(filepath.Join(s.dir, "3")); err != nil {
		t.Fatal(err)
	}
	s.launch(3, "--join", "--id", "3", "--peers", fmt.Sprintf("3=%s,%s", s.addrs[2], one))
	if err := s.procs[3].Wait(); err == nil || !strings.Contains(s.log(3), "was here before with another directory") {
		t.Errorf("an empty directory under an old name ended with %v\n%s", err, s.log(3))
	}
	// Refused while another master has not been heard of for a moment.
	s.until("the dead master is removed", func(ctx context.Context) error { return s.client.RemoveMaster(ctx, 3) })
	join(3)
	join(4)
	s.kill(1)
	mkdir("/without the first")
	for _, p := range []sluice.Path{"/alone", "/several", "/without the first"} {
		if _, err := s.client.Stat(ctx, p, sluice.StatOptions{}); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// site is some masters and a worker, each a process.
type site struct {
	t      *testing.T
	dir    string
	binary string
	key    string
	addrs  []string // of the masters; master n+1 is at n
	keys   *auth.Keyring
	client *client.Client
	procs  map[int]*exec.Cmd // by master; 0 is the worker
}

// site0 is one of so many masters, of which none runs.
func site0(t *testing.T, masters int) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "ha") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: dir, binary: filepath.Join(dir, "sluice"), key: filepath.Join(dir, "key"), procs: map[int]*exec.Cmd{}}
	t.Cleanup(s.end)
	if out, err := exec.Command("go", "build", "-o", s.binary, "../../cmd/sluice").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for range masters {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s.addrs = append(s.addrs, l.Addr().String())
		l.Close()
	}
	return s
}

// connect makes the site's client, which knows all masters.
func (s *site) connect() {
	s.t.Helper()
	var err error
	if s.keys, err = auth.LoadKeyring(s.key, rand.Reader); err != nil {
		s.t.Fatal(err)
	}
	s.client = s.newClient(s.addrs...)
}

// start starts three masters and a worker.
func start(t *testing.T) *site {
	t.Helper()
	s := site0(t, 3)
	s.launch(1)
	s.until("the key", func(context.Context) error { _, err := os.Stat(s.key); return err })
	s.launch(2)
	s.launch(3)
	s.connect()
	s.launch(0)
	s.whole()
	s.until("a live worker", func(ctx context.Context) error {
		r, err := s.client.Report(ctx)
		if err == nil && (len(r.Workers) == 0 || !r.Workers[0].Live) {
			err = errors.New("no live worker")
		}
		return err
	})
	return s
}

// newClient returns a client that knows some masters.
func (s *site) newClient(addrs ...string) *client.Client {
	s.t.Helper()
	c, err := client.New(s.t.Context(), client.Config{Masters: client.Static(addrs...), Keys: s.keys})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// launch starts a master, or with 0 the worker, on what it left.
func (s *site) launch(n int, own ...string) {
	s.t.Helper()
	data := filepath.Join(s.dir, fmt.Sprint(n))
	args := []string{"master", "--set", "data=" + data, "--set", "auth.key_file=" + s.key, "--set", "master.http="}
	switch {
	case len(own) > 0:
		args = append(args, own...)
	case n > 0:
		var peers []string
		for i, a := range s.addrs {
			peers = append(peers, fmt.Sprintf("%d=%s", i+1, a))
		}
		args = append(args, "--peers", strings.Join(peers, ","), "--id", fmt.Sprint(n))
	default:
		args[0] = "worker"
		args = append(args, "--set", "worker.http=", "--set", "worker.mem_size=256MiB", "--set", "worker.masters="+strings.Join(s.addrs, ","))
	}
	cmd := exec.Command(s.binary, args...)
	log, err := os.OpenFile(filepath.Join(s.dir, fmt.Sprint(n, ".log")), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.procs[n] = cmd
}

func (s *site) signal(n int, sig syscall.Signal) {
	s.t.Helper()
	if err := s.procs[n].Process.Signal(sig); err != nil {
		s.t.Fatalf("master %d: %v\n%s", n, err, s.log(n))
	}
}

// kill ends a process without warning.
func (s *site) kill(n int) {
	s.t.Helper()
	s.signal(n, syscall.SIGKILL)
	_ = s.procs[n].Wait() // killed
}

// voter waits until a master has its vote.
func (s *site) voter(n int) {
	s.t.Helper()
	s.until(fmt.Sprintf("master %d votes", n), func(ctx context.Context) error {
		all, err := s.client.Members(ctx)
		for _, m := range all {
			if int(m.Node) == n && m.Voter {
				return nil
			}
		}
		return errors.Join(err, errors.New("not yet"))
	})
}

func (s *site) log(n int) string {
	b, _ := os.ReadFile(filepath.Join(s.dir, fmt.Sprint(n, ".log")))
	return string(b[max(0, len(b)-4000):])
}

// until asks until there is no error, for a minute.
func (s *site) until(what string, ask func(ctx context.Context) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("%s: %v\n1: %s\n2: %s\n3: %s", what, err, s.log(1), s.log(2), s.log(3))
		case <-time.After(20 * time.Millisecond): // before it is asked again
		}
	}
}

// primary waits for one.
func (s *site) primary() int {
	s.t.Helper()
	var found int
	s.until("a primary", func(ctx context.Context) error {
		all, err := s.client.Members(ctx)
		for _, m := range all {
			if m.Primary {
				found = int(m.Node)
				return nil
			}
		}
		return errors.Join(err, errors.New("none"))
	})
	return found
}

// whole waits until all three masters are there and at the same entry, or nearly.
func (s *site) whole() {
	s.t.Helper()
	s.until("three masters", func(ctx context.Context) error {
		all, err := s.client.Members(ctx)
		if err != nil {
			return err
		}
		var most sluice.Index
		for _, m := range all {
			most = max(most, m.Match)
		}
		for _, m := range all {
			if !m.Active || m.Match+1000 < most {
				return fmt.Errorf("master %d is not there (alive %v) or behind: entry %d of %d", m.Node, m.Active, m.Match, most)
			}
		}
		return nil
	})
}

// deposed checks that a master which was asleep does not take itself for the primary.
func (s *site) deposed(n int) {
	s.t.Helper()
	if got := s.primary(); got == n {
		s.t.Logf("master %d was elected again meanwhile", n)
		return
	}
	out, err := exec.Command(s.binary, "fs", "ls", "/", "--set", "data="+filepath.Join(s.dir, fmt.Sprint(n)),
		"--set", "client.masters=unix:"+filepath.Join(s.dir, fmt.Sprint(n), "run", "master.sock"), "--set", "client.retry=1ms").CombinedOutput()
	if err == nil {
		s.t.Errorf("the deposed master %d answers by itself: %s", n, out)
	}
}

// end takes everything down.
func (s *site) end() {
	for _, cmd := range s.procs {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
	}
	out, err := exec.Command(s.binary, "up", "--clear", "--yes", "--set", "data="+filepath.Join(s.dir, "0")).CombinedOutput()
	if err != nil {
		s.t.Errorf("up --clear: %v: %s", err, out)
	}
	if s.t.Failed() {
		s.t.Logf("1: %s\n2: %s\n3: %s\nworker: %s", s.log(1), s.log(2), s.log(3), s.log(0))
	}
	_ = os.RemoveAll(s.dir)
}

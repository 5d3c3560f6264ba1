package kill

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/local"
)

// TestKill: whatever dies at whatever moment, what was acknowledged is there, byte for
// byte, nothing else is, and nothing is left over.
func TestKill(t *testing.T) {
	if os.Getenv("SLUICE_SOAK") != "" {
		play(t, 100)
		return
	}
	play(t, 10)
}

// play kills something in each of so many rounds, and then looks at everything.
func play(t *testing.T, rounds int) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SLUICE_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("replay the moments (not the schedule) with SLUICE_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	s := start(t, r)
	for round := range rounds {
		time.Sleep(time.Duration(100+r.IntN(400)) * time.Millisecond) // load goes on; not a wait for work
		victims := [][]string{{"master"}, {"worker"}, {"writer-0"}, {"master", "worker"}, {"worker", "writer-1"}, {"master", "worker", "writer-0", "writer-1"}}
		for _, v := range victims[r.IntN(len(victims))] {
			s.kill(v)
			s.launch(v, round+1)
		}
		s.ready()
	}
	s.rest()
	t.Logf("%d acknowledged changes on %d paths", s.ledger.acks, len(s.ledger.paths()))
	if s.ledger.acks < rounds {
		t.Errorf("only %d changes were acknowledged: the load did not run", s.ledger.acks)
	}
	s.nothingLeft()
	s.verify()
}

// site is a cluster of real processes with its load.
type site struct {
	t       *testing.T
	r       *rand.Rand
	binary  string
	data    string
	store   string
	client  *client.Client
	mu      sync.Mutex // guards ledger and the reading of writers' lines
	ledger  *ledger
	procs   map[string]*exec.Cmd
	stdin   map[string]io.Closer
	reading map[string]chan struct{}
}

func start(t *testing.T, r *rand.Rand) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{t: t, r: r, binary: filepath.Join(dir, "sluice"), data: filepath.Join(dir, "data"), store: filepath.Join(dir, "store"),
		ledger: newLedger(), procs: map[string]*exec.Cmd{}, stdin: map[string]io.Closer{}, reading: map[string]chan struct{}{}}
	if out, err := exec.Command("go", "build", "-o", s.binary, "../../cmd/sluice").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if err := os.Mkdir(s.store, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	s.launch("master", 0)
	var err error
	if s.client, err = client.New(t.Context(), client.Config{Masters: client.Static(s.address())}); err != nil {
		t.Fatal(err)
	}
	s.waitFor("the key", func() error { _, err := os.Stat(filepath.Join(s.data, "cluster.key")); return err })
	s.launch("worker", 0)
	s.ready()
	if _, err := s.client.Mkdir(t.Context(), "/cache", sluice.MkdirOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Mount(t.Context(), "/store", "file://"+s.store, sluice.MountOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	s.launch("writer-0", 0)
	s.launch("writer-1", 0)
	return s
}

func (s *site) address() string { return "unix:" + filepath.Join(s.data, "run", "master.sock") }

// launch starts a process. A writer of another life writes under other names.
func (s *site) launch(name string, life int) {
	s.t.Helper()
	var cmd *exec.Cmd
	if n, isWriter := strings.CutPrefix(name, "writer-"); isWriter {
		cmd = exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "SLUICE_KILL_WRITER="+n+strconv.Itoa(1000+life), "SLUICE_KILL_MASTER="+s.address())
		out, err := cmd.StdoutPipe()
		if err != nil {
			s.t.Fatal(err)
		}
		if s.stdin[name], err = cmd.StdinPipe(); err != nil {
			s.t.Fatal(err)
		}
		done := make(chan struct{})
		s.reading[name] = done
		go s.listen(out, done)
	} else {
		// A dead writer's names are free again after the lease, long before the test gives up.
		cmd = exec.Command(s.binary, name, "--set", "master.http=", "--set", "worker.http=", "--set", "data="+s.data, "--set", "worker.mem_size=1GiB",
			"--set", "master.session_lease=5s")
	}
	log, err := os.OpenFile(filepath.Join(filepath.Dir(s.data), name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.procs[name] = cmd
}

// listen takes a writer's lines until it ends. A line cut by kill -9 was not said.
func (s *site) listen(out io.Reader, done chan struct{}) {
	defer close(done)
	lines := bufio.NewReader(out)
	for {
		text, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		s.mu.Lock()
		s.ledger.line(strings.TrimSpace(text))
		s.mu.Unlock()
	}
}

// kill ends a process without warning and waits until it is gone, its lines read. One
// that had ended by itself, by a panic for example, is a failure.
func (s *site) kill(name string) {
	s.t.Helper()
	cmd := s.procs[name]
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		s.t.Fatalf("%s was dead already: %v\n%s", name, err, s.log(name))
	}
	if done := s.reading[name]; done != nil {
		<-done
	}
	_ = cmd.Wait() // its error says how it ended, as does the state
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		s.t.Errorf("%s ended by itself before it was killed: %v\n%s", name, cmd.ProcessState, s.log(name))
	}
}

func (s *site) log(name string) string {
	b, _ := os.ReadFile(filepath.Join(filepath.Dir(s.data), name+".log"))
	return string(b[max(0, len(b)-3000):])
}

// waitFor asks until there is no error, for a minute: leases of dead writers are 5 s, and
// the machine may be busy with other tests.
func (s *site) waitFor(what string, ask func() error) {
	s.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: %v\nmaster: %s\nworker: %s", what, err, s.log("master"), s.log("worker"))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// ready waits until there is a primary and a live worker.
func (s *site) ready() {
	s.t.Helper()
	s.waitFor("the cluster gets ready", func() error {
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Second)
		defer cancel()
		r, err := s.client.Report(ctx)
		if err == nil && (len(r.Workers) == 0 || !r.Workers[0].Live) {
			err = fmt.Errorf("no live worker")
		}
		return err
	})
}

// rest ends the writers and waits for them.
func (s *site) rest() {
	s.t.Helper()
	for name, in := range s.stdin {
		in.Close()
		<-s.reading[name]
		if err := s.procs[name].Wait(); err != nil {
			s.t.Errorf("%s: %v\n%s", name, err, s.log(name))
		}
		delete(s.procs, name)
	}
}

// verify compares every path with the ledger, through Sluice and in the store.
func (s *site) verify() {
	s.t.Helper()
	for _, p := range s.ledger.paths() {
		allowed := s.ledger.allowed(p)
		got, err := s.read(sluice.Path(p))
		switch {
		case err != nil && sluice.KindOf(err) == sluice.NotFound:
			got = nil
		case err != nil:
			s.t.Errorf("%s: %v, allowed %v", p, err, allowed)
			continue
		case got == nil:
			got = []byte{}
		}
		if !matches(got, allowed) {
			s.t.Errorf("%s holds %d bytes (nil: %v) that were never acknowledged or tried, allowed %v", p, len(got), got == nil, allowed)
		}
		if name, inStore := strings.CutPrefix(p, "/store/"); inStore {
			there, err := os.ReadFile(filepath.Join(s.store, name))
			if err == nil && there == nil {
				there = []byte{}
			}
			if (err == nil) != (got != nil) || !bytes.Equal(there, got) {
				s.t.Errorf("%s: Sluice has %d bytes (absent: %v), the store %d (%v)", p, len(got), got == nil, len(there), err)
			}
		}
	}
}

// read returns the whole content, never nil for a file that is there.
func (s *site) read(p sluice.Path) ([]byte, error) {
	h, err := s.client.Open(s.t.Context(), p, sluice.OpenOptions{})
	if err != nil {
		return nil, err
	}
	defer h.Close()
	b, err := io.ReadAll(sluice.NewReader(s.t.Context(), h, 0))
	if b == nil {
		b = []byte{}
	}
	return b, err
}

func matches(got []byte, allowed []state) bool {
	for _, a := range allowed {
		if a.absent && got == nil || !a.absent && got != nil && bytes.Equal(got, content(a)) {
			return true
		}
	}
	return false
}

// unit is what space is charged in on 4 KiB file systems.
const unit = 4096

// nothingLeft waits until what dead writers left is gone: no incomplete entries, no open
// intents, and the worker holds nothing unpersisted but the files that exist only there.
func (s *site) nothingLeft() {
	s.t.Helper()
	s.waitFor("the cluster settles", func() error {
		intents, err := s.client.Intents(s.t.Context())
		if err != nil {
			return err
		}
		if len(intents) > 0 {
			return fmt.Errorf("%d intents are open, such as %+v", len(intents), intents[0])
		}
		var cacheOnly int64
		for f, err := range s.client.List(s.t.Context(), "/", sluice.ListOptions{Recursive: true}) {
			switch {
			case err != nil:
				return err
			case !f.Complete && !f.IsDir():
				return fmt.Errorf("%s is incomplete, and its writer is dead", f.Path)
			case f.Persistence == sluice.CacheOnly && !f.IsDir():
				cacheOnly += (f.Length + unit - 1) / unit * unit
			}
		}
		r, err := s.client.Report(s.t.Context())
		if err != nil {
			return err
		}
		if got := r.Workers[0].Unpersisted; got != cacheOnly {
			return fmt.Errorf("the worker holds %d unpersisted bytes, the files have %d (in units of %d)", got, cacheOnly, unit)
		}
		return nil
	})
	// What killed uploads left in the store is for the master's sweeper, once it is a day
	// old. With all at rest nothing needs it: swept at once, it is gone, and verify, which
	// comes next, misses nothing.
	store, err := underfs.NewRegistry(local.Driver{}).Open(underfs.Config{URI: "file://" + s.store})
	if err != nil {
		s.t.Fatal(err)
	}
	defer store.Close()
	sweeper, ok := underfs.As[underfs.Sweeper](store)
	if !ok {
		s.t.Fatal("the local store cannot be swept")
	}
	n, err := sweeper.Sweep(s.t.Context(), 0, func(string) bool { return false })
	if err != nil {
		s.t.Errorf("sweep what killed uploads left: %v", err)
	}
	s.t.Logf("temporary files of killed uploads, swept: %d", n)
	left, err := filepath.Glob(filepath.Join(s.store, ".sluice*", "*"))
	if err != nil || len(left) > 0 {
		s.t.Errorf("left in the store after the sweep: %q, %v", left, err)
	}
}

// end takes everything down.
func (s *site) end() {
	if s.client != nil {
		_ = s.client.Close(context.Background())
	}
	for _, cmd := range s.procs {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
	}
	out, err := exec.Command(s.binary, "up", "--clear", "--yes", "--set", "data="+s.data).CombinedOutput()
	if err != nil {
		s.t.Errorf("up --clear: %v: %s", err, out)
	}
}

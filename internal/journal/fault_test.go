package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/sluicefs/sluice"
)

// sick makes operations on segments fail while it is switched on.
type sick struct {
	on   atomic.Bool
	kind map[errorfs.OpKind]error
}

func (s *sick) String() string { return "sick" }

func (s *sick) MaybeError(op errorfs.Op) error {
	if s.on.Load() {
		return s.kind[op.Kind]
	}
	return nil
}

// TestDiskFull: the journal says read-only while there is no room, loses nothing, and
// goes on by itself when there is.
func TestDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ill := &sick{kind: map[errorfs.OpKind]error{
			errorfs.OpFileWriteAt: syscall.ENOSPC, errorfs.OpCreate: syscall.ENOSPC, errorfs.OpFileWrite: syscall.ENOSPC,
		}}
		disk, m := vfs.NewMem(), &tape{}
		cfg := config(errorfs.Wrap(disk, ill), m)
		begun := time.Now()
		j := mustOpen(t, cfg)
		if d := time.Since(begun); d > 100*time.Millisecond {
			t.Errorf("the only member led after %v, want at most 100 ms", d)
		}
		propose(t, j, "before")
		ill.on.Store(true)
		short, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := j.Propose(short, []byte("in between")); !errors.Is(err, sluice.UnknownOutcome) {
			t.Errorf("the proposal that met the full disk: got %v, want unknown outcome", err)
		}
		if _, err := j.Propose(short, []byte("while full")); !errors.Is(err, sluice.ReadOnly) {
			t.Errorf("a proposal on a full disk: got %v, want read-only", err)
		}
		if at, err := j.ReadBarrier(context.Background()); err != nil || at != m.Applied() {
			t.Errorf("a read on a full disk: got %d, %v, want %d", at, err, m.Applied())
		}
		if !j.Status().ReadOnly {
			t.Error("Status does not say read-only")
		}
		ill.on.Store(false)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		propose(t, j, "after")
		must(t, j.Close())
		m.check(t, []string{"before", "in between", "after"})
		again := &tape{}
		j = mustOpen(t, config(disk, again))
		must(t, j.Close())
		again.check(t, []string{"before", "in between", "after"})
	})
}

// TestFailedSyncIsFinal: after a sync that failed nobody knows what the disk holds.
func TestFailedSyncIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ill := &sick{kind: map[errorfs.OpKind]error{errorfs.OpFileSyncData: syscall.ENOSPC, errorfs.OpFileSync: syscall.ENOSPC}}
		disk, m := vfs.NewMem(), &tape{}
		j := mustOpen(t, config(errorfs.Wrap(disk, ill), m))
		propose(t, j, "before")
		_, changed := j.Leading()
		ill.on.Store(true)
		if _, err := j.Propose(context.Background(), []byte("lost?")); !errors.Is(err, sluice.UnknownOutcome) {
			t.Errorf("got %v, want unknown outcome", err)
		}
		<-j.Done()
		<-changed
		if term, _ := j.Leading(); term != 0 {
			t.Error("it still says that it leads")
		}
		if j.Status().Err == nil {
			t.Error("Status does not say why it stopped")
		}
		if _, err := j.Propose(context.Background(), []byte("x")); !errors.Is(err, sluice.Unavailable) {
			t.Errorf("got %v, want unavailable", err)
		}
		must(t, j.Close())
	})
}

// TestUnknownOutcome: who gives up while the entry is under way is told so, and the
// entry is applied once.
func TestUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &slow{tape: &tape{}, gate: make(chan struct{})}
		j := mustOpen(t, config(vfs.NewMem(), m))
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := j.Propose(ctx, []byte("slow")); !errors.Is(err, sluice.UnknownOutcome) {
			t.Errorf("got %v, want unknown outcome", err)
		}
		close(m.gate)
		propose(t, j, "next")
		must(t, j.Close())
		m.check(t, []string{"slow", "next"})
	})
}

// slow is a tape that waits at its gate before each entry with data.
type slow struct {
	*tape
	gate chan struct{}
}

func (s *slow) Apply(e Entry) any {
	if len(e.Data) > 0 {
		<-s.gate
	}
	return s.tape.Apply(e)
}

// TestFlushByTime: the machine is flushed after the interval also when little happens,
// and not when nothing does.
func TestFlushByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &tape{}
		j := mustOpen(t, config(vfs.NewMem(), m))
		propose(t, j, "one")
		time.Sleep(DefaultFlushInterval + time.Second)
		synctest.Wait()
		if st := j.Status(); st.Durable != st.Applied {
			t.Errorf("after the interval %d of %d entries are durable", st.Durable, st.Applied)
		}
		must(t, j.Close())
	})
}

// TestMachineCannotFlush: the log is kept while the state is not durable.
func TestMachineCannotFlush(t *testing.T) {
	m := &stuck{&tape{}}
	cfg := config(vfs.NewMem(), m)
	cfg.FlushEntries = 1
	j := mustOpen(t, cfg)
	for i := range 100 {
		propose(t, j, fmt.Sprintf("%0900d", i))
	}
	if st := j.Status(); st.First != 1 || st.Segments < 3 {
		t.Errorf("the log was cut though nothing is durable: %+v", st)
	}
	if err := j.Close(); !errors.Is(err, sluice.NoSpace) {
		t.Errorf("Close: got %v, want the machine's error", err)
	}
}

// stuck is a tape that can make nothing durable.
type stuck struct{ *tape }

func (stuck) Flush() (sluice.Index, error) { return 0, sluice.NoSpace }

// TestHalt: a machine that must not go on stops the journal, and what came after is
// not applied.
func TestHalt(t *testing.T) {
	m := &picky{tape: &tape{}}
	j := mustOpen(t, config(vfs.NewMem(), m))
	propose(t, j, "known")
	if _, err := j.Propose(context.Background(), []byte("unknown")); !errors.Is(err, sluice.UnknownOutcome) {
		t.Errorf("got %v, want unknown outcome", err)
	}
	<-j.Done()
	if err := j.Status().Err; !errors.Is(err, sluice.Unsupported) {
		t.Errorf("Status: got %v, want the machine's error", err)
	}
	must(t, j.Close())
	m.check(t, []string{"known"})
}

// picky is a tape that knows all commands but one.
type picky struct{ *tape }

func (p *picky) Apply(e Entry) any {
	if string(e.Data) == "unknown" {
		return Halt{sluice.Unsupported}
	}
	return p.tape.Apply(e)
}

// TestLittleRoom: on a real disk with less free than wanted, the master starts and
// answers reads, and takes no changes.
func TestLittleRoom(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "a", "b"), Cluster: "test", Node: 1, Machine: &tape{}, MinFree: 1 << 62}
	j := mustOpen(t, cfg)
	if _, err := j.Propose(context.Background(), []byte("x")); !errors.Is(err, sluice.ReadOnly) {
		t.Errorf("got %v, want read-only", err)
	}
	if _, err := j.ReadBarrier(context.Background()); err != nil {
		t.Error(err)
	}
	if _, err := Open(context.Background(), cfg); !errors.Is(err, sluice.Busy) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("a second opener: got %v, want busy and who it is", err)
	}
	must(t, j.Close())
}

// wrapped returns fs with an injector before it.
func wrapped(fs vfs.FS, i errorfs.Injector) vfs.FS { return errorfs.Wrap(fs, i) }

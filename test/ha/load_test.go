//go:build e2e

package ha

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
)

// clients is how many work at once, each with a connection and session of its own.
const clients = 16

// The first clients write files into the store, the next make new names only, and the
// rest rename and remove, which waits for those who may still know the old name.
const (
	storeClients = 2
	newClients   = 10
)

// load is what the clients do, and the ledger of what they were told.
type load struct {
	s     *site
	ctx   context.Context
	halt  context.CancelFunc
	wg    sync.WaitGroup
	acked atomic.Int64 // the last directory of the register that was acknowledged
	done  []atomic.Int64

	mu      sync.Mutex
	phase   string
	gaps    map[string]time.Duration
	present map[sluice.Path][]byte // acknowledged and to be there; nil: a directory
	absent  map[sluice.Path]bool   // acknowledged and to be gone
	unsure  int
	total   int
}

func newLoad(s *site) *load {
	s.t.Helper()
	store := filepath.Join(s.dir, "store")
	if err := os.Mkdir(store, 0o755); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.client.Mount(s.t.Context(), "/store", "file://"+store, sluice.MountOptions{}, nil); err != nil {
		s.t.Fatal(err)
	}
	l := &load{
		s: s, done: make([]atomic.Int64, clients), gaps: map[string]time.Duration{},
		present: map[sluice.Path][]byte{}, absent: map[sluice.Path]bool{},
	}
	l.ctx, l.halt = context.WithCancel(context.Background())
	for _, d := range []sluice.Path{"/load", "/register"} {
		if _, err := s.client.Mkdir(s.t.Context(), d, sluice.MkdirOptions{}); err != nil {
			s.t.Fatal(err)
		}
	}
	return l
}

func (l *load) run() {
	for n := range clients {
		c := l.s.newClient(l.s.addrs...)
		l.wg.Go(func() { l.client(n, c) })
	}
	c := l.s.newClient(l.s.addrs...)
	l.wg.Go(func() { l.register(c) })
	c2 := l.s.newClient(l.s.addrs...)
	l.wg.Go(func() { l.reader(c2) })
}

func (l *load) stop() {
	l.halt()
	l.wg.Wait()
}

// progress waits until every client has had some answers more.
func (l *load) progress(phase string) {
	l.s.t.Helper()
	l.mu.Lock()
	l.phase = phase
	l.mu.Unlock()
	before := make([]int64, clients)
	for n := range l.done {
		before[n] = l.done[n].Load()
	}
	l.s.until("the clients go on after a "+phase, func(context.Context) error {
		for n := range l.done {
			if l.done[n].Load() < before[n]+3 {
				return fmt.Errorf("client %d waits", n)
			}
		}
		return nil
	})
}

// longest tells the longest that any client waited, by what happened and what it did.
func (l *load) longest() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for key, d := range l.gaps {
		out = append(out, fmt.Sprintf("%s: %v", key, d.Round(time.Millisecond)))
	}
	slices.Sort(out)
	return out
}

// client changes names of its own again and again.
func (l *load) client(n int, c *client.Client) {
	for i := 0; l.ctx.Err() == nil; i++ {
		name := func(s string) sluice.Path { return sluice.Path(fmt.Sprintf("/load/%d-%d%s", n, i, s)) }
		data := fmt.Appendf(nil, "content %d of client %d", i, n)
		begun, class := time.Now(), "new names"
		switch {
		case n < storeClients:
			class = "files in the store"
			p := sluice.Path(fmt.Sprintf("/store/%d-%d", n, i))
			l.note(l.write(c, p, data, sluice.WriteDefault), p, data)
		case n < newClients && i%2 == 0:
			l.note(l.write(c, name(""), data, sluice.MustCache), name(""), data)
		case n < newClients:
			_, err := c.Mkdir(l.ctx, name(""), sluice.MkdirOptions{})
			l.note(err, name(""), nil)
		case i%2 == 0:
			class = "renames and removes"
			if _, err := c.Mkdir(l.ctx, name(""), sluice.MkdirOptions{}); err == nil {
				if err := c.Rename(l.ctx, name(""), name("-moved"), sluice.RenameOptions{}); err == nil {
					l.gone(name(""))
					l.note(nil, name("-moved"), nil)
				} else {
					l.note(err, name(""), nil)
				}
			}
		default:
			class = "renames and removes"
			if _, err := c.Mkdir(l.ctx, name(""), sluice.MkdirOptions{}); err == nil {
				err := c.Remove(l.ctx, name(""), sluice.RemoveOptions{})
				if err == nil {
					l.gone(name(""))
				} else {
					l.note(err, name(""), nil)
				}
			}
		}
		l.done[n].Add(1)
		l.mu.Lock()
		key := l.phase + ": " + class
		l.gaps[key] = max(l.gaps[key], time.Since(begun))
		l.mu.Unlock()
	}
}

// note writes an answer into the ledger. A refusal for good of what cannot be refused is
// a failure: a name is used once, so that it can only mean that something was done twice.
func (l *load) note(err error, p sluice.Path, data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total++
	switch {
	case err == nil:
		l.present[p] = data
	case errors.Is(err, sluice.Exists), errors.Is(err, sluice.NotFound):
		l.s.t.Errorf("%s: %v: it happened twice or was lost", p, err)
	default:
		l.unsure++
		if l.ctx.Err() == nil {
			l.s.t.Logf("%s: %v", p, err)
		}
	}
}

func (l *load) gone(p sluice.Path) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.absent[p] = true
}

func (l *load) write(c *client.Client, p sluice.Path, data []byte, how sluice.WriteType) error {
	w, err := c.Create(l.ctx, p, sluice.CreateOptions{Write: how})
	if err != nil {
		return err
	}
	if _, err := w.Write(l.ctx, data); err != nil {
		return errors.Join(err, w.Abort(l.ctx))
	}
	if _, err = w.Close(l.ctx); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// register makes one directory after another.
func (l *load) register(c *client.Client) {
	for i := int64(1); l.ctx.Err() == nil; i++ {
		if _, err := c.Mkdir(l.ctx, registered(i), sluice.MkdirOptions{}); err == nil {
			l.acked.Store(i)
		} else if l.ctx.Err() == nil {
			l.s.t.Logf("register %d: %v", i, err)
		}
	}
}

func registered(i int64) sluice.Path { return sluice.Path(fmt.Sprintf("/register/%d", i)) }

// reader checks that no answer is older than what was acknowledged before the question.
func (l *load) reader(c *client.Client) {
	for l.ctx.Err() == nil {
		i := l.acked.Load()
		if i == 0 {
			continue
		}
		if _, err := c.Stat(l.ctx, registered(i), sluice.StatOptions{}); errors.Is(err, sluice.NotFound) {
			l.s.t.Errorf("directory %d was acknowledged and a later read does not see it", i)
		}
	}
}

// verify compares the ledger with what is there.
func (l *load) verify() {
	t := l.s.t
	t.Helper()
	lost := 0
	for p, data := range l.present {
		if data == nil {
			if info, err := l.s.client.Stat(t.Context(), p, sluice.StatOptions{}); err != nil || !info.IsDir() {
				t.Errorf("%s was acknowledged: %v", p, err)
				lost++
			}
			continue
		}
		got, err := l.read(p)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s was acknowledged: it holds %q (%v), want %q", p, got, err, data)
			lost++
		}
	}
	for p := range l.absent {
		if _, err := l.s.client.Stat(t.Context(), p, sluice.StatOptions{}); !errors.Is(err, sluice.NotFound) {
			t.Errorf("%s was moved or removed, and Stat says %v", p, err)
			lost++
		}
	}
	t.Logf("%d changes, %d of unknown outcome, %d acknowledged ones lost; %d in the register", l.total, l.unsure, lost, l.acked.Load())
	if l.total < 100 {
		t.Errorf("only %d changes: the load did not run", l.total)
	}
}

func (l *load) read(p sluice.Path) ([]byte, error) {
	t := l.s.t
	h, err := l.s.client.Open(t.Context(), p, sluice.OpenOptions{})
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return io.ReadAll(sluice.NewReader(t.Context(), h, 0))
}

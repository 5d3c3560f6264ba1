// Package mounts keeps the stores of a process open, one for each mount, each with its
// own interceptors, so that nothing of one mount waits for another. Stores are opened
// when they are first needed and closed when the mount is gone or has other settings and
// the last caller has let go. It decides nothing about what is mounted.
package mounts

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/guard"
)

// Row is one mount with what opening its store takes.
type Row struct {
	Mount   sluice.Mount
	Secrets sluice.Secrets // literal, or references that are resolved when the store is opened
	Epoch   uint64         // changes with the settings; a store of another epoch is replaced
}

// Config sets a Table.
type Config struct {
	Registry *underfs.Registry // the drivers; required
	Log      *slog.Logger      // nil discards
	Seed     uint64            // of the jitter of retries
}

// Table is the stores of the mounts of a process. Its methods may be called at once.
type Table struct {
	cfg Config

	mu   sync.Mutex
	rows map[sluice.MountID]*entry // guarded by mu
	over bool                      // guarded by mu

	closing sync.WaitGroup // stores that wait for their last caller
}

// entry is one mount at one epoch.
type entry struct {
	row  Row
	once sync.Once
	// Set by once.
	guard *guard.Guard
	err   error

	mu   sync.Mutex
	used int           // guarded by mu: callers between Acquire and release
	gone bool          // guarded by mu: no longer in the table
	idle chan struct{} // closed when gone and unused
}

// New returns a table without mounts.
func New(cfg Config) *Table {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Table{cfg: cfg, rows: make(map[sluice.MountID]*entry)}
}

// Update makes the table hold exactly rows. A mount whose epoch is the same keeps its
// store and its counters. Stores of the others are closed in the background once the
// calls that were acquired have ended. It touches no network.
func (t *Table) Update(rows []Row) {
	next := make(map[sluice.MountID]*entry, len(rows))
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		return
	}
	for _, r := range rows {
		if e := t.rows[r.Mount.ID]; e != nil && e.row.Epoch == r.Epoch {
			next[r.Mount.ID] = e
			continue
		}
		next[r.Mount.ID] = &entry{row: r, idle: make(chan struct{})}
	}
	var old []*entry
	for id, e := range t.rows {
		if next[id] != e {
			old = append(old, e)
		}
	}
	t.rows = next
	for _, e := range old {
		t.closing.Go(func() { t.retire(e) })
	}
	t.mu.Unlock()
}

// retire closes an entry's store when nobody uses it any more.
func (t *Table) retire(e *entry) {
	e.mu.Lock()
	e.gone = true
	if e.used == 0 {
		close(e.idle)
	}
	e.mu.Unlock()
	<-e.idle
	e.once.Do(func() { e.err = gone(e.row.Mount) })
	if e.guard == nil {
		return
	}
	if err := e.guard.Close(); err != nil {
		t.cfg.Log.Warn("a store did not close cleanly", "mount", string(e.row.Mount.Path), "cause", err)
	}
}

// Store is an acquired store. Release must be called once, when the last call on it, its
// bodies and its uploads have ended; the store stays open until then.
type Store struct {
	underfs.Store
	Mount   sluice.Mount
	Epoch   uint64
	release func()
}

// Release lets go of the store.
func (s *Store) Release() { s.release() }

// Acquire returns the store of a mount and keeps it open until it is released. Kind
// NotFound: there is no such mount here. Unavailable: its store cannot be opened, as when
// a secret's file is missing; it is tried again with the next settings.
func (t *Table) Acquire(id sluice.MountID) (*Store, error) {
	t.mu.Lock()
	e := t.rows[id]
	if e == nil {
		t.mu.Unlock()
		return nil, &sluice.Error{Kind: sluice.NotFound, Err: fmt.Errorf("there is no mount %d here", id)}
	}
	e.mu.Lock()
	e.used++
	e.mu.Unlock()
	t.mu.Unlock()
	e.once.Do(func() { t.open(e) })
	if e.err != nil {
		e.release()
		return nil, &sluice.Error{Op: "open store", Path: e.row.Mount.Path, Kind: sluice.Unavailable, Err: e.err}
	}
	return &Store{Store: e.guard.Store(), Mount: e.row.Mount, Epoch: e.row.Epoch, release: sync.OnceFunc(e.release)}, nil
}

func (e *entry) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used--
	if e.gone && e.used == 0 {
		close(e.idle)
	}
}

// open opens the store of an entry.
func (t *Table) open(e *entry) {
	m := e.row.Mount
	secrets, err := underfs.Resolve(e.row.Secrets)
	if err == nil {
		e.guard, err = guard.Open(t.cfg.Registry,
			underfs.Config{URI: m.URI, Properties: m.Options.Properties, Secrets: secrets, Options: m.Options},
			guard.Config{Mount: string(m.Path), Logger: t.cfg.Log, Seed: t.cfg.Seed ^ e.row.Epoch})
	}
	if err != nil {
		e.err = err
		t.cfg.Log.Error("a mount's store cannot be opened", "mount", string(m.Path), "cause", err)
	}
}

func gone(m sluice.Mount) error { return fmt.Errorf("mount %s is gone", m.Path) }

// Get is [Table.Acquire] for callers whose calls are short: the store may be closed
// under them when the mount changes, and the call then fails.
func (t *Table) Get(id sluice.MountID) (underfs.Store, sluice.Mount, error) {
	s, err := t.Acquire(id)
	if err != nil {
		return nil, sluice.Mount{}, err
	}
	s.Release()
	return s.Store, s.Mount, nil
}

// Epoch returns that of a mount, and false where there is none.
func (t *Table) Epoch(id sluice.MountID) (uint64, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.rows[id]; e != nil {
		return e.row.Epoch, true
	}
	return 0, false
}

// Mounts returns the mounts in order of their ids.
func (t *Table) Mounts() []sluice.Mount {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]sluice.Mount, 0, len(t.rows))
	for _, e := range t.rows {
		out = append(out, e.row.Mount)
	}
	slices.SortFunc(out, func(a, b sluice.Mount) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return out
}

// Health returns how a mount's store fares. Skipped and Intents are the caller's to fill
// in. A mount that is not known, or was not needed yet, is opened by it if it can be.
func (t *Table) Health(id sluice.MountID) sluice.Health {
	t.mu.Lock()
	e := t.rows[id]
	t.mu.Unlock()
	if e == nil {
		return sluice.Health{Message: "not mounted here"}
	}
	e.once.Do(func() { t.open(e) })
	if e.err != nil {
		return sluice.Health{Message: e.err.Error()}
	}
	return e.guard.Health()
}

// Close forgets every mount and waits until all stores are closed, or ctx ends.
func (t *Table) Close(ctx context.Context) error {
	t.Update(nil)
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	done := make(chan struct{})
	go func() {
		t.closing.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return sluice.Wrap("close stores", "", ctx.Err())
	}
}

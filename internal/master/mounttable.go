package master

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/namespace"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/mounts"
)

// mountEntry is one mount as the desk uses it. It does not change but for its counters.
type mountEntry struct {
	sluice.Mount
	secrets  map[string][]byte // sealed, or references
	epoch    uint64            // changes with the settings
	features underfs.Features
	broken   error         // why its secrets cannot be opened
	skipped  *atomic.Int64 // keys seen that are no valid paths; survives new settings
}

// timeout is that of one call to the store.
func (e *mountEntry) timeout() time.Duration {
	return cmp.Or(e.Options.Timeout, DefaultMountTimeout)
}

// key returns the store's key of a path below the mount.
func (e *mountEntry) key(p sluice.Path) underfs.Key { return underfs.Key(e.Path.Rel(p)) }

// prefix returns what the keys below a directory begin with.
func (e *mountEntry) prefix(dir sluice.Path) underfs.Key {
	if k := e.key(dir); k != "" {
		return k + "/"
	}
	return ""
}

// mountTable is the mounts at one moment. It is replaced, never changed.
type mountTable struct {
	version uint64        // a hash of everything in it
	entries []*mountEntry // Invariant: in path order
}

// find returns the mount that path lies in, nil where there is none.
func (t *mountTable) find(path sluice.Path) *mountEntry {
	var best *mountEntry
	for _, e := range t.entries {
		if e.Path.Contains(path) && (best == nil || len(e.Path) > len(best.Path)) {
			best = e
		}
	}
	return best
}

// byID returns a mount, nil where there is none.
func (t *mountTable) byID(id sluice.MountID) *mountEntry {
	for _, e := range t.entries {
		if e.ID == id {
			return e
		}
	}
	return nil
}

// epoch returns that of a mount, 0 where there is none.
func (t *mountTable) epoch(id sluice.MountID) uint64 {
	if e := t.byID(id); e != nil {
		return e.epoch
	}
	return 0
}

// refreshMounts takes over the mount table of the state. Stores that stay are kept open.
func (m *Master) refreshMounts() {
	m.mountMu.Lock()
	defer m.mountMu.Unlock()
	t := &mountTable{}
	before := m.mountTable.Load()
	var rows []mounts.Row
	for _, r := range m.mountRows() {
		e := &mountEntry{Mount: r.Mount, secrets: r.Secrets, epoch: r.Epoch, skipped: new(atomic.Int64)}
		if old := before.byID(e.ID); old != nil {
			e.skipped = old.skipped
		}
		t.entries = append(t.entries, e)
		secrets, err := m.unseal(e)
		if err != nil {
			e.broken = err
			m.cfg.Log.Error("a mount's secrets cannot be opened", "mount", string(e.Path), "cause", err)
			continue
		}
		rows = append(rows, mounts.Row{Mount: e.Mount, Secrets: secrets, Epoch: e.epoch})
	}
	m.stores.Update(rows)
	h := sha256.New()
	slices.SortFunc(t.entries, func(a, b *mountEntry) int { return cmp.Compare(a.Path, b.Path) })
	for _, e := range t.entries {
		if s, _, err := m.stores.Get(e.ID); err == nil { // it touches no network
			e.features = s.Features()
		}
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(e.ID)))
		h.Write(binary.BigEndian.AppendUint64(nil, e.epoch))
	}
	t.version = binary.BigEndian.Uint64(h.Sum(nil)) | 1
	m.mountTable.Store(t)
}

// staleMounts says whether the state has another mount table than the desk uses, as
// when whoever changed it did not live to see the answer.
func (m *Master) staleMounts() bool {
	rows, t := m.mountRows(), m.mountTable.Load()
	if len(rows) != len(t.entries) {
		return true
	}
	return slices.ContainsFunc(rows, func(r namespace.MountRow) bool { return t.epoch(r.ID) != r.Epoch })
}

// store returns the store of a mount. Kind Unavailable: it cannot be opened.
func (m *Master) store(e *mountEntry) (underfs.Store, error) {
	if e.broken != nil {
		return nil, &sluice.Error{Kind: sluice.Unavailable, Err: e.broken}
	}
	s, _, err := m.stores.Get(e.ID)
	return s, err
}

// reference says whether a secret is only a reference, which every server resolves for
// itself and which may be kept as it is.
func reference(s string) bool { return strings.HasPrefix(s, "file:") || strings.HasPrefix(s, "env:") }

// sealContext binds a sealed secret to what it belongs to.
func sealContext(path sluice.Path, uri, name string) string {
	return "mount\n" + string(path) + "\n" + uri + "\n" + name
}

// seal makes secrets fit for the journal.
func (m *Master) seal(path sluice.Path, uri string, secrets sluice.Secrets) (map[string][]byte, error) {
	out := make(map[string][]byte, len(secrets))
	for name, value := range secrets {
		if reference(value) {
			out[name] = []byte(value)
			continue
		}
		b, err := m.cfg.Keys.Seal([]byte(value), sealContext(path, uri, name))
		if err != nil {
			return nil, err
		}
		out[name] = b
	}
	return out, nil
}

// unseal is the inverse of seal.
func (m *Master) unseal(e *mountEntry) (sluice.Secrets, error) {
	out := make(sluice.Secrets, len(e.secrets))
	for name, b := range e.secrets {
		if reference(string(b)) {
			out[name] = string(b)
			continue
		}
		s, err := m.cfg.Keys.Open(b, sealContext(e.Path, e.URI, name))
		if err != nil {
			return nil, fmt.Errorf("secret %q: %w", name, err)
		}
		out[name] = string(s)
	}
	return out, nil
}

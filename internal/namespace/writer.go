package namespace

import (
	"maps"
	"slices"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/keyvalue"
)

// writer is Apply's side of the state: the entry being applied, and what Apply looks up
// so often that it keeps it apart. One goroutine.
//
// A command's changes gather in command and are merged into entry if it succeeds. What
// else a command changes it can take back: meta and mounts are saved, the rest is undo.
type writer struct {
	s       *State
	batch   keyvalue.Batch
	entry   map[string]row // nil rows are deleted
	command map[string]row
	undo    []func()
	broken  error // a row could not be read: the member must stop
	meta    metaRow
	mounts  *mountTable
	changed []sluice.FileID // grants that the command makes stale

	index sluice.Index // of the entry
	wall  int64
	tick  int64

	sessions map[sluice.SessionID]*sessionState
	open     *footprints
	permOf   map[permKey]*perm
	tombs    []tomb // in the order of their indexes
}

type permKey struct {
	owner, group string
	mode         sluice.Mode
}

// sessionState is what requests are judged by.
type sessionState struct {
	epoch  uint64
	lowest uint64              // the highest that a request said
	seqs   map[uint64]struct{} // whose answers are remembered
}

type tomb struct {
	index sluice.Index
	tick  int64
	key   string
}

func newWriter(s *State) *writer {
	return &writer{
		s: s, batch: s.db.Batch(), entry: map[string]row{}, command: map[string]row{}, mounts: s.mounts,
		sessions: map[sluice.SessionID]*sessionState{}, open: newFootprints(), permOf: map[permKey]*perm{},
	}
}

// load reads what is kept in memory.
func (w *writer) load() error {
	meta, err := as[metaRow](w.s.read(w.s.db, []byte{tagMeta}))
	if err != nil {
		return err
	}
	if meta != nil {
		w.meta = *meta
		w.s.meta = meta
		w.s.committed.Store(uint64(meta.applied))
	}
	perms := make([]*perm, w.meta.perm+1)
	w.s.perms.Store(&perms)
	each := func(tag byte, f func(key string, r row)) {
		if err != nil {
			return
		}
		err = w.s.scan(w.s.db, []byte{tag}, []byte{tag + 1}, func(key string, r row) (bool, error) {
			f(key, r)
			return true, nil
		})
	}
	each(tagPerm, func(key string, r row) {
		p := r.(*perm)
		p.number = be64(key, 1)
		if p.number < uint64(len(perms)) {
			perms[p.number] = p
			w.permOf[permKey{p.owner, p.group, p.mode}] = p
		}
	})
	each(tagMount, func(_ string, r row) { w.mounts = w.mounts.with(r.(*mountRow)) })
	each(tagIntent, func(_ string, r row) { w.open.add(&r.(*intentRow).Intent) })
	each(tagSession, func(key string, r row) {
		w.sessions[sluice.SessionID(be64(key, 1))] = &sessionState{epoch: r.(*sessionRow).epoch, lowest: r.(*sessionRow).lowest, seqs: map[uint64]struct{}{}}
	})
	each(tagAnswer, func(key string, r row) {
		if st := w.sessions[sluice.SessionID(be64(key, 1))]; st != nil {
			st.seqs[be64(key, 9)] = struct{}{}
			st.lowest = max(st.lowest, r.(*answerRow).lowest)
		}
	})
	each(tagTomb, func(key string, r row) {
		t := r.(*tombRow)
		w.tombs = append(w.tombs, tomb{t.index, t.tick, key})
	})
	slices.SortStableFunc(w.tombs, func(a, b tomb) int { return int(int64(a.index) - int64(b.index)) })
	w.s.mounts = w.mounts
	w.s.sessions.Store(int64(len(w.sessions)))
	w.s.intents.Store(int64(len(w.open.spans)))
	return err
}

func (w *writer) table() *mountTable { return w.mounts }

// get reads a row as the command sees it.
func (w *writer) get(key []byte) (row, error) {
	if r, ok := w.command[string(key)]; ok {
		return r, nil
	}
	if r, ok := w.entry[string(key)]; ok {
		return r, nil
	}
	r, ok, version := w.s.cache.get(key)
	if ok {
		return r, nil
	}
	r, err := w.s.read(w.s.db, key)
	if err != nil {
		w.broken = err
		return nil, err
	}
	w.s.cache.fill(string(key), r, version)
	return r, nil
}

func (w *writer) scan(lo, hi []byte, f func(key string, r row) (bool, error)) error {
	var inner error
	err := w.s.scan(w.s.db, lo, hi, func(key string, r row) (bool, error) {
		on, err := f(key, r)
		inner = err
		return on, err
	}, w.command, w.entry)
	if err != nil && inner == nil {
		w.broken = err
	}
	return err
}

func (w *writer) put(key []byte, r row) { w.command[string(key)] = r }
func (w *writer) del(key []byte)        { w.command[string(key)] = nil }

// revert notes how to take back what the command changed outside of rows.
func (w *writer) revert(f func()) { w.undo = append(w.undo, f) }

// begin prepares for a command.
func (w *writer) begin() {
	clear(w.command)
	clear(w.undo)
	w.undo = w.undo[:0]
	w.changed = nil
}

// keep makes the command's changes those of the entry.
func (w *writer) keep() {
	maps.Copy(w.entry, w.command)
	clear(w.command)
	w.undo = w.undo[:0]
}

// drop takes the command's changes back.
func (w *writer) drop(meta metaRow, mounts *mountTable) {
	clear(w.command)
	for i := len(w.undo) - 1; i >= 0; i-- {
		w.undo[i]()
	}
	w.undo = w.undo[:0]
	w.changed = nil
	meta.perm = w.meta.perm
	w.meta, w.mounts = meta, mounts
}

// publish makes the entry visible, then gives it to the store.
func (w *writer) publish() error {
	s := w.s
	entry := w.entry
	w.entry = make(map[string]row, len(entry))
	meta := w.batchUp(entry)

	s.mu.Lock()
	s.pending, s.meta, s.mounts = entry, meta, w.mounts
	for key, r := range entry {
		s.cache.change(key, r)
	}
	s.mu.Unlock()
	s.sessions.Store(int64(len(w.sessions)))
	s.intents.Store(int64(len(w.open.spans)))

	if err := w.batch.Commit(); err != nil {
		return sluice.Wrap("commit entry", "", err)
	}
	s.committed.Store(uint64(meta.applied))
	s.mu.Lock()
	s.pending = nil
	s.mu.Unlock()
	return nil
}

// batchUp puts the rows of an entry into the batch, and the row M with their hash into
// both.
func (w *writer) batchUp(entry map[string]row) *metaRow {
	var buf []byte
	for _, key := range slices.Sorted(maps.Keys(entry)) {
		r := entry[key]
		if r == nil {
			w.batch.Delete([]byte(key))
			w.meta.hash = w.meta.hash.add(key, nil)
			continue
		}
		buf = encode(buf[:0], r)
		w.batch.Set([]byte(key), buf)
		w.meta.hash = w.meta.hash.add(key, buf)
	}
	if uint64(w.index)%hashEvery == 0 {
		w.meta.mark, w.meta.markHash = w.index, w.meta.hash
	}
	meta := w.meta
	meta.incarnation = slices.Clone(meta.incarnation)
	entry[string([]byte{tagMeta})] = &meta
	w.batch.Set([]byte{tagMeta}, encode(buf[:0], &meta))
	return &meta
}

// permFor returns the numbered combination, making it if need be. Making one is no
// effect of a command: it stays when the command fails.
func (w *writer) permFor(owner, group string, mode sluice.Mode) *perm {
	k := permKey{owner, group, mode & sluice.ModeMask}
	if p := w.permOf[k]; p != nil {
		return p
	}
	all := *w.s.perms.Load()
	p := &perm{number: uint64(len(all)), owner: owner, group: group, mode: k.mode}
	all = append(all, p)
	w.s.perms.Store(&all)
	w.permOf[k] = p
	w.meta.perm = p.number
	w.entry[string(key64(tagPerm, p.number))] = p
	return p
}

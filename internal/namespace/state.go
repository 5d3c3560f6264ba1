package namespace

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/keyvalue"
	"github.com/sluicefs/sluice/internal/wire"
)

// DefaultCacheRows is the bound of the row cache where nothing is set.
const DefaultCacheRows = 200_000

// DefaultWindow is how many answers a session may leave unacknowledged.
const DefaultWindow = 1024

// Config is what a state needs to know.
type Config struct {
	CacheRows int // rows held decoded, about 400 bytes each; 0 is DefaultCacheRows
}

// Validate says what is wrong, with kind Invalid.
func (c Config) Validate() error {
	if c.CacheRows < 0 {
		return &sluice.Error{Op: "open state", Kind: sluice.Invalid, Err: errors.New("the number of cached rows is negative: give rows, or 0 for 200,000")}
	}
	return nil
}

// State is the state machine. Apply and Flush are for one goroutine each, everything
// else may be called by many at once, beside them; all reads are linearizable against
// Apply: they see every entry whose Apply has returned, and each entry whole.
//
// What is visible is the DB with pending over it. Apply publishes an entry by setting
// pending and the cache under the lock, then commits it to the DB. A reader walks rows
// in memory under the read lock; what it misses it reads without the lock, fills the
// cache (unless the row changed since) and walks again; what never fits, on a snapshot.
type State struct {
	db    keyvalue.DB
	cache *cache
	perms atomic.Pointer[[]*perm] // by number; only ever longer

	mu      sync.RWMutex   // held for memory only, never across a read of the DB
	pending map[string]row // guarded by mu: the entry being committed; nil rows are deleted
	meta    *metaRow       // guarded by mu; replaced, never changed
	mounts  *mountTable    // guarded by mu; replaced, never changed

	committed atomic.Uint64 // index of the last entry in the DB
	sessions  atomic.Int64  // number of them
	intents   atomic.Int64

	w *writer // Apply's own
}

// Open reads the state in db, or an empty one. The db stays the caller's to close,
// after everything else has ended. Kinds: Invalid (the configuration), Corrupt.
func Open(db keyvalue.DB, cfg Config) (*State, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	rows := cfg.CacheRows
	if rows == 0 {
		rows = DefaultCacheRows
	}
	s := &State{db: db, cache: newCache(rows), meta: &metaRow{}, mounts: &mountTable{}}
	s.perms.Store(&[]*perm{nil})
	s.w = newWriter(s)
	if err := s.w.load(); err != nil {
		return nil, sluice.Wrap("open state", "", err)
	}
	return s, nil
}

// perm returns a combination by its number, nil if there is none.
func (s *State) perm(number uint64) *perm {
	all := *s.perms.Load()
	if number >= uint64(len(all)) {
		return nil
	}
	return all[number]
}

// Applied returns the index of the last entry applied; 0 is none.
func (s *State) Applied() sluice.Index {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.meta.applied
}

// Flush makes everything applied before the call durable and returns the index up to
// which that is so. The log may be cut up to it. It may take long and runs beside
// everything else. Errors: NoSpace, Internal; it may be called again.
func (s *State) Flush() (sluice.Index, error) {
	index := s.committed.Load()
	if err := s.db.Flush(); err != nil {
		return 0, err
	}
	return sluice.Index(index), nil
}

// Warm reads the rows that applying the entry will need, so that Apply finds them in
// memory. It never fails: what it cannot read, Apply will report.
func (s *State) Warm(e *wire.Entry) {
	for _, c := range e.GetCommands() {
		s.warm(c)
	}
}

func (s *State) warm(c *wire.Command) {
	switch op := c.GetOp().(type) {
	case *wire.Command_Mkdir:
		s.warmPath(op.Mkdir.Path)
	case *wire.Command_CreateFile:
		s.warmPath(op.CreateFile.Path)
	case *wire.Command_Rename:
		s.warmPath(op.Rename.From)
		s.warmPath(op.Rename.To)
	case *wire.Command_Remove:
		s.warmPath(op.Remove.Path)
	case *wire.Command_SetAttr:
		s.warmPath(op.SetAttr.Path)
	case *wire.Command_Symlink:
		s.warmPath(op.Symlink.Path)
	case *wire.Command_LoadChildren:
		s.warmPath(op.LoadChildren.Dir)
	case *wire.Command_CommitContent:
		s.FileByID(sluice.FileID(op.CommitContent.File))
	case *wire.Command_Abandon:
		s.FileByID(sluice.FileID(op.Abandon.File))
	}
}

func (s *State) warmPath(p string) {
	if path, err := sluice.ParsePath(p); err == nil {
		s.Resolve(path)
	}
}

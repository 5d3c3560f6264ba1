package master

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/fleet"
	"github.com/sluicefs/sluice/internal/journal"
	"github.com/sluicefs/sluice/internal/keyvalue"
	"github.com/sluicefs/sluice/internal/namespace"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs/mounts"
)

// Master is one master, open. Its methods may be called from any goroutine.
type Master struct {
	cfg     Config
	cluster string        // the cluster's id
	lease   time.Duration // of sessions
	window  int           // remembered answers of a session
	started time.Duration // on the boot clock

	lock    io.Closer
	db      keyvalue.DB
	state   *namespace.State
	machine *machine
	journal *journal.Journal
	member  *Member // it is one of several, and lasts for a term; nil: it is alone
	ticker  *ticker
	batcher *batcher

	fleet    *fleet.Fleet
	sessions *sessions
	notices  *notices
	asked    asked
	flights  *flightGroup
	intents  *intents
	reaper   *reaper

	mountMu    sync.Mutex // held while the mount table is taken over, which waits for nothing
	mountTable atomic.Pointer[mountTable]
	stores     *mounts.Table

	ctx      context.Context // of everything in the background
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	closing  sync.Once
	closed   error
	counters counters
}

// counters are what [Stats] shows.
type counters struct {
	calls, entries, commands, storeStats, storeLists atomic.Int64
}

// Open opens or makes the master in cfg.Dir, and returns when it is the primary, or
// knows that another is. Errors: Invalid for the configuration; Busy where another
// master has the directory; Permission where it belongs to another user; and those of
// the journal.
func Open(ctx context.Context, cfg Config) (*Master, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m := &Master{cfg: cfg.filled()}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	if err := m.openAll(ctx); err != nil {
		m.cancel()
		return nil, sluice.Wrap("open master", "", errors.Join(err, m.release()))
	}
	return m, nil
}

func (m *Master) openAll(ctx context.Context) error {
	id, err := m.openDir()
	if err != nil {
		return err
	}
	m.cluster = id.cluster
	if err := m.openState(); err != nil {
		return err
	}
	m.machine = &machine{state: m.state}
	m.journal, err = journal.Open(ctx, journal.Config{
		FS: m.cfg.FS, Dir: m.cfg.FS.PathJoin(m.cfg.Dir, "journal"), Cluster: id.cluster, Node: m.cfg.Node,
		Machine: m.machine, Log: m.cfg.Log,
	})
	if err != nil {
		return err
	}
	return m.begin(ctx, id)
}

// openDir readies the directory and takes it for this process.
func (m *Master) openDir() (identity, error) {
	fs, dir := m.cfg.FS, m.cfg.Dir
	lock, err := takeDir(fs, dir)
	if err != nil {
		return identity{}, err
	}
	m.lock = lock
	if p, found, err := readSmall(fs, fs.PathJoin(dir, "MEMBERS")); err != nil || found {
		return identity{}, errors.Join(err, &sluice.Error{Kind: sluice.Invalid, Err: fmt.Errorf(
			"%s is the directory of one of several masters: start it with the peers it was made with (%q)", dir, strings.ReplaceAll(p, "\n", "; "))})
	}
	return loadIdentity(fs, dir, func() identity {
		return identity{cluster: fmt.Sprintf("%016x%016x", m.cfg.Rand.Uint64(), m.cfg.Rand.Uint64()), incarnation: m.cfg.Rand.Uint64() | 1}
	})
}

// takeDir makes a master's directory and keeps others off it until the result is closed.
func takeDir(fs vfs.FS, dir string) (io.Closer, error) {
	if err := checkOwner(fs, dir); err != nil {
		return nil, err
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return lockDir(fs, dir)
}

// openState opens the tree where the last flush left it.
func (m *Master) openState() error {
	var err error
	if m.cfg.Memory {
		m.db = keyvalue.OpenMemory()
	} else {
		m.db, err = keyvalue.OpenPebble(keyvalue.PebbleConfig{
			FS: m.cfg.FS, Dir: m.cfg.FS.PathJoin(m.cfg.Dir, "state"), CacheBytes: m.cfg.CacheBytes, Logger: m.cfg.Log,
		})
	}
	if err != nil {
		return err
	}
	m.state, err = namespace.Open(m.db, namespace.Config{})
	return err
}

// begin starts everything that stands on the journal, and makes the first state.
func (m *Master) begin(ctx context.Context, id identity) error {
	boot := m.cfg.Boot
	m.started = boot()
	m.ticker = newTicker(boot, m.lastTick())
	m.batcher = newBatcher(m.ctx, m.send)
	m.fleet = fleet.New(fleet.Config{Boot: boot, Wall: m.cfg.Wall, Log: m.cfg.Log, Timeout: m.cfg.WorkerTimeout}, uint64(m.cfg.Wall().UnixMilli()))
	m.flights = newFlightGroup(m.ctx)
	m.intents = newIntents(m)
	m.reaper = newReaper(m)
	m.mountTable.Store(&mountTable{})
	m.stores = mounts.New(mounts.Config{Registry: m.cfg.Registry, Log: m.cfg.Log, Seed: m.cfg.Rand.Uint64()})
	if err := m.format(ctx, id); err != nil {
		return err
	}
	terms := m.state.Terms()
	m.lease, m.window = terms.Lease, terms.Window
	m.sessions = &sessions{boot: boot, lease: m.lease, live: make(map[sluice.SessionID]*session)}
	quiet := time.Duration(0)
	n, err := m.restoreSessions()
	if err != nil {
		return err
	}
	if n > 0 {
		quiet = m.cfg.NoticeLease
	}
	m.notices = newNotices(boot, m.cfg.NoticeLease, quiet)
	m.refreshMounts()
	m.intents.resume()
	m.wg.Go(m.housekeep)
	m.wg.Go(m.reaper.run)
	return nil
}

// format proposes the first command of a cluster's life.
func (m *Master) format(ctx context.Context, id identity) error {
	if len(m.state.Incarnations()) > 0 {
		return nil
	}
	_, err := m.propose(ctx, &wire.Command{Op: &wire.Command_Format{Format: &wire.Format{
		Cluster: id.cluster, Incarnation: id.incarnation, Owner: m.cfg.Superuser, Group: m.cfg.Group, Mode: 0o755,
		SessionLease: int64(m.cfg.SessionLease), SessionWindow: uint32(m.cfg.SessionWindow),
	}}})
	if err != nil && !errors.Is(err, sluice.Exists) {
		return fmt.Errorf("format: %w", err)
	}
	return nil
}

// send puts commands into one entry and carries it through the journal. Intents that
// begin with it are started whoever waits for them.
func (m *Master) send(ctx context.Context, commands []*wire.Command) ([]*wire.Answer, error) {
	term, _ := m.journal.Leading()
	e := &wire.Entry{
		Format: wire.EntryFormat, Term: uint64(term), Version: wire.ClusterVersion,
		Wall: m.cfg.Wall().UnixNano(), Tick: int64(m.ticker.now()), Commands: commands,
	}
	m.state.Warm(e)
	data, err := e.MarshalVT()
	if err != nil {
		return nil, fmt.Errorf("encode an entry: %w", err)
	}
	m.counters.entries.Add(1)
	m.counters.commands.Add(int64(len(commands)))
	v, err := m.journal.Propose(ctx, data)
	if err != nil {
		return nil, err
	}
	answers, ok := v.([]*wire.Answer)
	if !ok || len(answers) != len(commands) {
		return nil, fmt.Errorf("the state machine answered %d commands with %d answers", len(commands), len(answers))
	}
	for _, a := range answers {
		if a.Intent != 0 {
			m.intents.start(a.Intent)
		}
	}
	return answers, nil
}

// barrier makes the reads that follow linearizable.
func (m *Master) barrier(ctx context.Context) error {
	_, err := m.journal.ReadBarrier(ctx)
	return err
}

// Ready says whether it answers requests; the error says why not.
func (m *Master) Ready() error {
	if m.ctx.Err() != nil {
		return errClosed()
	}
	if term, _ := m.journal.Leading(); term == 0 {
		if err := m.journal.Status().Err; err != nil {
			return &sluice.Error{Kind: sluice.Unavailable, Err: err}
		}
		return &sluice.Error{Kind: sluice.NotPrimary}
	}
	return nil
}

// Identity is what the server says of itself in the handshake.
func (m *Master) Identity() rpc.Identity {
	return rpc.Identity{Cluster: m.cluster, Incarnation: m.incarnation()}
}

// incarnation is the present one.
func (m *Master) incarnation() sluice.Incarnation {
	all := m.state.Incarnations()
	if len(all) == 0 {
		return 0
	}
	return all[len(all)-1]
}

// closeStores is how long Close waits for calls that stores do not end.
const closeStores = 10 * time.Second

// Close ends everything and waits for it. Changes under way end as UnknownOutcome;
// intents go on at the next start.
func (m *Master) Close() error {
	m.closing.Do(func() {
		m.cancel()
		m.closed = sluice.Wrap("close master", "", m.release())
	})
	return m.closed
}

// rest waits for everything in the background, after the context ended.
func (m *Master) rest() {
	m.wg.Wait()
	if m.intents != nil {
		m.intents.wait()
	}
	if m.flights != nil {
		m.flights.wait()
	}
	if m.batcher != nil {
		m.batcher.close()
	}
}

// release lets go of what open has taken, in reverse order, after the context ended.
func (m *Master) release() error {
	var err error
	m.rest()
	if m.journal != nil {
		err = m.journal.Close()
	}
	if m.stores != nil {
		limited, cancel := context.WithTimeout(context.Background(), closeStores)
		err = errors.Join(err, m.stores.Close(limited))
		cancel()
	}
	if m.db != nil {
		err = errors.Join(err, m.db.Close())
	}
	if m.lock != nil {
		err = errors.Join(err, m.lock.Close())
	}
	return err
}

// Stats describes a master at one moment.
type Stats struct {
	Calls      int64 // requests since the start
	Entries    int64 // proposed to the journal; Commands/Entries is the group size
	Commands   int64
	StoreStats int64 // questions to stores about one path
	StoreLists int64 // pages of listings asked of stores
	Sessions   int
	Listeners  int // sessions told of changes
	Tracked    int // files with re-usable grants
	Intents    int // changes of stores under way
	Files      int64
	Journal    journal.Status
	State      keyvalue.Stats
}

// Stats returns counters and gauges.
func (m *Master) Stats() Stats {
	s := Stats{
		Calls: m.counters.calls.Load(), Entries: m.counters.entries.Load(), Commands: m.counters.commands.Load(),
		StoreStats: m.counters.storeStats.Load(), StoreLists: m.counters.storeLists.Load(),
		Sessions: m.sessions.count(), Intents: len(m.intents.list()), Files: m.state.Stats().Files,
		Journal: m.journal.Status(), State: m.db.Stats(),
	}
	s.Listeners, s.Tracked = m.notices.count()
	return s
}

var _ sluice.Master = (*Master)(nil)

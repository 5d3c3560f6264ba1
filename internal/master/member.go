package master

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/journal"
	"github.com/sluicefs/sluice/internal/keyvalue"
	"github.com/sluicefs/sluice/internal/namespace"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// Member is one of several masters. As a standby it keeps up with the journal and names
// the primary to whoever asks; while it is the primary it has a desk, a [Master] that
// lasts for that term.
type Member struct {
	cfg      Config
	lock     io.Closer
	exchange *exchange

	passport    atomic.Pointer[passport]
	incarnation atomic.Uint64
	desk        atomic.Pointer[Master] // nil: this is not the primary
	room        atomic.Pointer[memberRoom]

	requests gate           // at any desk
	after    sync.WaitGroup // what ends after its desk
	closing  sync.Once
	closed   error
}

// memberRoom is the state and the journal, between two checkpoints that arrive.
type memberRoom struct {
	db      keyvalue.DB
	state   *namespace.State
	machine *machine
	journal *journal.Journal
}

// NewMember takes the directory for this process. The result answers requests from then
// on; [Member.Run] makes it one of a cluster. Errors are those of [Open].
func NewMember(cfg Config) (*Member, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if len(cfg.Peers) == 0 {
		return nil, &sluice.Error{Op: "open master", Kind: sluice.Invalid, Err: errors.New("there are no peers: name the masters, this one included")}
	}
	m := &Member{cfg: cfg.filled()}
	if m.cfg.Join {
		m.cfg.Log.Info("this master joins a cluster that is there", "node", m.cfg.Node)
	} else if n := len(m.cfg.Peers); n%2 == 0 {
		m.cfg.Log.Warn("an even number of masters stands no more failures than one less", "masters", n)
	}
	lock, err := takeDir(m.cfg.FS, m.cfg.Dir)
	if err != nil {
		return nil, sluice.Wrap("open master", "", err)
	}
	m.lock = lock
	m.exchange = newExchange(m.cfg)
	return m, nil
}

func (m *Member) setPassport(p passport) { m.passport.Store(&p) }

// Run makes this master one of its cluster, keeps up with the others and serves as the
// primary when it is elected, until ctx ends. Errors: those of [Open]; Invalid and
// Permission where it does not belong to the cluster that the others are of.
func (m *Member) Run(ctx context.Context) error {
	id, err := m.belong(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return sluice.Wrap("open master", "", err)
	}
	m.exchange.cluster.Store(&id.cluster)
	m.incarnation.Store(id.incarnation)
	for ctx.Err() == nil {
		arrived, err := m.live(ctx, id)
		if err != nil {
			return sluice.Wrap("run master", "", err)
		}
		if arrived == nil {
			break
		}
		if err := journal.Replace(m.cfg.FS, m.cfg.Dir, arrived); err != nil {
			return sluice.Wrap("run master", "", err)
		}
	}
	return nil
}

// live opens state and journal and follows the journal to its end. Where that is a
// checkpoint of another master's state, it is returned.
func (m *Member) live(ctx context.Context, id identity) (*journal.Arrived, error) {
	r, err := m.openRoom(ctx, id)
	if err != nil {
		return nil, err
	}
	m.room.Store(r)
	m.exchange.journal.Store(r.journal)
	for ctx.Err() == nil && r.journal.Status().Err == nil {
		term, changed := r.journal.Leading()
		if term != 0 {
			m.reign(ctx, id, r, term)
		}
		select {
		case <-changed:
		case <-r.journal.Done():
		case <-ctx.Done():
		}
	}
	m.exchange.journal.Store(nil)
	m.room.Store(nil)
	m.requests.drain() // they read the state
	cause := r.journal.Status().Err
	err = errors.Join(r.journal.Close(), r.db.Close())
	if arrived, ok := errors.AsType[*journal.Arrived](cause); ok {
		return arrived, err
	}
	return nil, errors.Join(cause, err)
}

// openRoom opens the state where the last flush, or a checkpoint, left it, and the
// journal.
func (m *Member) openRoom(ctx context.Context, id identity) (*memberRoom, error) {
	fs := m.cfg.FS
	place, err := journal.FindPlace(fs, m.cfg.Dir)
	if err != nil {
		return nil, err
	}
	r := &memberRoom{}
	r.db, err = keyvalue.OpenPebble(keyvalue.PebbleConfig{FS: fs, Dir: place.Dir, CacheBytes: m.cfg.CacheBytes, Logger: m.cfg.Log})
	if err != nil {
		return nil, err
	}
	if r.state, err = namespace.Open(r.db, namespace.Config{}); err != nil {
		return nil, errors.Join(err, r.db.Close())
	}
	r.machine = &machine{state: r.state, db: r.db, fs: fs}
	cfg := journal.Config{
		FS: fs, Dir: fs.PathJoin(m.cfg.Dir, "journal"), Cluster: id.cluster, Node: m.cfg.Node, Address: m.cfg.Address, Machine: r.machine,
		Log: m.cfg.Log, Transport: m.exchange, Boot: m.cfg.Boot, Origin: place.Origin, Tick: m.cfg.Tick,
	}
	if p := m.passport.Load(); p != nil {
		cfg.Members, cfg.Floor = parsePeers(p.peers), p.floor
	}
	if m.cfg.tuneJournal != nil {
		m.cfg.tuneJournal(&cfg)
	}
	if r.journal, err = journal.Open(ctx, cfg); err != nil {
		return nil, errors.Join(err, r.db.Close())
	}
	return r, nil
}

// reign is the primary for as long as the journal says so.
func (m *Member) reign(ctx context.Context, id identity, r *memberRoom, term sluice.Term) {
	d := &Master{cfg: m.cfg, cluster: id.cluster, db: r.db, state: r.state, machine: r.machine, journal: r.journal, member: m}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	var watch sync.WaitGroup
	watch.Go(func() { d.untilDeposed(ctx, term) })
	err := d.begin(d.ctx, id)
	if err == nil {
		m.cfg.Log.Info("this master is the primary", "node", m.cfg.Node, "term", uint64(term))
		m.desk.Store(d)
		<-d.ctx.Done()
		m.desk.Store(nil)
		m.cfg.Log.Info("this master is not the primary any more", "node", m.cfg.Node, "term", uint64(term))
	} else if d.ctx.Err() == nil {
		m.cfg.Log.Error("this master was elected and cannot serve; another should", "cause", err)
		m.StepDown(ctx)
		sleep(ctx, stepDownWait) // where nobody else can, it is tried again
	}
	d.cancel()
	watch.Wait()
	m.requests.drain() // each ends with the context
	d.rest()
	if d.stores != nil {
		m.after.Go(func() {
			limited, cancel := context.WithTimeout(context.Background(), closeStores)
			defer cancel()
			if err := d.stores.Close(limited); err != nil {
				m.cfg.Log.Warn("stores of an earlier term are still at work", "cause", err)
			}
		})
	}
}

// untilDeposed ends the desk's context when the journal does not lead in its term any
// more, or ctx ends.
func (d *Master) untilDeposed(ctx context.Context, term sluice.Term) {
	defer d.cancel()
	for {
		now, changed := d.journal.Leading()
		if now != term {
			return
		}
		select {
		case <-changed:
		case <-d.journal.Done():
			return
		case <-ctx.Done():
			return
		case <-d.ctx.Done():
			return
		}
	}
}

// stepDownWait is how long another master gets to take the primary's place.
const stepDownWait = time.Second

// StepDown hands the place of the primary on, if this is the primary and another can
// take it: before a planned stop.
func (m *Member) StepDown(ctx context.Context) {
	r := m.room.Load()
	if r == nil {
		return
	}
	if term, _ := r.journal.Leading(); term == 0 {
		return
	}
	limited, cancel := context.WithTimeout(ctx, stepDownWait)
	defer cancel()
	if err := r.journal.Transfer(limited, 0); err != nil {
		m.cfg.Log.Info("no other master took the primary's place", "cause", err)
	}
}

// Close lets go of the directory, after Run has returned.
func (m *Member) Close() error {
	m.closing.Do(func() {
		err := m.exchange.close()
		m.after.Wait()
		m.closed = sluice.Wrap("close master", "", errors.Join(err, m.lock.Close()))
	})
	return m.closed
}

// Identity is what the server says of itself in the handshake.
func (m *Member) Identity() rpc.Identity {
	id := rpc.Identity{Cluster: m.exchange.of()}
	if d := m.desk.Load(); d != nil {
		id.Incarnation = d.incarnation()
	}
	return id
}

// Inline says which methods never wait, for rpc.ServerConfig.
func (m *Member) Inline(method rpc.Method) bool {
	return method == wire.MethodPing || method == wire.MethodPeerPackets
}

// Ready says whether it is the primary, or knows of one; the error says why not.
func (m *Member) Ready() error {
	if d := m.desk.Load(); d != nil {
		return d.Ready()
	}
	r := m.room.Load()
	if r == nil {
		return errStarting()
	}
	if st := r.journal.Status(); st.Leader == 0 {
		return &sluice.Error{Kind: sluice.Unavailable, Err: errors.Join(errors.New("there is no primary"), st.Err)}
	}
	return nil
}

// Stats describes a member at one moment. Of a standby only journal and state are known.
func (m *Member) Stats() Stats {
	if d := m.desk.Load(); d != nil {
		return d.Stats()
	}
	if !m.requests.enter() {
		return Stats{}
	}
	defer m.requests.leave()
	r := m.room.Load()
	if r == nil {
		return Stats{}
	}
	return Stats{Files: r.state.Stats().Files, Journal: r.journal.Status(), State: r.db.Stats()}
}

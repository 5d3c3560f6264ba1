package master

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/auth"
	"github.com/sluicefs/sluice/internal/journal"
	"github.com/sluicefs/sluice/underfs"
)

// The defaults of [Config].
const (
	DefaultSessionLease  = 30 * time.Second
	DefaultSessionWindow = 1024
	DefaultGrantLife     = time.Hour
	DefaultNoticeLease   = 5 * time.Second
	DefaultAttempt       = 30 * time.Second
	DefaultFreshness     = time.Minute
	DefaultMountTimeout  = 30 * time.Second
)

// Config says where a master lies and how it behaves. Dir, Registry, Keys and
// Superuser must be set.
type Config struct {
	FS        vfs.FS // nil is the disk
	Dir       string // made if absent; belongs to this master alone
	Memory    bool   // keep the state in memory; the journal in Dir still holds everything
	Cluster   string // a name for people, shown in reports; the id is drawn at the first start
	Name      string // of this master, for reports
	Address   string // where it can be reached, for reports
	Node      uint64 // of this master among the masters; 0 is 1
	Registry  *underfs.Registry
	Keys      *auth.Keyring
	Superuser string               // owner of the root directory
	Group     string               // of the root directory; "" is the superuser's name
	Wall      func() time.Time     // shown to users; nil is time.Now
	Boot      func() time.Duration // never jumps, counts while asleep; nil is the host's
	Rand      *rand.Rand           // ids and spread; nil is seeded by the runtime. Used under a lock
	Log       *slog.Logger         // nil is silence
	Version   string               // of the program, for reports
	Warnings  func() []string      // what an operator should see in every report; may be nil

	// Several masters ([NewMember]); [Open] ignores these.
	Peers []journal.Member                                                  // all of them, this one included; with Join, those that are there
	Join  bool                                                              // come into a cluster that is there, after having been added
	Dial  func(ctx context.Context, network, addr string) (net.Conn, error) // nil is net.Dialer
	TLS   *tls.Config                                                       // towards the other masters; nil is plain TCP
	Tick  time.Duration                                                     // of elections, which take 10 to 20; 0 is 100 ms

	tuneJournal func(*journal.Config) // by tests; may be nil

	CacheBytes    int64         // memory of the state's tables; 0 is the store's default
	SessionLease  time.Duration // of a new cluster; 0 is 30 s
	SessionWindow int           // remembered answers of a session, in a new cluster; 0 is 1,024
	GrantLife     time.Duration // of a capability; 0 is 1 h
	NoticeLease   time.Duration // how long grants may be re-used without word from us; 0 is 5 s, at most that; 2 s with Peers
	Attempt       time.Duration // how long a worker may work on one order; 0 is 30 s
	WorkerTimeout time.Duration // a worker not heard of for so long is gone; 0 is 10 s
	Background    time.Duration // between rounds of housekeeping; 0 is 1 s
}

// Validate says what is wrong, with kind Invalid.
func (c Config) Validate() error {
	var err error
	switch {
	case c.Dir == "":
		err = errors.New("the master's directory is empty: name one that it has to itself")
	case c.Registry == nil:
		err = errors.New("there are no drivers: give a registry of stores")
	case c.Keys == nil:
		err = errors.New("there is no cluster key: load or create a key file")
	case c.Superuser == "":
		err = errors.New("there is no superuser: name the owner of the root directory")
	case len(c.Peers) > 0 && (c.Node == 0 || c.Address == ""):
		err = errors.New("one of several masters needs its id and the address at which the others reach it")
	case len(c.Peers) > 0 && !c.Join && !slices.Contains(c.Peers, journal.Member{Node: c.Node, Address: c.Address}):
		err = fmt.Errorf("master %d at %s is not among the peers", c.Node, c.Address)
	case samePeers(c.Peers):
		err = errors.New("two of the peers have the same id or address")
	case c.NoticeLease < 0 || c.NoticeLease > DefaultNoticeLease:
		err = fmt.Errorf("a notice lease of %v: give at most %v, or 0 for that", c.NoticeLease, DefaultNoticeLease)
	case c.SessionLease < 0 || c.SessionWindow < 0 || c.GrantLife < 0 || c.Attempt < 0 || c.WorkerTimeout < 0 || c.Background < 0 || c.CacheBytes < 0:
		err = errors.New("a bound is negative: give a positive one, or 0 for its default")
	}
	if err != nil {
		return &sluice.Error{Op: "open master", Kind: sluice.Invalid, Err: err}
	}
	return nil
}

// samePeers says whether two have an id or address in common.
func samePeers(peers []journal.Member) bool {
	for i, a := range peers {
		for _, b := range peers[:i] {
			if a.Node == b.Node || a.Address == b.Address {
				return true
			}
		}
	}
	return false
}

// filled returns c with its defaults in place.
func (c Config) filled() Config {
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Wall == nil {
		c.Wall = time.Now
	}
	if c.Boot == nil {
		c.Boot = bootClock()
	}
	if c.Rand == nil {
		c.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if c.Warnings == nil {
		c.Warnings = func() []string { return nil }
	}
	c.Node = cmp.Or(c.Node, 1)
	c.Cluster = cmp.Or(c.Cluster, "sluice")
	c.Name = cmp.Or(c.Name, fmt.Sprintf("master-%d", c.Node))
	c.Group = cmp.Or(c.Group, c.Superuser)
	c.SessionLease = cmp.Or(c.SessionLease, DefaultSessionLease)
	c.SessionWindow = cmp.Or(c.SessionWindow, DefaultSessionWindow)
	c.GrantLife = cmp.Or(c.GrantLife, DefaultGrantLife)
	if len(c.Peers) > 0 { // a new primary waits it out before it answers changes
		c.NoticeLease = cmp.Or(c.NoticeLease, DefaultNoticeLease*2/5)
	}
	c.NoticeLease = cmp.Or(c.NoticeLease, DefaultNoticeLease)
	c.Attempt = cmp.Or(c.Attempt, DefaultAttempt)
	c.Background = cmp.Or(c.Background, time.Second)
	return c
}

// MaxMessage is the largest request or answer a master needs to carry, in bytes.
const MaxMessage = 8 << 20

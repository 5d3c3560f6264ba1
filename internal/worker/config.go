package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/auth"
	"github.com/sluicefs/sluice/internal/blockstore"
	"github.com/sluicefs/sluice/internal/policy"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/underfs/mounts"
)

// The defaults of [Config].
const (
	DefaultMemoryPool = 256 << 20
	DefaultInterval   = time.Second
	DefaultUploads    = 1024
	DefaultIdle       = 5 * time.Minute
	// DefaultDescriptors is above what a client keeps by default, with what it has let
	// go of and not said yet.
	DefaultDescriptors = 4096
)

// MinMemoryPool is the least memory a worker runs with, in bytes.
const MinMemoryPool = 8 << 20

// Config says what a worker is made of. Store, Stores, Masters and Keys must be given.
type Config struct {
	Store  *blockstore.Store // the blocks; closed by whoever opened it, after Run has returned
	Stores *mounts.Table     // the under stores; the worker keeps it as the masters say
	// Masters returns the addresses of the masters, host:port or unix:/path. Asked again
	// whenever none of those known answers.
	Masters func(ctx context.Context) ([]string, error)
	// RPC is how masters are called. Its role and worker id are set here, and the
	// cluster key where it has no credential.
	RPC  rpc.ClientConfig
	Keys *auth.Keyring     // verifies grants
	Info sluice.WorkerInfo // what the masters are told; ID is that of Store where it is 0

	MemoryPool int64                 // bytes of buffers for fetching and uploading; 0 is 256 MiB
	Uploads    int                   // contents being written at once; 0 is 1,024
	Idle       time.Duration         // an unsealed content nobody writes to is dropped; 0 is 5 min
	Interval   time.Duration         // between heartbeats; 0 is 1 s or what the master says
	Prefetch   policy.PrefetchConfig // reading ahead
	// Descriptors bounds the block files that one client on this host may hold open;
	// beyond it blocks are sent to it. 0 is 4,096.
	Descriptors int

	Log  *slog.Logger         // nil discards
	Rand *rand.Rand           // used before Run only; nil is a source seeded by the system
	Wall func() time.Time     // nil is time.Now
	Boot func() time.Duration // a clock that never jumps and counts while asleep; nil is the system's
}

// Validate says what to change.
func (c *Config) Validate() error {
	switch {
	case c.Store == nil:
		return errors.New("no block store: open one and pass it")
	case c.Stores == nil:
		return errors.New("no table of mounts: make one with the drivers and pass it")
	case c.Masters == nil:
		return errors.New("no masters: give their addresses")
	case c.Keys == nil:
		return errors.New("no cluster key: a worker verifies grants with it")
	case c.MemoryPool != 0 && c.MemoryPool < MinMemoryPool:
		return fmt.Errorf("a memory pool of %d bytes: give at least %d", c.MemoryPool, MinMemoryPool)
	case c.Uploads < 0 || c.Idle < 0 || c.Interval < 0 || c.Descriptors < 0:
		return errors.New("a limit or time is negative: use 0 for the default")
	}
	return c.Prefetch.Validate()
}

// withDefaults returns c with the defaults filled in.
func (c Config) withDefaults() Config {
	c.MemoryPool = cmp.Or(c.MemoryPool, DefaultMemoryPool)
	c.Uploads = cmp.Or(c.Uploads, DefaultUploads)
	c.Idle = cmp.Or(c.Idle, DefaultIdle)
	c.Interval = cmp.Or(c.Interval, DefaultInterval)
	c.Descriptors = cmp.Or(c.Descriptors, DefaultDescriptors)
	c.Info.ID = cmp.Or(c.Info.ID, c.Store.Worker())
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Rand == nil {
		c.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if c.Wall == nil {
		c.Wall = time.Now
	}
	if c.Boot == nil {
		c.Boot = bootTime
	}
	c.RPC.Credential.Role = rpc.RoleWorker
	c.RPC.Credential.Worker = c.Info.ID
	if c.RPC.Credential.Keys == nil && c.RPC.Credential.Token == "" {
		c.RPC.Credential.Keys = c.Keys
	}
	if c.RPC.Log == nil {
		c.RPC.Log = c.Log
	}
	return c
}

// bootTime is the host's clock that counts while asleep.
func bootTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("worker: no boot-time clock: " + err.Error())
	}
	return time.Duration(t.Nano())
}

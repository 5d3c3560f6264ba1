package client

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// Client is a file system made of a master and many workers. Any number of goroutines
// may use it at once. It also implements [sluice.Cacher], [sluice.Locator],
// [sluice.Watcher] and [sluice.Admin].
type Client struct {
	*core
	as  *wire.Principal // whom requests name; nil: whom the credential stands for
	who string          // as, in a form that compares
}

var (
	_ sluice.FS      = (*Client)(nil)
	_ sluice.Cacher  = (*Client)(nil)
	_ sluice.Locator = (*Client)(nil)
	_ sluice.Watcher = (*Client)(nil)
	_ sluice.Admin   = (*Client)(nil)

	_ sluice.MasterAdmin = (*Client)(nil)
)

// core is what all views of one client share.
type core struct {
	cfg      Config
	log      *slog.Logger
	dice     *dice
	masters  *masters
	sessions *sessions
	workers  *workers
	grants   *grants
	locals   *locals
	ahead    *buffers // read-ahead and loading
	idle     *idle    // pieces read ahead
	writes   *buffers // content on its way to workers
	small    *buffers // the beginnings of files being written
	stores   *stores
	watchers *watchers

	verifying atomic.Bool // a block is being verified in the background

	alive context.Context // ends when Close begins; background work derives from it
	end   context.CancelFunc
	work  sync.WaitGroup // background goroutines

	mu   sync.Mutex
	over bool // guarded by mu: Close was called
}

// New returns a client. It connects when it is first needed.
func New(ctx context.Context, cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, &sluice.Error{Op: "configure client", Kind: sluice.Invalid, Err: err}
	}
	cfg = cfg.withDefaults()
	c := &core{cfg: cfg, log: cfg.Log, dice: &dice{rand: rand.New(cfg.Rand)}}
	c.alive, c.end = context.WithCancel(context.WithoutCancel(ctx))
	c.masters = newMasters(cfg, c.dice, c.background)
	c.workers = newWorkers(c)
	c.grants = newGrants(cfg.Grants)
	c.locals = newLocals(cfg.Descriptors, max(4<<20, cfg.Memory/4))
	c.ahead = newBuffers(pieceSize, cfg.Memory/2)
	c.idle = &idle{}
	c.writes = newBuffers(pieceSize, cfg.Memory*3/8)
	c.small = newBuffers(smallSize, cfg.Memory/8)
	c.stores = newStores(cfg)
	c.watchers = &watchers{}
	c.sessions = newSessions(c)
	return &Client{core: c}, nil
}

// Close ends the session (open writers of it are abandoned), every connection and every
// open block file. Operations under way and later ones fail with kind Unavailable. It
// waits for everything that the client started; ctx bounds only the farewell to the
// master. The client and everything As made of it are over.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	over := c.over
	c.over = true
	c.mu.Unlock()
	if over {
		return nil
	}
	err := c.sessions.close(ctx)
	c.end()
	c.workers.close()
	c.masters.close()
	c.work.Wait()
	c.locals.close()
	return sluice.Wrap("close client", "", errors.Join(err, c.stores.close(ctx)))
}

// As implements [sluice.FS]. What it returns is a *Client.
func (c *Client) As(p sluice.Principal) sluice.FS {
	who := p.User + "\x00" + strings.Join(p.Groups, "\x00")
	if p.Super {
		who += "\x00\x00"
	}
	return &Client{core: c.core, as: wire.FromPrincipal(p), who: who}
}

// background runs f in a goroutine that Close waits for. ctx ends when Close begins.
// It does nothing after Close, and says whether it did.
func (c *core) background(f func(ctx context.Context)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false
	}
	c.work.Go(func() { f(c.alive) })
	return true
}

// dice is the client's source of chance, for many goroutines.
type dice struct {
	mu   sync.Mutex
	rand *rand.Rand // guarded by mu
}

func (d *dice) uint64() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rand.Uint64()
}

// jitter returns between half of t and t.
func (d *dice) jitter(t time.Duration) time.Duration {
	if t <= 1 {
		return t
	}
	return t/2 + time.Duration(d.uint64()%uint64(t/2+1))
}

// sleep waits for t or the end of ctx, which it returns as an error.
func sleep(ctx context.Context, t time.Duration) error {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

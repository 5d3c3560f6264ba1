package client

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
	"strings"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/auth"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/underfs"
)

// Config configures a [Client]. Only Masters must be set.
type Config struct {
	// Masters finds the masters, each as "host:port" or "unix:/path". It is asked again
	// whenever none of those known answers. [Static] makes one from a list.
	Masters func(ctx context.Context) ([]string, error)

	Token   string        // proves who the caller is; "" means the uid on a unix socket
	User    string        // the name given where nothing is proved
	Keys    *auth.Keyring // the cluster key, for clients inside a server; it comes before Token
	Cluster string        // the cluster's id expected; "" means any
	// Dial opens connections, network being "unix" or "tcp"; nil means net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	TLS  *tls.Config // for addresses, never for sockets; nil means plain TCP

	// Stores opens under stores for reads that no worker can serve, of mounts that allow
	// it ([sluice.MountOptions].Direct). nil: such reads fail with kind Unavailable.
	Stores *underfs.Registry
	// Secrets are this process's own settings for the store of a mount: what masters and
	// workers have never leaves them. nil: the driver looks in the environment.
	Secrets func(sluice.Mount) sluice.Secrets

	// Memory bounds the bytes in buffers, half for reading ahead and half for writing.
	// Default 24 MiB, at least 4 MiB.
	Memory int64
	// Descriptors bounds the block files kept open for reading. Default 2,048.
	Descriptors int
	// Grants bounds the files remembered so that opening them again takes no trip to the
	// master. Default 16,384.
	Grants int
	// Retry is how long a request is repeated while masters or workers do not answer,
	// unless its context ends before. Default 30 s.
	Retry time.Duration
	// Spread writes each file to the worker its first block belongs to, even where a
	// worker on this host could take it.
	Spread bool

	Rand rand.Source  // chooses session ids and jitter; nil means a random seed
	Log  *slog.Logger // nil means none
}

const (
	defaultMemory      = 24 << 20
	leastMemory        = 4 << 20
	defaultDescriptors = 2048
	defaultGrants      = 16384
	defaultRetry       = 30 * time.Second
)

// Static returns a list that never changes, for Config.Masters.
func Static(masters ...string) func(context.Context) ([]string, error) {
	masters = slices.Clone(masters)
	return func(context.Context) ([]string, error) { return masters, nil }
}

// Validate says what to change.
func (c Config) Validate() error {
	switch {
	case c.Masters == nil:
		return errors.New("no masters: name at least one, as host:port or unix:/path")
	case c.Memory != 0 && c.Memory < leastMemory:
		return fmt.Errorf("memory of %d bytes is too little: give at least %d, or 0 for the default", c.Memory, leastMemory)
	case c.Descriptors < 0:
		return errors.New("descriptors is negative: set it to 0 for the default")
	case c.Grants < 0:
		return errors.New("grants is negative: set it to 0 for the default")
	case c.Retry < 0:
		return errors.New("retry is negative: set it to 0 for the default")
	}
	return nil
}

func (c Config) withDefaults() Config {
	c.Memory = cmp.Or(c.Memory, defaultMemory)
	c.Descriptors = cmp.Or(c.Descriptors, defaultDescriptors)
	c.Grants = cmp.Or(c.Grants, defaultGrants)
	c.Retry = cmp.Or(c.Retry, defaultRetry)
	if c.Rand == nil {
		c.Rand = rand.NewPCG(rand.Uint64(), rand.Uint64())
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// rpcConfig returns how connections of this client are made.
func (c Config) rpcConfig() rpc.ClientConfig {
	return rpc.ClientConfig{
		Dial: c.Dial, Cluster: c.Cluster, TLS: c.TLS, Log: c.Log,
		Credential: rpc.Credential{Role: rpc.RoleClient, Keys: c.Keys, Token: c.Token, User: c.User},
	}
}

// target reads a master's address.
func target(addr string) rpc.Target {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return rpc.Target{Socket: path}
	}
	return rpc.Target{Address: addr}
}

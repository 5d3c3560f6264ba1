package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/auth"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/web"
)

// grace is how long a server that is told to stop lets requests finish.
const grace = 3 * time.Second

// host is what every server process has: settings, log, key, listeners and an end.
type host struct {
	cfg  config
	log  *slog.Logger
	out  io.Writer
	keys *auth.Keyring

	tmpfs []string // what this process's worker mounted, or found mounted

	serving sync.WaitGroup
	stops   []func(context.Context) error // in order of start
	failed  chan error                    // the first failure of a listener or background loop
}

// host reads the settings and prepares the data directory.
func (p *program) host(makeKey bool) (*host, error) {
	h, err := p.hostWithoutKey()
	if err != nil {
		return nil, err
	}
	cfg := h.cfg
	if err := os.MkdirAll(filepath.Join(cfg.Data, "run"), 0o711); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if makeKey {
		h.keys, err = auth.LoadOrCreateKeyring(cfg.keyFile(), rand.Reader)
	} else {
		h.keys, err = auth.LoadKeyring(cfg.keyFile(), rand.Reader)
	}
	if errors.Is(err, sluice.NotFound) {
		return nil, fmt.Errorf("%w: start the master first, or copy its key file here", err)
	}
	return h, err
}

// hostWithoutKey reads the settings and touches nothing.
func (p *program) hostWithoutKey() (*host, error) {
	cfg, err := p.read()
	if err != nil {
		return nil, err
	}
	return &host{cfg: cfg, log: logger(cfg.Log, p.err), out: p.out, failed: make(chan error, 1)}, nil
}

// logger writes to w as the settings say.
func logger(c logConfig, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo // validate has refused it before
	}
	opts := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// onStop runs do when the process is told to stop, last registered first.
func (h *host) onStop(do func(context.Context) error) { h.stops = append(h.stops, do) }

// serve runs do until it ends; an error ends the process.
func (h *host) serve(do func() error) {
	h.serving.Go(func() {
		if err := do(); err != nil {
			select {
			case h.failed <- err:
			default:
			}
		}
	})
}

// listenRPC answers on the role's unix socket and, if given, on an address.
func (h *host) listenRPC(role string, address string, sc rpc.ServerConfig, handler rpc.Handler) error {
	var err error
	if sc.TLS, sc.TrustedNetworks, err = h.transport(); err != nil {
		return err
	}
	sc.Keys, sc.Plaintext, sc.Log = h.keys, h.cfg.Auth.Plaintext, h.log.With("part", role+"-rpc")
	listeners, err := h.listeners(role, address)
	if err != nil {
		return err
	}
	if address != "" {
		if err := sc.Validate(address); err != nil {
			return fmt.Errorf("%s.listen: %w", role, err)
		}
	}
	server := rpc.NewServer(sc, handler)
	for _, l := range listeners {
		h.serve(func() error { return server.Serve(l) })
	}
	h.onStop(server.Shutdown)
	return nil
}

// transport returns what listeners beyond loopback need.
func (h *host) transport() (server *tls.Config, trusted []netip.Prefix, err error) {
	a := h.cfg.Auth
	for _, s := range a.Trusted {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, nil, fmt.Errorf("auth.trusted: %q is not a network such as 10.1.0.0/16", s)
		}
		trusted = append(trusted, p)
	}
	if a.Cert == "" {
		return nil, trusted, nil
	}
	server, err = auth.TLSFiles{Cert: a.Cert, Key: a.Key, CA: a.CA}.Server()
	return server, trusted, err
}

// listeners opens the unix socket of a role and the address, if any.
func (h *host) listeners(role, address string) ([]net.Listener, error) {
	socket := h.cfg.socket(role)
	if c, err := net.DialTimeout("unix", socket, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("a %s already serves %s; stop it first, or choose another --set data=DIR", role, socket)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	// Everybody may connect: the handshake asks the kernel who it is.
	if err := os.Chmod(socket, 0o666); err != nil {
		return nil, err
	}
	if address == "" {
		return []net.Listener{l}, nil
	}
	t, err := net.Listen("tcp", address)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("%s.listen: %w", role, err)
	}
	return []net.Listener{l, t}, nil
}

// listenHTTP serves metrics and health at the address of a role's setting, and returns
// the address it got, "" for none. Beyond loopback only the trusted networks are served.
func (h *host) listenHTTP(role, address string, collect func() []web.Metric, ready func() error) (string, error) {
	if address == "" {
		return "", nil
	}
	_, trusted, err := h.transport()
	if err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", fmt.Errorf("%s.http, the address of metrics and health: %w; choose another with --set %s.http=HOST:PORT", role, err, role)
	}
	if !l.Addr().(*net.TCPAddr).IP.IsLoopback() && len(trusted) == 0 {
		l.Close()
		return "", fmt.Errorf("%s.http: %s can be reached from other machines and asks nobody who they are: name the networks that may read metrics in auth.trusted, or listen on 127.0.0.1", role, address)
	}
	s := web.New(web.Config{Collect: collect, Ready: ready, Trusted: trusted, Log: h.log})
	h.serve(func() error { return s.Serve(l) })
	h.onStop(s.Shutdown)
	return l.Addr().String(), nil
}

// wait blocks until ctx ends or something fails, then stops everything, last started
// first, within the grace time.
func (h *host) wait(ctx context.Context) error {
	var err error
	select {
	case <-ctx.Done():
	case err = <-h.failed:
	}
	return errors.Join(err, h.stop())
}

// stop ends everything that was started.
func (h *host) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	var all []error
	for i := len(h.stops) - 1; i >= 0; i-- {
		if err := h.stops[i](ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			all = append(all, err)
		}
	}
	h.stops = nil
	h.serving.Wait()
	return errors.Join(all...)
}

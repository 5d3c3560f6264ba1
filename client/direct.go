package client

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// stores are the under stores that this process reads itself.
type stores struct {
	registry *underfs.Registry
	secrets  func(sluice.Mount) sluice.Secrets

	mu   sync.Mutex
	open map[sluice.MountID]*store // guarded by mu
	over bool                      // guarded by mu
}

// store is one of them, or the reason why it is none.
type store struct {
	once  sync.Once
	store underfs.Store
	err   error
}

func newStores(cfg Config) *stores {
	return &stores{registry: cfg.Stores, secrets: cfg.Secrets, open: map[sluice.MountID]*store{}}
}

// maxStores bounds the stores kept open.
const maxStores = 64

// readDirect fills p from byte off of the file out of its under store, of exactly the
// version that was opened. It fails where the mount or the configuration forbids it.
func (h *handle) readDirect(ctx context.Context, o *opened, p []byte, off int64) error {
	if h.c.stores.registry == nil || o.info.Mount == 0 || o.info.Key == "" || o.info.Persistence != sluice.Persisted {
		return &sluice.Error{Kind: sluice.Unavailable}
	}
	s, err := h.c.store(ctx, o.info.Mount)
	if err != nil {
		return err
	}
	body, err := s.Read(ctx, underfs.ReadRequest{Key: underfs.Key(o.info.Key), Version: o.info.Store, Offset: off, Length: int64(len(p))})
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.ReadFull(body, p); err != nil {
		return err
	}
	// The bytes count only once the body has ended: that confirms their version.
	var one [1]byte
	for {
		n, err := body.Read(one[:])
		switch {
		case n > 0:
			return &sluice.Error{Kind: sluice.Internal, Err: errors.New("the store sent more than was asked for")}
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// store returns the store of a mount that may be read directly.
func (c *Client) store(ctx context.Context, id sluice.MountID) (underfs.Store, error) {
	st := c.stores
	st.mu.Lock()
	s := st.open[id]
	if s == nil && !st.over && len(st.open) < maxStores {
		s = &store{}
		st.open[id] = s
	}
	st.mu.Unlock()
	if s == nil {
		return nil, &sluice.Error{Kind: sluice.Unavailable}
	}
	s.once.Do(func() { s.store, s.err = c.openStore(ctx, id) })
	if s.err != nil && !errors.Is(s.err, sluice.Permission) {
		st.drop(id, s) // another try may go better
	}
	return s.store, s.err
}

func (c *Client) openStore(ctx context.Context, id sluice.MountID) (underfs.Store, error) {
	mounts, err := c.Mounts(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		if m.ID != id {
			continue
		}
		if !m.Options.Direct {
			break
		}
		cfg := underfs.Config{URI: m.URI, Properties: m.Options.Properties, Options: m.Options}
		if c.stores.secrets != nil {
			cfg.Secrets = c.stores.secrets(m.Mount)
		}
		return c.stores.registry.Open(cfg)
	}
	return nil, &sluice.Error{Kind: sluice.Permission, Err: errors.New("the mount does not let clients read its store")}
}

func (st *stores) drop(id sluice.MountID, s *store) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.open[id] == s {
		delete(st.open, id)
	}
}

// forget lets go of all stores, as after a change of the mounts.
func (st *stores) forget() {
	st.mu.Lock()
	open := st.open
	st.open = map[sluice.MountID]*store{}
	st.mu.Unlock()
	for _, s := range open {
		s.once.Do(func() { s.err = errOver })
		if s.store != nil {
			s.store.Close()
		}
	}
}

func (st *stores) close() {
	st.mu.Lock()
	st.over = true
	st.mu.Unlock()
	st.forget()
}

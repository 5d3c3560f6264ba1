package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/mounts"
)

// stores are the under stores that this process reads itself, each behind its own
// deadline, bound of calls at once and breaker.
type stores struct {
	table   *mounts.Table // nil: none is read
	secrets func(sluice.Mount) sluice.Secrets
	asking  chan struct{}                 // holds one element while the mounts are asked for
	rows    map[sluice.MountID]mounts.Row // used while asking; those that may be read
	epochs  uint64                        // used while asking; counts the settings seen

	mu sync.Mutex
	at time.Time // guarded by mu: when the mounts were asked for; zero: they are to be
}

func newStores(cfg Config) *stores {
	st := &stores{secrets: cfg.Secrets, asking: make(chan struct{}, 1)}
	if cfg.Stores != nil {
		st.table = mounts.New(mounts.Config{Registry: cfg.Stores, Log: cfg.Log})
	}
	return st
}

// mountsFor is how long what is known of the mounts serves before they are asked for again:
// so long a store is read after its mount ceased to allow it.
const mountsFor = 10 * time.Second

// readDirect fills p from byte off of the file out of its under store, of exactly the
// version that was opened. It fails where the mount or the configuration forbids it. Kind
// Changed: the store has not that version under that key.
func (h *handle) readDirect(ctx context.Context, o *opened, p []byte, off int64) error {
	if h.c.stores.table == nil || o.info.Mount == 0 || o.info.Key == "" || o.info.Persistence != sluice.Persisted {
		return &sluice.Error{Kind: sluice.Unavailable}
	}
	s, err := h.c.store(ctx, o.info.Mount)
	if err != nil {
		return err
	}
	defer s.Release()
	err = readWhole(ctx, s, underfs.ReadRequest{Key: underfs.Key(o.info.Key), Version: o.info.Store, Offset: off, Length: int64(len(p))}, p)
	if errors.Is(err, sluice.NotFound) {
		return &sluice.Error{Kind: sluice.Changed, Err: fmt.Errorf("the object is no longer in the store: %w", err)}
	}
	return err
}

// readWhole fills p. The bytes count only once the body has ended: that confirms their
// version.
func readWhole(ctx context.Context, s underfs.Store, q underfs.ReadRequest, p []byte) error {
	body, err := s.Read(ctx, q)
	if err != nil {
		return err
	}
	defer body.Close()
	if n, err := io.ReadFull(body, p); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &sluice.Error{Kind: sluice.Changed, Err: fmt.Errorf("the store gave %d bytes less of the object than it has", len(p)-n)}
	} else if err != nil {
		return err
	}
	var one [1]byte
	switch n, err := io.ReadFull(body, one[:]); {
	case n > 0:
		return &sluice.Error{Kind: sluice.Internal, Err: errors.New("the store sent more than was asked for")}
	case err != io.EOF:
		return err
	}
	return nil
}

// store returns the store of a mount that may be read directly, to be released.
func (c *Client) store(ctx context.Context, id sluice.MountID) (*mounts.Store, error) {
	if err := c.stores.learn(ctx, c); err != nil {
		return nil, err
	}
	s, err := c.stores.table.Acquire(id)
	if errors.Is(err, sluice.NotFound) {
		return nil, &sluice.Error{Kind: sluice.Permission, Err: errors.New("the mount does not let clients read its store")}
	}
	return s, err
}

// learn asks the master for the mounts unless it did lately. What was known stays good
// while no master answers.
func (st *stores) learn(ctx context.Context, c *Client) error {
	select {
	case st.asking <- struct{}{}:
	case <-ctx.Done():
		return &sluice.Error{Kind: sluice.KindOf(ctx.Err()), Err: ctx.Err()}
	}
	defer func() { <-st.asking }()
	now := time.Now()
	st.mu.Lock()
	fresh := !st.at.IsZero() && now.Sub(st.at) < mountsFor
	st.mu.Unlock()
	if fresh {
		return nil
	}
	all, err := c.Mounts(ctx)
	if err != nil {
		if st.rows != nil && sluice.KindOf(err).Retriable() {
			return nil
		}
		return err
	}
	rows := make(map[sluice.MountID]mounts.Row, len(all))
	var list []mounts.Row
	for _, m := range all {
		if m.Options.Direct {
			rows[m.ID] = st.row(m.Mount)
			list = append(list, rows[m.ID])
		}
	}
	st.rows = rows
	st.table.Update(list)
	st.mu.Lock()
	st.at = now
	st.mu.Unlock()
	return nil
}

// row is what is read of a mount: with the epoch of the one known, if it has the same
// settings.
func (st *stores) row(m sluice.Mount) mounts.Row {
	r := mounts.Row{Mount: m}
	if st.secrets != nil {
		r.Secrets = st.secrets(m)
	}
	if old, ok := st.rows[m.ID]; ok {
		r.Epoch = old.Epoch
		if reflect.DeepEqual(old, r) {
			return old
		}
	}
	st.epochs++
	r.Epoch = st.epochs
	return r
}

// forget has the mounts asked for again, as after a change of them.
func (st *stores) forget() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.at = time.Time{}
}

func (st *stores) close(ctx context.Context) error {
	if st.table == nil {
		return nil
	}
	return st.table.Close(ctx)
}

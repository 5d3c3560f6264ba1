package client

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// Open implements [sluice.Contents].
func (c *Client) Open(ctx context.Context, path sluice.Path, opts sluice.OpenOptions) (sluice.Handle, error) {
	o := c.grants.find(path, c.who, opts)
	if o == nil {
		var err error
		if o, err = c.open(ctx, path, 0, opts); err != nil {
			return nil, sluice.Wrap("open", path, err)
		}
	}
	return newHandle(c, path, o), nil
}

// open asks the master, and remembers the answer where that is allowed. With file it asks
// for that file, which was at path, wherever it is by now.
func (c *Client) open(ctx context.Context, path sluice.Path, file sluice.FileID, opts sluice.OpenOptions) (*opened, error) {
	s, err := c.sessions.get(ctx)
	if err != nil {
		return nil, err
	}
	c.sessions.listen(s)
	req := &wire.OpenRequest{
		Call: &wire.CallHeader{Principal: c.as, Request: &wire.RequestID{Session: uint64(s.id)}},
		Path: string(path), Freshness: wire.FromFreshness(opts.Freshness), Read: uint32(opts.Read), View: c.workers.version(), File: uint64(file),
	}
	told, sent := c.grants.seen(), time.Now()
	var a wire.OpenAnswer
	if err := c.ask(ctx, wire.MethodOpen, req, &a); err != nil {
		return nil, err
	}
	c.workers.learn(a.View.Sluice())
	o := &opened{
		info: a.Info.Sluice(), grant: a.Grant, holders: wire.Map(a.Holders, (*wire.Holder).Sluice),
		made: sent, session: s, who: c.who, read: opts.Read,
	}
	if o.info.IsDir() {
		return nil, &sluice.Error{Kind: sluice.IsDirectory}
	}
	if a.Expires > 0 {
		o.expires = sent.Add(time.Duration(a.Expires))
	}
	if a.Lease > 0 && o.info.Path == path {
		o.until = sent.Add(time.Duration(a.Lease))
		c.grants.put(o, told)
	}
	return o, nil
}

// access returns what h reads with.
func (h *handle) access() *opened { return h.opened.Load() }

// refresh asks the master again after old did not do any more: its grant expired, or the
// store has another key or version. It follows a file that was renamed. Kind Changed: the
// file is gone or has other content by now.
func (h *handle) refresh(ctx context.Context, old *opened, f sluice.Freshness) (*opened, error) {
	select {
	case h.asking <- struct{}{}:
	case <-ctx.Done():
		return nil, &sluice.Error{Kind: sluice.KindOf(ctx.Err()), Err: ctx.Err()}
	}
	defer func() { <-h.asking }()
	if o := h.access(); o != old {
		return o, nil
	}
	h.c.grants.forget(h.path)
	o, err := h.c.open(ctx, h.path, old.info.ID, sluice.OpenOptions{Read: old.read, Freshness: f})
	switch {
	case errors.Is(err, sluice.NotFound):
		return nil, errChanged()
	case err != nil:
		return nil, err
	case !slices.Equal(o.info.Extents, old.info.Extents) || o.info.Length != old.info.Length:
		return nil, errChanged()
	}
	h.opened.Store(o)
	return o, nil
}

func errChanged() error {
	return &sluice.Error{Kind: sluice.Changed, Err: errors.New("the file has other content since it was opened; open it again")}
}

package worker

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// openBlock serves MethodOpenBlock: it passes a descriptor, which stays charged until the
// client lets go of it.
func (w *Worker) openBlock(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.OpenBlockRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	c, err := w.verify(q.Grant, false)
	if err != nil {
		return nil, err
	}
	b := q.Block.Sluice()
	if err := c.within(b, 0, 0); err != nil {
		return nil, err
	}
	if !r.Peer.Local {
		return nil, &sluice.Error{Kind: sluice.Unsupported, Err: errors.New("descriptors pass over unix sockets only")}
	}
	d, err := w.holders.reserve(&q, r.Over())
	if err != nil {
		return nil, err
	}
	a, err := w.pass(ctx, r, b, d)
	if err != nil {
		w.holders.drop(d)
		return nil, err
	}
	w.stats.opened.Add(1)
	return a, nil
}

// pass passes a descriptor of a block for d.
func (w *Worker) pass(ctx context.Context, r *rpc.Request, b sluice.BlockID, d *hold) (*wire.OpenBlockAnswer, error) {
	h, err := w.cfg.Store.OpenBlock(ctx, b)
	if err != nil {
		return nil, err
	}
	defer h.Close() // the descriptor that is passed is a duplicate
	f, ok := h.OS()
	if !ok {
		return nil, &sluice.Error{Kind: sluice.Unsupported, Err: errors.New("the block's disk has no descriptors")}
	}
	p, err := h.Pass(func() { w.holders.want(d) })
	if err != nil {
		return nil, err
	}
	if !w.holders.keep(d, p) {
		return nil, &sluice.Error{Kind: sluice.Cancelled, Err: errors.New("the caller gave up")}
	}
	if err := r.PassFile(f); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil { // the caller does not wait for it any more
		return nil, sluice.Wrap("", "", err)
	}
	sums := make([]byte, 0, 4*len(h.Sums))
	for _, s := range h.Sums {
		sums = binary.LittleEndian.AppendUint32(sums, s)
	}
	return &wire.OpenBlockAnswer{
		Length: h.Length, Pages: h.Pages, Sums: sums, Mapped: h.Mapped, Boot: w.boot, Life: d.holder.life,
	}, nil
}

// maxContents bounds how many contents one Free or Held names.
const maxContents = 1024

// ours checks that the grant covers the contents asked about.
func (c *claims) ours(contents []*wire.ContentID) error {
	if len(contents) > maxContents {
		return &sluice.Error{Kind: sluice.TooLarge, Err: errors.New("too many contents in one request")}
	}
	for _, id := range contents {
		if id.Sluice() != c.content {
			return &sluice.Error{Kind: sluice.Permission, Err: errors.New("the grant is for another content")}
		}
	}
	return nil
}

// free serves MethodFree.
func (w *Worker) free(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.FreeRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	c, err := w.verify(q.Grant, false)
	if err == nil {
		err = c.ours(q.Contents)
	}
	if err != nil {
		return nil, err
	}
	a := &wire.FreeAnswer{}
	for _, id := range q.Contents {
		freed, kept := w.cfg.Store.FreeContent(ctx, id.Sluice())
		a.Bytes += freed
		a.Kept += kept
	}
	return a, nil
}

// held serves MethodHeld.
func (w *Worker) held(_ context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.HeldRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	c, err := w.verify(q.Grant, false)
	if err == nil {
		err = c.ours(q.Contents)
	}
	if err != nil {
		return nil, err
	}
	a := &wire.HeldAnswer{}
	for _, id := range q.Contents {
		var n int64
		for _, b := range w.cfg.Store.Blocks(id.Sluice()) {
			n += b.Present
		}
		a.Bytes = append(a.Bytes, n)
	}
	return a, nil
}

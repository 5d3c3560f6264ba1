package worker

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/blockstore"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// write serves MethodWrite.
func (w *Worker) write(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.WriteRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	c, err := w.verify(q.Grant, true)
	if err != nil {
		return nil, err
	}
	p := r.Payload()
	switch {
	case q.Offset < 0 || len(p) == 0:
		return nil, &sluice.Error{Kind: sluice.Invalid, Err: fmt.Errorf("%d bytes at %d", len(p), q.Offset)}
	case len(p) > sluice.MaxWrite:
		return nil, &sluice.Error{Kind: sluice.TooLarge, Err: fmt.Errorf("a piece of %d bytes; at most %d are taken", len(p), sluice.MaxWrite)}
	}
	sums := r.PayloadSums()
	if sums == nil {
		sums = blockstore.Sums(p)
	}
	if blockstore.CombineChunks(sums, int64(len(p))) != q.Checksum {
		return nil, &sluice.Error{Kind: sluice.Corrupt, Err: errors.New("the piece fails its checksum; send it again")}
	}
	u, err := w.uploads.of(ctx, &c)
	if err != nil {
		return nil, err
	}
	if err := u.write(ctx, q.Offset, piece{p, q.Checksum, sums}); err != nil {
		return nil, err
	}
	return nil, nil
}

// seal serves MethodSeal.
func (w *Worker) seal(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.SealRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	c, err := w.verify(q.Grant, true)
	if err != nil {
		return nil, err
	}
	if q.Length < 0 {
		return nil, &sluice.Error{Kind: sluice.Invalid, Err: fmt.Errorf("a length of %d", q.Length)}
	}
	if e, ok := w.uploads.ended.get(c.content); ok && e.sealed != nil && e.sealed.Length == q.Length {
		return &wire.SealAnswer{Sealed: wire.FromSealed(*e.sealed)}, nil
	}
	if q.Length > 0 && w.uploads.find(c.content) == nil {
		return nil, &sluice.Error{Kind: sluice.Lost, Err: errors.New("nothing of the content is here, the worker may have been restarted; write the file again")}
	}
	u, err := w.uploads.of(ctx, &c)
	if err != nil {
		return nil, err
	}
	s, err := u.seal(ctx, q.Length)
	if err != nil {
		if e, ok := w.uploads.ended.get(c.content); ok && e.sealed != nil && e.sealed.Length == q.Length {
			return &wire.SealAnswer{Sealed: wire.FromSealed(*e.sealed)}, nil // sealed by a request sent twice
		}
		return nil, err
	}
	w.uploads.rests(ctx, u, &s)
	return &wire.SealAnswer{Sealed: wire.FromSealed(s)}, nil
}

// discard serves MethodDiscard.
func (w *Worker) discard(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.DiscardRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	c, err := w.verify(q.Grant, true)
	if err != nil {
		return nil, err
	}
	if e, ok := w.uploads.ended.get(c.content); ok && e.sealed != nil {
		return nil, nil // published: it is the file's
	}
	return nil, w.uploads.giveUp(ctx, c.content)
}

package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

var _ sluice.Worker = (*worker)(nil)

// ReadBlock implements [sluice.BlockReader].
func (w *worker) ReadBlock(ctx context.Context, g sluice.Grant, b sluice.BlockID, off int64, p []byte, r sluice.ReadType) (int, error) {
	n, err := w.readBlock(ctx, g, b, off, p, r, false)
	if errors.Is(err, sluice.Corrupt) {
		// The worker learns from us what it could not know, drops it and fetches it again.
		n, err = w.readBlock(ctx, g, b, off, p, r, true)
	}
	return n, err
}

// readBlock asks once. again says that the bytes came before and were damaged.
func (w *worker) readBlock(ctx context.Context, g sluice.Grant, b sluice.BlockID, off int64, p []byte, r sluice.ReadType, again bool) (int, error) {
	req := &wire.ReadBlockRequest{Grant: g, Block: wire.FromBlockID(b), Offset: off, Length: int64(len(p)), Read: uint32(r), Again: again}
	n, err := w.conn.CallPayload(ctx, wire.MethodReadBlock, req, nil, rpc.Payload{Recv: p})
	w.note(err)
	if err == nil && n != len(p) {
		err = &sluice.Error{Op: "read block", Kind: sluice.Internal, Err: fmt.Errorf("the worker sent %d bytes of %d", n, len(p))}
	}
	return n, err
}

// OpenBlock implements [sluice.BlockReader]. It is always of kind Unsupported: a
// descriptor that leaves the client could not be given back to the worker. See
// [sluice.LocalFile].
func (w *worker) OpenBlock(context.Context, sluice.Grant, sluice.BlockID) (*sluice.LocalBlock, error) {
	return nil, &sluice.Error{Op: "open block", Kind: sluice.Unsupported, Err: errors.New("descriptors are kept by the client; open the file and ask for its descriptor")}
}

// openBlock asks for a descriptor. It is the caller's to close, and to say so.
func (w *worker) openBlock(ctx context.Context, q *wire.OpenBlockRequest) (*os.File, *wire.OpenBlockAnswer, error) {
	var f *os.File
	a := new(wire.OpenBlockAnswer)
	_, err := w.conn.CallPayload(ctx, wire.MethodOpenBlock, q, a, rpc.Payload{File: &f})
	w.note(err)
	if err != nil {
		return nil, nil, err
	}
	if f == nil {
		return nil, nil, &sluice.Error{Op: "open block", Kind: sluice.Unsupported, Err: fmt.Errorf("no descriptor came")}
	}
	return f, a, nil
}

// sums reads checksums of 4 bytes each, little endian.
func sums(b []byte) []uint32 {
	out := make([]uint32, len(b)/4)
	for i := range out {
		out[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	return out
}

// Write implements [sluice.BlockWriter].
func (w *worker) Write(ctx context.Context, g sluice.Grant, off int64, p []byte) error {
	return w.write(ctx, g, off, summed(p))
}

// write is Write of a piece whose checksums are known.
func (w *worker) write(ctx context.Context, g sluice.Grant, off int64, p parcel) error {
	req := &wire.WriteRequest{Grant: g, Offset: off, Checksum: p.sum}
	_, err := w.conn.CallPayload(ctx, wire.MethodWrite, req, nil, rpc.Payload{Send: p.data, Sums: p.sums})
	w.note(err)
	return err
}

// Seal implements [sluice.BlockWriter].
func (w *worker) Seal(ctx context.Context, g sluice.Grant, length int64) (sluice.Sealed, error) {
	var a wire.SealAnswer
	err := w.conn.Call(ctx, wire.MethodSeal, &wire.SealRequest{Grant: g, Length: length}, &a)
	w.note(err)
	if err != nil {
		return sluice.Sealed{}, err
	}
	return a.Sealed.Sluice(), nil
}

// Discard implements [sluice.BlockWriter].
func (w *worker) Discard(ctx context.Context, g sluice.Grant) error {
	err := w.conn.Call(ctx, wire.MethodDiscard, &wire.DiscardRequest{Grant: g}, nil)
	w.note(err)
	return err
}

// free drops contents from the worker's cache. It returns the bytes dropped and how many
// contents were kept.
func (w *worker) free(ctx context.Context, g sluice.Grant, contents ...sluice.ContentID) (bytes, kept int64, err error) {
	var a wire.FreeAnswer
	err = w.conn.Call(ctx, wire.MethodFree, &wire.FreeRequest{Grant: g, Contents: wire.Map(contents, wire.FromContentID)}, &a)
	w.note(err)
	return a.Bytes, a.Kept, err
}

// held returns how many bytes the worker has of each content.
func (w *worker) held(ctx context.Context, g sluice.Grant, contents ...sluice.ContentID) ([]int64, error) {
	var a wire.HeldAnswer
	err := w.conn.Call(ctx, wire.MethodHeld, &wire.HeldRequest{Grant: g, Contents: wire.Map(contents, wire.FromContentID)}, &a)
	w.note(err)
	return a.Bytes, err
}

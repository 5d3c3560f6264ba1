package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// fakeWorker is a worker; all of them share the cluster's contents.
type fakeWorker struct {
	f        *fake
	info     sluice.WorkerInfo
	listener *dropper
	down     atomic.Bool // answers Unavailable without having been reached
	noLocal  atomic.Bool // passes no descriptors
	pages    atomic.Int64
	corrupt  atomic.Bool // block files are damaged
	ordered  atomic.Bool // takes pieces in order only
	failWith atomic.Int64
	keyed    atomic.Bool  // the bytes of a file lie under its path, as in a store
	served   atomic.Int64 // blocks read by frames

	table fakeTable

	mu      sync.Mutex
	writing map[sluice.ContentID]map[int64][]byte
	dropped map[sluice.ContentID]bool
}

// Serve is the worker.
func (w *fakeWorker) Serve(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	w.f.calls[r.Method].Add(1)
	if w.down.Load() {
		return nil, &sluice.Error{Kind: sluice.Unavailable, Err: errors.New("down")}
	}
	var m rpc.Message
	var err error
	if r.Method == wire.MethodRecall {
		m, err = w.table.recall(ctx, r)
	} else {
		m, err = w.answer(r)
	}
	if w.f.dropNext.CompareAndSwap(int64(r.Method), 0) {
		w.listener.cut()
	}
	return m, err
}

func (w *fakeWorker) answer(r *rpc.Request) (rpc.Message, error) {
	switch r.Method {
	case wire.MethodReadBlock:
		return nil, w.readBlock(r)
	case wire.MethodOpenBlock:
		return w.openBlock(r)
	case wire.MethodWrite:
		var q wire.WriteRequest
		if err := r.Decode(&q); err != nil {
			return nil, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		id := claims(q.Grant).Content.Sluice()
		if w.writing[id] == nil {
			w.writing[id] = map[int64][]byte{}
		}
		have := int64(0)
		for _, p := range w.writing[id] {
			have += int64(len(p))
		}
		if q.Offset > have && w.ordered.Load() {
			return nil, failure(sluice.Invalid, "byte %d after %d", q.Offset, have)
		}
		w.writing[id][q.Offset] = bytes.Clone(r.Payload())
		return nil, nil
	case wire.MethodSeal:
		return w.seal(r)
	case wire.MethodDiscard:
		var q wire.DiscardRequest
		if err := r.Decode(&q); err != nil {
			return nil, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		id := claims(q.Grant).Content.Sluice()
		delete(w.writing, id)
		w.dropped[id] = true
		return nil, nil
	case wire.MethodHeld:
		return &wire.HeldAnswer{Bytes: []int64{10}}, nil
	case wire.MethodFree:
		return &wire.FreeAnswer{Bytes: 10}, nil
	}
	return nil, failure(sluice.Unsupported, "method %d", r.Method)
}

func claims(g []byte) *wire.Claims {
	c := new(wire.Claims)
	if err := c.UnmarshalVT(g); err != nil {
		panic(err)
	}
	return c
}

func (w *fakeWorker) block(g []byte, b *wire.BlockID) ([]byte, error) {
	if k := w.failWith.Load(); k != 0 {
		return nil, failure(sluice.Kind(k), "as told")
	}
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	c := claims(g)
	data, ok := w.f.contents[b.Sluice().Content]
	if !ok {
		return nil, failure(sluice.Changed, "no such version")
	}
	if w.keyed.Load() && w.f.files[c.Key] == nil {
		return nil, failure(sluice.Changed, "nothing at %s", c.Key)
	}
	start := int64(b.Index) * c.BlockSize
	return data[start:min(start+c.BlockSize, int64(len(data)))], nil
}

func (w *fakeWorker) readBlock(r *rpc.Request) error {
	w.served.Add(1)
	var q wire.ReadBlockRequest
	if err := r.Decode(&q); err != nil {
		return err
	}
	data, err := w.block(q.Grant, q.Block)
	if err != nil {
		return err
	}
	if q.Offset+q.Length > int64(len(data)) {
		return failure(sluice.Invalid, "past the end")
	}
	return r.SendBytes(data[q.Offset:q.Offset+q.Length], nil)
}

func (w *fakeWorker) openBlock(r *rpc.Request) (rpc.Message, error) {
	var q wire.OpenBlockRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if w.noLocal.Load() {
		return nil, failure(sluice.NotFound, "nothing cached")
	}
	data, err := w.block(q.Grant, q.Block)
	if err != nil {
		return nil, err
	}
	life := w.table.pass(&q)
	f, err := os.Create(filepath.Join(w.f.dir, fmt.Sprintf("block%d", w.f.rand())))
	if err != nil {
		return nil, err
	}
	defer f.Close() // what is passed is a duplicate
	a := &wire.OpenBlockAnswer{Boot: 1, Life: life, Length: int64(len(data)), Pages: make([]byte, (len(data)/sluice.PageSize+8)/8)}
	file := bytes.Clone(data)
	for i := 0; i*sluice.PageSize < len(data); i++ {
		if keep := w.pages.Load(); keep == 0 || int64(i) < keep {
			a.Pages[i/8] |= 1 << (i % 8)
			continue
		}
		clear(file[i*sluice.PageSize : min(len(file), (i+1)*sluice.PageSize)])
	}
	for rest := data; len(rest) > 0; rest = rest[min(len(rest), sluice.ChunkSize):] {
		a.Sums = binary.LittleEndian.AppendUint32(a.Sums, checksum(rest[:min(len(rest), sluice.ChunkSize)]))
	}
	if w.corrupt.Load() {
		file[len(file)/2] ^= 1
	}
	if _, err := f.Write(file); err != nil {
		return nil, err
	}
	return a, r.PassFile(f)
}

func (w *fakeWorker) seal(r *rpc.Request) (rpc.Message, error) {
	var q wire.SealRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	id := claims(q.Grant).Content.Sluice()
	w.mu.Lock()
	defer w.mu.Unlock()
	var data []byte
	for int64(len(data)) < q.Length {
		p, ok := w.writing[id][int64(len(data))]
		if !ok {
			return nil, failure(sluice.Invalid, "byte %d is missing", len(data))
		}
		data = append(data, p...)
	}
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.f.sealed[id] = data
	return &wire.SealAnswer{Sealed: wire.FromSealed(sluice.Sealed{Content: id, Length: q.Length, Checksum: checksum(data), Worker: w.info.ID})}, nil
}

// dropper is a listener whose connections can be cut.
type dropper struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (d *dropper) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err == nil {
		d.mu.Lock()
		d.conns = append(d.conns, c)
		d.mu.Unlock()
	}
	return c, err
}

func (d *dropper) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		c.Close()
	}
	d.conns = nil
}

// fakeStandby is a master that is not the primary.
type fakeStandby struct {
	primary string
	asked   atomic.Int64
}

func (s *fakeStandby) Serve(context.Context, *rpc.Request) (rpc.Message, error) {
	s.asked.Add(1)
	return nil, &sluice.Error{Op: "fake", Kind: sluice.NotPrimary, Primary: s.primary}
}

// noise returns n bytes that do not repeat.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

package hdfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/colinmarc/hdfs/v2"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs/namenode"
)

// Bounds of what the library is asked again for.
const (
	openTries   = 3
	closeFirst  = 10 * time.Millisecond // wait for the last block's replicas, doubled
	closeLonger = 500 * time.Millisecond
)

// data moves bytes by the library.
type data struct {
	node    *node
	clients *clients
	set     settings

	mu      sync.Mutex
	writers map[*writer]bool // guarded by mu; those that were neither finished nor aborted
}

// newData makes a data over the name nodes of n.
func newData(n *node, set settings) *data {
	return &data{node: n, set: set, writers: make(map[*writer]bool), clients: &clients{
		opts: set.options, addresses: n.conns.addresses, dial: set.dial, all: make(map[*client]bool),
	}}
}

// Close implements namenode.Data. Writers that nobody ended are aborted.
func (d *data) Close() error {
	d.clients.Close()
	d.node.conns.Close()
	d.mu.Lock()
	left := slices.Collect(maps.Keys(d.writers))
	d.mu.Unlock()
	for _, w := range left {
		w.Abort()
	}
	return nil
}

// note keeps w among the open writers, or forgets it.
func (d *data) note(w *writer, open bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if open {
		d.writers[w] = true
	} else {
		delete(d.writers, w)
	}
}

// Open implements namenode.Data. The library asks for the status and for the blocks; a
// connection that breaks meanwhile costs another try, since nothing was changed.
func (d *data) Open(ctx context.Context, path string, off, n int64, accept func(namenode.Status) error) (io.ReadCloser, error) {
	var err error
	for range openTries {
		var b *body
		if b, err = d.open(ctx, path, off, n, accept); err == nil {
			return b, nil
		}
		if _, known := errors.AsType[*sluice.Error](err); ctx.Err() != nil || !known || namenode.KindOf(err) != sluice.Unavailable {
			break
		}
	}
	if ctx.Err() != nil {
		err = inTime(ctx, err)
	}
	return nil, err
}

// open makes one try.
func (d *data) open(ctx context.Context, path string, off, n int64, accept func(namenode.Status) error) (*body, error) {
	c, err := d.clients.get(ctx)
	if err != nil {
		return nil, translate(err)
	}
	b := &body{d: d, c: c, left: n, unbind: c.bind(ctx)}
	f, err := c.Open(path)
	if err == nil {
		b.f = f
		st := statusOf(f.Stat().Sys().(*hdfs.FileStatus))
		if err := accept(st); err != nil {
			_ = b.Close()
			return nil, err
		}
		_, err = f.Seek(off, io.SeekStart)
	}
	if err != nil {
		_ = b.Close()
		return nil, translate(err)
	}
	return b, nil
}

// body reads a file by a client of its own.
type body struct {
	d      *data
	c      *client
	f      *hdfs.FileReader
	left   int64
	unbind func()
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.f.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err == io.EOF {
		return n, err
	}
	return n, translate(err)
}

// Close implements io.Closer.
func (b *body) Close() error {
	if b.f != nil {
		_ = b.f.Close() // closes the connection to the data node, which has no more to say
	}
	b.unbind()
	b.d.clients.put(b.c)
	return nil
}

// Create implements namenode.Data.
func (d *data) Create(ctx context.Context, path string, mode sluice.Mode) (namenode.Writer, error) {
	c, err := d.clients.get(ctx)
	if err != nil {
		return nil, inTime(ctx, err)
	}
	w := &writer{d: d, c: c}
	defer c.bind(ctx)()
	if err := w.create(path, mode); err != nil {
		w.Abort()
		return nil, inTime(ctx, err)
	}
	d.note(w, true)
	return w, nil
}

// writer writes one file by a client of its own.
type writer struct {
	d *data

	mu sync.Mutex // held during each call: the store may be closed meanwhile
	c  *client    // guarded by mu; nil after Finish and Abort
	f  *hdfs.FileWriter
}

// create makes the file.
func (w *writer) create(path string, mode sluice.Mode) error {
	replication, block := w.d.set.replication, w.d.set.block
	if replication == 0 || block == 0 {
		def, err := w.c.ServerDefaults()
		if err != nil {
			return err
		}
		if replication == 0 {
			replication = def.Replication
		}
		if block == 0 {
			block = def.BlockSize
		}
	}
	var err error
	w.f, err = w.c.CreateFile(path, replication, block, os.FileMode(mode))
	return err
}

// Write implements namenode.Writer.
func (w *writer) Write(ctx context.Context, p []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.c == nil {
		return translate(errClosed)
	}
	defer w.c.bind(ctx)()
	_, err := w.f.Write(p)
	if err == nil && w.c.dropped() {
		err = errDropped
	}
	return inTime(ctx, err)
}

// Finish implements namenode.Writer.
func (w *writer) Finish(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.c == nil {
		return translate(errClosed)
	}
	if err := w.finishLocked(ctx); err != nil {
		return inTime(ctx, err)
	}
	w.endLocked()
	return nil
}

// endLocked gives the client back.
func (w *writer) endLocked() {
	w.d.clients.put(w.c)
	w.c = nil
	w.d.note(w, false)
}

// finishLocked closes the file. That is done when its blocks have as many replicas as HDFS wants
// at the least; until then the name node says no, and the library "replication in
// progress". Asked to close once more the library leaves out the last block, which may
// then never be committed; so the request is repeated as it was.
func (w *writer) finishLocked(ctx context.Context) error {
	defer w.c.bind(ctx)()
	err := w.f.Close()
	request := w.c.takeClose()
	if !hdfs.IsErrReplicating(err) {
		return err
	}
	for wait := closeFirst; ; wait = min(2*wait, closeLonger) {
		pause(ctx, wait)
		resp, err := w.d.node.call(ctx, "complete", request, false)
		if err != nil {
			return err
		}
		if done, err := num(resp, 1); err != nil || done != 0 {
			return err
		}
	}
}

// Abort implements namenode.Writer.
func (w *writer) Abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.c == nil {
		return
	}
	w.c.interrupt()
	if w.f != nil {
		_ = w.f.Close() // fails, and ends the library's goroutines; the file is the caller's to delete
	}
	w.endLocked()
}

// inTime is translate, with the end of ctx as the cause where that is what broke it.
func inTime(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if e := ctx.Err(); e != nil {
		return fmt.Errorf("%w: %v", e, err)
	}
	return translate(err)
}

// translate turns the library's errors into exceptions and kinds. What it does not name
// went wrong on the way.
func translate(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*sluice.Error](err); ok {
		return e
	}
	if remote := hdfs.Error(nil); errors.As(err, &remote) {
		return &namenode.Exception{Class: remote.Exception(), Message: remote.Message()}
	}
	kind := sluice.Unavailable
	switch {
	case errors.Is(err, syscall.ENOTEMPTY): // is os.ErrExist too
		kind = sluice.NotEmpty
	case errors.Is(err, os.ErrNotExist):
		kind = sluice.NotFound
	case errors.Is(err, os.ErrExist):
		kind = sluice.Exists
	case errors.Is(err, os.ErrPermission):
		kind = sluice.Permission
	case errors.Is(err, os.ErrInvalid):
		kind = sluice.Invalid
	case errors.Is(err, errClosed):
		kind = sluice.Invalid
	}
	return &sluice.Error{Kind: kind, Err: fmt.Errorf("HDFS: %v", err)} // its own deadlines are not the caller's
}

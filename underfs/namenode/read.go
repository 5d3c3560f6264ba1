package namenode

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// errOpaque refuses a file that the protocol hands out as ciphertext or stripes.
var errOpaque = errors.New("the file is encrypted or erasure-coded, which this protocol cannot undo")

// Read implements underfs.Store. The version is checked when the body is opened and again
// behind its last byte.
func (s *Store) Read(ctx context.Context, req underfs.ReadRequest) (io.ReadCloser, error) {
	if err := s.begin(ctx, "read", req.Key); err != nil {
		return nil, err
	}
	if req.Offset < 0 || req.Length <= 0 {
		return nil, underfs.Failf("read", req.Key, sluice.Invalid, "the range %d+%d is none", req.Offset, req.Length)
	}
	r := &reader{s: s, ctx: ctx, req: req, left: req.Length}
	err := r.open(s.cfg.Data, !s.cfg.Transparent)
	if errors.Is(err, errOpaque) && s.cfg.Plain != nil {
		err = r.open(s.cfg.Plain, false)
	}
	switch {
	case errors.Is(err, errOpaque):
		return nil, underfs.Fail("read", req.Key, sluice.Unsupported, fmt.Errorf("%w; %s", errOpaque, s.cfg.Advice))
	case errors.Is(err, sluice.NotDirectory):
		return nil, underfs.Failf("read", req.Key, sluice.NotFound, "a name above it is a file's")
	case err != nil:
		return nil, fail("read", req.Key, err)
	}
	return r, nil
}

// reader is a body that confirms its version before it ends.
type reader struct {
	s    *Store
	ctx  context.Context // of the read, which is alive until Close
	req  underfs.ReadRequest
	st   Status // when it was opened
	body io.ReadCloser
	left int64
	done bool // confirmed
}

// open opens the body.
func (r *reader) open(d Data, opaque bool) error {
	var err error
	r.body, err = d.Open(r.ctx, r.s.path(r.req.Key), r.req.Offset, r.req.Length, func(st Status) error {
		r.st = st
		switch {
		case opaque && (st.Encrypted || st.Coded):
			return errOpaque
		case st.Dir:
			return &sluice.Error{Kind: sluice.IsDirectory, Err: errors.New("it is a directory")}
		}
		return r.accept(&st)
	})
	return err
}

// accept says whether st is the state that is being read.
func (r *reader) accept(st *Status) error {
	switch {
	case r.req.Version != "" && st.version() != r.req.Version:
		return &sluice.Error{Kind: sluice.Changed, Err: errors.New("another version lies there")}
	case st.ID != r.st.ID, r.req.Version != "" && st.version() != r.st.version():
		return &sluice.Error{Kind: sluice.Changed, Err: errors.New("the file was replaced or written to")}
	case r.req.Length > st.Length-r.req.Offset:
		return &sluice.Error{Kind: sluice.Changed, Err: fmt.Errorf("bytes %d+%d were asked of a file of %d", r.req.Offset, r.req.Length, st.Length)}
	}
	return nil
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, r.confirm()
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	switch {
	case n > 0:
		return n, nil // the error comes again
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	if e := r.ctx.Err(); err != nil && e != nil {
		err = e
	}
	return n, fail("read", r.req.Key, err)
}

// confirm asks again, behind the last byte, and returns io.EOF if nothing has changed.
func (r *reader) confirm() error {
	if r.done {
		return io.EOF
	}
	st, err := r.s.cfg.Node.Stat(r.ctx, r.s.path(r.req.Key))
	if err == nil {
		err = r.accept(&st)
	}
	if err != nil {
		return fail("read", r.req.Key, err)
	}
	r.done = true
	return io.EOF
}

// Close implements io.Closer.
func (r *reader) Close() error { return fail("close", r.req.Key, r.body.Close()) }

package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// Read opens the range. Bytes go by pread(2) straight into the caller's buffer; io.EOF is
// returned only after a second fstat(2) found the version that was opened.
func (s *Store) Read(ctx context.Context, req underfs.ReadRequest) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, underfs.Fail("read", req.Key, sluice.Unavailable, err)
	}
	if req.Offset < 0 || req.Length <= 0 {
		return nil, underfs.Failf("read", req.Key, sluice.Invalid, "the range %d+%d is none", req.Offset, req.Length)
	}
	f, st, err := s.openFile("read", req.Key)
	if err != nil {
		return nil, err
	}
	v := version(st)
	switch {
	case req.Version != "" && req.Version != v:
		err = errors.New("the file was replaced or written to")
	case req.Length > st.Size-req.Offset:
		err = fmt.Errorf("bytes %d+%d were asked of a file of %d", req.Offset, req.Length, st.Size)
	default:
		return &body{ctx: ctx, f: f, key: req.Key, version: v, off: req.Offset, left: req.Length}, nil
	}
	f.Close()
	return nil, underfs.Fail("read", req.Key, sluice.Changed, err)
}

// openFile opens a regular file and says what it is.
func (s *Store) openFile(op string, key underfs.Key) (*os.File, *syscall.Stat_t, error) {
	n, err := find(op, key)
	if err != nil {
		return nil, nil, err
	}
	// O_NONBLOCK: opening a pipe must not wait for its writer.
	f, err := s.root.OpenFile(n, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ENOTDIR) {
		return nil, nil, underfs.Fail(op, key, sluice.NotFound, err)
	}
	if err != nil {
		return nil, nil, fail(op, key, err)
	}
	st, err := fstat(f)
	if err == nil {
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			return f, st, nil
		case unix.S_IFDIR:
			err = underfs.Failf(op, key, sluice.IsDirectory, "it has no content")
		default:
			err = underfs.Fail(op, key, sluice.Unsupported, errSpecial)
		}
	}
	f.Close()
	return nil, nil, fail(op, key, err)
}

// body reads a range of one version.
type body struct {
	ctx     context.Context // of the call that opened it; reads end with it
	f       *os.File
	key     underfs.Key
	version sluice.Version
	off     int64
	left    int64
	done    bool // the version was confirmed behind the last byte
}

// Read implements io.Reader. See [underfs.ReadRequest] for what io.EOF says.
func (b *body) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, underfs.Fail("read", b.key, sluice.Unavailable, err)
	}
	if b.left == 0 {
		return 0, b.confirm()
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.f.ReadAt(p, b.off)
	b.off += int64(n)
	b.left -= int64(n)
	switch {
	case err == io.EOF && b.left > 0:
		return n, underfs.Failf("read", b.key, sluice.Changed, "the file became shorter")
	case err != nil && err != io.EOF:
		return n, fail("read", b.key, err)
	}
	return n, nil
}

// confirm checks, once, that the file still is what it was, and returns io.EOF.
func (b *body) confirm() error {
	if b.done {
		return io.EOF
	}
	st, err := fstat(b.f)
	if err != nil {
		return fail("read", b.key, err)
	}
	if version(st) != b.version {
		return underfs.Failf("read", b.key, sluice.Changed, "the file was replaced or written to while it was read")
	}
	b.done = true
	return io.EOF
}

// Close implements io.Closer.
func (b *body) Close() error { return b.f.Close() }

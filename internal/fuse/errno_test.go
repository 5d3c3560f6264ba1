package fuse

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/sluicefs/sluice"
)

func TestEveryKindHasAnErrno(t *testing.T) {
	for _, k := range sluice.Kinds() {
		if errno(k) == 0 {
			t.Errorf("kind %q has no errno", k)
		}
	}
}

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		want fuse.Status
	}{
		{nil, fuse.OK},
		{syscall.ENOSPC, fuse.Status(syscall.ENOSPC)},
		{&sluice.Error{Kind: sluice.Stale}, fuse.Status(syscall.ESTALE)},
		{sluice.Wrap("read", "/x", &sluice.Error{Kind: sluice.NotFound}), fuse.ENOENT},
		{context.Canceled, fuse.EINTR},
		{context.DeadlineExceeded, fuse.Status(syscall.ETIMEDOUT)},
		{fmt.Errorf("write staged file: %w", syscall.EDQUOT), fuse.Status(syscall.EDQUOT)},
		{errors.New("odd"), fuse.EIO},
	} {
		if got := status(c.err); got != c.want {
			t.Errorf("%v is %v, want %v", c.err, got, c.want)
		}
	}
}

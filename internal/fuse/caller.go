package fuse

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
)

// as returns the file system acting for the caller of a request.
func (m *Mount) as(h *fuse.InHeader) sluice.FS {
	if !m.opts.Speak {
		return m.opts.FS
	}
	return m.opts.FS.As(m.people.principal(h.Uid, h.Gid))
}

// interruptCheck is how often the caller of an interrupted request is looked at: the
// kernel tells of the first signal only.
const interruptCheck = 100 * time.Millisecond

// request returns the context of one request of the kernel, which ends when its caller is
// told to end, or with the mount. The caller of request calls end when it has answered.
func (m *Mount) request(cancel <-chan struct{}, h *fuse.InHeader) (ctx context.Context, end func()) {
	ctx, end = context.WithCancel(m.life)
	pid := h.Pid
	m.work.Go(func() {
		select {
		case <-ctx.Done():
			return
		case <-cancel:
		}
		tick := time.NewTicker(interruptCheck)
		defer tick.Stop()
		for !ending(pid) {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
		end()
	})
	return ctx, end
}

// endings are the signals that are meant to stop what a program does, as bits of a set.
// SIGKILL is also what the kernel makes of every signal that ends its process. Others
// (SIGCHLD, SIGALRM, the SIGURG of Go's scheduler) are no reason to fail: programs do not
// expect EINTR of a file, which no local file system gives.
const endings = 1<<(unix.SIGKILL-1) | 1<<(unix.SIGINT-1) | 1<<(unix.SIGTERM-1) | 1<<(unix.SIGQUIT-1) | 1<<(unix.SIGHUP-1)

// ending says whether a thread is gone, or one of endings waits for it.
func ending(pid uint32) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return true
	}
	for line := range bytes.Lines(b) {
		for _, name := range []string{"SigPnd:", "ShdPnd:"} {
			text, ok := bytes.CutPrefix(line, []byte(name))
			if !ok {
				continue
			}
			set, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 16, 64)
			if err == nil && set&endings != 0 {
				return true
			}
		}
	}
	return false
}

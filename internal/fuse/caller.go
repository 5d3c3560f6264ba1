package fuse

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/sluicefs/sluice"
)

// as returns the file system acting for the caller of a request.
func (m *Mount) as(h *fuse.InHeader) sluice.FS {
	if !m.opts.Speak {
		return m.opts.FS
	}
	return m.opts.FS.As(m.people.principal(h.Uid, h.Gid))
}

// interruptGrace is how long a request goes on after a signal that does not end its
// caller. Many programs live with SIGCHLD or a timer and do not expect EINTR of a file;
// one that really hangs gets it all the same.
const interruptGrace = 2 * time.Second

// request returns the context of one request of the kernel, which ends when its caller
// is killed, when another signal has waited for interruptGrace, or with the mount. The
// caller calls end when the request is answered.
func (m *Mount) request(cancel <-chan struct{}, h *fuse.InHeader) (ctx context.Context, end func()) {
	ctx, end = context.WithCancel(m.life)
	pid := h.Pid
	m.work.Go(func() {
		select {
		case <-ctx.Done():
			return
		case <-cancel:
		}
		if !dying(pid) {
			t := time.NewTimer(interruptGrace)
			defer t.Stop()
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
		}
		end()
	})
	return ctx, end
}

// dying says whether a thread has a SIGKILL pending, which is what the kernel makes of
// every signal that ends its process.
func dying(pid uint32) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return true // it is gone already
	}
	for line := range bytes.Lines(b) {
		for _, name := range []string{"SigPnd:", "ShdPnd:"} {
			text, ok := bytes.CutPrefix(line, []byte(name))
			if !ok {
				continue
			}
			set, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 16, 64)
			if err == nil && set&(1<<8) != 0 {
				return true
			}
		}
	}
	return false
}

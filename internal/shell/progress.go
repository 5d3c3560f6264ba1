package shell

import (
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// bar shows how far something long is, on a terminal; elsewhere it is silent.
type bar struct {
	mu    sync.Mutex
	shown *progressbar.ProgressBar
}

func (c *command) progress(what string) *bar {
	if !c.Terminal || c.json {
		return &bar{}
	}
	return &bar{shown: progressbar.NewOptions64(-1,
		progressbar.OptionSetWriter(c.Err), progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetRenderBlankState(true),
		progressbar.OptionClearOnFinish())}
}

// set says that so many bytes of planned are done.
func (b *bar) set(bytes, planned int64) {
	if b.shown == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if planned > 0 {
		b.shown.ChangeMax64(max(planned, bytes))
	}
	_ = b.shown.Set64(bytes) // it can only fail to draw
}

func (b *bar) done() {
	if b.shown != nil {
		_ = b.shown.Finish() // it can only fail to draw
	}
}

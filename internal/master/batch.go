package master

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// The bounds of group commit.
const (
	maxBatch      = 256       // commands in one entry
	maxBatchBytes = 512 << 10 // encoded commands in one entry, unless one alone has more
	maxQueued     = 16384     // commands waiting to be put into an entry
	flights       = 3         // entries in the journal at once
)

// batcher gathers concurrent commands into entries of the journal. While entries are on
// their way to the disk the next ones gather, so that one sync is shared by many.
type batcher struct {
	send func(ctx context.Context, commands []*wire.Command) ([]*wire.Answer, error)

	mu     sync.Mutex
	queue  []*proposal   // guarded by mu
	closed bool          // guarded by mu
	wake   chan struct{} // has room for one; there is something in the queue
	wg     sync.WaitGroup
}

// proposal is a command on its way. It is answered once.
type proposal struct {
	command *wire.Command
	size    int
	answer  chan outcome // has room for the one answer
}

// outcome is how a proposal ended.
type outcome struct {
	answer *wire.Answer
	err    error
}

// newBatcher starts a batcher. send is called by several goroutines at once; it ends
// with ctx, which stop cancels.
func newBatcher(ctx context.Context, send func(context.Context, []*wire.Command) ([]*wire.Answer, error)) *batcher {
	b := &batcher{send: send, wake: make(chan struct{}, 1)}
	for range flights {
		b.wg.Go(func() { b.fly(ctx) })
	}
	return b
}

// propose hands a command to the journal and returns what the state machine says to it;
// the answer's own error is not looked at. Once it may be in the journal, the end of
// ctx is UnknownOutcome.
func (b *batcher) propose(ctx context.Context, c *wire.Command) (*wire.Answer, error) {
	if err := ctx.Err(); err != nil {
		return nil, sluice.Wrap("propose", "", err)
	}
	p := &proposal{command: c, size: c.SizeVT(), answer: make(chan outcome, 1)}
	b.mu.Lock()
	switch {
	case b.closed:
		b.mu.Unlock()
		return nil, errClosed()
	case len(b.queue) >= maxQueued:
		b.mu.Unlock()
		return nil, &sluice.Error{Op: "propose", Kind: sluice.Busy, Err: errors.New("the master has too many changes waiting; try again")}
	}
	b.queue = append(b.queue, p)
	b.mu.Unlock()
	b.signal()
	select {
	case o := <-p.answer:
		return o.answer, o.err
	case <-ctx.Done():
	}
	if b.withdraw(p) {
		return nil, sluice.Wrap("propose", "", ctx.Err())
	}
	select {
	case o := <-p.answer: // both were ready: the certain one counts
		return o.answer, o.err
	default:
		return nil, &sluice.Error{Op: "propose", Kind: sluice.UnknownOutcome, Err: ctx.Err()}
	}
}

func errClosed() error {
	return &sluice.Error{Kind: sluice.Unavailable, Err: errors.New("the master is stopping")}
}

func (b *batcher) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// withdraw takes a command back, and says whether it was still in the queue.
func (b *batcher) withdraw(p *proposal) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, q := range b.queue {
		if q == p {
			b.queue = append(b.queue[:i:i], b.queue[i+1:]...)
			return true
		}
	}
	return false
}

// take returns the next entry's commands, and wakes another flight if some are left.
func (b *batcher) take() []*proposal {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, bytes := 0, 0
	for n < len(b.queue) && n < maxBatch && (n == 0 || bytes+b.queue[n].size <= maxBatchBytes) {
		bytes += b.queue[n].size
		n++
	}
	batch := b.queue[:n:n]
	b.queue = b.queue[n:]
	if len(b.queue) == 0 {
		b.queue = nil
	} else {
		b.signal()
	}
	return batch
}

// fly carries entry after entry.
func (b *batcher) fly(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.wake:
		}
		batch := b.take()
		if len(batch) == 0 {
			continue
		}
		commands := make([]*wire.Command, len(batch))
		for i, p := range batch {
			commands[i] = p.command
		}
		answers, err := b.send(ctx, commands)
		for i, p := range batch {
			if err != nil {
				p.answer <- outcome{err: err}
			} else {
				p.answer <- outcome{answer: answers[i]}
			}
		}
	}
}

// close waits for the flights, after their context has ended, and refuses what is left.
func (b *batcher) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.wg.Wait()
	b.mu.Lock()
	left := b.queue
	b.queue = nil
	b.mu.Unlock()
	for _, p := range left {
		p.answer <- outcome{err: errClosed()}
	}
}

// ticker makes journal time: it goes on from where the state stopped, at the pace of
// the boot-time clock, and neither jumps nor goes back.
type ticker struct {
	boot func() time.Duration

	mu   sync.Mutex
	base time.Duration // guarded by mu: journal time when the clock showed from
	from time.Duration // guarded by mu
}

func newTicker(boot func() time.Duration, last time.Duration) *ticker {
	return &ticker{boot: boot, base: last, from: boot()}
}

// now returns journal time.
func (t *ticker) now() time.Duration {
	b := t.boot()
	t.mu.Lock()
	defer t.mu.Unlock()
	if b < t.from { // a broken clock: stand still
		return t.base
	}
	t.base += b - t.from
	t.from = b
	return t.base
}

package rpc

import (
	"context"
	"sync"
	"time"
)

// callContext is the context of one request. Most handlers never wait on theirs, so its
// channel and its timer come into being when they are asked for.
type callContext struct {
	deadline time.Time // zero: none

	mu    sync.Mutex
	done  chan struct{}         // guarded by mu
	err   error                 // guarded by mu
	timer *time.Timer           // guarded by mu
	after map[*afterFunc]func() // guarded by mu
}

type afterFunc struct{ _ byte }

var _ context.Context = (*callContext)(nil)

// Deadline is that of [context.Context].
func (c *callContext) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

// Value is that of [context.Context]; there are none.
func (c *callContext) Value(any) any { return nil }

// Done is that of [context.Context].
func (c *callContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		}
		c.armLocked()
	}
	return c.done
}

// Err is that of [context.Context].
func (c *callContext) Err() error {
	c.mu.Lock()
	err := c.err
	c.mu.Unlock()
	if err == nil && !c.deadline.IsZero() && !time.Now().Before(c.deadline) {
		c.end(context.DeadlineExceeded)
		return context.DeadlineExceeded
	}
	return err
}

// AfterFunc lets package context derive contexts without a goroutine of their own.
func (c *callContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	key := new(afterFunc)
	if c.after == nil {
		c.after = make(map[*afterFunc]func())
	}
	c.after[key] = f
	c.armLocked()
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, ok := c.after[key]
		delete(c.after, key)
		return ok
	}
}

func (c *callContext) armLocked() {
	if c.timer == nil && c.err == nil && !c.deadline.IsZero() {
		c.timer = time.AfterFunc(time.Until(c.deadline), func() { c.end(context.DeadlineExceeded) })
	}
}

// end ends the context with err, once.
func (c *callContext) end(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	if c.done != nil {
		close(c.done)
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	after := c.after
	c.after = nil
	c.mu.Unlock()
	for _, f := range after {
		go f()
	}
}

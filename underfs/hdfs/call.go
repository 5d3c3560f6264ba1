package hdfs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs/namenode"
)

// Bounds of the tries of one call.
const (
	firstWait  = 20 * time.Millisecond
	longestTry = 10 * time.Second // where another name node could answer instead
	maxTries   = 40
)

// call makes one call of ClientProtocol and returns its answer. It goes on to the next
// name node when one is a standby, cannot be reached or does not answer, twice round; after
// that it is Unavailable and the caller's matter. A change that was sent and not answered
// is sent again under the same number for as long as ctx allows: name nodes remember the
// answers of changes (dfs.namenode.enable.retrycache, on by default, shared by the two of
// an HA pair) and repeat them instead of the change. Only when nobody answers in time it is
// UnknownOutcome.
func (n *node) call(ctx context.Context, method string, req message, changes bool) ([]byte, error) {
	id := n.calls.Add(1)
	host, wait, doubt := n.conns.first(), firstWait, false
	var last error
	for try := range maxTries {
		if ctx.Err() != nil || try >= 2*len(n.conns.hosts)+1 && !(doubt && changes) {
			break
		}
		resp, sent, err := n.try(ctx, host, id&0x7fffffff, try, method, req)
		var e *namenode.Exception
		switch {
		case err == nil:
			return resp, nil
		case errors.Is(err, errClosed):
			return nil, &sluice.Error{Kind: sluice.Invalid, Err: err}
		case errors.As(err, &e) && !e.Standby():
			return nil, &sluice.Error{Kind: e.Kind(), Err: e}
		}
		last = fmt.Errorf("name node %s: %v", n.conns.hosts[host], err) // its deadline is not the caller's
		doubt = doubt || sent && e == nil
		host = (host + 1) % len(n.conns.hosts)
		if try%len(n.conns.hosts) == len(n.conns.hosts)-1 { // all were asked
			pause(ctx, wait)
			wait = min(2*wait, time.Second)
		}
	}
	return nil, n.gaveUp(ctx, last, doubt && changes)
}

// gaveUp is the error of a call that nobody answered.
func (n *node) gaveUp(ctx context.Context, last error, doubt bool) error {
	if err := ctx.Err(); err != nil {
		last = fmt.Errorf("%w (%v)", err, last)
	}
	switch {
	case doubt:
		return &sluice.Error{Kind: sluice.UnknownOutcome, Err: last}
	case errors.Is(ctx.Err(), context.Canceled):
		return &sluice.Error{Kind: sluice.Cancelled, Err: last}
	case ctx.Err() != nil:
		return &sluice.Error{Kind: sluice.Timeout, Err: last}
	default:
		return &sluice.Error{Kind: sluice.Unavailable, Err: last}
	}
}

// try makes one try of a call at one name node.
func (n *node) try(ctx context.Context, host int, id int32, retry int, method string, req message) (resp []byte, sent bool, err error) {
	if len(n.conns.hosts) > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, longestTry)
		defer cancel()
	}
	c, err := n.conns.get(ctx, host)
	if err != nil {
		return nil, false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // fails where it is closed: as good
	resp, sent, err = c.roundTrip(n.conns.id, id, retry, method, req)
	var e *namenode.Exception
	fine := err == nil || errors.As(err, &e) && !isFatal(err) && !e.Standby()
	if stop() && fine {
		n.conns.put(c)
	} else {
		n.conns.drop(c)
	}
	return resp, sent, err
}

// isFatal says whether the server closes the connection after err.
func isFatal(err error) bool {
	_, ok := errors.AsType[*fatalError](err)
	return ok
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// dialer returns d or one that gives up after ten seconds.
func dialer(d func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	if d != nil {
		return d
	}
	return (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
}

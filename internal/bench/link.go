package bench

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Link is a proxy that makes a store far away: one token bucket shared by all its
// connections, half the delay each way, and at most 2 MiB in flight per connection, so
// that one stream over a link of 20 ms reaches about 100 MB/s.
type Link struct {
	Target string        // host:port behind the link
	Rate   int64         // bytes per second towards the client
	Delay  time.Duration // of a round trip

	mu   sync.Mutex
	next time.Time // when the bucket lets the next byte through
}

// linkWindow is what one connection may have in flight, in bytes.
const linkWindow = 2 << 20

// Serve carries connections of l until it is closed, then waits for them to end.
func (k *Link) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var carrying sync.WaitGroup
	defer carrying.Wait()
	defer cancel()
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		carrying.Go(func() { k.carry(ctx, c) })
	}
}

func (k *Link) carry(ctx context.Context, c net.Conn) {
	defer c.Close()
	t, err := (&net.Dialer{}).DialContext(ctx, "tcp", k.Target)
	if err != nil {
		return
	}
	defer t.Close()
	stop := context.AfterFunc(ctx, func() { c.Close(); t.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { k.pipe(t, c, false); t.Close(); c.Close() })
	both.Go(func() { k.pipe(c, t, true); t.Close(); c.Close() })
	both.Wait()
}

// parcel is bytes on their way.
type parcel struct {
	data []byte
	due  time.Time
}

// pipe delays what it carries and, towards the client, takes tokens.
func (k *Link) pipe(to io.Writer, from io.Reader, limited bool) {
	const size = 64 << 10
	inFlight := make(chan parcel, linkWindow/size)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for p := range inFlight {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.data); err != nil {
				for range inFlight { // the reader must not block
				}
				return
			}
		}
	}()
	for {
		buf := make([]byte, size)
		n, err := from.Read(buf)
		if n > 0 {
			due := time.Now()
			if limited {
				due = k.take(n)
			}
			inFlight <- parcel{buf[:n], due.Add(k.Delay / 2)}
		}
		if err != nil {
			close(inFlight)
			<-done
			return
		}
	}
}

// take reserves n bytes of the bucket and returns when they have passed it.
func (k *Link) take(n int) time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if k.next.Before(now) {
		k.next = now
	}
	k.next = k.next.Add(time.Duration(float64(n) / float64(k.Rate) * float64(time.Second)))
	return k.next
}

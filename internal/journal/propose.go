package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluicefs/sluice"
)

// proposal is an entry on its way. It is answered once.
type proposal struct {
	ctx    context.Context // of the caller, to drop what nobody waits for before it is in the log
	data   []byte
	term   uint64
	answer chan answer // has room for the one answer
}

// answer is how a proposal or barrier ended.
type answer struct {
	value any
	index uint64
	err   error
}

// barrier is a reader that waits for a linearizable point.
type barrier struct {
	id     uint64
	index  uint64
	sent   time.Duration // on the boot clock
	term   uint64
	answer chan answer // has room for the one answer; nil: it only renews the lease
}

// Propose appends data to the log and returns what the Machine answered when it
// applied the entry here; the entry is then durable on a majority. data must not be
// changed afterwards. Many calls at once share disk syncs; calls of one goroutine after
// each other keep their order.
//
// Errors, all but the last of which mean that the entry is not and will not be in the
// log: Invalid (no data), TooLarge, NotPrimary, ReadOnly (no room on disk), Unavailable,
// Timeout and Cancelled (ctx ended while there was no room in flight), and
// UnknownOutcome (ctx or the journal ended after the entry was handed to the log).
func (j *Journal) Propose(ctx context.Context, data []byte) (any, error) {
	switch {
	case len(data) == 0:
		return nil, proposeError(sluice.Invalid, errors.New("an entry needs data"))
	case len(data) > j.cfg.MaxEntry:
		return nil, proposeError(sluice.TooLarge, fmt.Errorf("an entry of %d bytes; at most %d are allowed", len(data), j.cfg.MaxEntry))
	case j.store.isFull():
		return nil, proposeError(sluice.ReadOnly, errors.New("the master's disk is full: make room, it recovers by itself"))
	}
	weight := min(int64(len(data))+recordHeader, j.cfg.MaxInflight)
	if err := j.room.Acquire(ctx, weight); err != nil {
		return nil, sluice.Wrap("propose", "", err)
	}
	p := &proposal{ctx: ctx, data: data, answer: make(chan answer, 1)}
	if !j.inbox.put(p) {
		j.room.Release(weight)
		return nil, sluice.Wrap("propose", "", j.cause())
	}
	select {
	case a := <-p.answer:
		return a.value, sluice.Wrap("propose", "", a.err)
	case <-ctx.Done():
	}
	select {
	case a := <-p.answer: // both were ready: the certain one counts
		return a.value, sluice.Wrap("propose", "", a.err)
	default:
		return nil, proposeError(sluice.UnknownOutcome, ctx.Err())
	}
}

func proposeError(kind sluice.Kind, cause error) error {
	return &sluice.Error{Op: "propose", Kind: kind, Err: cause}
}

// finish answers a proposal and makes its room free.
func (j *Journal) finish(p *proposal, a answer) {
	j.room.Release(min(int64(len(p.data))+recordHeader, j.cfg.MaxInflight))
	p.answer <- a
}

// ReadBarrier returns an index that covers every change acknowledged before the call,
// when this member has applied it: what is read afterwards is linearizable. The only
// voter answers at once, and so does a primary that holds a lease; else a majority is
// asked. Errors: NotPrimary, Unavailable, Timeout, Cancelled.
func (j *Journal) ReadBarrier(ctx context.Context) (sluice.Index, error) {
	if j.leased() {
		return j.cfg.Machine.Applied(), nil
	}
	if term, _ := j.Leading(); term == 0 {
		return 0, &sluice.Error{Op: "read", Kind: sluice.NotPrimary}
	}
	b := &barrier{answer: make(chan answer, 1)}
	if !j.inbox.put(b) {
		return 0, sluice.Wrap("read", "", j.cause())
	}
	select {
	case a := <-b.answer:
		return sluice.Index(a.index), sluice.Wrap("read", "", a.err)
	case <-ctx.Done():
		return 0, sluice.Wrap("read", "", ctx.Err())
	}
}

// abandon answers everybody who waits, after the goroutines have ended.
func (j *Journal) abandon() {
	left := j.inbox.close()
	j.appends.close()
	j.applies.close()
	cause := j.cause()
	j.mu.Lock()
	waiting, readers := j.waiting, j.readers
	j.waiting, j.readers = map[uint64]*proposal{}, nil
	j.setLeadingLocked(0)
	j.mu.Unlock()
	for _, item := range left {
		switch x := item.(type) {
		case *proposal:
			j.finish(x, answer{err: cause})
		case *barrier:
			x.answer <- answer{err: cause}
		case *change:
			x.answer <- cause
		}
	}
	indexes := make([]uint64, 0, len(waiting))
	for i := range waiting {
		indexes = append(indexes, i)
	}
	slices.Sort(indexes)
	for _, i := range indexes {
		j.finish(waiting[i], answer{err: proposeError(sluice.UnknownOutcome, cause)})
	}
	for _, b := range readers {
		b.answer <- answer{err: cause}
	}
}

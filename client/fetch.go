package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
)

// fanOut is how many pieces of one large read are under way at once.
const fanOut = 4

// readRemote fills p, which lies in the file, through workers: large reads as several
// pieces at once. It returns how many bytes are good.
func (h *handle) readRemote(ctx context.Context, p []byte, off int64) (int, error) {
	if len(p) <= 2*pieceSize {
		return h.readBlocks(ctx, p, off)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pieces := (len(p) + pieceSize - 1) / pieceSize
	errs := make([]error, pieces)
	got := make([]int, pieces)
	var wg sync.WaitGroup
	turn := make(chan struct{}, fanOut)
	for i := range pieces {
		turn <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-turn }()
			part := p[i*pieceSize : min((i+1)*pieceSize, len(p))]
			if got[i], errs[i] = h.readBlocks(ctx, part, off+int64(i*pieceSize)); errs[i] != nil {
				cancel() // what lies behind cannot be good any more
			}
		})
	}
	wg.Wait()
	n := 0
	var cancelled error
	for i := range pieces {
		n += got[i]
		if errs[i] != nil && !errors.Is(errs[i], sluice.Cancelled) {
			return n, errs[i]
		}
		if cancelled == nil {
			cancelled = errs[i]
		}
		if got[i] < min(pieceSize, len(p)-i*pieceSize) {
			for _, err := range errs[i:] { // the failure behind that made this one end
				if err != nil && !errors.Is(err, sluice.Cancelled) {
					return n, err
				}
			}
			break
		}
	}
	return n, cancelled
}

// readBlocks fills p block by block.
func (h *handle) readBlocks(ctx context.Context, p []byte, off int64) (n int, err error) {
	for n < len(p) {
		s, ok := h.locate(off + int64(n))
		if !ok {
			return n, errLayout(off + int64(n))
		}
		want := p[n : n+int(min(int64(len(p)-n), s.length-s.off))]
		if err := h.fetch(ctx, s, want, off+int64(n)); err != nil {
			return n, err
		}
		n += len(want)
	}
	return n, nil
}

// fetch fills p, which lies in one block, from the first worker that can serve it, or
// from the under store where none can and the mount allows it. at is the place in the
// file.
func (h *handle) fetch(ctx context.Context, s spot, p []byte, at int64) error {
	begin, pause := time.Now(), firstPause
	for refreshes := 0; ; {
		o := h.access()
		err := h.askWorkers(ctx, o, s, p)
		if err == nil || ctx.Err() != nil {
			return err
		}
		switch kind := sluice.KindOf(err); kind {
		case sluice.Stale, sluice.Changed, sluice.NotFound, sluice.Unauthenticated:
			if refreshes++; refreshes > 2 {
				return err
			}
			if !h.renewed(ctx, o, kind, &err) {
				return err
			}
			continue
		case sluice.Unavailable, sluice.Busy, sluice.Timeout, sluice.NoSpace, sluice.Corrupt:
			derr := h.readDirect(ctx, o, p, at)
			if derr == nil {
				return nil
			}
			if errors.Is(derr, sluice.Changed) {
				if refreshes++; refreshes > 2 || !h.renewed(ctx, o, sluice.Changed, &derr) {
					return derr
				}
				continue
			}
			if sluice.KindOf(derr) == sluice.Unavailable && answered(derr) {
				return derr // the store itself, at its mount's deadline
			}
			if answered(err) && kind != sluice.Busy || kind == sluice.Corrupt || time.Since(begin) >= h.c.cfg.Retry {
				return err
			}
		default:
			return err
		}
		if serr := sleep(ctx, h.c.dice.jitter(pause)); serr != nil {
			return err
		}
		pause = min(2*pause, lastPause)
		// This brings the current view of the workers, too.
		if _, rerr := h.refresh(ctx, o, sluice.Freshness{}); errors.Is(rerr, sluice.Changed) {
			return rerr
		}
	}
}

// renewed asks the master again after a worker or the store refused what o says with an
// error of this kind, and says whether another try may do better. If not, *err is why.
func (h *handle) renewed(ctx context.Context, o *opened, kind sluice.Kind, err *error) bool {
	if kind != sluice.Changed && kind != sluice.NotFound {
		_, rerr := h.refresh(ctx, o, sluice.Freshness{}) // the grant expired
		if rerr != nil {
			*err = rerr
		}
		return rerr == nil
	}
	for again := false; ; again = true {
		next, rerr := h.refresh(ctx, o, sluice.Always()) // the master is to see what was seen
		if rerr != nil {
			*err = rerr
			return false
		}
		if kind != sluice.Changed || next.info.Store != o.info.Store || next.info.Key != o.info.Key {
			return true
		}
		// A rename that the store has done is known to the master a moment later.
		if again || sleep(ctx, renameWait) != nil {
			return false
		}
		o = next
	}
}

// renameWait is how long a reader whose object is gone waits before it asks once more.
const renameWait = 100 * time.Millisecond

// askWorkers asks the workers in order. What is about the file itself (its version, the
// grant) ends the search; what is about one worker goes on to the next.
func (h *handle) askWorkers(ctx context.Context, o *opened, s spot, p []byte) error {
	all := h.c.workers.search(s.id, o.holders)
	if len(all) == 0 {
		return &sluice.Error{Kind: sluice.Unavailable, Err: errors.New("there is no worker")}
	}
	var worst error
	var lost []sluice.WorkerID
	sick := false // a worker answered that the store does not: another need not ask it again
	for i, w := range all {
		if sick && i >= len(o.holders) {
			break
		}
		_, err := w.ReadBlock(ctx, o.grant, s.id, s.off, p, o.read)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		switch sluice.KindOf(err) {
		case sluice.Stale, sluice.Changed, sluice.NotFound, sluice.Unauthenticated, sluice.Permission, sluice.Invalid, sluice.Archived:
			return err
		case sluice.Unavailable, sluice.Timeout:
			sick = sick || answered(err)
		case sluice.Lost:
			lost = append(lost, w.info.ID)
		}
		if worst == nil || rank(err) > rank(worst) {
			worst = err
		}
	}
	if away := missing(o, s.id, lost); errors.Is(worst, sluice.Lost) && away != 0 {
		return &sluice.Error{Kind: sluice.Unavailable, Err: fmt.Errorf("worker %v, which holds these bytes, does not answer", away)}
	}
	return worst
}

// missing returns a worker that holds a block, as the master has it, and is not among
// those that answered that they do not; 0 where there is none. Bytes that exist only in
// workers are lost once each of these has said so, and until then not available.
func missing(o *opened, b sluice.BlockID, lost []sluice.WorkerID) sluice.WorkerID {
	for _, h := range o.holders {
		if h.Content == b.Content && h.First <= b.Index && b.Index-h.First < h.Count && !slices.Contains(lost, h.Worker) {
			return h.Worker
		}
	}
	return 0
}

// rank says which of several workers' errors tells the most.
func rank(err error) int {
	switch sluice.KindOf(err) {
	case sluice.Lost:
		return 3
	case sluice.Corrupt:
		return 2
	case sluice.Unavailable, sluice.Busy, sluice.Timeout:
		if answered(err) {
			return 1
		}
		return 0
	default:
		return 1
	}
}

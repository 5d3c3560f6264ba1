package client

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
)

// choose finds a worker that takes the first bytes, which begin sends to it. Those that
// failed before it are told to forget what they may have got all the same.
func (w *writer) choose(ctx context.Context, begin func(to *worker) error) error {
	var tried []*worker
	err := w.chooseFrom(ctx, func(to *worker) error {
		err := begin(to)
		if err != nil && !slices.Contains(tried, to) {
			tried = append(tried, to)
		}
		return err
	})
	for _, to := range tried {
		if to != w.to {
			w.discardAt(ctx, to)
		}
	}
	return err
}

func (w *writer) chooseFrom(ctx context.Context, begin func(to *worker) error) error {
	start, pause := time.Now(), firstPause
	for {
		var last error = &sluice.Error{Kind: sluice.Unavailable, Err: errors.New("there is no worker")}
		all := w.c.workers.takers(ctx, w.content)
		for _, to := range all {
			if last = begin(to); last == nil {
				w.to = to
				return nil
			}
			switch sluice.KindOf(last) {
			case sluice.Unavailable, sluice.Busy, sluice.NoSpace, sluice.Timeout, sluice.Corrupt, sluice.ReadOnly:
			default:
				return last
			}
			if ctx.Err() != nil {
				return last
			}
		}
		if len(all) == 0 {
			w.c.workers.look(ctx)
		}
		if !sluice.KindOf(last).Retriable() || time.Since(start) >= w.c.cfg.Retry {
			return last
		}
		if err := sleep(ctx, w.c.dice.jitter(pause)); err != nil {
			return last
		}
		pause = min(2*pause, lastPause)
	}
}

// resendFor is how long a piece is sent again to the worker that has those before it,
// after its connection was lost.
const resendFor = 5 * time.Second

// transmit sends one piece. A worker takes a repeated one once.
func (w *writer) transmit(ctx context.Context, to *worker, off int64, p parcel) error {
	start, pause := time.Now(), firstPause
	for {
		err := to.write(ctx, w.grant, off, p)
		if err == nil || ctx.Err() != nil {
			return err
		}
		kind := sluice.KindOf(err)
		lost := kind == sluice.Unavailable && !answered(err)
		if !lost && kind != sluice.Busy && kind != sluice.Corrupt || w.to == nil || time.Since(start) > resendFor {
			return err
		}
		if serr := sleep(ctx, w.c.dice.jitter(pause)); serr != nil {
			return err
		}
		pause = min(2*pause, lastPause)
	}
}

// finish sends what is left and seals the content. The bytes of a small file and their
// seal are sent without waiting in between.
func (w *writer) finish(ctx context.Context) (sealed sluice.Sealed, err error) {
	if w.to == nil && w.n > 0 {
		p := summed(w.buf[:w.n])
		err = w.choose(ctx, func(to *worker) error {
			sealed, err = w.sendSealed(ctx, to, p)
			return err
		})
		if err == nil {
			w.count(p)
			w.n = 0
		}
		return sealed, err
	}
	if err := w.flush(ctx); err != nil {
		return sealed, err
	}
	w.flight.Wait()
	if err := w.broken(ctx); err != nil {
		return sealed, err
	}
	return w.seal(ctx)
}

// sendSealed sends all of a content and its seal to a worker.
func (w *writer) sendSealed(ctx context.Context, to *worker, p parcel) (sealed sluice.Sealed, err error) {
	sealing, cancel := context.WithCancel(ctx)
	defer cancel()
	var early sync.WaitGroup
	var overtook error
	early.Go(func() { sealed, overtook = to.Seal(sealing, w.grant, int64(len(p.data))) })
	err = w.transmit(ctx, to, 0, p)
	if err != nil {
		cancel()
	}
	early.Wait()
	if err == nil && overtook != nil {
		return to.Seal(ctx, w.grant, int64(len(p.data))) // it came before the bytes, or got lost
	}
	return sealed, err
}

// seal ends the content at its worker. Of an empty file this is the first it hears.
func (w *writer) seal(ctx context.Context) (sealed sluice.Sealed, err error) {
	if w.to == nil {
		err = w.choose(ctx, func(to *worker) error {
			sealed, err = to.Seal(ctx, w.grant, 0)
			return err
		})
		return sealed, err
	}
	start, pause := time.Now(), firstPause
	for {
		sealed, err = w.to.Seal(ctx, w.grant, w.sent)
		if err == nil || ctx.Err() != nil {
			return sealed, err
		}
		kind := sluice.KindOf(err)
		if !(kind == sluice.Unavailable && !answered(err)) && kind != sluice.Busy || time.Since(start) > resendFor {
			return sealed, err
		}
		if serr := sleep(ctx, w.c.dice.jitter(pause)); serr != nil {
			return sealed, err
		}
		pause = min(2*pause, lastPause)
	}
}

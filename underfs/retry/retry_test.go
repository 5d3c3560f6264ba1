package retry_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/retry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWhatIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			op   underfs.Op
			kind sluice.Kind
			want int // calls
		}{
			{underfs.OpStat, sluice.Unavailable, 4},
			{underfs.OpCommit, sluice.Unavailable, 4},
			{underfs.OpDelete, sluice.Unavailable, 4},
			{underfs.OpWrite, sluice.Unavailable, 1},
			{underfs.OpPrepare, sluice.Unavailable, 1},
			{underfs.OpCommit, sluice.UnknownOutcome, 1},
			{underfs.OpStat, sluice.Timeout, 1},
			{underfs.OpStat, sluice.NotFound, 1},
			{underfs.OpStat, sluice.Permission, 1},
		} {
			calls := 0
			err := retry.New(retry.Config{}).Call(t.Context(), underfs.Call{Op: c.op}, func(context.Context) error {
				calls++
				return &sluice.Error{Kind: c.kind}
			})
			if calls != c.want || !errors.Is(err, c.kind) {
				t.Errorf("%s that fails as %q: %d calls and %v, want %d calls and that error", c.op, c.kind, calls, err, c.want)
			}
		}
	})
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := retry.New(retry.Config{Tries: 6, First: time.Second, Max: 4 * time.Second, Seed: 1})
		var at []time.Duration
		start := time.Now()
		call := func(ctx context.Context) error {
			return r.Call(ctx, underfs.Call{Op: underfs.OpStat}, func(context.Context) error {
				at = append(at, time.Since(start))
				return &sluice.Error{Kind: sluice.Unavailable}
			})
		}
		_ = call(t.Context())
		for i, longest := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 4 * time.Second, 4 * time.Second} {
			if d := at[i+1] - at[i]; d < longest/2 || d > longest {
				t.Errorf("wait %d was %s, want between half of %s and all of it", i, d, longest)
			}
		}
		// Where the deadline comes before the next try, the failure is told at once.
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		at, start = nil, time.Now()
		if err := call(ctx); !errors.Is(err, sluice.Unavailable) || time.Since(start) != 0 || len(at) != 1 {
			t.Errorf("with 400ms left: %v after %s and %d calls, want kind unavailable at once", err, time.Since(start), len(at))
		}
		if s := r.Stats(); s.Retries != 5 || s.GaveUp != 2 {
			t.Errorf("stats %+v, want 5 retries and 2 calls given up", s)
		}
	})
}

func TestSuccessAfterFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		err := retry.New(retry.Config{}).Call(t.Context(), underfs.Call{Op: underfs.OpStat}, func(context.Context) error {
			if calls++; calls < 3 {
				return &sluice.Error{Kind: sluice.Unavailable}
			}
			return nil
		})
		if err != nil || calls != 3 {
			t.Errorf("%v after %d calls, want success after 3", err, calls)
		}
	})
}

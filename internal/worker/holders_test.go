package worker

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// local is a client on the worker's host.
type local struct {
	b     *bench
	conn  *rpc.Client
	token uint64
}

func (b *bench) local(token uint64) *local {
	l := &local{b: b, conn: rpc.NewClient(rpc.ClientConfig{}, rpc.Target{Socket: b.socket("w")}), token: token}
	b.t.Cleanup(func() { l.conn.Close() })
	return l
}

// cached is a content of one cached page.
func (b *bench) cached(n uint64) *wire.Claims {
	b.t.Helper()
	data := pattern(n, sluice.PageSize)
	c := b.file(n, "f"+string(rune('a'+n)), data)
	b.wantRead(c, data)
	b.until("the page is kept", func() bool {
		pages, _ := b.store.Has(sluice.BlockID{Content: content(n)})
		return len(pages) > 0 && pages[0] == 1
	})
	return c
}

// open asks for the descriptor of a content's block and closes it: what counts is what
// the worker believes.
func (l *local) open(c *wire.Claims, hold uint64, released ...uint64) error {
	q := &wire.OpenBlockRequest{
		Grant: l.b.grant(c), Block: wire.FromBlockID(sluice.BlockID{Content: c.Content.Sluice()}),
		Holder: l.token, Hold: hold, Released: released,
	}
	var f *os.File
	_, err := l.conn.CallPayload(l.b.t.Context(), wire.MethodOpenBlock, q, &wire.OpenBlockAnswer{}, rpc.Payload{File: &f})
	if f != nil {
		f.Close()
	}
	return err
}

// recall leaves a request waiting and returns what is wanted.
func (l *local) recall(again bool, released ...uint64) ([]uint64, error) {
	ctx, cancel := context.WithTimeout(l.b.t.Context(), 10*time.Second)
	defer cancel()
	var a wire.RecallAnswer
	err := l.conn.Call(ctx, wire.MethodRecall, &wire.RecallRequest{Holder: l.token, Released: released, Again: again}, &a)
	return a.Wanted, err
}

func (b *bench) held() int64 { return b.store.Stats().Tiers[0].Held }

// skewed lets the test move the worker's clock on.
func skewed(skew *atomic.Int64) func(*bench) {
	return func(b *bench) {
		old(b)
		b.cfg.Boot = func() time.Duration { return bootTime() + time.Duration(skew.Load()) }
	}
}

// What a client holds of a dead block is charged until it says that it let go, which it
// is asked for at once.
func TestRecallFreesHeldSpace(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old)
	l, other := b.local(7), b.local(8)
	c, d := b.cached(1), b.cached(2)
	for i, err := range []error{l.open(c, 1), l.open(c, 2), l.open(d, 3), other.open(c, 1)} {
		if err != nil {
			t.Fatalf("open %d: %v", i, err)
		}
	}
	if s := b.w.Stats(); s.Holders != 2 || s.Descriptors != 4 || b.held() != 0 {
		t.Fatalf("%d clients hold %d descriptors, %d bytes of dead blocks", s.Holders, s.Descriptors, b.held())
	}
	type answer struct {
		wanted []uint64
		err    error
	}
	waits := make(chan answer, 1)
	go func() {
		wanted, err := l.recall(false)
		waits <- answer{wanted, err}
	}()
	b.until("a request waits", func() bool {
		b.w.holders.mu.Lock()
		defer b.w.holders.mu.Unlock()
		return b.w.holders.all[7].poll != nil
	})
	b.store.DropContent(t.Context(), content(1))
	got := <-waits
	slices.Sort(got.wanted)
	for len(got.wanted) == 1 { // the second was asked for after the answer
		more, err := l.recall(false)
		got.wanted, got.err = slices.Sorted(slices.Values(append(got.wanted, more...))), errors.Join(got.err, err)
	}
	if got.err != nil || !slices.Equal(got.wanted, []uint64{1, 2}) {
		t.Fatalf("wanted %v, %v; want the two descriptors of the dead block", got.wanted, got.err)
	}
	if b.held() != sluice.PageSize {
		t.Errorf("%d bytes are held, want a page", b.held())
	}
	if wanted, err := l.recall(true); err != nil || len(wanted) != 2 {
		t.Errorf("after a lost answer: %v, %v, want the two again", wanted, err)
	}
	go func() {
		wanted, err := l.recall(false, 1, 2, 99)
		waits <- answer{wanted, err}
	}()
	b.until("the first client's are given back", func() bool { return b.w.Stats().Descriptors == 2 })
	if b.held() != sluice.PageSize {
		t.Errorf("%d bytes are held while the other client has it", b.held())
	}
	if wanted, err := other.recall(false); err != nil || !slices.Equal(wanted, []uint64{1}) {
		t.Errorf("the other is asked for %v, %v", wanted, err)
	}
	if _, err := other.recall(false, 1); err != nil { // its last: answered at once
		t.Error(err)
	}
	if s := b.w.Stats(); b.held() != 0 || s.Holders != 1 || s.Recalled != 3 {
		t.Errorf("%d bytes held, %+v", b.held(), s)
	}
	if _, err := other.recall(false); !errors.Is(err, sluice.NotFound) {
		t.Errorf("a client that holds nothing: %v, want kind not found", err)
	}
	go l.recall(false) // takes the place of the one that waits, which is answered
	if got := <-waits; got.err != nil || len(got.wanted) != 0 {
		t.Errorf("the request before the last: %v, %v", got.wanted, got.err)
	}
}

// A client that does not answer keeps what it holds, and gets no more until it does.
func TestDeafHolder(t *testing.T) {
	var skew atomic.Int64
	b := newBench(t, underfstest.Options{}, skewed(&skew))
	l, other := b.local(7), b.local(8)
	c, d := b.cached(1), b.cached(2)
	if err := l.open(c, 1); err != nil {
		t.Fatal(err)
	}
	b.store.DropContent(t.Context(), content(1))
	if err := l.open(d, 2); err != nil {
		t.Errorf("before it could answer: %v", err)
	}
	skew.Add(int64(holderAnswers + time.Second))
	if err := l.open(d, 3); !errors.Is(err, sluice.Unsupported) {
		t.Errorf("without an answer: %v, want kind unsupported", err)
	}
	if err := other.open(d, 1); err != nil {
		t.Errorf("another client: %v", err)
	}
	b.w.holders.sweep()
	skew.Add(int64(time.Minute))
	b.w.holders.sweep()
	if b.held() != sluice.PageSize || b.w.Stats().Refused != 1 {
		t.Errorf("%d bytes are held, %d refused", b.held(), b.w.Stats().Refused)
	}
	if wanted, err := l.recall(false); err != nil || !slices.Equal(wanted, []uint64{1}) {
		t.Errorf("wanted %v, %v", wanted, err)
	}
	if err := l.open(d, 4, 1); err != nil { // says what it let go of along with it
		t.Errorf("after it answered: %v", err)
	}
	if b.held() != 0 {
		t.Errorf("%d bytes are held", b.held())
	}
}

// What a client held is given up when its connection is gone for good, and not when it
// comes again.
func TestHolderGone(t *testing.T) {
	var skew atomic.Int64
	b := newBench(t, underfstest.Options{}, skewed(&skew))
	c := b.cached(1)
	killed, back := b.local(7), b.local(8)
	for _, l := range []*local{killed, back} {
		if err := l.open(c, 1); err != nil {
			t.Fatal(err)
		}
		go l.recall(false) // until its connection ends
		b.until("it waits", func() bool {
			b.w.holders.mu.Lock()
			defer b.w.holders.mu.Unlock()
			return b.w.holders.all[l.token].poll != nil
		})
	}
	b.store.DropContent(t.Context(), content(1))
	killed.conn.Close()
	back.conn.Close()
	again := b.local(8)
	if wanted, err := again.recall(true); err != nil || !slices.Equal(wanted, []uint64{1}) {
		t.Errorf("on a new connection: wanted %v, %v", wanted, err)
	}
	b.until("the dead client's descriptor is given up", func() bool {
		skew.Add(int64(time.Second))
		b.w.holders.sweep()
		return b.w.Stats().Holders == 1
	})
	if b.held() != sluice.PageSize {
		t.Errorf("%d bytes are held by the one that came again", b.held())
	}
	again.conn.Close()
	b.until("the other's too", func() bool {
		skew.Add(int64(time.Second))
		b.w.holders.sweep()
		return b.w.Stats().Holders == 0
	})
	if b.held() != 0 || b.w.Stats().Descriptors != 0 {
		t.Errorf("%d bytes are held, %d descriptors", b.held(), b.w.Stats().Descriptors)
	}
}

// Beyond the bound a client gets no descriptor, until it says that it let go of one.
func TestHolderBound(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old, func(b *bench) { b.cfg.Descriptors = 2 })
	c := b.cached(1)
	l := b.local(7)
	for hold := range uint64(2) {
		if err := l.open(c, hold+1); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.open(c, 2); !errors.Is(err, sluice.Invalid) {
		t.Errorf("a number used twice: %v, want kind invalid", err)
	}
	if err := l.open(c, 3); !errors.Is(err, sluice.Unsupported) {
		t.Errorf("above the bound: %v, want kind unsupported", err)
	}
	if err := l.open(c, 4, 1); err != nil {
		t.Errorf("after one was closed: %v", err)
	}
	if s := b.w.Stats(); s.Descriptors != 2 || s.Refused != 2 {
		t.Errorf("%+v", s)
	}
}

// A descriptor whose caller gave up, or that does not get to it, is not charged.
func TestGivenUpDescriptor(t *testing.T) {
	b := newBench(t, underfstest.Options{}, old)
	c := b.cached(1)
	x := b.w.holders
	q := &wire.OpenBlockRequest{Holder: 7, Hold: 1}
	live := make(chan struct{})
	d, err := x.reserve(q, live)
	if err != nil {
		t.Fatal(err)
	}
	h, err := b.store.OpenBlock(t.Context(), sluice.BlockID{Content: c.Content.Sluice()})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	p, err := h.Pass(func() { x.want(d) })
	if err != nil {
		t.Fatal(err)
	}
	// Its caller says that it has let go before the worker has passed it.
	if _, _, err := x.attend(&wire.RecallRequest{Holder: 7, Released: []uint64{1}}, live); err != nil {
		t.Fatal(err)
	}
	if x.keep(d, p) {
		t.Error("a descriptor was kept that its caller had let go of")
	}
	x.drop(d)
	h.Close()
	b.store.DropContent(t.Context(), content(1))
	if s := b.w.Stats(); s.Descriptors != 0 || s.Holders != 0 || b.held() != 0 {
		t.Errorf("%+v, %d bytes held", s, b.held())
	}
}

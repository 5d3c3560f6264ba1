package trace_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/trace"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCounts(t *testing.T) {
	m := underfstest.NewMemory(underfstest.Options{})
	m.Put("o", []byte("0123456789"))
	var log bytes.Buffer
	tr := trace.New(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	s := underfs.Intercept(m.Store(), tr)
	for range 3 {
		if _, err := s.Stat(t.Context(), "o"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Stat(t.Context(), "nothing"); !errors.Is(err, sluice.NotFound) {
		t.Fatal(err)
	}
	m.Inject(underfs.OpStat, underfstest.Fault{Kind: sluice.Unavailable})
	if _, err := s.Stat(t.Context(), "o"); !errors.Is(err, sluice.Unavailable) {
		t.Fatal(err)
	}
	r, err := s.Read(t.Context(), underfs.ReadRequest{Key: "o", Length: 10})
	if err != nil {
		t.Fatal(err)
	}
	if n := tr.Stats().InFlight; n != 1 {
		t.Errorf("%d in flight with an open body, want 1", n)
	}
	if _, err := io.ReadFull(r, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	r.Close()
	got := tr.Stats()
	if len(got.Ops) != 2 || got.InFlight != 0 {
		t.Fatalf("stats %+v, want stat and read, nothing in flight", got)
	}
	if o := got.Ops[0]; o.Op != underfs.OpStat || o.Calls != 5 || o.Errors != 1 {
		t.Errorf("stat: %+v, want 5 calls and 1 error (an answer is none)", o)
	}
	if o := got.Ops[1]; o.Op != underfs.OpRead || o.Calls != 1 || o.Bytes != 4 {
		t.Errorf("read: %+v, want 1 call and 4 bytes", o)
	}
	if !strings.Contains(got.Last, "unavailable") || got.LastAt.IsZero() {
		t.Errorf("last error %q at %s", got.Last, got.LastAt)
	}
	if n := strings.Count(log.String(), "store call"); n != 6 {
		t.Errorf("%d lines in the log, want 6:\n%s", n, log.String())
	}
}

package master

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/auth"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// TestAnEntryOfALaterVersionStopsTheMaster: with a message, at once and at each start,
// and without applying anything behind it.
func TestAnEntryOfALaterVersionStopsTheMaster(t *testing.T) {
	keys, err := auth.NewKeyring(nil)
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, fs: vfs.NewMem(), keys: keys, driver: &underfstest.Driver{}}
	d.start()
	entry := &wire.Entry{Format: wire.EntryFormat, Version: wire.ClusterVersion + 1}
	data, err := entry.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.journal.Propose(t.Context(), data); err == nil {
		t.Error("the entry was answered as if it had been applied")
	}
	check := func(when string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "install a newer one") {
			t.Errorf("%s: got %v, want a message that says what to install", when, err)
		}
	}
	check("ready", d.Ready())
	if _, err := d.Mkdir(t.Context(), d.call(), "/a", sluice.MkdirOptions{}); err == nil {
		t.Error("a stopped master makes a directory")
	}
	d.want("close", d.Close())
	m, err := Open(context.Background(), d.config())
	if err == nil {
		check("ready after a start", m.Ready())
		err = m.Close()
		if err != nil {
			t.Error(err)
		}
		return
	}
	check("start", err)
}

// TestTheHashIsJournaled: once for each mark, and a start that replays it agrees.
func TestTheHashIsJournaled(t *testing.T) {
	d := newDesk(t, nil)
	ctx := t.Context()
	if got := d.journalHash(ctx, 0); got != 0 {
		t.Fatalf("before the first mark it came to %d", got)
	}
	nothing := &wire.Command{Op: &wire.Command_Reap{Reap: &wire.Reap{}}}
	for at, _ := d.state.Mark(); at == 0; at, _ = d.state.Mark() {
		_, err := d.propose(ctx, nothing)
		d.want("propose", err)
	}
	at, hash := d.state.Mark()
	before := d.state.Applied()
	if got := d.journalHash(ctx, 0); got != at || d.state.Applied() <= before {
		t.Errorf("it came to %d with %d entries more, want %d and one", got, d.state.Applied()-before, at)
	}
	wrong := &wire.Command{Op: &wire.Command_CheckHash{CheckHash: &wire.CheckHash{Index: uint64(at - 1), Hash: ^hash}}}
	_, err := d.propose(ctx, wrong)
	d.want("a hash of what is no mark", err)
	d.restart()
	_, err = d.Mkdir(ctx, d.call(), "/a", sluice.MkdirOptions{})
	d.want("mkdir after a restart", err)
	wrong.GetCheckHash().Index = uint64(at)
	if _, err := d.propose(ctx, wrong); err == nil || errors.Is(d.Ready(), sluice.NotPrimary) {
		t.Errorf("another hash: %v, and the master is %v; want it stopped", err, d.Ready())
	}
}

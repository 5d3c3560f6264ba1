package namespace

import (
	"errors"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// TestStaleBase: a content based on one that was replaced is refused, at create or at
// commit, and its writer is gone then.
func TestStaleBase(t *testing.T) {
	m := newMachine(t)
	first := m.ok(m.ask(nil, create("/f", sluice.CreateOptions{})))
	m.ok(m.ask(nil, commitOf(first, 1)))
	base := sluice.CreateOptions{Base: first.Content.Sluice()}
	late := m.ok(m.ask(nil, create("/f", base)))
	second := m.ok(m.ask(nil, create("/f", base)))
	m.ok(m.ask(nil, commitOf(second, 2)))
	m.fails(m.ask(nil, commitOf(late, 3)), sluice.Stale)
	m.check()
	m.fails(m.ask(nil, commitOf(late, 3)), sluice.NotFound)
	m.fails(m.ask(nil, create("/f", base)), sluice.Stale)
	m.fails(m.ask(nil, create("/g", base)), sluice.Stale)
	if info := m.stat("/f"); info.Length != 2 {
		t.Errorf("the file has %d bytes, want those of the first commit", info.Length)
	}
}

// TestRenamedWhileWritten: an upload bound to the old key is refused, one that is still
// with its worker goes to the new key.
func TestRenamedWhileWritten(t *testing.T) {
	m := newMachine(t)
	m.mount("/m")
	m.ok(m.ask(nil, mkdir("/m/d", false, false)))
	bound := m.ok(m.ask(nil, create("/m/d/bound", sluice.CreateOptions{})))
	inline := m.ok(m.ask(nil, create("/m/d/inline", sluice.CreateOptions{})))
	m.ok(m.ask(nil, rename("/m/d", "/m/e", false)))
	m.fails(m.ask(nil, commitOf(bound, 5)), sluice.Changed)
	m.absent("/m/e/bound")
	c := commitOf(inline, 5)
	c.CommitContent.Sealed.Prepared = &wire.Prepared{Inline: true}
	a := m.ok(m.ask(nil, c))
	i, ok, err := m.s.Intent(a.Intent)
	if err != nil || !ok || i.Key != "e/inline" {
		t.Fatalf("the intent is %+v (%v), want the key e/inline", i, err)
	}
	m.ok(m.do(nil, finish(a.Intent, object("", "v", 5))))
	m.check()
	want := sluice.Holder{Content: inline.Content.Sluice(), Worker: 3, Count: 1}
	if h := m.s.Holders(inline.Content.Sluice()); len(h) != 1 || h[0] != want {
		t.Errorf("holders %v, want %v", h, want)
	}
}

// TestRolledForwardOnly: from the intent on, the end of the session does not take a
// commit back.
func TestRolledForwardOnly(t *testing.T) {
	m := newMachine(t)
	m.mount("/m")
	a := m.ok(m.ask(nil, create("/m/f", sluice.CreateOptions{})))
	i := m.ok(m.ask(nil, commitOf(a, 5))).Intent
	m.ok(m.do(nil, &wire.Command_CloseSession{CloseSession: &wire.CloseSession{Session: testSession}}))
	m.check()
	m.ok(m.do(nil, finish(i, object("", "v", 5))))
	m.check()
	if info := m.stat("/m/f"); !info.Complete || info.Length != 5 {
		t.Errorf("the file is %+v, want it complete with 5 bytes", info)
	}
}

// TestTombsAreForgotten: and a listing from before that is trusted with nothing absent.
func TestTombsAreForgotten(t *testing.T) {
	m := newMachine(t)
	id := m.mount("/m")
	m.ok(m.load(id, "/m", m.index, object("a", "v", 1)))
	noted := m.s.Applied()
	i := m.ok(m.ask(nil, remove("/m/a", false))).Intent
	m.ok(m.do(nil, finish(i, nil)))
	m.tick += tombTicks + 1
	m.apply()
	if n := len(m.s.w.tombs); n != 0 {
		t.Fatalf("%d removals are remembered after %v", n, time.Duration(tombTicks))
	}
	m.ok(m.load(id, "/m", noted, object("a", "v", 1)))
	m.absent("/m/a")
	m.ok(m.load(id, "/m", m.s.Applied(), object("a", "v", 1)))
	m.stat("/m/a")
	m.check()
}

// TestUpdateMount: settings change with the epoch, secrets stay where told so.
func TestUpdateMount(t *testing.T) {
	m := newMachine(t)
	m.mount("/m")
	before := m.s.Mounts()[0]
	c := command(&sluice.Principal{User: "ann"}, &wire.Command_MountStore{MountStore: &wire.MountStore{Path: "/n"}})
	m.fails(m.apply(c)[0], sluice.Permission)
	c = &wire.Command{Op: &wire.Command_UpdateMount{UpdateMount: &wire.UpdateMount{Path: "/m", KeepSecrets: true, Options: &wire.MountOptions{ReadOnly: true}}}}
	m.ok(m.apply(c)[0])
	after := m.s.Mounts()[0]
	if !after.Options.ReadOnly || after.Epoch == before.Epoch || len(after.Secrets) != 2 {
		t.Errorf("the mount is %+v, want it read-only with another epoch and its secrets", after)
	}
	m.fails(m.ask(nil, mkdir("/m/d", false, false)), sluice.ReadOnly)
	m.check()
}

// TestReadsForTheDesk: what is not shown by the scripts.
func TestReadsForTheDesk(t *testing.T) {
	m := newMachine(t)
	m.ok(m.ask(nil, mkdir("/d", false, false)))
	m.ok(m.ask(nil, &wire.Command_SetAttr{SetAttr: &wire.SetAttr{Path: "/d", Change: wire.FromAttrChange(sluice.AttrChange{Mode: new(sluice.Mode(0o750))})}}))
	if err := m.s.Access(sluice.Principal{User: "ann"}, "/d", MayRead); !errors.Is(err, sluice.Permission) {
		t.Errorf("access: %v, want permission denied", err)
	}
	if err := m.s.Access(sluice.Principal{User: "root"}, "/d", MayRead|MayWrite|MayExecute); err != nil {
		t.Errorf("access of the owner: %v", err)
	}
	m.s.Warm(&wire.Entry{Commands: []*wire.Command{command(nil, rename("/d", "/e/f", false)), command(nil, mkdir("/..", false, false)), {}}})
	st := m.s.Stats()
	if st.Dirs != 2 || st.Files != 0 || st.Sessions != 1 || st.Applied != m.index {
		t.Errorf("stats %+v, want 2 directories and a session at %d", st, m.index)
	}
	if all, err := m.s.Sessions(); err != nil || len(all) != 1 || all[0].ID != testSession || all[0].Epoch != 1 {
		t.Errorf("sessions %+v (%v)", all, err)
	}
	if terms := m.s.Terms(); terms.Window != DefaultWindow || terms.Cluster != "c" || terms.Version != 1 {
		t.Errorf("terms %+v", terms)
	}
	if m.s.Tick() != time.Duration(m.tick) || m.s.Wall().IsZero() {
		t.Errorf("tick %v, wall %v", m.s.Tick(), m.s.Wall())
	}
	if index, err := m.s.Flush(); err != nil || index != m.index {
		t.Errorf("flushed to %d (%v), want %d", index, err, m.index)
	}
}

// TestIncarnations: a new one begins its contents anew, and the old one's unknown
// contents are for a person to judge only when it is not live.
func TestIncarnations(t *testing.T) {
	m := newMachine(t)
	a := m.ok(m.ask(nil, create("/f", sluice.CreateOptions{})))
	m.ok(m.apply(&wire.Command{Op: &wire.Command_SetIncarnation{SetIncarnation: &wire.SetIncarnation{Incarnation: 5}}})[0])
	b := m.ok(m.ask(nil, create("/g", sluice.CreateOptions{})))
	if a.Content.Incarnation == b.Content.Incarnation || b.Content.Incarnation != 5 {
		t.Errorf("contents %v and %v, want the second of incarnation 5", a.Content, b.Content)
	}
	for content, want := range map[sluice.ContentID]Verdict{{Incarnation: 5, Counter: 99}: VerdictDead, {Incarnation: 77, Counter: 1}: VerdictKeep} {
		if got, _, err := m.s.Verdict(content); err != nil || got != want {
			t.Errorf("verdict of %v is %v (%v), want %v", content, got, err, want)
		}
	}
	m.check()
}

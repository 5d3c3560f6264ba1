package namespace

import (
	"fmt"
	"testing"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// TestWhatIsOpenIsBounded: neither a store that is gone for long nor clients that open
// sessions without end make the state grow without bound.
func TestWhatIsOpenIsBounded(t *testing.T) {
	m := newMachine(t)
	for _, at := range []string{"/m", "/n"} {
		m.ok(m.do(nil, &wire.Command_MountStore{MountStore: &wire.MountStore{
			Path: at, Uri: "mem://x", Options: wire.FromMountOptions(sluice.MountOptions{}),
		}}))
	}
	many := func(n int, make func(i int) *wire.Command) (refused int) {
		t.Helper()
		for i := 0; i < n; i += 500 {
			var commands []*wire.Command
			for j := i; j < min(n, i+500); j++ {
				commands = append(commands, make(j))
			}
			for _, a := range m.apply(commands...) {
				switch kind := sluice.KindOf(a.Error.Sluice()); {
				case a.Error == nil:
				case kind == sluice.Busy && a.BusyWith == 0:
					refused++
				default:
					t.Fatalf("refused with %v, want kind busy and no intent to wait for", a.Error)
				}
			}
		}
		return refused
	}
	empty := func(path string) *wire.Command {
		return command(nil, create(path, sluice.CreateOptions{Empty: true}))
	}
	if got := many(maxIntents+7, func(i int) *wire.Command { return empty(fmt.Sprint("/m/f", i)) }); got != 7 {
		t.Errorf("%d of %d changes of one store were refused, want 7", got, maxIntents+7)
	}
	if a := m.apply(empty("/n/f"))[0]; a.Error != nil {
		t.Errorf("a change of another store: %v", a.Error)
	}
	open, err := m.s.Intents()
	if err != nil {
		t.Fatal(err)
	}
	m.ok(m.do(nil, finish(open[0].ID, object("", "v", 0))))
	if a := m.apply(empty("/m/g"))[0]; a.Error != nil {
		t.Errorf("a change after another had ended: %v", a.Error)
	}
	if err := m.s.Check(); err != nil {
		t.Error(err)
	}
	for id := sluice.SessionID(1000); len(m.s.w.sessions) < maxSessions-1; id++ { // as if they had been opened
		m.s.w.sessions[id] = &sessionState{}
	}
	session := func(i int) *wire.Command {
		return command(nil, &wire.Command_OpenSession{OpenSession: &wire.OpenSession{Session: uint64(i) + 1}})
	}
	if got := many(4, session); got != 3 {
		t.Errorf("%d of 4 sessions were refused where one had room, want 3", got)
	}
}

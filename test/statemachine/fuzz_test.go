package statemachine

import (
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/keyvalue"
	"github.com/sluicefs/sluice/internal/wire"
)

// FuzzCommand applies what may be read as a command to a state with a bit of everything
// in it. Whatever it says, it is an answer, or the error that stops a member of an older
// build; it is never a panic, the state stays whole, and a second state agrees.
func FuzzCommand(f *testing.F) {
	w := &wild{rng: rand.New(rand.NewPCG(1, 5)), m: lived(f)}
	for range 60 {
		for _, c := range w.commands() {
			b, err := proto.Marshal(c)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &wire.Command{}
		if c.UnmarshalVT(b) != nil {
			return
		}
		one, two := lived(t), lived(t)
		for _, m := range []*machine{one, two} {
			e := &wire.Entry{Format: wire.EntryFormat, Version: wire.ClusterVersion, Wall: 5, Tick: int64(m.tick) + 1, Commands: []*wire.Command{proto.CloneOf(c), proto.CloneOf(c)}}
			m.log = append(m.log, e)
			a, err := m.state.Apply(m.index(), e)
			if err != nil {
				if sluice.KindOf(err) != sluice.Unsupported && c.Op != nil {
					t.Fatalf("%v: %v", c, err)
				}
				return
			}
			if len(a) != 2 || a[0] == nil || a[1] == nil {
				t.Fatalf("%v: answers %v", c, a)
			}
			m.check()
		}
		same(t, "the second state", dump(t, two.db), dump(t, one.db))
	})
}

// lived is a state with sessions, writers, mounts, intents and detached trees.
func lived(t testing.TB) *machine {
	m := begin(t, closing(t, keyvalue.OpenMemory()), 4)
	m.lazy = true
	w := &wild{rng: rand.New(rand.NewPCG(3, 6)), m: m}
	m.apply(&wire.Command{By: wire.FromPrincipal(super()), Op: &wire.Command_MountStore{MountStore: &wire.MountStore{Path: "/s", Uri: "s3://x"}}})
	for range 40 {
		w.learn(m.apply(w.commands()...))
	}
	return m
}

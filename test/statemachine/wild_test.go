package statemachine

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// wild makes commands of every kind, most of which find something to do: sessions with
// requests that are remembered, intents that stay open for a while, nested mounts.
type wild struct {
	rng   *rand.Rand
	m     *machine
	seq   [4]uint64
	given []open
}

func (w *wild) n(k int) int    { return w.rng.IntN(k) }
func (w *wild) yes(k int) bool { return w.rng.IntN(k) == 0 }

func (w *wild) path() string {
	var path strings.Builder
	path.WriteString([...]string{"", "/s", "/s", "/s/n", "/t"}[w.n(5)])
	for range 1 + w.n(3) {
		path.WriteString("/" + [...]string{"a", "b", "c", "n"}[w.n(4)])
	}
	return path.String()
}

// commands are those of one entry.
func (w *wild) commands() []*wire.Command {
	var all []*wire.Command
	for range 1 + w.n(3) {
		c := &wire.Command{By: w.by()}
		if w.yes(3) {
			w.desk(c)
		} else {
			w.user(c)
		}
		all = append(all, c)
	}
	return all
}

func (w *wild) by() *wire.Principal {
	switch w.n(6) {
	case 0:
		return &wire.Principal{User: "ann", Groups: []string{"staff"}}
	case 1:
		return &wire.Principal{User: "bob", Groups: []string{"root", "staff"}}
	case 2:
		return nil
	}
	return wire.FromPrincipal(super())
}

// request gives the command an id: the next one, seldom an old one again.
func (w *wild) request(c *wire.Command) {
	s := 1 + w.n(3)
	if !w.yes(6) {
		w.seq[s]++
	}
	seq := max(w.seq[s], 1)
	c.Request = &wire.RequestID{Session: uint64(s), Seq: seq, Lowest: max(1, seq-uint64(min(uint64(w.n(6)), seq-1)))}
}

func (w *wild) user(c *wire.Command) {
	if !w.yes(4) {
		w.request(c)
	}
	path := w.path()
	switch w.n(11) {
	case 0, 1:
		c.Op = &wire.Command_Mkdir{Mkdir: &wire.Mkdir{Path: path, Parents: w.yes(2), Native: w.yes(4), Mode: uint32(w.n(0o10000))}}
	case 2, 3:
		c.Op = &wire.Command_CreateFile{CreateFile: &wire.CreateFile{Path: path, DefaultBlockSize: sluice.DefaultBlockSize, Options: &wire.CreateOptions{
			Parents: w.yes(2), Exclusive: w.yes(5), Empty: w.yes(3), Pinned: w.yes(4), Write: uint32(w.n(5)), Ttl: int64(w.n(2)) * int64(time.Minute), TtlAction: uint32(w.n(2)),
		}}}
	case 4, 5:
		if len(w.given) > 0 {
			g := w.given[w.n(len(w.given))]
			c.Op = &wire.Command_CommitContent{CommitContent: &wire.CommitContent{File: uint64(g.file), Sealed: &wire.Sealed{
				Content: g.content, Length: int64(w.n(100)), Worker: 7, Holders: []*wire.Holder{{Content: g.content, Worker: 7, Count: 1}},
				Prepared: &wire.Prepared{Inline: w.yes(2), Upload: "u", Tag: "t"},
			}}}
			return
		}
		c.Op = &wire.Command_Symlink{Symlink: &wire.Symlink{Target: "x", Path: path}}
	case 6, 7:
		c.Op = &wire.Command_Rename{Rename: &wire.Rename{From: path, To: w.path(), NoReplace: w.yes(3), Atomic: w.yes(3)}}
	case 8:
		c.Op = &wire.Command_Remove{Remove: &wire.Remove{Path: path, Recursive: w.yes(2), CacheOnly: w.yes(4), Native: w.yes(3)}}
	case 9:
		c.Op = &wire.Command_SetAttr{SetAttr: &wire.SetAttr{Path: path, Change: w.change()}}
	default:
		if len(w.given) > 0 {
			g := w.given[w.n(len(w.given))]
			c.Op = &wire.Command_Abandon{Abandon: &wire.Abandon{File: uint64(g.file), Content: g.content}}
			return
		}
		c.Op = &wire.Command_Symlink{Symlink: &wire.Symlink{Target: "x", Path: path}}
	}
}

func (w *wild) change() *wire.AttrChange {
	ch := sluice.AttrChange{}
	if w.yes(2) {
		ch.Mode = new(sluice.Mode(w.n(0o10000)))
	}
	if w.yes(3) {
		ch.Owner, ch.Group = new("ann"), new("staff")
	}
	if w.yes(3) {
		ch.TTL, ch.TTLAction = new(time.Duration(w.n(3))*time.Minute), new(sluice.TTLAction(w.n(2)))
	}
	if w.yes(3) {
		ch.Pinned = new(w.yes(2))
	}
	if w.yes(3) {
		ch.XAttrs = map[string][]byte{"user.a": []byte("1"), "user.b": nil, "user.c": fmt.Append(nil, w.n(9))}
	}
	return wire.FromAttrChange(ch)
}

// desk makes what the cluster itself asks for.
func (w *wild) desk(c *wire.Command) {
	switch w.n(10) {
	case 0:
		c.Op = &wire.Command_OpenSession{OpenSession: &wire.OpenSession{Session: uint64(1 + w.n(3))}}
	case 1:
		if !w.yes(4) {
			w.load(c)
			return
		}
		c.Op = &wire.Command_CloseSession{CloseSession: &wire.CloseSession{Session: uint64(1 + w.n(3))}}
	case 2, 3, 4:
		w.load(c)
	case 5, 6:
		w.finish(c)
	case 7:
		d := &wire.Reap{Limit: uint32(w.n(4))}
		if all, _ := w.m.state.Detached(); len(all) > 0 {
			d.Detached = all[w.n(len(all))].ID
		}
		c.Op = &wire.Command_Reap{Reap: d}
	case 8:
		w.m.tick += time.Duration(w.n(90)) * time.Second
		x := &wire.ExpireTTL{}
		if due, _, _ := w.m.state.DueTTL(w.m.tick, "", 10); len(due) > 0 {
			x.File, x.Epoch = uint64(due[0].File), due[0].Epoch
		}
		c.Op = &wire.Command_ExpireTtl{ExpireTtl: x}
	default:
		c.By = wire.FromPrincipal(super())
		path := [...]string{"/s", "/s/n", "/t"}[w.n(3)]
		switch w.n(6) {
		case 0:
			c.Op = &wire.Command_UnmountStore{UnmountStore: &wire.UnmountStore{Path: path, Force: w.yes(2)}}
		case 1:
			c.Op = &wire.Command_UpdateMount{UpdateMount: &wire.UpdateMount{Path: path, Options: &wire.MountOptions{ReadOnly: w.yes(3)}}}
		default:
			c.Op = &wire.Command_MountStore{MountStore: &wire.MountStore{Path: path, Uri: "s3://x", Options: &wire.MountOptions{Owner: "o"}, Secrets: map[string][]byte{"k": {1}, "l": {2}}}}
		}
	}
}

func (w *wild) finish(c *wire.Command) {
	all, _ := w.m.state.Intents()
	if len(all) == 0 {
		w.load(c)
		return
	}
	i := all[w.n(len(all))]
	switch w.n(6) {
	case 0:
		c.Op = &wire.Command_BeginAttempt{BeginAttempt: &wire.BeginAttempt{Intent: i.ID, Worker: 7, TimeLeft: 1, Term: 1}}
	case 1:
		c.Op = &wire.Command_FinishIntent{FinishIntent: &wire.FinishIntent{Intent: i.ID, Refused: &wire.Error{Kind: uint32(sluice.Permission), Text: "no"}}}
	case 2:
		x := &wire.MoveKeys{Intent: i.ID}
		moves, _ := w.m.state.Moves(i.ID, "", 3)
		for _, m := range moves {
			x.Moved = append(x.Moved, &wire.MovedKey{File: uint64(m.File), From: m.From, Object: &wire.Object{Version: "moved"}})
		}
		c.Op = &wire.Command_MoveKeys{MoveKeys: x}
	default:
		c.Op = &wire.Command_FinishIntent{FinishIntent: &wire.FinishIntent{Intent: i.ID, Done: true, Object: &wire.Object{Version: fmt.Sprint("f", w.n(99)), Mtime: 5}}}
	}
}

func (w *wild) load(c *wire.Command) {
	l := &wire.LoadChildren{Mount: uint64(1 + w.n(4)), Dir: w.path(), Noted: uint64(max(0, int(w.m.index())-w.n(8))), Complete: w.yes(2), Gone: w.yes(9)}
	if all := w.m.state.Mounts(); len(all) > 0 {
		m := all[w.n(len(all))]
		l.Mount, l.Dir = uint64(m.ID), string(m.Path)
		if w.yes(3) {
			l.Dir += "/" + [...]string{"a", "b", "c", "n"}[w.n(4)]
		}
	}
	for _, name := range []string{"a", "b", "c", "n"} {
		switch w.n(4) {
		case 0:
			l.Objects = append(l.Objects, &wire.Object{Key: name, Dir: true})
		case 1:
			l.Objects = append(l.Objects, &wire.Object{Key: name, Length: int64(w.n(50)), Version: fmt.Sprint("v", w.n(4)), Mtime: int64(w.n(9))})
		}
	}
	c.Op = &wire.Command_LoadChildren{LoadChildren: l}
}

// learn keeps what answers gave.
func (w *wild) learn(answers []*wire.Answer) {
	for _, a := range answers {
		if a.Content != nil && a.Info != nil {
			w.given = append(w.given, open{sluice.FileID(a.Info.Id), a.Content})
		}
	}
}

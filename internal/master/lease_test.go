package master

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// watch leaves the session's request waiting until ctx ends, and sends what it is told.
func (d *desk) watch(ctx context.Context, id sluice.SessionID) (heard chan sluice.FileID, done chan struct{}) {
	heard, done = make(chan sluice.FileID, 1000), make(chan struct{})
	go func() {
		defer close(done)
		var acked uint64
		for ctx.Err() == nil {
			n, err := d.Await(ctx, d.read(), id, acked)
			if err != nil {
				return
			}
			for _, f := range n.Files {
				heard <- f
			}
			acked = n.Upto
		}
	}()
	return heard, done
}

func TestAnOpenGrantIsNoticedBeforeAChangeIsAnswered(t *testing.T) {
	d := newDesk(t, func(c *Config) { c.NoticeLease = 5 * time.Second })
	mem := d.mountMem("/m", "b", underfstest.Options{SmallUpload: -1}, sluice.MountOptions{})
	_, err := d.through(mem, "/m/f", "f", "one")
	d.want("commit", err)
	const reader = 99
	_, err = d.OpenSession(t.Context(), d.read(), reader)
	d.want("open session", err)
	ctx, cancel := context.WithCancel(t.Context())
	heard, done := d.watch(ctx, reader)
	open := func(path sluice.Path) sluice.Opened {
		t.Helper()
		c := sluice.Call{Principal: root, Request: sluice.RequestID{Session: reader}}
		for { // the first request may come before the waiting one
			o, err := d.Open(t.Context(), c, path, sluice.OpenOptions{}, 0)
			d.want("open", err)
			if o.Lease > 0 {
				return o
			}
		}
	}
	told := func(what string, id sluice.FileID) {
		t.Helper()
		for {
			select {
			case f := <-heard:
				if f == id || f == 0 {
					return
				}
			default:
				t.Fatalf("%s was answered and the holder of a grant was not told", what)
			}
		}
	}
	o := open("/m/f")
	_, err = d.through(mem, "/m/f", "f", "second")
	d.want("replace", err)
	told("a commit", o.Info.ID)
	o = open("/m/f")
	d.want("rename", d.Rename(t.Context(), d.call(), "/m/f", "/m/g", sluice.RenameOptions{}))
	told("a rename", o.Info.ID)
	o = open("/m/g")
	mem.Put("g", []byte("behind us"))
	_, err = d.Stat(t.Context(), d.read(), "/m/g", sluice.StatOptions{Freshness: sluice.Always()})
	d.want("stat", err)
	told("what changed in the store", o.Info.ID)
	o = open("/m/g")
	d.want("remove", d.Remove(t.Context(), d.call(), "/m/g", sluice.RemoveOptions{}))
	told("a removal", o.Info.ID)
	d.put("/x", 3)
	o = open("/x")
	_, err = d.Create(t.Context(), d.call(), "/x", sluice.CreateOptions{Empty: true}, 0)
	d.want("replace by an empty file", err)
	told("an empty file", o.Info.ID)
	cancel()
	<-done
}

func TestATTLEndsAFile(t *testing.T) {
	d := newDesk(t, nil)
	mem := d.mountMem("/m", "b", underfstest.Options{Local: true}, sluice.MountOptions{})
	_, err := d.through(mem, "/m/f", "f", "bytes")
	d.want("commit", err)
	for _, a := range []sluice.TTLAction{sluice.TTLFree, sluice.TTLDelete} {
		_, err := d.SetAttr(t.Context(), d.call(), "/m/f", sluice.AttrChange{TTL: new(20 * time.Millisecond), TTLAction: new(a)})
		d.want("set a ttl", err)
		deadline := time.Now().Add(10 * time.Second)
		for {
			info, err := d.Stat(t.Context(), d.read(), "/m/f", sluice.StatOptions{Freshness: sluice.NeverAsk()})
			if a == sluice.TTLDelete && err != nil || a == sluice.TTLFree && err == nil && info.TTL == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: the time is over and nothing happened: %+v (%v)", a, info, err)
			}
			<-time.After(5 * time.Millisecond)
		}
		d.settle()
		if _, there := mem.Get("f"); there != (a == sluice.TTLFree) {
			t.Errorf("%s: in the store: %v", a, there)
		}
	}
}

func TestWhoACallerIs(t *testing.T) {
	user := sluice.Principal{User: "ann", Groups: []string{"staff"}}
	super := sluice.Principal{User: "root", Super: true}
	for _, c := range []struct {
		name  string
		peer  rpc.Peer
		named *sluice.Principal
		want  sluice.Principal
		kind  sluice.Kind // 0: allowed
	}{
		{name: "by itself", peer: rpc.Peer{Principal: user}, want: user},
		{name: "names itself", peer: rpc.Peer{Principal: user}, named: &sluice.Principal{User: "ann", Super: true, Groups: []string{"wheel"}}, want: user},
		{name: "names another", peer: rpc.Peer{Principal: user}, named: &sluice.Principal{User: "bob"}, kind: sluice.Permission},
		{name: "superuser without speak-for", peer: rpc.Peer{Principal: super}, named: &user, kind: sluice.Permission},
		{name: "speaks for", peer: rpc.Peer{Principal: user, SpeakFor: true}, named: &sluice.Principal{User: "bob", Super: true}, want: sluice.Principal{User: "bob"}},
		{name: "the superuser speaks for the superuser", peer: rpc.Peer{Principal: super, SpeakFor: true}, named: &sluice.Principal{User: "bob", Super: true}, want: sluice.Principal{User: "bob", Super: true}},
		{name: "nobody", peer: rpc.Peer{}, kind: sluice.Unauthenticated},
	} {
		h := &wire.CallHeader{}
		if c.named != nil {
			h.Principal = wire.FromPrincipal(*c.named)
		}
		got, err := caller(&rpc.Request{Peer: c.peer}, h)
		switch {
		case c.kind != 0 && (err == nil || sluice.KindOf(err) != c.kind):
			t.Errorf("%s: %v, want kind %q", c.name, err, c.kind)
		case c.kind == 0 && (err != nil || got.Principal.User != c.want.User || got.Principal.Super != c.want.Super || !slices.Equal(got.Principal.Groups, c.want.Groups)):
			t.Errorf("%s: %+v (%v), want %+v", c.name, got.Principal, err, c.want)
		}
	}
	for _, p := range []rpc.Peer{
		{Role: rpc.RoleClient, Kind: rpc.CredentialKey, Principal: super},
		{Role: rpc.RoleWorker, Kind: rpc.CredentialToken, Principal: user},
		{Role: rpc.RoleWorker, Kind: rpc.CredentialKey, Principal: super, Worker: 6},
	} {
		if workerID(p, 5) == nil {
			t.Errorf("%+v may speak as worker 5", p)
		}
	}
}

func TestVerdictsOnContents(t *testing.T) {
	d := newDesk(t, nil)
	mem := d.mountMem("/m", "b", underfstest.Options{SmallUpload: -1}, sluice.MountOptions{})
	keptFile, deadFile := d.put("/kept", 10), d.put("/dead", 10)
	kept, dead := keptFile.Content(), deadFile.Content()
	d.want("remove", d.Remove(t.Context(), d.call(), "/dead", sluice.RemoveOptions{}))
	info, err := d.through(mem, "/m/f", "f", "bytes")
	d.want("commit", err)
	growing, err := d.Create(t.Context(), d.call(), "/growing", sluice.CreateOptions{}, 0)
	d.want("create", err)
	want := map[sluice.ContentID]uint32{kept: 0, dead: 1, info.Content(): 2, growing.Content: 0}
	for id, state := range want {
		v := d.verdicts([]sluice.ContentID{id})
		if len(v) != 1 || v[0].State != state || v[0].Index == 0 {
			t.Errorf("verdict on %s: %v, want %d", id, v, state)
		}
	}
}

func TestAForgottenEntryIsFoundAgain(t *testing.T) {
	d := newDesk(t, nil)
	mem := d.mountMem("/m", "b", underfstest.Options{}, sluice.MountOptions{})
	mem.Put("d/f", []byte("x"))
	if got := d.names("/m/d", 10, sluice.Freshness{}); len(got) != 1 {
		t.Fatalf("listed %v", got)
	}
	d.want("forget", d.Remove(t.Context(), d.call(), "/m/d", sluice.RemoveOptions{Recursive: true, CacheOnly: true}))
	d.inStore(mem, "d/f", "x")
	_, err := d.Stat(t.Context(), d.read(), "/m/d/f", sluice.StatOptions{})
	d.want("stat of what was forgotten", err)
}

func TestQuestionsToTheStoreAreFew(t *testing.T) {
	d := newDesk(t, nil)
	mem := d.mountMem("/m", "b", underfstest.Options{}, sluice.MountOptions{})
	for _, k := range []underfs.Key{"a/1", "a/2", "a/b/3"} {
		mem.Put(k, []byte("x"))
	}
	asks := func() int { return mem.Calls(underfs.OpStat) + mem.Calls(underfs.OpList) }
	before := asks()
	d.names("/m", 10, sluice.Freshness{})
	d.names("/m/a", 10, sluice.Freshness{})
	d.names("/m/a/b", 10, sluice.Freshness{})
	if n := asks() - before; n != 3 {
		t.Errorf("%d questions for three directories, want one each", n)
	}
	before = asks()
	for _, p := range []sluice.Path{"/m/a/1", "/m/a/b/3", "/m/a", "/m/a/b"} {
		_, err := d.Open(t.Context(), d.read(), p, sluice.OpenOptions{}, 0)
		if err != nil && sluice.KindOf(err) != sluice.IsDirectory {
			t.Error(err)
		}
	}
	_, err := d.Create(t.Context(), d.call(), "/m/a/new", sluice.CreateOptions{}, 0)
	d.want("create", err)
	if n := asks() - before; n != 0 {
		t.Errorf("%d questions about what the listings have told", n)
	}
}

package master

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// kinds of stores that intents are carried out in.
func storeKinds() map[string]underfstest.Options {
	return map[string]underfstest.Options{
		"s3":    {SmallUpload: -1},
		"local": {Local: true},
	}
}

func forStores(t *testing.T, f func(t *testing.T, d *desk, mem *underfstest.Memory)) {
	for name, o := range storeKinds() {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, func(c *Config) { c.Attempt = 2 * time.Second })
			f(t, d, d.mountMem("/m", "b", o, sluice.MountOptions{Timeout: time.Second}))
		})
	}
}

func (d *desk) inStore(mem *underfstest.Memory, key underfs.Key, want string) {
	d.t.Helper()
	if got, ok := mem.Get(key); !ok || string(got) != want {
		d.t.Errorf("the store has %q (%v) under %s, want %q", got, ok, key, want)
	}
}

func TestThroughWritesRenamesAndRemoves(t *testing.T) {
	forStores(t, func(t *testing.T, d *desk, mem *underfstest.Memory) {
		_, err := d.Mkdir(t.Context(), d.call(), "/m/d", sluice.MkdirOptions{})
		d.want("mkdir", err)
		info, err := d.through(mem, "/m/d/f", "d/f", "one")
		d.want("commit", err)
		if info.Persistence != sluice.Persisted || info.Length != 3 || info.Store == "" || info.Key != "d/f" {
			t.Errorf("committed %+v, want 3 persisted bytes under d/f with a version", info)
		}
		d.inStore(mem, "d/f", "one")
		info2, err := d.through(mem, "/m/d/f", "d/f", "second")
		d.want("replace", err)
		if info2.ID != info.ID || info2.Content() == info.Content() {
			t.Errorf("replaced %+v, want the same file with other content", info2)
		}
		d.inStore(mem, "d/f", "second")
		d.want("rename", d.Rename(t.Context(), d.call(), "/m/d/f", "/m/d/g", sluice.RenameOptions{}))
		d.inStore(mem, "d/g", "second")
		if _, ok := mem.Get("d/f"); ok {
			t.Error("the source of the rename is still in the store")
		}
		moved, err := d.Stat(t.Context(), d.read(), "/m/d/g", sluice.StatOptions{Freshness: sluice.Always()})
		d.want("stat", err)
		if moved.Content() != info2.Content() || moved.Key != "d/g" {
			t.Errorf("renamed %+v, want the content kept", moved)
		}
		d.want("remove", d.Remove(t.Context(), d.call(), "/m/d/g", sluice.RemoveOptions{}))
		d.want("rmdir", d.Remove(t.Context(), d.call(), "/m/d", sluice.RemoveOptions{}))
		if keys := mem.Keys(); len(keys) != 0 {
			t.Errorf("the store has %v, want nothing", keys)
		}
		if n := len(d.intents.list()); n != 0 {
			t.Errorf("%d intents are open", n)
		}
	})
}

func TestAnUnknownOutcomeIsResolvedByLooking(t *testing.T) {
	forStores(t, func(t *testing.T, d *desk, mem *underfstest.Memory) {
		for _, op := range []underfs.Op{underfs.OpComplete, underfs.OpRename, underfs.OpCopy, underfs.OpDelete} {
			mem.Inject(op, underfstest.Fault{Kind: sluice.UnknownOutcome, After: true, Times: 1})
		}
		_, err := d.through(mem, "/m/f", "f", "bytes")
		d.want("commit", err)
		d.inStore(mem, "f", "bytes")
		d.want("rename", d.Rename(t.Context(), d.call(), "/m/f", "/m/g", sluice.RenameOptions{}))
		d.inStore(mem, "g", "bytes")
		d.want("remove", d.Remove(t.Context(), d.call(), "/m/g", sluice.RemoveOptions{}))
		if keys := mem.Keys(); len(keys) != 0 {
			t.Errorf("the store has %v, want nothing", keys)
		}
	})
}

func TestAnUnavailableStoreIsTriedAgain(t *testing.T) {
	forStores(t, func(t *testing.T, d *desk, mem *underfstest.Memory) {
		mem.Inject(underfs.OpComplete, underfstest.Fault{Kind: sluice.Unavailable, Times: 3})
		_, err := d.through(mem, "/m/f", "f", "bytes")
		d.want("commit", err)
		d.inStore(mem, "f", "bytes")
	})
}

func TestARestartResumesIntents(t *testing.T) {
	forStores(t, func(t *testing.T, d *desk, mem *underfstest.Memory) {
		mem.Inject(underfs.OpComplete, underfstest.Fault{Hang: true})
		created, err := d.Create(t.Context(), d.call(), "/m/f", sluice.CreateOptions{}, 0)
		d.want("create", err)
		s, c := d.upload(mem, "f", created, "bytes"), d.call()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err = d.Commit(ctx, c, created.Info.ID, s)
		d.want("commit in a store that hangs", err, sluice.UnknownOutcome)
		if l, err := d.Admin(d.read()).Intents(t.Context()); err != nil || len(l) != 1 || l[0].Path != "/m/f" {
			t.Errorf("intents %+v (%v), want that of /m/f", l, err)
		}
		mem.Heal()
		d.restart()
		info, err := d.Commit(t.Context(), c, created.Info.ID, s)
		d.want("the same commit after a restart", err)
		if info.Length != 5 || !info.Complete {
			t.Errorf("committed %+v", info)
		}
		d.inStore(mem, "f", "bytes")
	})
}

func TestAChangedStoreRefusesTheCommit(t *testing.T) {
	forStores(t, func(t *testing.T, d *desk, mem *underfstest.Memory) {
		_, err := d.through(mem, "/m/f", "f", "one")
		d.want("commit", err)
		created, err := d.Create(t.Context(), d.call(), "/m/f", sluice.CreateOptions{}, 0)
		d.want("create", err)
		s := d.upload(mem, "f", created, "two")
		mem.Put("f", []byte("theirs!"))
		_, err = d.Commit(t.Context(), d.call(), created.Info.ID, s)
		if !errors.Is(err, sluice.Changed) && !errors.Is(err, sluice.Stale) {
			t.Fatalf("commit over what somebody else wrote: %v, want kind changed", err)
		}
		d.inStore(mem, "f", "theirs!")
		if n := len(d.intents.list()); n != 0 {
			t.Errorf("%d intents are open: %+v", n, d.intents.list())
		}
		info, err := d.Stat(t.Context(), d.read(), "/m/f", sluice.StatOptions{Freshness: sluice.Always()})
		d.want("stat", err)
		if info.Length != 7 {
			t.Errorf("%d bytes, want theirs", info.Length)
		}
	})
}

func TestASmallUploadIsPutByItsWorker(t *testing.T) {
	d := newDesk(t, nil)
	mem := d.mountMem("/m", "b", underfstest.Options{}, sluice.MountOptions{})
	d.beat(5)
	created, err := d.Create(t.Context(), d.call(), "/m/f", sluice.CreateOptions{}, 0)
	d.want("create", err)
	s := sealed(created, 5)
	s.Prepared = sluice.Prepared{Inline: true, Tag: created.Content.String()}
	done := make(chan error, 1)
	go func() {
		_, err := d.Commit(t.Context(), d.call(), created.Info.ID, s)
		done <- err
	}()
	orders, err := d.fleet.Ask(t.Context(), 5, nil, 10*time.Second)
	if err != nil || len(orders) != 1 || !orders[0].Put || orders[0].Key != "f" || !orders[0].Absent || orders[0].TimeLeft <= 0 {
		t.Fatalf("orders %v (%v), want a PUT of f where nothing is", orders, err)
	}
	o := mem.Put("f", []byte("bytes"))
	r := &wire.OrderResult{Id: orders[0].Id, Intent: orders[0].Intent, Attempt: orders[0].Attempt, Object: objectNamed(&o, "f")}
	if _, err := d.fleet.Ask(t.Context(), 5, []*wire.OrderResult{r}, 0); err != nil {
		t.Fatal(err)
	}
	d.want("commit", <-done)
	info, err := d.Stat(t.Context(), d.read(), "/m/f", sluice.StatOptions{Freshness: sluice.NeverAsk()})
	d.want("stat", err)
	if info.Store != o.Version || info.Persistence != sluice.Persisted {
		t.Errorf("%+v, want the version %s", info, o.Version)
	}
}

func TestARecursiveRemoveEmptiesTheStore(t *testing.T) {
	forStores(t, func(t *testing.T, d *desk, mem *underfstest.Memory) {
		for i := range 300 {
			mem.Put(underfs.Key(fmt.Sprintf("d/%d/f%d", i%7, i)), []byte("x"))
		}
		mem.Put("keep", []byte("x"))
		d.want("rm -r", d.Remove(t.Context(), d.call(), "/m/d", sluice.RemoveOptions{Recursive: true}))
		_, err := d.Stat(t.Context(), d.read(), "/m/d", sluice.StatOptions{Freshness: sluice.NeverAsk()})
		d.want("stat", err, sluice.NotFound)
		d.settle()
		if keys := mem.Keys(); !slices.Equal(keys, []underfs.Key{"keep"}) {
			t.Errorf("the store has %d keys %.100v, want keep", len(keys), keys)
		}
	})
}

// settle waits until no intent is open.
func (d *desk) settle() {
	d.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); len(d.intents.list()) > 0; {
		if time.Now().After(deadline) {
			d.t.Fatalf("intents are open: %+v", d.intents.list())
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestADirectoryIsRenamed(t *testing.T) {
	forStores(t, func(t *testing.T, d *desk, mem *underfstest.Memory) {
		for i := range 50 {
			mem.Put(underfs.Key(fmt.Sprintf("d/%d/f%d", i%3, i)), []byte("x"))
		}
		before, err := d.Stat(t.Context(), d.read(), "/m/d/1/f1", sluice.StatOptions{})
		d.want("stat", err)
		d.want("mv", d.Rename(t.Context(), d.call(), "/m/d", "/m/e", sluice.RenameOptions{}))
		after, err := d.Stat(t.Context(), d.read(), "/m/e/1/f1", sluice.StatOptions{})
		d.want("stat", err)
		kept := !strings.HasSuffix(t.Name(), "local") // this store gives every file below a new version
		if kept && after.Content() != before.Content() || after.ID != before.ID {
			t.Errorf("renamed %+v, want the file and content of %+v", after, before)
		}
		d.settle()
		for i := range 50 {
			d.inStore(mem, underfs.Key(fmt.Sprintf("e/%d/f%d", i%3, i)), "x")
		}
		if got := d.names("/m", 10, sluice.Always()); !slices.Equal(got, []string{"e"}) {
			t.Errorf("the mount has %v, want e", got)
		}
		if n := len(d.names("/m/e/1", 100, sluice.Always())); n != 17 {
			t.Errorf("%d names below the renamed directory, want 17", n)
		}
		after, err = d.Stat(t.Context(), d.read(), "/m/e/1/f1", sluice.StatOptions{Freshness: sluice.Always()})
		d.want("stat", err)
		if kept && after.Content() != before.Content() || after.Key != "e/1/f1" {
			t.Errorf("after completion %+v, want the content kept and the key e/1/f1", after)
		}
	})
}

// TestIntentsShowNoHiddenNames: whoever may not search a directory does not learn from
// the list of intents what is in it.
func TestIntentsShowNoHiddenNames(t *testing.T) {
	d := newDesk(t, nil)
	d.mountMem("/m", "b", underfstest.Options{}, sluice.MountOptions{})
	_, err := d.Mkdir(t.Context(), d.call(), "/m/private", sluice.MkdirOptions{Mode: 0o700})
	d.want("mkdir", err)
	for _, path := range []sluice.Path{"/m/private/f", "/m/public"} {
		created, err := d.Create(t.Context(), d.call(), path, sluice.CreateOptions{}, 0)
		d.want("create", err)
		s := sealed(created, 3)
		s.Worker, s.Prepared = 99, sluice.Prepared{Inline: true} // a worker that is not there
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err = d.Commit(ctx, d.call(), created.Info.ID, s)
		cancel()
		d.want("commit", err, sluice.UnknownOutcome)
	}
	for _, x := range []struct {
		by   sluice.Principal
		want []sluice.Path
	}{
		{root, []sluice.Path{"/m/private/f", "/m/public"}},
		{sluice.Principal{User: "eve"}, []sluice.Path{"/m/public"}},
	} {
		all, err := d.Admin(sluice.Call{Principal: x.by}).Intents(t.Context())
		d.want("intents", err)
		var got []sluice.Path
		for _, i := range all {
			got = append(got, i.Path)
		}
		if !slices.Equal(got, x.want) {
			t.Errorf("%s sees %q, want %q", x.by.User, got, x.want)
		}
	}
}

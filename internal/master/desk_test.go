package master

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

func TestFilesOutsideMountsSurviveARestart(t *testing.T) {
	d := newDesk(t, nil)
	_, err := d.Mkdir(t.Context(), d.call(), "/a/b", sluice.MkdirOptions{Parents: true})
	d.want("mkdir", err)
	info := d.put("/a/b/f", 100)
	if !info.Complete || info.Length != 100 || info.Persistence != sluice.CacheOnly {
		t.Fatalf("committed %+v, want complete, 100 bytes, cache only", info)
	}
	d.restart()
	again, err := d.Stat(t.Context(), d.read(), "/a/b/f", sluice.StatOptions{})
	d.want("stat after a restart", err)
	if !reflect.DeepEqual(again, info) {
		t.Errorf("after a restart\n%+v\nwant\n%+v", again, info)
	}
	o, err := d.Open(t.Context(), d.read(), "/a/b/f", sluice.OpenOptions{}, 0)
	d.want("open", err)
	if len(o.Grant) == 0 || len(o.Holders) != 1 || o.Holders[0].Worker != 5 || o.View == nil {
		t.Errorf("opened %+v, want a grant, the holder 5 and the view", o)
	}
	if got := d.names("/", 10, sluice.Freshness{}); !slices.Equal(got, []string{"a"}) {
		t.Errorf("the root has %v, want a", got)
	}
}

func TestARepeatedMutationGivesTheFirstAnswer(t *testing.T) {
	d := newDesk(t, nil)
	ctx := t.Context()
	type mutation struct {
		name string
		do   func(c sluice.Call) (any, error)
	}
	var created sluice.Created
	all := []mutation{
		{"mkdir", func(c sluice.Call) (any, error) { return d.Mkdir(ctx, c, "/d", sluice.MkdirOptions{}) }},
		{"create", func(c sluice.Call) (any, error) {
			x, err := d.Create(ctx, c, "/d/f", sluice.CreateOptions{Exclusive: true}, 0)
			created = x
			return x.Content, err
		}},
		{"commit", func(c sluice.Call) (any, error) { return d.Commit(ctx, c, created.Info.ID, sealed(created, 10)) }},
		{"set attributes", func(c sluice.Call) (any, error) {
			return d.SetAttr(ctx, c, "/d/f", sluice.AttrChange{Mode: new(sluice.Mode(0o600))})
		}},
		{"rename", func(c sluice.Call) (any, error) { return nil, d.Rename(ctx, c, "/d/f", "/d/g", sluice.RenameOptions{}) }},
		{"symlink", func(c sluice.Call) (any, error) { return d.Symlink(ctx, c, "g", "/d/l") }},
		{"remove", func(c sluice.Call) (any, error) { return nil, d.Remove(ctx, c, "/d/g", sluice.RemoveOptions{}) }},
		{"remove again", func(c sluice.Call) (any, error) { return nil, d.Remove(ctx, c, "/d/g", sluice.RemoveOptions{}) }},
		{"remove all", func(c sluice.Call) (any, error) {
			return nil, d.Remove(ctx, c, "/d", sluice.RemoveOptions{Recursive: true})
		}},
	}
	for _, m := range all {
		c := d.call()
		first, err1 := m.do(c)
		second, err2 := m.do(c)
		if !reflect.DeepEqual(first, second) || fmt.Sprint(err1) != fmt.Sprint(err2) {
			t.Errorf("%s: first %v (%v), repeated %v (%v)", m.name, first, err1, second, err2)
		}
		if (err1 != nil) != (m.name == "remove again") {
			t.Errorf("%s: %v", m.name, err1)
		}
		d.restart()
		third, err3 := m.do(c)
		if !reflect.DeepEqual(first, third) || fmt.Sprint(err1) != fmt.Sprint(err3) {
			t.Errorf("%s: first %v (%v), after a restart %v (%v)", m.name, first, err1, third, err3)
		}
	}
}

func TestASessionThatExpiresLeavesNothing(t *testing.T) {
	d := newDesk(t, func(c *Config) { c.SessionLease = 300 * time.Millisecond })
	_, err := d.Create(t.Context(), d.call(), "/f", sluice.CreateOptions{}, 0)
	d.want("create", err)
	for deadline := time.Now().Add(10 * time.Second); ; {
		_, err := d.Stat(t.Context(), d.read(), "/f", sluice.StatOptions{})
		if errors.Is(err, sluice.NotFound) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the file of a dead session is still there (%v)", err)
		}
		<-time.After(5 * time.Millisecond)
	}
	d.want("renew", d.RenewSession(t.Context(), d.read(), d.session), sluice.NotFound)
	_, err = d.Mkdir(t.Context(), d.call(), "/x", sluice.MkdirOptions{})
	d.want("mutation of a dead session", err, sluice.UnknownOutcome)
}

func TestAStoreIsReadThrough(t *testing.T) {
	for _, local := range []bool{false, true} {
		t.Run(fmt.Sprint("local=", local), func(t *testing.T) {
			d := newDesk(t, nil)
			mem := d.mountMem("/m", "b", underfstest.Options{Local: local}, sluice.MountOptions{Freshness: sluice.NeverAsk()})
			mem.Put("x/y/f", []byte("hello"))
			info, err := d.Stat(t.Context(), d.read(), "/m/x/y/f", sluice.StatOptions{})
			d.want("stat of what is only in the store", err)
			if info.Length != 5 || info.Key != "x/y/f" || info.Persistence != sluice.Persisted || info.Local {
				t.Errorf("%+v, want 5 persisted bytes under x/y/f", info)
			}
			_, err = d.Stat(t.Context(), d.read(), "/m/none", sluice.StatOptions{})
			d.want("stat of nothing", err, sluice.NotFound)
			calls := mem.Calls(underfs.OpStat) + mem.Calls(underfs.OpList)
			for range 10 {
				_, err = d.Stat(t.Context(), d.read(), "/m/x/y/f", sluice.StatOptions{})
				d.want("stat again", err)
				_, err = d.Stat(t.Context(), d.read(), "/m/none", sluice.StatOptions{})
				d.want("stat of nothing again", err, sluice.NotFound)
			}
			if n := mem.Calls(underfs.OpStat) + mem.Calls(underfs.OpList); n != calls {
				t.Errorf("%d more questions to the store for what is known", n-calls)
			}
			o, err := d.Open(t.Context(), d.read(), "/m/x/y/f", sluice.OpenOptions{}, 0)
			d.want("open", err)
			if len(o.Grant) == 0 || o.Info.Store == "" {
				t.Errorf("opened %+v, want a grant and a version", o)
			}
		})
	}
}

func TestFreshness(t *testing.T) {
	d := newDesk(t, nil)
	mem := d.mountMem("/m", "b", underfstest.Options{}, sluice.MountOptions{})
	mem.Put("f", []byte("1"))
	stat := func(f sluice.Freshness) (sluice.FileInfo, error) {
		return d.Stat(t.Context(), d.read(), "/m/f", sluice.StatOptions{Freshness: f})
	}
	first, err := stat(sluice.Freshness{})
	d.want("stat", err)
	mem.Put("f", []byte("22"))
	for _, f := range []sluice.Freshness{{}, sluice.NeverAsk(), sluice.Every(time.Hour)} {
		if info, err := stat(f); err != nil || info.Length != 1 {
			t.Errorf("%v: %d bytes (%v), want what is known", f, info.Length, err)
		}
	}
	info, err := stat(sluice.Always())
	d.want("stat always", err)
	if info.Length != 2 || info.Content() == first.Content() || info.ID != first.ID {
		t.Errorf("always: %+v, want 2 bytes and another content of the same file", info)
	}
	mem.Remove("f")
	_, err = stat(sluice.Always())
	d.want("stat of what is gone", err, sluice.NotFound)
	mem.Put("f", []byte("333"))
	_, err = stat(sluice.Freshness{})
	d.want("stat of what is known to be absent", err, sluice.NotFound)
	if got := d.names("/m", 10, sluice.Always()); !slices.Equal(got, []string{"f"}) {
		t.Errorf("listed %v, want f", got)
	}
	if info, err = stat(sluice.Freshness{}); err != nil || info.Length != 3 {
		t.Errorf("%d bytes (%v), want the 3 that the listing brought in", info.Length, err)
	}
}

func TestALongListingComesPageByPage(t *testing.T) {
	d := newDesk(t, nil)
	mem := d.mountMem("/m", "b", underfstest.Options{}, sluice.MountOptions{})
	var want []string
	for i := range 2500 {
		name := fmt.Sprintf("part-%05d.x", i)
		mem.Put(underfs.Key("d/"+name), nil)
		want = append(want, name)
	}
	// Their keys sort behind the names that their names sort before.
	mem.Put("d/part/in", []byte("x"))
	mem.Put("d/part-01000/in", []byte("x"))
	want = append(want, "part", "part-01000")
	slices.Sort(want)
	for _, f := range []sluice.Freshness{{}, sluice.Always(), sluice.NeverAsk()} {
		if got := d.names("/m/d", 700, f); !slices.Equal(got, want) {
			t.Fatalf("%v: %d names, want %d in order", f, len(got), len(want))
		}
	}
	mem.Remove("d/part-02000.x")
	lists := mem.Calls(underfs.OpList)
	if got := d.names("/m/d", 700, sluice.Freshness{}); len(got) != len(want) || mem.Calls(underfs.OpList) != lists {
		t.Errorf("%d names and %d pages of the store; want what is known", len(got), mem.Calls(underfs.OpList)-lists)
	}
	if got := d.names("/m/d", 700, sluice.Always()); len(got) != len(want)-1 {
		t.Errorf("always: %d names, want one less than %d", len(got), len(want))
	}
}

func TestASyncDropsNothingThatWasMadeHere(t *testing.T) {
	d := newDesk(t, nil)
	mem := d.mountMem("/m", "b", underfstest.Options{}, sluice.MountOptions{Freshness: sluice.Always()})
	mem.Put("theirs", []byte("x"))
	_, err := d.Mkdir(t.Context(), d.call(), "/m/dir", sluice.MkdirOptions{})
	d.want("mkdir", err)
	d.put("/m/mine", 10)
	_, err = d.Create(t.Context(), d.call(), "/m/growing", sluice.CreateOptions{}, 0)
	d.want("create", err)
	want := []string{"dir", "growing", "mine", "theirs"}
	for range 2 {
		if got := d.names("/m", 10, sluice.Always()); !slices.Equal(got, want) {
			t.Fatalf("listed %v, want %v", got, want)
		}
		for _, name := range want {
			_, err := d.Stat(t.Context(), d.read(), sluice.Path("/m/"+name), sluice.StatOptions{})
			d.want("stat "+name, err)
		}
		d.restart()
	}
	mem.Remove("theirs")
	if got := d.names("/m", 10, sluice.Always()); !slices.Equal(got, want[:3]) {
		t.Errorf("listed %v, want %v", got, want[:3])
	}
}

func TestAHangingStoreHarmsOnlyItsMount(t *testing.T) {
	d := newDesk(t, nil)
	sick := d.mountMem("/sick", "s", underfstest.Options{}, sluice.MountOptions{Timeout: 100 * time.Millisecond})
	well := d.mountMem("/well", "w", underfstest.Options{}, sluice.MountOptions{})
	sick.Put("known", []byte("x"))
	well.Put("f", []byte("x"))
	_, err := d.Stat(t.Context(), d.read(), "/sick/known", sluice.StatOptions{})
	d.want("stat before", err)
	sick.Inject(underfs.OpStat, underfstest.Fault{Hang: true})
	sick.Inject(underfs.OpList, underfstest.Fault{Hang: true})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			_, err := d.Stat(t.Context(), d.read(), sluice.Path(fmt.Sprint("/sick/x", i%5)), sluice.StatOptions{})
			if !errors.Is(err, sluice.Unavailable) || !strings.Contains(err.Error(), "/sick") {
				t.Errorf("stat of the sick store: %v, want unavailable and the mount's name", err)
			}
		})
	}
	for i := range 20 {
		_, err := d.Stat(t.Context(), d.read(), "/well/f", sluice.StatOptions{Freshness: sluice.Always()})
		d.want("stat of the other mount", err)
		_, err = d.Stat(t.Context(), d.read(), "/sick/known", sluice.StatOptions{})
		d.want("stat of what is known", err)
		d.put(sluice.Path(fmt.Sprint("/f", i)), 1)
	}
	wg.Wait()
	_, err = d.Stat(t.Context(), d.read(), "/sick/known", sluice.StatOptions{Freshness: sluice.Always()})
	d.want("stat that wants to be fresh", err, sluice.Unavailable)
}

func TestSecretsAreSealedAndNeverShown(t *testing.T) {
	d := newDesk(t, nil)
	d.driver.Add("b", underfstest.NewMemory(underfstest.Options{}))
	const secret = "s3cr3t-value-of-the-key"
	_, err := d.Admin(d.call()).Mount(t.Context(), "/m", "mem://b", sluice.MountOptions{}, sluice.Secrets{"key": secret})
	d.want("mount", err)
	mounts, err := d.Admin(d.read()).Mounts(t.Context())
	d.want("mounts", err)
	if strings.Contains(fmt.Sprintf("%+v", mounts), secret) {
		t.Error("the mounts show the secret")
	}
	table := d.workerMounts(d.mountTable.Load())
	if len(table) != 1 || table[0].Secrets["key"] != secret {
		t.Errorf("workers are told %v, want the secret", table)
	}
	d.restart()
	if table = d.workerMounts(d.mountTable.Load()); len(table) != 1 || table[0].Secrets["key"] != secret {
		t.Error("the secret did not survive a restart")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	scanForSecret(t, d.fs, "master", secret)
	d.start()
}

// scanForSecret reads every file below dir.
func scanForSecret(t *testing.T, fs vfs.FS, dir, secret string) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		path := fs.PathJoin(dir, n)
		st, err := fs.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.IsDir() {
			scanForSecret(t, fs, path, secret)
			continue
		}
		f, err := fs.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, st.Size())
		if _, err := f.ReadAt(b, 0); err != nil && st.Size() > 0 {
			t.Fatalf("read %s: %v", path, err)
		}
		if strings.Contains(string(b), secret) {
			t.Errorf("%s holds the secret in plain", path)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMountsThatCannotBe(t *testing.T) {
	d := newDesk(t, nil)
	bad := underfstest.NewMemory(underfstest.Options{})
	bad.Inject(underfs.OpList, underfstest.Fault{Kind: sluice.Permission})
	d.driver.Add("bad", bad)
	gone := underfstest.NewMemory(underfstest.Options{})
	gone.Inject(underfs.OpProbe, underfstest.Fault{Kind: sluice.NotFound})
	d.driver.Add("gone", gone)
	d.put("/file", 1)
	for _, c := range []struct {
		path sluice.Path
		uri  string
		opts sluice.MountOptions
		user string
		kind sluice.Kind
		says string
	}{
		{path: "/m", uri: "mem://b", user: "ann", kind: sluice.Permission, says: "superuser"},
		{path: "/", uri: "mem://b", kind: sluice.Invalid, says: "root"},
		{path: "/m", uri: "", kind: sluice.Invalid, says: "URI"},
		{path: "/m", uri: "what://b", kind: sluice.Invalid, says: "mem"},
		{path: "/m", uri: "mem://b", opts: sluice.MountOptions{BlockSize: 5}, kind: sluice.Invalid, says: "block size"},
		{path: "/m", uri: "mem://b", opts: sluice.MountOptions{Properties: map[string]string{"coment": "x"}}, kind: sluice.Invalid, says: "comment"},
		{path: "/m", uri: "mem://bad", kind: sluice.Permission, says: "keys"},
		{path: "/m", uri: "mem://gone", kind: sluice.NotFound, says: "does not exist"},
		{path: "/file/m", uri: "mem://b", kind: sluice.NotDirectory},
	} {
		call := d.call()
		if c.user != "" {
			call.Principal = sluice.Principal{User: c.user}
		}
		_, err := d.Admin(call).Mount(t.Context(), c.path, c.uri, c.opts, nil)
		if !errors.Is(err, c.kind) || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("mount %s at %s: %v, want kind %q that says %q", c.uri, c.path, err, c.kind, c.says)
		}
	}
	if m := d.mountTable.Load().entries; len(m) != 0 {
		t.Errorf("mounts %v, want none", m)
	}
}

func TestASecondMasterIsRefused(t *testing.T) {
	dir := t.TempDir()
	d := newDesk(t, func(c *Config) { c.FS, c.Dir = vfs.Default, dir })
	_, err := Open(t.Context(), d.config())
	d.want("a second master", err, sluice.Busy)
	if os.Getuid() == 0 {
		other := t.TempDir()
		if err := os.Chown(other, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		cfg := d.config()
		cfg.Dir = other
		_, err = Open(context.Background(), cfg)
		d.want("a directory of another user", err, sluice.Permission)
	}
}

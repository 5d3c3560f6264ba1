package master

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/auth"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// desk is a master on a disk in memory over stores in memory, with one client session.
type desk struct {
	*Master
	t       testing.TB
	fs      vfs.FS
	keys    *auth.Keyring
	driver  *underfstest.Driver
	session sluice.SessionID
	seq     atomic.Uint64
	tune    func(*Config)
}

var root = sluice.Principal{User: "root", Groups: []string{"root"}, Super: true}

func newDesk(t testing.TB, tune func(*Config)) *desk {
	t.Helper()
	keys, err := auth.NewKeyring(nil)
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, fs: vfs.NewMem(), keys: keys, driver: &underfstest.Driver{}, tune: tune}
	d.start()
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

func (d *desk) config() Config {
	c := Config{
		FS: d.fs, Dir: "master", Registry: underfs.NewRegistry(d.driver), Keys: d.keys, Superuser: "root", Group: "root",
		Rand: rand.New(rand.NewPCG(1, 2)), Background: 10 * time.Millisecond, NoticeLease: 100 * time.Millisecond,
	}
	if d.tune != nil {
		d.tune(&c)
	}
	return c
}

// start opens the master and a session.
func (d *desk) start() {
	d.t.Helper()
	m, err := Open(context.Background(), d.config())
	if err != nil {
		d.t.Fatalf("open: %v", err)
	}
	d.Master = m
	if d.session == 0 {
		d.session = 77
	}
	if _, err := m.OpenSession(context.Background(), sluice.Call{Principal: root}, d.session); err != nil {
		d.t.Fatalf("open session: %v", err)
	}
}

// restart closes and opens it on the same disk.
func (d *desk) restart() {
	d.t.Helper()
	if err := d.Close(); err != nil {
		d.t.Fatalf("close: %v", err)
	}
	d.start()
}

// call is a fresh mutation of the session.
func (d *desk) call() sluice.Call {
	n := d.seq.Add(1)
	return sluice.Call{Principal: root, Request: sluice.RequestID{Session: d.session, Seq: n, Lowest: max(n, 600) - 599}}
}

// read is a call that changes nothing.
func (d *desk) read() sluice.Call { return sluice.Call{Principal: root} }

// mountMem mounts the store in memory of a name.
func (d *desk) mountMem(path sluice.Path, name string, o underfstest.Options, opts sluice.MountOptions) *underfstest.Memory {
	d.t.Helper()
	mem := underfstest.NewMemory(o)
	d.driver.Add(name, mem)
	if _, err := d.Admin(d.call()).Mount(d.t.Context(), path, "mem://"+name, opts, nil); err != nil {
		d.t.Fatalf("mount %s: %v", path, err)
	}
	return mem
}

// put writes a file whose content is in workers only.
func (d *desk) put(path sluice.Path, length int64) sluice.FileInfo {
	d.t.Helper()
	created, err := d.Create(d.t.Context(), d.call(), path, sluice.CreateOptions{Write: sluice.MustCache}, 0)
	if err != nil {
		d.t.Fatalf("create %s: %v", path, err)
	}
	info, err := d.Commit(d.t.Context(), d.call(), created.Info.ID, sealed(created, length))
	if err != nil {
		d.t.Fatalf("commit %s: %v", path, err)
	}
	return info
}

// sealed is what a worker says of a content of a length.
func sealed(c sluice.Created, length int64) sluice.Sealed {
	return sluice.Sealed{
		Content: c.Content, Length: length, Worker: 5,
		Holders: []sluice.Holder{{Content: c.Content, Worker: 5, Count: uint32((length + c.BlockSize - 1) / c.BlockSize)}},
	}
}

// upload prepares data for a path in a store, as a worker does for large contents.
func (d *desk) upload(mem *underfstest.Memory, key underfs.Key, c sluice.Created, data string) sluice.Sealed {
	d.t.Helper()
	up, err := mem.Store().Create(d.t.Context(), key, underfs.CreateOptions{Length: int64(len(data)), Tag: c.Content.String()})
	if err != nil {
		d.t.Fatal(err)
	}
	if err := up.Write(d.t.Context(), []byte(data)); err != nil {
		d.t.Fatal(err)
	}
	p, err := up.Prepare(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	s := sealed(c, int64(len(data)))
	s.Checksum, s.Prepared = crc32.Checksum([]byte(data), crc32.MakeTable(crc32.Castagnoli)), p
	return s
}

// through writes a file through to a store without small uploads.
func (d *desk) through(mem *underfstest.Memory, path sluice.Path, key underfs.Key, data string) (sluice.FileInfo, error) {
	d.t.Helper()
	created, err := d.Create(d.t.Context(), d.call(), path, sluice.CreateOptions{}, 0)
	if err != nil {
		d.t.Fatalf("create %s: %v", path, err)
	}
	return d.Commit(d.t.Context(), d.call(), created.Info.ID, d.upload(mem, key, created, data))
}

// want fails the test unless err is of kind, or nil for no kind.
func (d *desk) want(what string, err error, kind ...sluice.Kind) {
	d.t.Helper()
	if len(kind) == 0 {
		if err != nil {
			d.t.Fatalf("%s: %v", what, err)
		}
		return
	}
	if !errors.Is(err, kind[0]) {
		d.t.Fatalf("%s: got %v, want kind %q", what, err, kind[0])
	}
}

// names lists a directory to its end.
func (d *desk) names(path sluice.Path, limit int, f sluice.Freshness) []string {
	d.t.Helper()
	var out []string
	opts := sluice.ListOptions{Freshness: f}
	for {
		page, err := d.List(d.t.Context(), d.read(), path, opts, limit)
		if err != nil {
			d.t.Fatalf("list %s after %q: %v", path, opts.After, err)
		}
		for _, e := range page.Entries {
			out = append(out, e.Path.Name())
		}
		if !page.More {
			return out
		}
		if len(page.Entries) == 0 {
			d.t.Fatalf("list %s: an empty page that is not the last", path)
		}
		opts.After = out[len(out)-1]
	}
}

// beat lets a worker be there.
func (d *desk) beat(id sluice.WorkerID) {
	d.t.Helper()
	_, err := d.heartbeat(&wire.Heartbeat{Worker: &wire.WorkerInfo{Id: uint64(id), Host: fmt.Sprint("w", id), Weight: 1}, Boot: 1}, "w")
	d.want("heartbeat", err)
}

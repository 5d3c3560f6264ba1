//go:build e2e

package hdfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/guard"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

func TestConformance(t *testing.T) {
	for _, scheme := range schemes() {
		n := 0
		bare := func() underfs.Store {
			n++
			return open(t, scheme, fmt.Sprintf("/suite-%s-%d", scheme, n), nil)
		}
		t.Run(scheme, func(t *testing.T) { underfstest.Run(t, bare) })
		t.Run(scheme+", guarded", func(t *testing.T) {
			underfstest.Run(t, func() underfs.Store { return guard.New(bare(), guard.Config{Mount: "/m"}).Store() })
		})
	}
}

// content returns n bytes that depend on seed.
func content(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

// write starts an upload and writes data.
func write(t *testing.T, s underfs.Store, key underfs.Key, data []byte) underfs.Upload {
	t.Helper()
	u, err := s.Create(t.Context(), key, underfs.CreateOptions{Length: -1, Tag: "tag"})
	if err != nil {
		t.Fatal(err)
	}
	for len(data) > 0 {
		n := min(len(data), 1<<20)
		if err := u.Write(t.Context(), data[:n]); err != nil {
			t.Fatal(err)
		}
		data = data[n:]
	}
	return u
}

// put writes an object.
func put(t *testing.T, s underfs.Store, key underfs.Key, data []byte) underfs.Object {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	u := write(t, s, key, data)
	_, err := u.Prepare(ctx)
	if err != nil {
		t.Fatal(err)
	}
	o, err := u.Commit(ctx, underfs.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// same reads o and compares it.
func same(t *testing.T, s underfs.Store, o underfs.Object, want []byte) {
	t.Helper()
	r, err := s.Read(t.Context(), underfs.ReadRequest{Key: o.Key, Version: o.Version, Length: o.Length})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != string(want) {
		t.Fatalf("read %s: %d bytes, %v; want the %d written", o.Key, len(got), err, len(want))
	}
}

// The two drivers name one state of a file by one version, so that a mount may change from
// one to the other.
func TestOneVersion(t *testing.T) {
	native, web := open(t, "hdfs", "/one", nil), open(t, "webhdfs", "/one", nil)
	o := put(t, native, "f", content(1, 100))
	p, err := web.Stat(t.Context(), "f")
	if err != nil || p.Version != o.Version || p.Owner != me(t) || p.Mode != o.Mode || p.Mode != 0o644 {
		t.Errorf("WebHDFS says %+v, %v; HDFS said %+v", p, err, o)
	}
	same(t, web, o, content(1, 100))
}

// A file that another program is writing has no version while it does; its writer's death
// changes nothing about that before the name node gives it up.
func TestOpenFile(t *testing.T) {
	native, web := open(t, "hdfs", "/open", nil), open(t, "webhdfs", "/open", nil)
	body, w := io.Pipe()
	q := url.Values{"op": {"CREATE"}, "user.name": {me(t)}, "overwrite": {"true"}}
	c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: &http.Transport{DisableKeepAlives: true}}
	first, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+server(t).HTTP+"/webhdfs/v1/open/f?"+q.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(first)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	second, err := http.NewRequestWithContext(t.Context(), http.MethodPut, resp.Header.Get("Location"), body)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		resp, err := c.Do(second)
		if err == nil {
			err = resp.Body.Close()
		}
		ended <- err
	}()
	if _, err := w.Write(content(2, 9<<20)); err != nil { // a block of 8 MiB and some
		t.Fatal(err)
	}
	for _, s := range []underfs.Store{native, web} {
		o := eventually(t, s, "f")
		if o.Version != "" || o.Length%(8<<20) != 0 {
			t.Errorf("an open file is shown as %+v; want no version, and whole blocks", o)
		}
		page, err := s.List(t.Context(), underfs.ListRequest{})
		if err != nil || len(page.Objects) != 1 || page.Objects[0].Version != "" {
			t.Errorf("a listing shows an open file as %+v, %v; want no version", page.Objects, err)
		}
	}
	w.Close()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for _, s := range []underfs.Store{native, web} {
		o, err := s.Stat(t.Context(), "f")
		if err != nil || o.Version == "" || o.Length != 9<<20 {
			t.Errorf("the file when it is closed: %+v, %v", o, err)
		}
	}
}

// eventually waits until key is there.
func eventually(t *testing.T, s underfs.Store, key underfs.Key) underfs.Object {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 500 {
		if o, err := s.Stat(t.Context(), key); err == nil {
			return o
		}
		<-tick.C
	}
	t.Fatalf("%s does not appear", key)
	return underfs.Object{}
}

// What a writer that died left is open until the name node gives its lease up, and is swept
// after that, never before.
func TestDeadWriter(t *testing.T) {
	s, dying := open(t, "hdfs", "/dead", nil), open(t, "hdfs", "/dead", nil)
	write(t, dying, "f", content(3, 1<<20))
	if n, err := s.(underfs.Sweeper).Sweep(t.Context(), 0, nil); n != 0 || err != nil {
		t.Fatalf("the temporary file of a living writer was swept: %d, %v", n, err)
	}
	if err := dying.Close(); err != nil { // its lease is renewed no more
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range 90 {
		n, err := s.(underfs.Sweeper).Sweep(t.Context(), 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n == 1 {
			return
		}
		<-tick.C
	}
	t.Error("a dead writer's temporary file is not swept")
}

// Files of an erasure-coded directory are refused by the native driver, with advice, and
// taken by WebHDFS.
func TestErasureCoded(t *testing.T) {
	s := open(t, "hdfs", "/coded", nil)
	if out := ask(t, http.MethodPut, "/coded", "SETECPOLICY", "ecpolicy", "RS-6-3-1024k"); out != "" {
		t.Fatalf("set the policy: %s", out)
	}
	_, err := s.Create(t.Context(), "f", underfs.CreateOptions{Length: -1})
	if !errors.Is(err, sluice.Unsupported) || !strings.Contains(err.Error(), "webhdfs") {
		t.Errorf("create below an erasure-coded directory: %v, want kind unsupported with advice", err)
	}
	web := open(t, "webhdfs", "/coded", nil)
	put(t, web, "empty", nil) // one data node holds no stripes
	_, err = s.Read(t.Context(), underfs.ReadRequest{Key: "empty", Length: 1})
	if !errors.Is(err, sluice.Unsupported) || !strings.Contains(err.Error(), "webhdfs") {
		t.Errorf("read of an erasure-coded file: %v, want kind unsupported with advice", err)
	}
}

// A user who may not, may not; the kinds are right on every way.
func TestPermissions(t *testing.T) {
	owner := open(t, "hdfs", "/mine", nil)
	o := put(t, owner, "f", content(4, 10))
	if _, err := owner.(underfs.Attributer).SetAttr(t.Context(), "f", sluice.AttrChange{Mode: new(sluice.Mode(0o600))}); err != nil {
		t.Fatal(err)
	}
	for _, scheme := range schemes() {
		r := registry(nil)
		s, err := r.Open(underfs.Config{URI: uri(t, scheme, "/mine"), Properties: map[string]string{"user": "nobody"}})
		if err != nil {
			t.Fatal(err)
		}
		u, err := s.Create(t.Context(), "g", underfs.CreateOptions{Length: -1})
		if err == nil { // over HTTP the data node says it, when the file is sent
			_, err = u.Prepare(t.Context())
		}
		if !errors.Is(err, sluice.Permission) {
			t.Errorf("%s: create by nobody: %v, want kind permission", scheme, err)
		}
		body, err := s.Read(t.Context(), underfs.ReadRequest{Key: "f", Version: o.Version, Length: 10})
		if err == nil {
			_, err = io.ReadAll(body)
			body.Close()
		}
		if !errors.Is(err, sluice.Permission) {
			t.Errorf("%s: read by nobody: %v, want kind permission", scheme, err)
		}
		if err := s.Delete(t.Context(), "f", underfs.Condition{}); !errors.Is(err, sluice.Permission) {
			t.Errorf("%s: delete by nobody: %v, want kind permission", scheme, err)
		}
		s.Close()
	}
}

// What a baseline writes the driver reads, and the other way round.
func TestBaseline(t *testing.T) {
	for _, scheme := range schemes() {
		s := open(t, scheme, "/base-"+scheme, nil)
		b, err := registry(nil).Baseline(underfs.Config{URI: uri(t, scheme, "/base-"+scheme)})
		if err != nil {
			t.Fatal(err)
		}
		data := content(5, 10<<20)
		for range 2 { // the second replaces
			if err := b.Put(t.Context(), "o", strings.NewReader(string(data)), int64(len(data))); err != nil {
				t.Fatal(err)
			}
		}
		o, err := s.Stat(t.Context(), "o")
		if err != nil {
			t.Fatal(err)
		}
		same(t, s, o, data)
		var got strings.Builder
		if n, err := b.Get(t.Context(), "o", &got); err != nil || n != int64(len(data)) || got.String() != string(data) {
			t.Errorf("%s: get: %d bytes, %v", scheme, n, err)
		}
		if _, err := b.Get(t.Context(), "nothing", io.Discard); !errors.Is(err, sluice.NotFound) {
			t.Errorf("%s: get of nothing: %v, want kind not found", scheme, err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

// within returns a context that ends soon, for calls that hang.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	t.Cleanup(cancel)
	return ctx
}

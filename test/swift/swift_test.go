//go:build e2e

package swift

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/test/swiftserver"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/guard"
	"github.com/sluicefs/sluice/underfs/swift"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// A connection that a toxic cut leaves goroutines of the proxy behind; they are no leak of ours.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"),
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/stream.(*ChanWriter).Write"))
}

const (
	maxFile  = "16777216" // of the cluster: larger contents need segments
	partSize = 2 << 20    // of the driver
)

// world is one Swift and what looks at it.
type world struct {
	*testing.T
	srv *swiftserver.Server
	raw *swiftserver.Raw
}

func TestSwift(t *testing.T) {
	srv := swiftserver.New(t, "SWIFT_MAX_FILE_SIZE="+maxFile)
	raw, err := srv.Raw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		run  func(*world)
	}{
		{"conformance", conformance},
		{"conformance behind the interceptors and a slow line", guarded},
		{"foreign large objects", foreign},
		{"life of segments", segments},
		{"foreign moves", moves},
		{"token", token},
		{"cut", cut},
		{"hang", hang},
		{"probe", probe},
		{"baseline", baseline},
		{"S3 by Swift", s3api},
		{"binary", binary},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &world{t, srv, raw}
			w.do(http.MethodPut, "c", "")
			c.run(w)
		})
	}
}

// open opens a store of the container c below prefix, with further properties.
func (w *world) open(prefix string, properties ...string) underfs.Store {
	w.Helper()
	s, err := underfs.NewRegistry(swift.Driver{}).Open(w.config(prefix, properties...))
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { s.Close() })
	return s
}

// config is what open opens. Each prefix has a companion container of its own, so that a
// sweep of one is not another's.
func (w *world) config(prefix string, properties ...string) underfs.Config {
	cfg := underfs.Config{URI: "swift://c/" + prefix, Properties: w.srv.Properties(), Secrets: w.srv.Secrets()}
	cfg.Properties["part_size"] = strconv.Itoa(partSize)
	cfg.Properties["segments"] = "segments-" + strings.ReplaceAll(prefix, "/", "-")
	for i := 0; i+1 < len(properties); i += 2 {
		cfg.Properties[properties[i]] = properties[i+1]
	}
	return cfg
}

// do sends a raw request that must succeed, or find nothing to delete.
func (w *world) do(method, path, body string, headers ...string) (http.Header, string) {
	w.Helper()
	status, h, text, err := w.raw.Do(w.Context(), method, path, body, headers...)
	if err != nil || status/100 != 2 {
		w.Fatalf("%s %s: %d %s, %v", method, path, status, text, err)
	}
	return h, text
}

// names lists a container below prefix as another client sees it.
func (w *world) names(container, prefix string) []string {
	w.Helper()
	_, text := w.do(http.MethodGet, container+"?format=json&limit=10000&prefix="+prefix, "")
	var rows []struct{ Name string }
	w.must(json.Unmarshal([]byte(text), &rows))
	var names []string
	for _, r := range rows {
		names = append(names, r.Name)
	}
	return names
}

// must ends the test on an error.
func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// content returns n bytes that depend on seed.
func content(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

// put writes an object.
func (w *world) put(s underfs.Store, key underfs.Key, data []byte, cond underfs.Condition) underfs.Object {
	w.Helper()
	u, err := s.Create(w.Context(), key, underfs.CreateOptions{Length: -1, Tag: "tag of " + string(key)})
	w.must(err)
	for piece := data; len(piece) > 0; {
		n := min(len(piece), 700_000)
		w.must(u.Write(w.Context(), piece[:n]))
		piece = piece[n:]
	}
	_, err = u.Prepare(w.Context())
	w.must(err)
	o, err := u.Commit(w.Context(), cond)
	w.must(err)
	return o
}

// get reads an object by the version that Stat tells and compares.
func (w *world) get(s underfs.Store, key underfs.Key, want []byte) underfs.Object {
	w.Helper()
	o, err := s.Stat(w.Context(), key)
	w.must(err)
	got, err := readAll(w, s, underfs.ReadRequest{Key: key, Version: o.Version, Length: o.Length})
	if err != nil || !bytes.Equal(got, want) {
		w.Fatalf("read %s: %d bytes, %v; want the %d written", key, len(got), err, len(want))
	}
	return o
}

func readAll(w *world, s underfs.Store, req underfs.ReadRequest) ([]byte, error) {
	r, err := s.Read(w.Context(), req)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func conformance(w *world) {
	n := 0
	underfstest.Run(w, func() underfs.Store {
		n++
		return w.open(fmt.Sprintf("plain-%d", n))
	})
}

// guarded runs the suite again as a mount has its store, over a line that delivers in
// small pieces.
func guarded(w *world) {
	p := w.proxy()
	toxic(w, p, `{"name":"slice","type":"slicer","stream":"downstream","attributes":{"average_size":20000,"size_variation":10000,"delay":50}}`)
	n := 0
	underfstest.Run(w, func() underfs.Store {
		n++
		return guard.New(w.open(fmt.Sprintf("guarded-%d", n), "storage_url", w.through(p)), guard.Config{}).Store()
	})
}

// foreign: large objects of both forms that another client wrote are listed with their
// length, read in ranges, renamed and deleted, and their segments are never touched.
func foreign(w *world) {
	s := w.open("foreign")
	a, b := content(1, 1<<20), content(2, 1<<20+5)
	w.do(http.MethodPut, "theirs", "")
	w.do(http.MethodPut, "theirs/part/1", string(a))
	w.do(http.MethodPut, "theirs/part/2", string(b))
	w.do(http.MethodPut, "c/foreign/static?multipart-manifest=put", `[{"path":"/theirs/part/1"},{"path":"/theirs/part/2"}]`)
	w.do(http.MethodPut, "c/foreign/dynamic", "", "X-Object-Manifest", "theirs/part/")
	w.do(http.MethodPut, "c/foreign/empty", "")
	w.do(http.MethodPut, "c/foreign/dir/", "", "Content-Type", "application/directory")
	want := append(bytes.Clone(a), b...)
	lengths := map[underfs.Key]int64{"static": int64(len(want)), "dynamic": int64(len(want)), "empty": 0, "dir/": 0}
	page, err := s.List(w.Context(), underfs.ListRequest{})
	w.must(err)
	if len(page.Objects) != len(lengths) {
		w.Fatalf("listed %+v", page.Objects)
	}
	for _, o := range page.Objects {
		st, err := s.Stat(w.Context(), o.Key)
		w.must(err)
		if o.Length != lengths[o.Key] || !o.Dir && st.Version != o.Version || st.Dir != o.Dir {
			w.Errorf("listed as %+v, stat says %+v, want length %d", o, st, lengths[o.Key])
		}
	}
	for _, key := range []underfs.Key{"static", "dynamic"} {
		o := w.get(s, key, want)
		got, err := readAll(w, s, underfs.ReadRequest{Key: key, Version: o.Version, Offset: 1<<20 - 3, Length: 7})
		if err != nil || !bytes.Equal(got, want[1<<20-3:1<<20+4]) {
			w.Errorf("%s across its segments: %d bytes, %v", key, len(got), err)
		}
		c, ok := underfs.As[underfs.Copier](s)
		if !ok {
			w.Fatal("no Copier")
		}
		n, err := c.Copy(w.Context(), key, o.Version, key+"-moved", underfs.Condition{Absent: true})
		w.must(err)
		w.must(s.Delete(w.Context(), key, underfs.Condition{Version: o.Version}))
		w.get(s, key+"-moved", want)
		w.must(s.Delete(w.Context(), key+"-moved", underfs.Condition{Version: n.Version}))
	}
	if got := w.names("theirs", ""); len(got) != 2 {
		w.Errorf("of another client's two segments these are left: %q", got)
	}
	// Another version of a segment is another version of the dynamic object.
	w.do(http.MethodPut, "c/foreign/dynamic", "", "X-Object-Manifest", "theirs/part/")
	o := w.get(s, "dynamic", want)
	w.do(http.MethodPut, "theirs/part/2", string(a))
	_, err = readAll(w, s, underfs.ReadRequest{Key: "dynamic", Version: o.Version, Length: o.Length})
	if !errors.Is(err, sluice.Changed) {
		w.Errorf("read of a dynamic object of which a segment was replaced: %v, want kind changed", err)
	}
}

// segments: they go with the last manifest of ours that names them, and not before.
func segments(w *world) {
	s := w.open("life")
	c, _ := underfs.As[underfs.Copier](s)
	sweeper, _ := underfs.As[underfs.Sweeper](s)
	left := func(want int, when string) {
		w.Helper()
		n := 0
		for _, name := range w.names("segments-life", "sluice/") {
			if !strings.Contains(name, "/ref/") && !strings.Contains(name, "/gone/") && !strings.HasSuffix(name, "/shared") {
				n++
			}
		}
		if n != want {
			w.Errorf("%s: %d segments, want %d", when, n, want)
		}
	}
	w.do(http.MethodPut, "segments-life", "")
	w.do(http.MethodPut, "segments-life/of-another-client", "x")
	one, two := content(3, 3*partSize+1), content(4, 5*partSize)
	o := w.put(s, "a", one, underfs.Condition{Absent: true})
	left(4, "after a write")
	o = w.put(s, "a", two, underfs.Condition{Version: o.Version})
	left(5, "after it was replaced by another large content")
	o = w.put(s, "a", []byte("small"), underfs.Condition{Version: o.Version})
	left(0, "after it was replaced by a small content")
	w.must(s.Delete(w.Context(), "a", underfs.Condition{Version: o.Version}))
	o = w.put(s, "a", one, underfs.Condition{})
	w.must(s.Delete(w.Context(), "a", underfs.Condition{Version: o.Version}))
	left(0, "after a delete")

	// A replacement that the cluster refuses leaves what it was to replace, without a note.
	o = w.put(s, "a", one, underfs.Condition{})
	up, err := s.Create(w.Context(), "a", underfs.CreateOptions{Length: int64(len(two))})
	w.must(err)
	w.must(up.Write(w.Context(), two))
	prepared, err := up.Prepare(w.Context())
	w.must(err)
	w.do(http.MethodDelete, "segments-life/sluice/"+prepared.Upload+"/00000002", "")
	if _, err := up.Commit(w.Context(), underfs.Condition{Version: o.Version}); err == nil {
		w.Error("a manifest of segments that are not there was taken")
	}
	w.must(up.Abort(w.Context()))
	w.get(s, "a", one)
	for _, name := range w.names("segments-life", "sluice/") {
		if strings.Contains(name, "/gone/") {
			w.Errorf("a refused replacement left the note %s", name)
		}
	}
	left(4, "after a refused replacement")
	w.must(s.Delete(w.Context(), "a", underfs.Condition{Version: o.Version}))

	o = w.put(s, "a", one, underfs.Condition{})
	moved, err := c.Copy(w.Context(), "a", o.Version, "b", underfs.Condition{Absent: true})
	w.must(err)
	w.must(s.Delete(w.Context(), "a", underfs.Condition{Version: o.Version}))
	left(4, "after a rename")
	w.get(s, "b", one)
	if n, err := sweeper.Sweep(w.Context(), 0, nil); n != 0 || err != nil {
		w.Errorf("a sweep beside a renamed object removed %d, %v", n, err)
	}
	w.get(s, "b", one)
	back, err := c.Copy(w.Context(), "b", moved.Version, "a", underfs.Condition{Absent: true})
	w.must(err)
	w.must(s.Delete(w.Context(), "b", underfs.Condition{Version: moved.Version}))
	if n, err := sweeper.Sweep(w.Context(), 0, nil); n != 0 || err != nil {
		w.Errorf("a sweep beside an object that was renamed back removed %d, %v", n, err)
	}
	w.get(s, "a", one)
	w.must(s.Delete(w.Context(), "a", underfs.Condition{Version: back.Version}))
	if n, err := sweeper.Sweep(w.Context(), 0, nil); n != 1 || err != nil {
		w.Errorf("a sweep after the last delete removed %d, %v; want 1", n, err)
	}
	if got := w.names("segments-life", ""); len(got) != 1 || got[0] != "of-another-client" {
		w.Errorf("the companion container holds %q, want the other client's object alone", got)
	}
}

// moves: a manifest of ours that somebody else moved keeps its segments, whatever we sweep.
func moves(w *world) {
	s := w.open("moves")
	sweeper, _ := underfs.As[underfs.Sweeper](s)
	data := content(5, 3*partSize)
	w.put(s, "a", data, underfs.Condition{})
	w.do(http.MethodPut, "c/moves/theirs?multipart-manifest=get", "", "X-Copy-From", "/c/moves/a")
	w.do(http.MethodDelete, "c/moves/a", "")
	if n, err := sweeper.Sweep(w.Context(), 0, nil); n != 0 || err != nil {
		w.Errorf("the sweep removed %d, %v", n, err)
	}
	o := w.get(s, "theirs", data)
	w.must(s.Delete(w.Context(), "theirs", underfs.Condition{Version: o.Version}))
	// Nobody of ours deleted "a", so that nobody can say whose the segments are.
	if n := len(w.names("segments-moves", "sluice/")); n < 3 {
		w.Errorf("only %d names are left in the companion container", n)
	}
}

// token: one that the cluster has forgotten is replaced without the caller's noticing.
func token(w *world) {
	s := w.open("token")
	data := content(6, 3*partSize)
	w.put(s, "a", data, underfs.Condition{})
	host, port, err := net.SplitHostPort(w.srv.Address())
	w.must(err)
	n, err := strconv.Atoi(port)
	w.must(err)
	flush := func() { // tempauth keeps tokens in memcached, four ports up
		conn, err := net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(n+4)))
		w.must(err)
		defer conn.Close()
		_, err = io.WriteString(conn, "flush_all\r\n")
		w.must(err)
		_, err = conn.Read(make([]byte, 10))
		w.must(err)
	}
	flush()
	w.get(s, "a", data)
	flush()
	w.put(s, "b", data, underfs.Condition{Absent: true})
	flush()
	w.must(s.Delete(w.Context(), "b", underfs.Condition{}))
	raw, err := w.srv.Raw(w.Context())
	w.must(err)
	*w.raw = *raw
}

// probe: what cannot work is said at the mount.
func probe(w *world) {
	for _, c := range []struct {
		cfg  underfs.Config
		kind sluice.Kind
		says string
	}{
		{w.config("x"), 0, ""},
		{w.config("x", "part_size", "33554432"), sluice.Invalid, "part_size"},
		{underfs.Config{URI: "swift://nothing", Properties: w.srv.Properties(), Secrets: w.srv.Secrets()}, sluice.NotFound, "container"},
		{underfs.Config{URI: "swift://c", Properties: w.srv.Properties(), Secrets: sluice.Secrets{"key": "geheim"}}, sluice.Unauthenticated, "secrets"},
	} {
		s, err := underfs.NewRegistry(swift.Driver{}).Open(c.cfg)
		w.must(err)
		p, _ := underfs.As[underfs.Prober](s)
		err = p.Probe(w.Context())
		if c.kind == 0 {
			w.must(err)
		} else if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "geheim") {
			w.Errorf("%s: %v, want kind %q and %q in it", c.cfg.URI, err, c.kind, c.says)
		}
		w.must(s.Close())
	}
}

// baseline: what the library writes alone the driver reads, and the other way round.
func baseline(w *world) {
	b, err := underfs.NewRegistry(swift.Driver{}).Baseline(w.config("base"))
	w.must(err)
	s := w.open("base")
	for _, n := range []int{10, 3*partSize + 7} {
		data := content(7, n)
		w.must(b.Put(w.Context(), "o", bytes.NewReader(data), int64(n)))
		w.get(s, "o", data)
		w.put(s, "p", data, underfs.Condition{})
		var got bytes.Buffer
		if _, err := b.Get(w.Context(), "p", &got); err != nil || !bytes.Equal(got.Bytes(), data) {
			w.Errorf("get: %d bytes, %v", got.Len(), err)
		}
	}
	if _, err := b.Get(w.Context(), "nothing", io.Discard); !errors.Is(err, sluice.NotFound) {
		w.Errorf("get of nothing: %v, want kind not found", err)
	}
	w.must(b.Close())
}

// zero returns a new value of what p points to: toxiproxy wants a logger whose package is
// none of ours to import.
func zero[T any](*T) *T { return new(T) }

// proxy puts a proxy before the cluster.
func (w *world) proxy() *toxiproxy.Proxy {
	w.Helper()
	server := &toxiproxy.ApiServer{Metrics: toxiproxy.NewMetricsContainer(nil)}
	server.Logger = zero(server.Logger)
	p := toxiproxy.NewProxy(server, "swift", "127.0.0.1:0", w.srv.Address())
	w.must(p.Start())
	w.Cleanup(p.Stop)
	return p
}

// through is the account's address through a proxy.
func (w *world) through(p *toxiproxy.Proxy) string {
	return strings.Replace(w.srv.Env["SWIFT_STORAGE_URL"], w.srv.Address(), p.Listen, 1)
}

func toxic(w *world, p *toxiproxy.Proxy, text string) {
	w.Helper()
	_, err := p.Toxics.AddToxicJson(strings.NewReader(text))
	w.must(err)
}

// cut: connections that end in the middle of a body, both ways. Alone the driver says
// unavailable; behind the interceptors the read goes on where it broke off.
func cut(w *world) {
	p := w.proxy()
	s := w.open("cut", "storage_url", w.through(p))
	g := guard.New(w.open("cut", "storage_url", w.through(p)), guard.Config{})
	data := content(8, 5*partSize)
	toxic(w, p, `{"name":"up","type":"limit_data","stream":"upstream","attributes":{"bytes":3000000}}`)
	o := w.put(s, "a", data, underfs.Condition{}) // its segments are sent again
	w.must(p.Toxics.RemoveToxic(w.Context(), "up"))
	toxic(w, p, `{"name":"down","type":"limit_data","stream":"downstream","attributes":{"bytes":4000000}}`)
	req := underfs.ReadRequest{Key: "a", Version: o.Version, Length: o.Length}
	got, err := readAll(w, s, req)
	if !errors.Is(err, sluice.Unavailable) || !bytes.HasPrefix(data, got) {
		w.Errorf("a read that was cut: %d bytes, %v; want kind unavailable", len(got), err)
	}
	got, err = readAll(w, g.Store(), req)
	if err != nil || !bytes.Equal(got, data) {
		w.Errorf("behind the interceptors: %d bytes, %v", len(got), err)
	}
	w.must(g.Close())
}

// hang: a cluster that does not answer any more ends calls at their deadline with a kind,
// a change as one of unknown outcome, and is well again when it answers.
func hang(w *world) {
	p := w.proxy()
	g := guard.New(w.open("hang", "storage_url", w.through(p)), guard.Config{Mount: "/sick", Options: sluice.MountOptions{Timeout: time.Second}})
	defer g.Close()
	s := g.Store()
	o := w.put(s, "a", []byte("abc"), underfs.Condition{})
	toxic(w, p, `{"name":"hang","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`)
	if _, err := s.Stat(w.Context(), "a"); !errors.Is(err, sluice.Unavailable) || !strings.Contains(err.Error(), "/sick") {
		w.Errorf("stat: %v, want kind unavailable and the mount in it", err)
	}
	if _, err := readAll(w, s, underfs.ReadRequest{Key: "a", Version: o.Version, Length: 3}); !errors.Is(err, sluice.Unavailable) {
		w.Errorf("read: %v, want kind unavailable", err)
	}
	u, err := s.Create(w.Context(), "b", underfs.CreateOptions{Length: 1, Tag: "t"})
	w.must(err)
	w.must(u.Write(w.Context(), []byte("x")))
	_, err = u.Prepare(w.Context())
	w.must(err)
	if _, err := u.Commit(w.Context(), underfs.Condition{Absent: true}); !errors.Is(err, sluice.UnknownOutcome) {
		w.Errorf("commit: %v, want kind unknown outcome", err)
	}
	w.must(p.Toxics.RemoveToxic(w.Context(), "hang"))
	// The first one may meet a connection that the proxy holds still.
	for range 5 {
		if b, err := u.Commit(w.Context(), underfs.Condition{Absent: true}); err == nil && b.Tag == "t" {
			return
		}
	}
	w.Errorf("the commit did not succeed once the cluster answered")
}

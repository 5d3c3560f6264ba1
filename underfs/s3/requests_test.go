package s3_test

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// write uploads data and returns the object.
func write(t *testing.T, s underfs.Store, key underfs.Key, data []byte, cond underfs.Condition) (underfs.Object, error) {
	t.Helper()
	u, err := s.Create(t.Context(), key, underfs.CreateOptions{Length: int64(len(data)), Tag: "tag of " + string(key)})
	if err != nil {
		return underfs.Object{}, err
	}
	if err := u.Write(t.Context(), data); err != nil {
		return underfs.Object{}, err
	}
	if _, err := u.Prepare(t.Context()); err != nil {
		return underfs.Object{}, err
	}
	return u.Commit(t.Context(), cond)
}

// No request is sent that is not needed.
func TestRequests(t *testing.T) {
	srv := start(t)
	seen, endpoint := proxy(t, srv)
	s := open(t, srv, "s3://test/p", "endpoint", endpoint, "part_size", "5242880")
	var small, large underfs.Object
	for _, c := range []struct {
		name string
		want string
		do   func() error
	}{
		{"open", "", func() error { return nil }},
		{"probe of an empty prefix", "LIST", func() error { p, _ := underfs.As[underfs.Prober](s); return p.Probe(t.Context()) }},
		{"small write", "PUT HEAD", func() (err error) {
			small, err = write(t, s, "small", []byte("content"), underfs.Condition{Absent: true})
			return err
		}},
		{"empty write", "PUT HEAD", func() error { _, err := write(t, s, "empty", nil, underfs.Condition{}); return err }},
		{"large write", "POST PUT PUT PUT POST HEAD", func() (err error) {
			large, err = write(t, s, "dir/large", make([]byte, 11<<20), underfs.Condition{})
			return err
		}},
		{"stat of an object", "HEAD", func() error {
			o, err := s.Stat(t.Context(), "small")
			if o.Tag != "tag of small" {
				t.Errorf("the tag is %q", o.Tag)
			}
			return err
		}},
		{"stat of a directory", "HEAD LIST", func() error { _, err := s.Stat(t.Context(), "dir"); return err }},
		{"stat of a directory's key", "LIST", func() error { _, err := s.Stat(t.Context(), "dir/"); return err }},
		{"stat of the top", "", func() error { _, err := s.Stat(t.Context(), ""); return err }},
		{"stat of nothing", "HEAD LIST", func() error {
			if _, err := s.Stat(t.Context(), "nothing"); !errors.Is(err, sluice.NotFound) {
				return errors.New("found")
			}
			return nil
		}},
		{"list", "LIST", func() error { _, err := s.List(t.Context(), underfs.ListRequest{}); return err }},
		{"read", "GET", func() error {
			r, err := s.Read(t.Context(), underfs.ReadRequest{Key: "dir/large", Version: large.Version, Offset: 5, Length: 1 << 20})
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(io.Discard, r)
			return err
		}},
		{"read of another version", "", func() error {
			if _, err := s.Read(t.Context(), underfs.ReadRequest{Key: "small", Version: "x", Length: 1}); !errors.Is(err, sluice.Changed) {
				return errors.New("not changed")
			}
			return nil
		}},
		{"read beyond the end", "", func() error {
			if _, err := s.Read(t.Context(), underfs.ReadRequest{Key: "small", Version: small.Version, Length: 100}); !errors.Is(err, sluice.Changed) {
				return errors.New("not changed")
			}
			return nil
		}},
		{"abort of a small write", "", func() error {
			u, err := s.Create(t.Context(), "x", underfs.CreateOptions{Length: -1})
			if err != nil {
				return err
			}
			if err := u.Write(t.Context(), []byte("x")); err != nil {
				return err
			}
			return u.Abort(t.Context())
		}},
		{"copy", "PUT HEAD", func() error {
			c, _ := underfs.As[underfs.Copier](s)
			_, err := c.Copy(t.Context(), "small", small.Version, "copy", underfs.Condition{})
			return err
		}},
		{"delete of a version", "DELETE", func() error { return s.Delete(t.Context(), "small", underfs.Condition{Version: small.Version}) }},
		{"delete", "HEAD DELETE", func() error { return s.Delete(t.Context(), "copy", underfs.Condition{}) }},
	} {
		seen.take()
		if err := c.do(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := seen.take(); got != c.want {
			t.Errorf("%s: sent %q, want %q", c.name, got, c.want)
		}
	}
}

// Whoever mounts is told what to change.
func TestProbeErrors(t *testing.T) {
	srv := start(t)
	for _, c := range []struct {
		name       string
		uri        string
		properties []string
		secrets    sluice.Secrets
		kind       sluice.Kind
		says       string
	}{
		{"good", "s3://test", nil, srv.Secrets(), 0, ""},
		{"wrong secret key", "s3://test", nil, sluice.Secrets{"access_key": "sluice-test", "secret_key": "geheim"}, sluice.Unauthenticated, "secret_key"},
		{"wrong access key", "s3://test", nil, sluice.Secrets{"access_key": "nobody", "secret_key": "geheim"}, sluice.Unauthenticated, "access_key"},
		{"no such bucket", "s3://missing", nil, srv.Secrets(), sluice.NotFound, `"missing"`},
		{"dead endpoint", "s3://test", []string{"endpoint", "http://127.0.0.1:1"}, srv.Secrets(), sluice.Unavailable, "127.0.0.1:1"},
		{"TLS where there is none", "s3://test", []string{"endpoint", "https://" + srv.Address}, srv.Secrets(), sluice.Invalid, "HTTPS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := *srv
			s := openWith(t, &cfg, c.uri, c.secrets, c.properties...)
			p, _ := underfs.As[underfs.Prober](s)
			err := p.Probe(t.Context())
			if c.kind == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || sluice.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want kind %q and %q in it", err, c.kind, c.says)
			}
			if err != nil && strings.Contains(err.Error(), "geheim") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

// A large upload holds a few parts in memory, whatever its length.
func TestUploadMemory(t *testing.T) {
	srv := start(t)
	s := open(t, srv, "s3://test", "part_size", "5242880")
	u, err := s.Create(t.Context(), "large", underfs.CreateOptions{Length: -1})
	if err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, 1<<20)
	var m runtime.MemStats
	peak := uint64(0)
	for i := range 120 {
		chunk[0] = byte(i)
		if err := u.Write(t.Context(), chunk); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			runtime.GC()
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
		}
	}
	if peak > 45<<20 {
		t.Errorf("%d MiB in memory while 120 MiB were written in parts of 5 MiB, want at most 45", peak>>20)
	}
	if err := u.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// What a store that is closed had begun is aborted, and nothing else.
func TestCloseAborts(t *testing.T) {
	srv := start(t)
	s := open(t, srv, "s3://test", "part_size", "5242880")
	other := open(t, srv, "s3://test", "part_size", "5242880", "sweep_uploads", "true")
	for _, st := range []underfs.Store{s, other} {
		u, err := st.Create(t.Context(), "k", underfs.CreateOptions{Length: -1})
		if err != nil {
			t.Fatal(err)
		}
		if err := u.Write(t.Context(), make([]byte, 6<<20)); err != nil {
			t.Fatal(err)
		}
		if _, err := u.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	w, _ := underfs.As[underfs.Sweeper](other)
	if n, err := w.Sweep(t.Context(), 0, nil); n != 1 || err != nil {
		t.Errorf("%d uploads were left (%v), want the other store's one", n, err)
	}
}

// An object whose key is no path is listed as such and counted, and never touched.
func TestInvalidKeys(t *testing.T) {
	h := &synthetic{keys: []string{"a//b", "a/./c", "ok", "x/\x01", "y/"}}
	s := h.open(t)
	page, err := s.List(t.Context(), underfs.ListRequest{Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Objects) != 5 || page.Skipped != 3 {
		t.Errorf("%d objects and %d skipped, want 5 and 3: %+v", len(page.Objects), page.Skipped, page.Objects)
	}
	if o := page.Objects[4]; o.Key != "y/" || !o.Marker {
		t.Errorf("the marker is %+v", o)
	}
	if _, err := s.Stat(t.Context(), "a//b"); !errors.Is(err, sluice.Invalid) {
		t.Errorf("stat of a key that is no path: %v", err)
	}
}

// A million keys are listed in order, a page in memory at a time.
func TestMillionKeys(t *testing.T) {
	const n = 1_000_000
	h := &synthetic{n: n}
	s := h.open(t)
	req := underfs.ListRequest{Prefix: "many/"}
	count, last := 0, underfs.Key("")
	start := time.Now()
	for {
		page, err := s.List(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Objects {
			if o.Key <= last {
				t.Fatalf("%q comes after %q", o.Key, last)
			}
			last = o.Key
		}
		count += len(page.Objects)
		if !page.More || testing.Short() && count >= 20_000 {
			break
		}
		req.After, req.Token = last, page.Token
		if count == 50_000 { // what was learned of a million is learned of 50,000; then the end
			req.After, req.Token = "many/00970000", ""
			count = 970_001
		}
	}
	if count != n && !testing.Short() {
		t.Errorf("%d keys, want %d", count, n)
	}
	t.Logf("%d requests in %s", h.requests.Load(), time.Since(start))
}

// The content sent is the content asked for, whatever the pieces it was written in.
func TestPieces(t *testing.T) {
	srv := start(t)
	s := open(t, srv, "s3://test", "part_size", "5242880")
	data := bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuvwxyz"), 400_000) // 13.7 MiB
	for i, piece := range []int{len(data), 5 << 20, 5<<20 + 1, 999_983} {
		key := underfs.Key("k" + string(rune('a'+i)))
		u, err := s.Create(t.Context(), key, underfs.CreateOptions{Length: -1})
		if err != nil {
			t.Fatal(err)
		}
		for rest := data; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
			if err := u.Write(t.Context(), rest[:min(piece, len(rest))]); err != nil {
				t.Fatal(err)
			}
		}
		p, err := u.Prepare(t.Context())
		if err != nil || p.Inline || len(p.Parts) != 3 {
			t.Fatalf("prepare: %+v, %v; want 3 parts", p, err)
		}
		o, err := u.Commit(t.Context(), underfs.Condition{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Read(t.Context(), underfs.ReadRequest{Key: key, Version: o.Version, Length: o.Length})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("pieces of %d: %d bytes, %v; want the %d written", piece, len(got), err, len(data))
		}
	}
}

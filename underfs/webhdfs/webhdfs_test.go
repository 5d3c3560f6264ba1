package webhdfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/namenode"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// servers are fake name nodes and data nodes.
type servers struct {
	t *testing.T

	mu   sync.Mutex
	seen []string // guarded by mu; "METHOD op" of each request
}

// start starts a server.
func (s *servers) start(h func(w http.ResponseWriter, r *http.Request)) *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen = append(s.seen, r.Method+" "+r.URL.Query().Get("op"))
		s.mu.Unlock()
		h(w, r)
	}))
	s.t.Cleanup(srv.Close)
	return srv
}

// take returns what was asked since the last call.
func (s *servers) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := strings.Join(s.seen, ", ")
	s.seen = nil
	return all
}

// refuse answers with an exception.
func refuse(status int, class, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"RemoteException":{"exception":%q,"javaClassName":"x.%s","message":%q}}`, class, class, message)
	}
}

// standby answers as a standby name node does.
func standby() http.HandlerFunc {
	return refuse(http.StatusForbidden, "StandbyException", "Operation category READ is not supported in state standby")
}

const fileStatus = `{"FileStatus":{"fileId":7,"length":5,"blockSize":1048576,"modificationTime":1000000000123,"permission":"644","owner":"me","group":"us","pathSuffix":"","type":"FILE"}}`

// connect opens a client of hosts.
func connect(t *testing.T, hosts ...*httptest.Server) *client {
	t.Helper()
	var names []string
	for _, h := range hosts {
		names = append(names, strings.TrimPrefix(h.URL, "http://"))
	}
	c, err := Driver{}.client(underfs.Config{URI: "webhdfs://" + strings.Join(names, ",") + "/top", Properties: map[string]string{"user": "me"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestFailover(t *testing.T) {
	s := &servers{t: t}
	sleeping := s.start(standby())
	active := s.start(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("user.name") != "me" || r.URL.Path != "/webhdfs/v1/a b+c%" {
			t.Errorf("asked for %q by %q", r.URL.Path, r.URL.RawQuery)
		}
		io.WriteString(w, fileStatus)
	})
	c := connect(t, sleeping, active)
	st, err := c.Stat(t.Context(), "/a b+c%")
	if err != nil || st.ID != 7 || st.Length != 5 || st.Mtime != 1_000_000_000_123 || st.Mode != 0o644 || st.Group != "us" {
		t.Fatalf("stat past a standby: %+v, %v", st, err)
	}
	s.take()
	if _, err := c.Stat(t.Context(), "/a b+c%"); err != nil || s.take() != "GET GETFILESTATUS" {
		t.Errorf("the second call asked the standby again: %v", err)
	}
	if _, err := connect(t, sleeping).Stat(t.Context(), "/f"); !errors.Is(err, sluice.Unavailable) {
		t.Errorf("stat with nothing but a standby: %v, want kind unavailable", err)
	}
	if err := connect(t, sleeping, sleeping).Delete(t.Context(), "/f"); !errors.Is(err, sluice.Unavailable) {
		t.Errorf("delete with nothing but standbys: %v, want kind unavailable: nothing was done", err)
	}
}

// A change goes out once: without an answer nobody knows, and it is not sent again.
func TestLostAnswer(t *testing.T) {
	s := &servers{t: t}
	cut := s.start(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	c := connect(t, cut)
	if err := c.Rename(t.Context(), "/a", "/b", false); !errors.Is(err, sluice.UnknownOutcome) || s.take() != "PUT RENAME" {
		t.Errorf("a rename whose answer was lost: %v, want kind unknown outcome and one request", err)
	}
	if _, err := c.Stat(t.Context(), "/a"); !errors.Is(err, sluice.Unavailable) {
		t.Errorf("a stat whose answer was lost: %v, want kind unavailable", err)
	}
	gone := s.start(standby())
	gone.Close()
	if err := connect(t, gone).Rename(t.Context(), "/a", "/b", false); !errors.Is(err, sluice.Unavailable) {
		t.Errorf("a rename that could not be sent: %v, want kind unavailable", err)
	}
	hang := make(chan struct{})
	defer close(hang)
	slow := s.start(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := connect(t, slow).Delete(ctx, "/a"); !errors.Is(err, sluice.UnknownOutcome) {
		t.Errorf("a delete at the deadline: %v, want kind unknown outcome", err)
	}
	if _, err := connect(t, slow).Stat(ctx, "/a"); !errors.Is(err, sluice.Timeout) {
		t.Errorf("a stat at the deadline: %v, want kind timeout", err)
	}
}

// CREATE goes to the name node without a body, then to the data node with it; OPEN likewise.
func TestTwoSteps(t *testing.T) {
	s := &servers{t: t}
	var got []byte
	data := s.start(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			io.WriteString(w, "hello")
			return
		}
		got, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusCreated)
	})
	names := s.start(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("op") {
		case "GETFILESTATUS":
			io.WriteString(w, fileStatus)
			return
		case "CREATE":
			if b, _ := io.ReadAll(r.Body); len(b) > 0 || r.URL.Query().Get("overwrite") != "false" {
				t.Errorf("the name node was sent %q with %s", b, r.URL.RawQuery)
			}
		}
		http.Redirect(w, r, data.URL+r.URL.Path+"?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
	})
	c := connect(t, names)
	w, err := c.Create(t.Context(), "/f", 0o644)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"one ", "two"} {
		if err := w.Write(t.Context(), []byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(t.Context()); err != nil || string(got) != "one two" {
		t.Errorf("the data node got %q, %v", got, err)
	}
	w.Abort()
	s.take()
	r, err := c.Open(t.Context(), "/f", 1, 4, func(namenode.Status) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "hello" || s.take() != "GET GETFILESTATUS, GET OPEN, GET OPEN" {
		t.Errorf("open: %q, %v", b, err)
	}
}

// A store that is closed leaves no request behind, though nobody ended its upload.
func TestCloseEndsWriters(t *testing.T) {
	s := &servers{t: t}
	data := s.start(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	names := s.start(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, data.URL+"/x?op=CREATE", http.StatusTemporaryRedirect)
	})
	c := connect(t, names)
	w, err := c.Create(t.Context(), "/f", 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Write(t.Context(), []byte("y")); err == nil {
		t.Error("a write after the store was closed succeeded")
	}
}

// A data node that refuses in mid-body ends the upload with its reason.
func TestRefusedWrite(t *testing.T) {
	s := &servers{t: t}
	data := s.start(refuse(http.StatusForbidden, "DSQuotaExceededException", "the quota is full\n\tat x"))
	names := s.start(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, data.URL+"/x?op=CREATE", http.StatusTemporaryRedirect)
	})
	w, err := connect(t, names).Create(t.Context(), "/f", 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for range 1000 {
		if err = w.Write(t.Context(), make([]byte, 64<<10)); err != nil {
			break
		}
	}
	if err == nil {
		err = w.Finish(t.Context())
	}
	// The server may close before the answer is read: then it is the broken connection.
	if !errors.Is(err, sluice.NoSpace) && !errors.Is(err, sluice.Unavailable) {
		t.Errorf("a write beyond the quota: %v, want kind no space", err)
	}
}

func TestRedirects(t *testing.T) {
	c := &client{scheme: "https"}
	for _, to := range []string{"http://dn/webhdfs/v1/f", "ftp://dn/f", ""} {
		u, _ := url.Parse("https://nn/")
		resp := &http.Response{StatusCode: http.StatusTemporaryRedirect, Header: http.Header{}, Body: http.NoBody, Request: &http.Request{URL: u}}
		if to != "" {
			resp.Header.Set("Location", to)
		}
		if addr, err := c.redirected(resp); err == nil {
			t.Errorf("a redirect from https to %q is followed to %q", to, addr)
		}
	}
}

// The token is in the addresses, and in no error.
func TestTokenIsNotShown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s := &servers{t: t}
	names := s.start(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("delegation") != "geheim" || r.URL.Query().Has("user.name") {
			t.Errorf("asked with %q, want the token and no name", r.URL.RawQuery)
		}
		http.Redirect(w, r, "http://"+l.Addr().String()+"/?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
	})
	c, err := Driver{}.client(underfs.Config{URI: "webhdfs://" + strings.TrimPrefix(names.URL, "http://"), Secrets: sluice.Secrets{"token": "geheim"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.get(t.Context(), "/f", nil)
	if err == nil || strings.Contains(err.Error(), "geheim") {
		t.Errorf("an error shows the token: %v", err)
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	s := &servers{t: t}
	for _, c := range []struct {
		answer http.HandlerFunc
		want   sluice.Kind
	}{
		{func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }, sluice.Unavailable},
		{func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") }, sluice.Unavailable},
		{func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, sluice.Unavailable},
		{func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }, sluice.Unauthenticated},
		{func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, sluice.Unsupported},
		{refuse(404, "FileNotFoundException", "File does not exist: /f"), sluice.NotFound},
		{refuse(403, "AccessControlException", "Permission denied: user=me"), sluice.Permission},
		{refuse(403, "SafeModeException", "Name node is in safe mode."), sluice.Unavailable},
	} {
		if _, err := connect(t, s.start(c.answer)).Stat(t.Context(), "/f"); !errors.Is(err, c.want) {
			t.Errorf("got %v, want kind %q", err, c.want)
		}
	}
}

func TestSettings(t *testing.T) {
	for uri, want := range map[string]string{
		"webhdfs://nn/a":              "http nn:9870 /a",
		"swebhdfs://nn1:1,nn2/a%20b/": "https nn1:1,nn2:9871 /a b",
	} {
		c, err := Driver{}.client(underfs.Config{URI: uri, Properties: map[string]string{"user": "me"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.scheme + " " + strings.Join(c.hosts.all, ",") + " " + c.top; got != want {
			t.Errorf("%s: got %q, want %q", uri, got, want)
		}
	}
	for _, cfg := range []underfs.Config{
		{URI: "webhdfs:///a"}, {URI: "webhdfs://me@nn/a"}, {URI: "webhdfs://nn,/a"}, {URI: "webhdfs://nn/a?b"},
		{URI: "webhdfs://nn", Properties: map[string]string{"user": "a b"}},
		{URI: "webhdfs://nn", Properties: map[string]string{"replication": "x"}},
		{URI: "webhdfs://nn", Properties: map[string]string{"block_size": "1000"}},
		{URI: "swebhdfs://nn", Properties: map[string]string{"ca_file": "/nothing"}},
	} {
		if _, err := (Driver{}).Open(cfg); !errors.Is(err, sluice.Invalid) {
			t.Errorf("%+v: %v, want kind invalid", cfg, err)
		}
	}
}

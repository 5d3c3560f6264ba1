package s3_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/test/s3server"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/s3"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

var keys = sluice.Secrets{"access_key": "a", "secret_key": "b"}

// serve starts an endpoint of one handler.
func serve(t *testing.T, f http.HandlerFunc) *s3server.Server {
	t.Helper()
	ts := httptest.NewServer(f)
	t.Cleanup(ts.Close)
	return &s3server.Server{Endpoint: ts.URL}
}

// A bucket that lies in another region is found there, and from then on at once.
func TestRegionRedirect(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		here := strings.Contains(r.Header.Get("Authorization"), "/mars-1/s3/")
		seen = append(seen, fmt.Sprintf("%s %v", r.Method, here))
		w.Header().Set("X-Amz-Bucket-Region", "mars-1")
		if !here {
			fail(w, http.StatusBadRequest, "AuthorizationHeaderMalformed")
			return
		}
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("Last-Modified", time.Unix(1_700_000_000, 0).UTC().Format(http.TimeFormat))
	})
	expect := func(what string, want ...string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(seen, want) {
			t.Errorf("%s sent %q, want %q", what, seen, want)
		}
		seen = nil
	}
	s := openWith(t, srv, "s3://bucket", keys)
	for _, want := range [][]string{{"HEAD false", "HEAD true"}, {"HEAD true"}} {
		if _, err := s.Stat(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		expect("stat", want...)
	}
	s = openWith(t, srv, "s3://bucket", keys)
	_, err := write(t, s, "k", []byte("x"), underfs.Condition{})
	if !errors.Is(err, sluice.Unavailable) || !strings.Contains(err.Error(), "mars-1") {
		t.Errorf("a first PUT: %v, want kind unavailable, which is sent again, and the region", err)
	}
	expect("a first write", "PUT false")
	if _, err := write(t, s, "k", []byte("x"), underfs.Condition{}); err != nil {
		t.Errorf("its repetition: %v", err)
	}
	expect("its repetition", "PUT true")
}

// Requests that are signed again are accepted by a server that verifies signatures.
func TestRequesterPays(t *testing.T) {
	srv := start(t)
	n := 0
	for _, check := range []string{"sizes", "conditions of a commit", "listing", "copy", "sweep"} {
		underfstest.Check(t, check, func() underfs.Store {
			n++
			return open(t, srv, fmt.Sprintf("s3://test/pays-%d", n), "part_size", "5242880", "sweep_uploads", "true", "requester_pays", "true")
		})
	}
	h := &recorder{}
	ts := httptest.NewServer(h)
	t.Cleanup(ts.Close)
	s := openWith(t, &s3server.Server{Endpoint: ts.URL}, "s3://bucket", keys, "requester_pays", "true")
	if _, err := s.Stat(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	r := h.get(http.MethodHead)
	if r.Header.Get("X-Amz-Request-Payer") != "requester" || !strings.Contains(r.Header.Get("Authorization"), "x-amz-request-payer") {
		t.Errorf("sent %v, want the payer named and signed", r.Header)
	}
}

func TestAnonymous(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "from-env")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	h := &recorder{}
	ts := httptest.NewServer(h)
	t.Cleanup(ts.Close)
	srv := &s3server.Server{Endpoint: ts.URL}
	s := openWith(t, srv, "s3://bucket", nil, "anonymous", "true")
	if _, err := s.Stat(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	if a := h.get(http.MethodHead).Header.Get("Authorization"); a != "" {
		t.Errorf("signed: %q", a)
	}
	cfg := underfs.Config{URI: "s3://bucket", Properties: map[string]string{"anonymous": "true"}, Secrets: keys}
	if _, err := (s3.Driver{}).Open(cfg); !errors.Is(err, sluice.Invalid) {
		t.Errorf("anonymous with keys: %v, want kind invalid", err)
	}
}

// An error says what to do: how far the clock is off, that the object is archived, that
// there were too many calls.
func TestErrorsThatExplain(t *testing.T) {
	for _, c := range []struct {
		code   string
		status int
		kind   sluice.Kind
		says   string
		slow   bool
	}{
		{"RequestTimeTooSkewed", http.StatusForbidden, sluice.Unauthenticated, "2h0m", false},
		{"InvalidObjectState", http.StatusForbidden, sluice.Archived, "", false},
		{"SlowDown", http.StatusServiceUnavailable, sluice.Unavailable, "", true},
		{"InternalError", http.StatusInternalServerError, sluice.Unavailable, "", false},
	} {
		srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(-2*time.Hour).UTC().Format(http.TimeFormat))
			fail(w, c.status, c.code)
		})
		s := openWith(t, srv, "s3://bucket", keys)
		_, err := s.Read(t.Context(), underfs.ReadRequest{Key: "k", Length: 1})
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) || errors.Is(err, underfs.ErrSlowDown) != c.slow {
			t.Errorf("%s: %v, want kind %q and %q in it", c.code, err, c.kind, c.says)
		}
	}
}

// An object of an archive class is described as one, unless it was restored.
func TestArchived(t *testing.T) {
	for class, c := range map[string]struct {
		restore string
		want    bool
	}{
		"STANDARD": {"", false}, "GLACIER_IR": {"", false}, "GLACIER": {"", true},
		"DEEP_ARCHIVE": {`ongoing-request="false", expiry-date="Fri, 21 Dec 2096 00:00:00 GMT"`, false},
	} {
		h := &recorder{header: http.Header{"X-Amz-Storage-Class": {class}}}
		if c.restore != "" {
			h.header["X-Amz-Restore"] = []string{c.restore}
		}
		ts := httptest.NewServer(h)
		t.Cleanup(ts.Close)
		o, err := openWith(t, &s3server.Server{Endpoint: ts.URL}, "s3://bucket", keys).Stat(t.Context(), "k")
		if err != nil || o.Archived != c.want {
			t.Errorf("class %s, restore %q: archived is %v, %v; want %v", class, c.restore, o.Archived, err, c.want)
		}
	}
}

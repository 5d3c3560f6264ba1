package s3_test

import (
	"encoding/pem"
	"errors"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/test/s3server"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/s3"
)

// recorder keeps the last request of each method and gives a fixed answer.
type recorder struct {
	mu     sync.Mutex
	last   map[string]*http.Request // guarded by mu
	header http.Header
	status int
}

// ServeHTTP implements http.Handler.
func (h *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	h.mu.Lock()
	if h.last == nil {
		h.last = make(map[string]*http.Request)
	}
	h.last[r.Method] = r
	h.mu.Unlock()
	maps.Copy(w.Header(), h.header)
	w.Header().Set("ETag", `"e"`)
	w.Header().Set("Last-Modified", time.Unix(1_700_000_000, 0).UTC().Format(http.TimeFormat))
	if h.status != 0 {
		w.WriteHeader(h.status)
	}
}

// get returns the last request of method.
func (h *recorder) get(method string) *http.Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last[method]
}

func TestSettingsReachTheWire(t *testing.T) {
	h := &recorder{}
	ts := httptest.NewServer(h)
	t.Cleanup(ts.Close)
	s := openWith(t, &s3server.Server{Endpoint: ts.URL}, "s3://bucket/pre/fix",
		sluice.Secrets{"access_key": "id", "secret_key": "key", "session_token": "token"},
		"storage_class", "STANDARD_IA", "region", "mars-1")
	if _, err := write(t, s, "k", []byte("x"), underfs.Condition{Absent: true}); err != nil {
		t.Fatal(err)
	}
	r := h.get(http.MethodPut)
	if r.URL.Path != "/bucket/pre/fix/k" {
		t.Errorf("path %q", r.URL.Path)
	}
	for name, want := range map[string]string{
		"X-Amz-Storage-Class": "STANDARD_IA", "X-Amz-Security-Token": "token", "If-None-Match": "*", "X-Amz-Meta-Sluice-Tag": "tag of k",
		// SHA-256 of "x": over plain HTTP bodies are hashed.
		"X-Amz-Content-Sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if a := r.Header.Get("Authorization"); !strings.Contains(a, "id/") || !strings.Contains(a, "/mars-1/s3/") {
		t.Errorf("signed as %q, want key id and region mars-1", a)
	}
	// The answer told the time: no HEAD was needed.
	if h.get(http.MethodHead) != nil {
		t.Error("a HEAD was sent although the answer to the PUT told Last-Modified")
	}
}

func TestVirtualHostStyle(t *testing.T) {
	h := &recorder{}
	ts := httptest.NewServer(h)
	t.Cleanup(ts.Close)
	u, err := url.Parse(ts.URL)
	if err != nil {
		t.Fatal(err)
	}
	// Names below localhost are this machine.
	s := openWith(t, &s3server.Server{Endpoint: "http://localhost:" + u.Port()}, "s3://bucket",
		sluice.Secrets{"access_key": "id", "secret_key": "key"}, "path_style", "false")
	_, err = s.Stat(t.Context(), "dir/k")
	if errors.Is(err, sluice.Unavailable) {
		t.Skipf("bucket.localhost is not resolved here: %v", err)
	}
	if r := h.get(http.MethodHead); r == nil || r.Host != "bucket.localhost:"+u.Port() || r.URL.Path != "/dir/k" {
		t.Errorf("the request was %+v, want the bucket in the host name", r)
	}
}

func TestCredentialChain(t *testing.T) {
	h := &recorder{}
	ts := httptest.NewServer(h)
	t.Cleanup(ts.Close)
	file := filepath.Join(t.TempDir(), "credentials")
	text := "[default]\naws_access_key_id = from-file\naws_secret_access_key = s\n[other]\naws_access_key_id = from-other\naws_secret_access_key = s\naws_session_token = tok\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	t.Setenv("AWS_CONFIG_FILE", file+"-none")
	signer := func(properties ...string) string {
		t.Helper()
		s := openWith(t, &s3server.Server{Endpoint: ts.URL}, "s3://bucket", nil, properties...)
		if _, err := s.Stat(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(h.get(http.MethodHead).Header.Get("Authorization"), "Credential=")
		id, _, _ := strings.Cut(after, "/")
		return id
	}
	if id := signer(); id != "from-file" {
		t.Errorf("with a file: signed by %q", id)
	}
	if id := signer("profile", "other"); id != "from-other" {
		t.Errorf("with a profile: signed by %q", id)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "from-env")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	if id := signer(); id != "from-env" {
		t.Errorf("with the environment: signed by %q", id)
	}
	if id := signer("profile", "other"); id != "from-other" {
		t.Errorf("a profile that was named: signed by %q", id)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file+"-none")
	if id := signer(); id != "" {
		t.Errorf("without any: signed by %q, want anonymous", id)
	}
}

func TestCustomCA(t *testing.T) {
	ts := httptest.NewUnstartedServer(&synthetic{keys: []string{"k"}})
	ts.Config.ErrorLog = log.New(io.Discard, "", 0) // of the handshake that must fail
	ts.StartTLS()
	t.Cleanup(ts.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ts.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	secrets := sluice.Secrets{"access_key": "a", "secret_key": "b"}
	trusted := openWith(t, &s3server.Server{Endpoint: ts.URL}, "s3://bucket", secrets, "ca_file", ca)
	if _, err := trusted.List(t.Context(), underfs.ListRequest{}); err != nil {
		t.Errorf("with its certificate: %v", err)
	}
	strange := openWith(t, &s3server.Server{Endpoint: ts.URL}, "s3://bucket", secrets)
	if _, err := strange.List(t.Context(), underfs.ListRequest{}); !errors.Is(err, sluice.Invalid) || !strings.Contains(err.Error(), "ca_file") {
		t.Errorf("without: %v, want kind invalid and ca_file in it", err)
	}
	cfg := underfs.Config{URI: "s3://bucket", Properties: map[string]string{"endpoint": ts.URL, "ca_file": ca + "x"}}
	if _, err := (s3.Driver{}).Open(cfg); !errors.Is(err, sluice.Invalid) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// What the service answers becomes the right kind, for reads and for changes.
func TestKinds(t *testing.T) {
	for _, c := range []struct {
		status       int
		read, change sluice.Kind
	}{
		{http.StatusForbidden, sluice.Permission, sluice.Permission},
		{http.StatusNotFound, sluice.NotFound, sluice.NotFound},
		{http.StatusPreconditionFailed, sluice.Changed, sluice.Changed},
		{http.StatusTooManyRequests, sluice.Unavailable, sluice.Unavailable},
		{http.StatusServiceUnavailable, sluice.Unavailable, sluice.Unavailable},
		{http.StatusInternalServerError, sluice.Unavailable, sluice.UnknownOutcome},
		{http.StatusGatewayTimeout, sluice.Unavailable, sluice.UnknownOutcome},
		{http.StatusInsufficientStorage, sluice.NoSpace, sluice.NoSpace},
		{http.StatusNotImplemented, sluice.Unsupported, sluice.Unsupported},
		{http.StatusMovedPermanently, sluice.Invalid, sluice.Invalid},
	} {
		h := &recorder{status: c.status}
		ts := httptest.NewServer(h)
		s := openWith(t, &s3server.Server{Endpoint: ts.URL}, "s3://bucket", sluice.Secrets{"access_key": "a", "secret_key": "b"})
		if _, err := s.Read(t.Context(), underfs.ReadRequest{Key: "k", Length: 1}); sluice.KindOf(err) != c.read {
			t.Errorf("a read answered by %d: %v, want kind %q", c.status, err, c.read)
		}
		u, err := s.Create(t.Context(), "k", underfs.CreateOptions{Length: 0})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := u.Commit(t.Context(), underfs.Condition{}); sluice.KindOf(err) != c.change {
			t.Errorf("a commit answered by %d: %v, want kind %q", c.status, err, c.change)
		}
		s.Close()
		ts.Close()
	}
	// A change that was sent and whose answer never came has an unknown outcome.
	ts := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(ts.Close)
	s := openWith(t, &s3server.Server{Endpoint: ts.URL}, "s3://bucket", sluice.Secrets{"access_key": "a", "secret_key": "b"})
	if _, err := write(t, s, "k", []byte("x"), underfs.Condition{}); !errors.Is(err, sluice.UnknownOutcome) {
		t.Errorf("a commit without an answer: %v, want kind unknown outcome", err)
	}
	if _, err := s.Stat(t.Context(), "k"); !errors.Is(err, sluice.Unavailable) {
		t.Errorf("a stat without an answer: %v, want kind unavailable", err)
	}
}

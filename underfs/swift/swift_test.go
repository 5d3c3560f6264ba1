package swift_test

import (
	"encoding/json"
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

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/swift"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a cluster that gives tokens of every version and answers as answer says.
type fake struct {
	*httptest.Server
	answer func(w http.ResponseWriter, r *http.Request)
	life   time.Duration // of a token

	mu     sync.Mutex
	asked  []string // guarded by mu; bodies of requests for a token
	tokens int      // guarded by mu
	seen   []string // guarded by mu; "METHOD object newest?"
}

// start starts a cluster.
func start(t *testing.T, answer func(http.ResponseWriter, *http.Request)) *fake {
	t.Helper()
	f := &fake{answer: answer, life: time.Hour}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

// ServeHTTP implements http.Handler.
func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	if !strings.HasPrefix(r.URL.Path, "/v1/") {
		f.asked = append(f.asked, string(body))
		f.tokens++
		f.give(w, r)
		return
	}
	f.seen = append(f.seen, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, strings.TrimPrefix(r.URL.Path, "/v1/A/c/"), r.Header.Get("X-Newest"))))
	if r.Header.Get("X-Auth-Token") != fmt.Sprint("token-", f.tokens) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	f.answer(w, r)
}

// give gives a token.
func (f *fake) give(w http.ResponseWriter, r *http.Request) {
	token, ends := fmt.Sprint("token-", f.tokens), time.Now().Add(f.life).UTC().Format(time.RFC3339)
	here, elsewhere := f.URL+"/v1/A", "http://127.0.0.1:1/v1/elsewhere"
	switch {
	case strings.HasPrefix(r.URL.Path, "/auth/v3/"):
		w.Header().Set("X-Subject-Token", token)
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{"token": map[string]any{"expires_at": ends, "catalog": []any{map[string]any{"type": "object-store", "endpoints": []any{
			map[string]any{"interface": "public", "region": "mars", "url": elsewhere},
			map[string]any{"interface": "public", "region": "moon", "url": here},
			map[string]any{"interface": "internal", "region": "moon", "url": elsewhere},
		}}}}})
	case strings.HasPrefix(r.URL.Path, "/auth/v2"):
		_ = json.NewEncoder(w).Encode(map[string]any{"access": map[string]any{"token": map[string]any{"id": token, "expires": ends}, "serviceCatalog": []any{map[string]any{"type": "object-store", "endpoints": []any{
			map[string]any{"region": "mars", "publicURL": elsewhere}, map[string]any{"region": "moon", "publicURL": here},
		}}}}})
	default:
		w.Header().Set("X-Auth-Token", token)
		w.Header().Set("X-Storage-Url", here)
		w.Header().Set("X-Auth-Token-Expires", fmt.Sprint(int(f.life.Seconds())))
	}
}

// take returns the requests since the last call.
func (f *fake) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := f.seen
	f.seen = nil
	return seen
}

// open opens a store on the cluster with auth version 1 and further properties.
func (f *fake) open(t *testing.T, uri string, secrets sluice.Secrets, properties ...string) underfs.Store {
	t.Helper()
	cfg := underfs.Config{URI: uri, Properties: map[string]string{"auth_url": f.URL + "/auth/v1.0", "user": "u"}, Secrets: secrets}
	for i := 0; i+1 < len(properties); i += 2 {
		cfg.Properties[properties[i]] = properties[i+1]
	}
	s, err := underfs.NewRegistry(swift.Driver{}).Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

var key = sluice.Secrets{"key": "k"}

// object answers with the head of an object.
func object(w http.ResponseWriter, etag string, length int) {
	w.Header().Set("Etag", etag)
	w.Header().Set("Content-Length", fmt.Sprint(length))
	w.Header().Set("Last-Modified", time.Unix(1_700_000_000, 0).UTC().Format(http.TimeFormat))
}

func TestSettings(t *testing.T) {
	t.Setenv("OS_AUTH_URL", "")
	t.Setenv("ST_AUTH", "")
	good := map[string]string{"auth_url": "http://h/v3", "user": "u"}
	with := func(pairs ...string) map[string]string {
		p := map[string]string{"auth_url": "http://h/v3", "user": "u"}
		for i := 0; i+1 < len(pairs); i += 2 {
			p[pairs[i]] = pairs[i+1]
		}
		return p
	}
	for _, c := range []struct {
		uri     string
		p       map[string]string
		secrets sluice.Secrets
		says    string // "" where it opens
	}{
		{"swift://c", good, key, ""},
		{"swift://c.region/a/b", good, key, ""},
		{"swift://", good, key, "container"},
		{"swift://u:geheim@c", good, key, "secrets"},
		{"swift://c", nil, key, "auth_url"},
		{"swift://c", with("auth_url", "h:5000"), key, "auth_url"},
		{"swift://c", with("auth_url", "http://h/identity"), key, "auth_version"},
		{"swift://c", with("auth_url", "http://h/identity", "auth_version", "3"), key, ""},
		{"swift://c", with("auth_version", "4"), key, "auth_version"},
		{"swift://c", with("user", ""), key, "user"},
		{"swift://c", good, nil, "key"},
		{"swift://c", with("application_credential", "id"), key, "together"},
		{"swift://c", with("application_credential", "id", "user", ""), sluice.Secrets{"application_credential_secret": "geheim"}, ""},
		{"swift://c", with("part_size", "1000"), key, "part_size"},
		{"swift://c", with("checksum", "sha1"), key, "checksum"},
		{"swift://c", with("dynamic_large_objects", "maybe"), key, "dynamic_large_objects"},
		{"swift://c", with("segments", "c"), key, "segments"},
		{"swift://c", with("storage_url", "h"), key, "storage_url"},
		{"swift://c", with("endpoint_type", "secret"), key, "endpoint_type"},
		{"swift://c", with("ca_file", "/nothing"), key, "ca_file"},
		{"swift://c", with("regoin", "x"), key, `"region"`},
	} {
		s, err := underfs.NewRegistry(swift.Driver{}).Open(underfs.Config{URI: c.uri, Properties: c.p, Secrets: c.secrets})
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s %v: %v", c.uri, c.p, err)
		case c.says == "":
			s.Close()
		case !errors.Is(err, sluice.Invalid) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "geheim"):
			t.Errorf("%s %v: %v, want kind invalid and %q in it", c.uri, c.p, err, c.says)
		}
	}
	for _, s := range (swift.Driver{}).Settings() {
		if s.Name == "" || s.Help == "" {
			t.Errorf("setting %+v has no name or help", s)
		}
	}
}

// Every version of the protocol signs in and finds the account of the region.
func TestSigningIn(t *testing.T) {
	for _, c := range []struct {
		name, uri, body string
		secrets         sluice.Secrets
		properties      []string
	}{
		{"v1", "swift://c", "", key, nil},
		{"v2", "swift://c.moon", `"tenantName":"p"`, key, []string{"auth_url", "/auth/v2.0", "project", "p"}},
		{"v3", "swift://c.moon", `"password":"k"`, key, []string{"auth_url", "/auth/v3", "project", "p", "user_domain", "d"}},
		{"v3, region as property", "swift://c", `"password":"k"`, key, []string{"auth_url", "/auth/v3", "project_id", "p", "region", "moon"}},
		{"v3, application credential", "swift://c.moon", `"id":"i","secret":"s"`, sluice.Secrets{"application_credential_secret": "s"}, []string{"auth_url", "/auth/v3", "application_credential", "i"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := start(t, func(w http.ResponseWriter, _ *http.Request) { object(w, "e", 5) })
			for i := 0; i+1 < len(c.properties); i += 2 {
				if c.properties[i] == "auth_url" {
					c.properties[i+1] = f.URL + c.properties[i+1]
				}
			}
			s := f.open(t, c.uri, c.secrets, c.properties...)
			if o, err := s.Stat(t.Context(), "o"); err != nil || o.Length != 5 {
				t.Fatalf("stat: %+v, %v", o, err)
			}
			if _, err := s.Stat(t.Context(), "o"); err != nil || f.tokens != 1 {
				t.Errorf("a second call: %v, %d tokens were asked for", err, f.tokens)
			}
			if !strings.Contains(f.asked[0], c.body) {
				t.Errorf("asked for a token with %s, want %s in it", f.asked[0], c.body)
			}
		})
	}
}

// A token near its end is replaced before it is used; one that is refused is replaced
// once, for all who wait.
func TestTokens(t *testing.T) {
	for _, auth := range []string{"/auth/v1.0", "/auth/v3"} {
		f := start(t, func(w http.ResponseWriter, _ *http.Request) { object(w, "e", 5) })
		f.life = 0
		s := f.open(t, "swift://c.moon", key, "auth_url", f.URL+auth)
		for range 3 {
			if _, err := s.Stat(t.Context(), "o"); err != nil {
				t.Fatal(err)
			}
		}
		if auth != "/auth/v1.0" && f.tokens != 3 { // a life of 0 is none that version 1 tells
			t.Errorf("%s: %d tokens for 3 calls that each found the last one ended", auth, f.tokens)
		}
	}
	f := start(t, func(w http.ResponseWriter, _ *http.Request) { object(w, "e", 5) })
	s := f.open(t, "swift://c", key)
	if _, err := s.Stat(t.Context(), "o"); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.tokens = 100 // the cluster forgets the token
	f.mu.Unlock()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := s.Stat(t.Context(), "o"); err != nil {
				t.Errorf("with a token that was refused: %v", err)
			}
		})
	}
	wg.Wait()
	if f.tokens != 101 {
		t.Errorf("%d tokens were asked for by 8 calls at once, want 1", f.tokens-100)
	}
}

// A replica that is behind is not believed: what it does not have, and what it has in
// another version, is asked for again with X-Newest.
func TestNewest(t *testing.T) {
	for _, status := range []int{http.StatusNotFound, http.StatusPreconditionFailed} {
		f := start(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/c"):
				fmt.Fprint(w, "[]")
			case r.Header.Get("X-Newest") == "":
				w.WriteHeader(status)
			case r.Method == http.MethodGet:
				object(w, "e", 2)
				w.Header().Set("Content-Range", "bytes 1-2/5")
				w.WriteHeader(http.StatusPartialContent)
				fmt.Fprint(w, "bc")
			default:
				object(w, "e", 5)
			}
		})
		s := f.open(t, "swift://c", key)
		r, err := s.Read(t.Context(), underfs.ReadRequest{Key: "o", Version: "e 5 1700000000", Offset: 1, Length: 2})
		if err != nil {
			t.Fatalf("read after a %d: %v", status, err)
		}
		if b, err := io.ReadAll(r); err != nil || string(b) != "bc" {
			t.Errorf("read %q, %v", b, err)
		}
		r.Close()
		if seen := f.take(); !slices.Equal(seen, []string{"GET o", "GET o true"}) {
			t.Errorf("a read after a %d sent %q", status, seen)
		}
		if status != http.StatusNotFound {
			continue
		}
		if o, err := s.Stat(t.Context(), "o"); err != nil || o.Dir || o.Length != 5 {
			t.Errorf("stat after a 404: %+v, %v", o, err)
		}
		if seen := f.take(); !slices.Equal(seen, []string{"HEAD o", "GET /v1/A/c", "HEAD o true"}) {
			t.Errorf("a stat after a 404 sent %q", seen)
		}
	}
}

// Requests that each call makes; fewer are not possible with what Swift tells.
func TestRequests(t *testing.T) {
	there := true
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/c"):
			fmt.Fprint(w, `[{"name":"a","bytes":1,"hash":"h","last_modified":"2026-01-01T00:00:00.100000"},{"subdir":"d/"}]`)
		case r.Method == http.MethodHead && !there:
			w.WriteHeader(http.StatusNotFound)
		case r.Method == http.MethodHead:
			object(w, "e", 1)
		case r.Method == http.MethodPut:
			object(w, "e", 0)
			w.WriteHeader(http.StatusCreated)
		}
	})
	s := f.open(t, "swift://c", key)
	put := func(cond underfs.Condition) {
		t.Helper()
		u, err := s.Create(t.Context(), "o", underfs.CreateOptions{Length: 1})
		if err == nil {
			err = u.Write(t.Context(), []byte("x"))
		}
		if err == nil {
			_, err = u.Prepare(t.Context())
		}
		if err == nil {
			_, err = u.Commit(t.Context(), cond)
		}
		if err != nil {
			t.Error(err)
		}
	}
	for _, c := range []struct {
		name string
		call func()
		want string
	}{
		{"stat", func() { _, _ = s.Stat(t.Context(), "o") }, "HEAD o"},
		{"list", func() { _, _ = s.List(t.Context(), underfs.ListRequest{}) }, "GET /v1/A/c"},
		{"create", func() { put(underfs.Condition{Absent: true}) }, "PUT o"},
		{"replace", func() { put(underfs.Condition{Version: "e 1 1700000000"}) }, "HEAD o true, PUT o"},
		{"delete", func() { _ = s.Delete(t.Context(), "o", underfs.Condition{}) }, "HEAD o true, DELETE o"},
	} {
		c.call()
		if got := strings.Join(f.take(), ", "); got != c.want {
			t.Errorf("%s sends %s; want %s", c.name, got, c.want)
		}
	}
}

// What the cluster answers becomes the right kind, for reads and for changes.
func TestKinds(t *testing.T) {
	for _, c := range []struct {
		status       int
		read, change sluice.Kind
	}{
		{http.StatusForbidden, sluice.Permission, sluice.Permission},
		{http.StatusUnauthorized, sluice.Unauthenticated, sluice.Unauthenticated},
		{http.StatusNotFound, sluice.NotFound, sluice.NotFound},
		{http.StatusPreconditionFailed, sluice.Changed, sluice.Changed},
		{http.StatusRequestEntityTooLarge, sluice.NoSpace, sluice.NoSpace},
		{http.StatusUnprocessableEntity, sluice.Unavailable, sluice.Unavailable},
		{http.StatusConflict, sluice.Unavailable, sluice.Unavailable},
		{http.StatusTooManyRequests, sluice.Unavailable, sluice.Unavailable},
		{498, sluice.Unavailable, sluice.Unavailable},
		{http.StatusServiceUnavailable, sluice.Unavailable, sluice.UnknownOutcome},
		{http.StatusInternalServerError, sluice.Unavailable, sluice.UnknownOutcome},
		{http.StatusInsufficientStorage, sluice.NoSpace, sluice.NoSpace},
		{http.StatusNotImplemented, sluice.Unsupported, sluice.Unsupported},
	} {
		f := start(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			w.WriteHeader(c.status)
		})
		s := f.open(t, "swift://c", key)
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
	}
}

// A dynamic large object of more segments than Swift counts has no length: it is not
// listed with a wrong one, and stat says why.
func TestNoLength(t *testing.T) {
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			fmt.Fprint(w, `[{"name":"big","bytes":0,"hash":"h","last_modified":"2026-01-01T00:00:00.100000"},{"name":"e","bytes":0,"hash":"h","last_modified":"2026-01-01T00:00:00.000000"}]`)
			return
		}
		object(w, "h", 0)
		if strings.HasSuffix(r.URL.Path, "/big") {
			w.Header().Del("Content-Length")
			w.Header().Set("Transfer-Encoding", "chunked")
			w.Header().Set("X-Object-Manifest", "c/x")
		}
	})
	s := f.open(t, "swift://c", key)
	page, err := s.List(t.Context(), underfs.ListRequest{})
	if err != nil || len(page.Objects) != 1 || page.Objects[0].Key != "e" || page.Objects[0].Mtime.Nanosecond() != 0 {
		t.Errorf("listed %+v, %v; want the empty object alone", page.Objects, err)
	}
	if _, err := s.Stat(t.Context(), "big"); !errors.Is(err, sluice.Unsupported) {
		t.Errorf("stat: %v, want kind unsupported", err)
	}
}

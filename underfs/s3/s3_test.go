package s3_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/sluicefs/sluice/test/s3server"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/s3"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// open opens a store of a bucket or prefix on srv, with further properties.
func open(t testing.TB, srv *s3server.Server, uri string, properties ...string) underfs.Store {
	t.Helper()
	cfg := underfs.Config{URI: uri, Properties: srv.Properties(), Secrets: srv.Secrets()}
	for i := 0; i+1 < len(properties); i += 2 {
		cfg.Properties[properties[i]] = properties[i+1]
	}
	s, err := underfs.NewRegistry(s3.Driver{}).Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// start starts a server with a bucket called "test".
func start(t testing.TB) *s3server.Server {
	t.Helper()
	srv := s3server.New(t)
	if err := srv.Bucket("test"); err != nil {
		t.Fatal(err)
	}
	return srv
}

func TestConformance(t *testing.T) {
	srv := start(t)
	n := 0
	underfstest.Run(t, func() underfs.Store {
		n++
		return open(t, srv, fmt.Sprintf("s3://test/run-%d", n), "part_size", "5242880", "sweep_uploads", "true")
	})
}

// counter is a proxy that notes the requests that pass.
type counter struct {
	mu   sync.Mutex
	seen []string // guarded by mu
}

// proxy puts a counter before a server.
func proxy(t *testing.T, srv *s3server.Server) (*counter, string) {
	t.Helper()
	target, err := url.Parse(srv.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	c := &counter{}
	p := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // it is signed
	}}
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		what := r.Method
		if r.URL.Query().Has("list-type") {
			what = "LIST"
		}
		c.mu.Lock()
		c.seen = append(c.seen, what)
		c.mu.Unlock()
		p.ServeHTTP(w, r)
	}))
	t.Cleanup(ts.Close)
	return c, ts.URL
}

// take returns what was seen since the last call.
func (c *counter) take() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := strings.Join(c.seen, " ")
	c.seen = nil
	return s
}

package badinput

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"testing"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/cluster"
	"github.com/sluicefs/sluice/test/s3server"
)

// An endpoint that ignores conditions of writes is found out when it is mounted: the mount
// says so and treats it accordingly. One that honours them stays trusted.
func TestMountFindsOutConditions(t *testing.T) {
	srv := s3server.New(t)
	if err := srv.Bucket("bucket"); err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(srv.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	deaf := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // it is signed
		if r.In.Method != http.MethodGet {
			r.Out.Header.Del("If-None-Match")
			r.Out.Header.Del("If-Match")
		}
	}})
	t.Cleanup(deaf.Close)
	c := cluster.Start(t, cluster.Options{})
	type mount struct {
		path                        sluice.Path
		endpoint, checked, property string
		opts                        sluice.MountOptions
	}
	mounts := []mount{
		{"/honest", srv.Endpoint, "conditional", "", sluice.MountOptions{}},
		{"/deaf", deaf.URL, "conditional, writes checked", "false", sluice.MountOptions{}},
		{"/only-read", deaf.URL, "conditional", "", sluice.MountOptions{ReadOnly: true}},
	}
	for _, m := range mounts {
		m.opts.Properties = srv.Properties()
		m.opts.Properties["endpoint"] = m.endpoint
		c.Mount(m.path, "s3://bucket", m.opts, srv.Secrets())
	}
	all, err := c.Client(t).Mounts(t.Context())
	if err != nil || len(all) != len(mounts) {
		t.Fatalf("%d mounts, %v", len(all), err)
	}
	for _, info := range all {
		m := mounts[slices.IndexFunc(mounts, func(m mount) bool { return m.path == info.Path })]
		if got := info.Options.Properties["conditional_writes"]; got != m.property || info.Health.Checked != m.checked {
			t.Errorf("%s: conditional_writes=%q, shown as %q; want %q, %q", m.path, got, info.Health.Checked, m.property, m.checked)
		}
	}
}

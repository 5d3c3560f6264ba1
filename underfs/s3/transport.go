package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net"
	"net/http"
	"os"
	"time"
)

// transport adds to requests what minio-go has no parameter for, and keeps the header of
// the answer.
type transport struct{ base *http.Transport }

// extra travels in a request's context.
type extra struct {
	set http.Header // headers to send; those that need no signature
	got http.Header // of the answer
}

// extraKey is the context key of *extra.
type extraKey struct{}

// with returns a context whose request sends the headers named, pairs of name and value.
func with(ctx context.Context, pairs ...string) (context.Context, *extra) {
	x := &extra{set: make(http.Header)}
	for i := 0; i+1 < len(pairs); i += 2 {
		x.set.Set(pairs[i], pairs[i+1])
	}
	return context.WithValue(ctx, extraKey{}, x), x
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	x, ok := req.Context().Value(extraKey{}).(*extra)
	if !ok {
		return t.base.RoundTrip(req)
	}
	if len(x.set) > 0 {
		req = req.Clone(req.Context())
		maps.Copy(req.Header, x.set)
	}
	resp, err := t.base.RoundTrip(req)
	if err == nil {
		x.got = resp.Header
	}
	return resp, err
}

// bound gives requests the context that minio-go's listing does not take.
type bound struct {
	ctx  context.Context // of the one call this client is made for
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b *bound) RoundTrip(req *http.Request) (*http.Response, error) {
	return b.next.RoundTrip(req.WithContext(b.ctx))
}

// newTransport makes the connection pool: HTTP/1.1, because parallel ranges want
// connections of their own, as many kept as calls may be under way.
func newTransport(set settings) (*transport, error) {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConns:        set.concurrent,
		MaxIdleConnsPerHost: set.concurrent,
		IdleConnTimeout:     50 * time.Second, // below the minute after which services close
		TLSHandshakeTimeout: 10 * time.Second,
		DisableCompression:  true, // the bytes are the object's
		WriteBufferSize:     128 << 10,
		ReadBufferSize:      64 << 10,
		TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	if !set.secure {
		return &transport{t}, nil
	}
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if set.caFile == "" {
		return &transport{t}, nil
	}
	pem, err := os.ReadFile(set.caFile)
	if err != nil {
		return nil, invalid("property ca_file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, invalid("property ca_file: %s holds no PEM certificate", set.caFile)
	}
	t.TLSClientConfig.RootCAs = pool
	return &transport{t}, nil
}

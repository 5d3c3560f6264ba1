package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

// transport adds to requests what minio-go has no parameter for, and keeps the header of
// the answer.
type transport struct {
	amended
	base  *http.Transport
	heads atomic.Int32 // what is known of answers to HEAD: unknown, clean or stray
}

// What follows the answer to a HEAD. Servers on eventlet, such as Swift, send the last chunk
// of an empty body, where the next answer of the connection belongs.
const (
	unknown = iota
	clean
	stray
)

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
		return t.trip(req)
	}
	if len(x.set) > 0 {
		req = req.Clone(req.Context())
		maps.Copy(req.Header, x.set)
	}
	resp, err := t.trip(req)
	if err == nil {
		x.got = resp.Header
	}
	return resp, err
}

// trip sends a request as the bucket wants it, and a second time where only the first
// answer told where the bucket lies. One with a body is the caller's to send again.
func (t *transport) trip(req *http.Request) (*http.Response, error) {
	for again := false; ; again = true {
		amended, err := t.amend(req)
		if err != nil {
			return nil, err
		}
		resp, err := t.send(amended)
		if err != nil || !t.note(resp) || again || req.Body != nil && req.Body != http.NoBody {
			return resp, err
		}
		drain(resp.Body)
	}
}

// send sends a request. Until a HEAD was answered cleanly, and for good once one was not,
// each has a connection that nothing else uses.
func (t *transport) send(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodHead {
		return t.base.RoundTrip(req)
	}
	if t.heads.Load() != clean {
		req = req.Clone(req.Context())
		req.Close = true
	}
	resp, err := t.base.RoundTrip(req)
	switch {
	case err != nil:
	case slices.Contains(resp.TransferEncoding, "chunked"):
		if t.heads.Swap(stray) == clean {
			t.base.CloseIdleConnections() // this one is among them
		}
	case resp.StatusCode == http.StatusOK:
		t.heads.CompareAndSwap(unknown, clean)
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
	all := &transport{base: t, amended: amended{creds: set.creds, region: set.region, pays: set.pays}}
	if !set.secure {
		return all, nil
	}
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if set.caFile == "" {
		return all, nil
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
	return all, nil
}

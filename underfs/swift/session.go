package swift

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	api "github.com/ncw/swift/v2"
)

// session is a connection pool and the token that its requests carry.
type session struct {
	set    settings
	base   *http.Transport
	client *http.Client
	turn   chan struct{} // held by the one who signs in, so that waiting for it can be given up

	mu      sync.Mutex
	storage *url.URL  // guarded by mu
	token   string    // guarded by mu; "" before the first one
	renew   time.Time // guarded by mu; when to ask for another; zero: when it is refused
	ends    time.Time // guarded by mu; zero: not known
}

// newSession makes the connection pool: HTTP/1.1, because parallel ranges want connections
// of their own.
func newSession(set settings) (*session, error) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConns:          set.concurrent,
		MaxIdleConnsPerHost:   set.concurrent,
		IdleConnTimeout:       50 * time.Second, // below the minute after which proxies close
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // the bytes are the object's
		WriteBufferSize:       128 << 10,
		ReadBufferSize:        64 << 10,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	if set.caFile != "" {
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
	}
	return &session{set: set, base: t, client: &http.Client{Transport: t}, turn: make(chan struct{}, 1)}, nil
}

func (s *session) close() { s.base.CloseIdleConnections() }

// current returns the account's address and the token, if there is one that is neither
// refused nor near its end.
func (s *session) current(refused string) (*url.URL, string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ok := s.token != "" && s.token != refused && (s.renew.IsZero() || time.Now().Before(s.renew))
	return s.storage, s.token, ok
}

// access returns an address and a token that is not the refused one, signing in for all
// who wait. A token that still holds is kept where another cannot be had.
func (s *session) access(ctx context.Context, refused string) (*url.URL, string, error) {
	if u, token, ok := s.current(refused); ok {
		return u, token, nil
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, "", ctx.Err()
	}
	if u, token, ok := s.current(refused); ok {
		return u, token, nil
	}
	err := s.signIn(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.token != "" && s.token != refused && time.Now().Before(s.ends) {
		err = nil
	}
	return s.storage, s.token, err
}

// signIn asks for a token.
func (s *session) signIn(ctx context.Context) error {
	spy := &expiry{base: s.base}
	conn := &api.Connection{
		Transport: spy, UserAgent: userAgent,
		ConnectTimeout: 24 * time.Hour, Timeout: 24 * time.Hour, // ctx bounds it
	}
	s.set.sign(conn)
	began := time.Now()
	// The library takes a token that ends within a minute for none; it is one.
	if err := conn.Authenticate(ctx); err != nil && (conn.StorageUrl == "" || conn.AuthToken == "") {
		return &signInError{err}
	}
	u := s.set.storage
	if u == nil {
		parsed, err := url.Parse(conn.StorageUrl)
		if err != nil || parsed.Host == "" {
			return &signInError{fmt.Errorf("the account's address is no URL: %q", conn.StorageUrl)}
		}
		parsed.Path = strings.TrimSuffix(parsed.Path, "/")
		u = parsed
	}
	ends := conn.Expires
	if ends.IsZero() && spy.seconds > 0 {
		ends = began.Add(time.Duration(spy.seconds) * time.Second)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.storage, s.token, s.ends, s.renew = u, conn.AuthToken, ends, time.Time{}
	if !ends.IsZero() {
		s.renew = ends.Add(-min(5*time.Minute, ends.Sub(began)/5))
	}
	return nil
}

// expiry reads how long a token of version 1 holds, which the library does not tell.
type expiry struct {
	base    http.RoundTripper
	seconds int64
}

// RoundTrip implements http.RoundTripper.
func (e *expiry) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := e.base.RoundTrip(req)
	if err == nil {
		e.seconds, _ = strconv.ParseInt(resp.Header.Get("X-Auth-Token-Expires"), 10, 32) // none: 0
	}
	return resp, err
}

const userAgent = "sluice/1"

// request is one call of the API. Without a container it concerns the account.
type request struct {
	method            string
	container, object string
	query             url.Values
	header            []string // names and values
	body              []byte
}

// statusError is an answer other than 2xx.
type statusError struct {
	status int
	text   string
}

// Error implements error.
func (e *statusError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("the store answered %d %s", e.status, http.StatusText(e.status))
	}
	return fmt.Sprintf("the store answered %d %s: %s", e.status, http.StatusText(e.status), e.text)
}

// signInError is a token that was not given.
type signInError struct{ err error }

// Error implements error.
func (e *signInError) Error() string { return "sign in: " + e.err.Error() }

// Unwrap returns the cause.
func (e *signInError) Unwrap() error { return e.err }

// do sends a request and returns an answer of 2xx, whose body the caller closes. A token
// that is refused is replaced once.
func (s *session) do(ctx context.Context, r request) (*http.Response, error) {
	refused := ""
	for {
		u, token, err := s.access(ctx, refused)
		if err != nil {
			return nil, err
		}
		resp, err := s.send(ctx, u, token, r)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode/100 == 2 {
			return resp, nil
		}
		err = failed(resp)
		if resp.StatusCode != http.StatusUnauthorized || refused != "" {
			return nil, err
		}
		refused = token
		s.close() // Swift sends a stray chunk behind a refused HEAD, where the next answer belongs
	}
}

// send sends one HTTP request.
func (s *session) send(ctx context.Context, u *url.URL, token string, r request) (*http.Response, error) {
	target := *u
	if r.container != "" {
		target.Path += "/" + r.container
		if r.object != "" {
			target.Path += "/" + r.object
		}
	}
	target.RawPath, target.RawQuery = "", r.query.Encode()
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target.String(), body)
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(r.header); i += 2 {
		req.Header.Set(r.header[i], r.header[i+1])
	}
	req.Header.Set("X-Auth-Token", token)
	req.Header.Set("User-Agent", userAgent)
	if len(r.body) > 1<<20 { // a refusal comes before the bytes went
		req.Header.Set("Expect", "100-continue")
	}
	return s.client.Do(req)
}

// failed reads the reason of an answer and closes it.
func failed(resp *http.Response) error {
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000)) // the status says the most
	if strings.Contains(resp.Header.Get("Content-Type"), "html") {
		text = nil // a page that repeats the status
	}
	return &statusError{resp.StatusCode, strings.TrimSpace(string(text))}
}

// call is do for answers whose body does not matter; it returns their header.
func (s *session) call(ctx context.Context, r request) (http.Header, error) {
	resp, err := s.do(ctx, r)
	if err != nil {
		return nil, err
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // keeps the connection
	return resp.Header, resp.Body.Close()
}

// fetch is do for answers with a body of at most limit bytes.
func (s *session) fetch(ctx context.Context, r request, limit int64) ([]byte, error) {
	resp, err := s.do(ctx, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("an answer of more than %d bytes", limit)
	}
	return b, err
}

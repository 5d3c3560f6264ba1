package webhdfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs/namenode"
)

// Bounds.
const (
	maxAnswer  = 64 << 20         // bytes of a JSON answer; a listing's page is 300 KB
	longestTry = 10 * time.Second // where another name node could answer instead
	root       = "/webhdfs/v1"
)

// hosts are the name nodes, and which of them answered last.
type hosts struct {
	all    []string
	mu     sync.Mutex
	active int // guarded by mu; index of all
}

// first returns the index of the host to ask first.
func (h *hosts) first() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.active
}

// answered notes that a host is active.
func (h *hosts) answered(i int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.active = i
}

// values makes parameters of pairs of name and value.
func values(pairs ...string) url.Values {
	v := make(url.Values, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return v
}

// call asks a name node and decodes its answer into out, unless that is nil.
func (c *client) call(ctx context.Context, method, op, path string, params url.Values, out any) error {
	resp, err := c.ask(ctx, method, op, path, params)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil && out != nil {
		err = json.Unmarshal(body, out)
	}
	if err == nil {
		return nil
	}
	if method != http.MethodGet { // it said 200, so it was done; what exactly is not known
		return &sluice.Error{Kind: sluice.UnknownOutcome, Err: inTime(ctx, err)}
	}
	return failed(ctx, method, true, err)
}

// ask sends a request to the name nodes in turn until one that is active answers: with
// success or a redirect, which are returned, or with an exception. Each is asked twice at
// the most; a request that changes something is not sent again once it may have arrived.
func (c *client) ask(ctx context.Context, method, op, path string, params url.Values) (*http.Response, error) {
	var last error
	arrived := false
	host := c.hosts.first()
	for range 2 * len(c.hosts.all) {
		resp, err := c.try(ctx, host, method, op, path, params)
		if err == nil {
			c.hosts.answered(host)
			return resp, nil
		}
		if e, ok := errors.AsType[*namenode.Exception](err); ok && !e.Standby() {
			return nil, &sluice.Error{Kind: e.Kind(), Err: e}
		}
		last = fmt.Errorf("name node %s: %v", c.hosts.all[host], err) // its deadline is not the caller's
		arrived = sent(err)
		if ctx.Err() != nil || method != http.MethodGet && arrived {
			break
		}
		host = (host + 1) % len(c.hosts.all)
	}
	return nil, failed(ctx, method, arrived, last)
}

// sent says whether the server may have got a request that ended with err.
func sent(err error) bool {
	if _, answered := errors.AsType[*namenode.Exception](err); answered {
		return false
	}
	op, ok := errors.AsType[*net.OpError](err)
	return !ok || op.Op != "dial"
}

// failed is the error of a request that nobody answered.
func failed(ctx context.Context, method string, sent bool, err error) error {
	err = inTime(ctx, err)
	switch {
	case method != http.MethodGet && sent:
		return &sluice.Error{Kind: sluice.UnknownOutcome, Err: err}
	case errors.Is(err, context.Canceled):
		return &sluice.Error{Kind: sluice.Cancelled, Err: err}
	case ctx.Err() != nil:
		return &sluice.Error{Kind: sluice.Timeout, Err: err}
	}
	return &sluice.Error{Kind: sluice.Unavailable, Err: err}
}

// inTime puts the end of ctx before err, which it caused.
func inTime(ctx context.Context, err error) error {
	if e := ctx.Err(); e != nil && !errors.Is(err, e) {
		return fmt.Errorf("%w (%v)", e, err)
	}
	return err
}

// try sends a request to one name node.
func (c *client) try(ctx context.Context, host int, method, op, path string, params url.Values) (*http.Response, error) {
	cancel := context.CancelFunc(func() {})
	if len(c.hosts.all) > 1 {
		ctx, cancel = context.WithTimeout(ctx, longestTry)
	}
	q := make(url.Values, len(params)+3)
	for _, v := range []url.Values{c.query, params} {
		for k := range v {
			q.Set(k, v.Get(k))
		}
	}
	q.Set("op", op)
	u := url.URL{Scheme: c.scheme, Host: c.hosts.all[host], Path: root + path, RawQuery: strings.ReplaceAll(q.Encode(), "+", "%20")}
	resp, err := c.send(ctx, method, u.String(), nil)
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &closer{resp.Body, cancel}
	return resp, nil
}

// closer ends a request's context with its body.
type closer struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (c *closer) Close() error {
	err := c.ReadCloser.Close()
	c.cancel()
	return err
}

// send sends one request and returns the answer if it is a success or a redirect, else an
// error, which is an exception where the answer has one. Addresses are kept out of errors:
// they hold the token.
func (c *client) send(ctx context.Context, method, addr string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, addr, body)
	if err != nil {
		return nil, errors.New("the address is no URL")
	}
	req.Header.Set("User-Agent", "sluice/1")
	if body != nil || method != http.MethodGet {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, err
	}
	if resp.StatusCode < 300 || resp.StatusCode == http.StatusTemporaryRedirect {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	return nil, exception(resp.StatusCode, text)
}

// exception reads the error in an answer.
func exception(status int, text []byte) error {
	var a struct {
		RemoteException struct{ Exception, JavaClassName, Message string }
	}
	if json.Unmarshal(text, &a) == nil && a.RemoteException.Exception != "" {
		return &namenode.Exception{Class: a.RemoteException.Exception, Message: a.RemoteException.Message}
	}
	e := &namenode.Exception{Class: fmt.Sprintf("HTTP status %d", status), Message: strings.TrimSpace(string(text))}
	switch status {
	case http.StatusUnauthorized:
		e.Class = "AuthenticationException"
	case http.StatusForbidden:
		e.Class = "AccessControlException"
	case http.StatusNotFound: // WebHDFS is off, or the port is another service's
		e.Class, e.Message = "UnsupportedOperationException", "this server has no "+root
	}
	return e
}

// redirected returns the address that an answer leads to, "" where it is no redirect.
func (c *client) redirected(resp *http.Response) (string, error) {
	if resp.StatusCode != http.StatusTemporaryRedirect {
		return "", nil
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)) // so that the connection is kept
	resp.Body.Close()
	u, err := resp.Location()
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", errors.New("the name node redirects to nowhere")
	}
	if c.scheme == "https" && u.Scheme == "http" {
		return "", &namenode.Exception{Class: "AuthorizationException", Message: "the name node redirects from https to http, which would show data and token to everybody"}
	}
	return u.String(), nil
}

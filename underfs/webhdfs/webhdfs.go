// Package webhdfs is the driver of HDFS over HTTP: WebHDFS of name nodes and data nodes,
// and HttpFS. It is for clusters whose ports the native driver cannot reach, and for files
// that are encrypted or erasure-coded, which the servers decrypt and decode. What HDFS
// promises, and how wide the remaining windows are, is said in package namenode; here every
// change goes out once, because nothing remembers its answer: one that was sent and not
// answered is of unknown outcome.
//
// It follows redirects itself (bodies go to the second address only), retries nothing but
// what a standby refused or what could not be sent, and keeps no cache. Over HttpFS a file
// that is open for its first writing is not recognised; its length is that of its whole
// blocks.
package webhdfs

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/namenode"
)

// Driver makes stores of the schemes "webhdfs" and "swebhdfs".
type Driver struct {
	// Dial connects to name nodes and data nodes; nil is net.Dialer's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Schemes returns "webhdfs" and "swebhdfs".
func (Driver) Schemes() []string { return []string{"webhdfs", "swebhdfs"} }

// Settings describes the properties and the secret.
func (Driver) Settings() []underfs.Setting {
	return []underfs.Setting{
		{Name: "user", Help: "user that HDFS is asked as (user.name); else the user that Sluice runs as"},
		{Name: "replication", Help: "copies of the blocks of files written, 1 to 512; the cluster's default where it is empty"},
		{Name: "block_size", Help: "bytes of the blocks of files written, a multiple of 512; the cluster's default where it is empty"},
		{Name: "ca_file", Help: "file of PEM certificates to trust besides the system's (swebhdfs)"},
		{Name: "token", Help: "delegation token to send instead of the user's name", Secret: true},
	}
}

// Open makes a store of webhdfs://host:port,host:port/path. Nothing is asked of the network.
func (d Driver) Open(cfg underfs.Config) (underfs.Store, error) {
	c, err := d.client(cfg)
	if err != nil {
		return nil, err
	}
	return namenode.New(namenode.Config{Top: c.top, Node: c, Data: c, Transparent: true}), nil
}

// Data makes what reads and writes files by their absolute paths, for a driver that reaches
// the same cluster by other means.
func (d Driver) Data(cfg underfs.Config) (namenode.Data, error) {
	if err := underfs.CheckSettings(cfg, d.Settings()); err != nil {
		return nil, err
	}
	c, err := d.client(cfg)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// client speaks to the name nodes of a cluster. It implements namenode.Node and
// namenode.Data.
type client struct {
	top       string
	scheme    string // http or https
	hosts     *hosts
	query     url.Values // what every request says of who asks
	create    url.Values // what CREATE says of blocks
	transport *http.Transport

	mu      sync.Mutex
	writers map[*writer]bool // guarded by mu; those that were neither finished nor aborted
}

// client reads and checks cfg.
func (d Driver) client(cfg underfs.Config) (*client, error) {
	c := &client{scheme: "http", query: url.Values{}, create: url.Values{}, writers: make(map[*writer]bool)}
	scheme, rest, _ := strings.Cut(cfg.URI, "://")
	port := "9870"
	switch scheme {
	case "webhdfs":
	case "swebhdfs":
		c.scheme, port = "https", "9871"
	default:
		return nil, invalid("%q is not webhdfs://host:port/path or swebhdfs://host:port/path", cfg.URI)
	}
	authority, dir, _ := strings.Cut(rest, "/")
	if authority == "" || strings.ContainsAny(authority, "@?# ") || strings.ContainsAny(dir, "?#") {
		return nil, invalid("%q is not %s://host:port,host:port/path (the user is a property; write ? and # as %%3F and %%23)", cfg.URI, scheme)
	}
	dir, err := url.PathUnescape(dir)
	if err != nil {
		return nil, invalid("%q: %w", cfg.URI, err)
	}
	c.top = path.Clean("/" + dir)
	if c.hosts, err = newHosts(authority, port); err != nil {
		return nil, err
	}
	if err := c.identify(cfg); err != nil {
		return nil, err
	}
	if err := c.blocks(cfg.Properties); err != nil {
		return nil, err
	}
	c.transport, err = d.transport(cfg, c.scheme == "https")
	return c, err
}

// invalid makes an error about settings.
func invalid(format string, args ...any) error {
	return underfs.Fail("open store", "", sluice.Invalid, fmt.Errorf(format, args...))
}

// userNames are the names that HDFS takes over HTTP.
var userNames = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9._-]*[$]?$`)

// identify sets what requests say of who asks.
func (c *client) identify(cfg underfs.Config) error {
	if t := cfg.Secrets["token"]; t != "" {
		c.query.Set("delegation", t)
		return nil
	}
	name := cmp.Or(cfg.Properties["user"], os.Getenv("HADOOP_USER_NAME"))
	if name == "" {
		me, err := user.Current()
		if err != nil {
			return invalid("property user is not set, and who runs this process is not known: %w", err)
		}
		name = me.Username
	}
	if !userNames.MatchString(name) {
		return invalid("property user: HDFS takes no user called %q over HTTP", name)
	}
	c.query.Set("user.name", name)
	return nil
}

// blocks sets what CREATE says of blocks.
func (c *client) blocks(p map[string]string) error {
	if v := p["replication"]; v != "" {
		if n, err := strconv.Atoi(v); err != nil || n < 1 || n > 512 {
			return invalid("property replication is a number from 1 to 512, not %q", v)
		}
		c.create.Set("replication", v)
	}
	if v := p["block_size"]; v != "" {
		if n, err := strconv.ParseInt(v, 10, 64); err != nil || n <= 0 || n%512 != 0 {
			return invalid("property block_size is a number of bytes that is a multiple of 512, not %q", v)
		}
		c.create.Set("blocksize", v)
	}
	return nil
}

// transport makes the connection pool.
func (d Driver) transport(cfg underfs.Config, secure bool) (*http.Transport, error) {
	dial := d.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	n := cmp.Or(cfg.Options.Concurrent, 64)
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dial,
		MaxIdleConns:        n,
		MaxIdleConnsPerHost: n,
		IdleConnTimeout:     20 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second,
		DisableCompression:  true,
		WriteBufferSize:     128 << 10,
		ReadBufferSize:      64 << 10,
		TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	if !secure {
		return t, nil
	}
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	file := cfg.Properties["ca_file"]
	if file == "" {
		return t, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, invalid("property ca_file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, invalid("property ca_file: %s holds no PEM certificate", file)
	}
	t.TLSClientConfig.RootCAs = pool
	return t, nil
}

// newHosts reads a list of hosts.
func newHosts(authority, port string) (*hosts, error) {
	h := &hosts{}
	for host := range strings.SplitSeq(authority, ",") {
		if host == "" {
			return nil, invalid("%q is no list of hosts", authority)
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), port)
		}
		if !slices.Contains(h.all, host) {
			h.all = append(h.all, host)
		}
	}
	return h, nil
}

// Close implements namenode.Data. Writers that nobody ended are aborted.
func (c *client) Close() error {
	c.mu.Lock()
	left := slices.Collect(maps.Keys(c.writers))
	c.mu.Unlock()
	for _, w := range left {
		w.Abort()
	}
	c.transport.CloseIdleConnections()
	return nil
}

// Baseline opens plain requests: one OPEN or CREATE each, with Go's own redirects.
func (d Driver) Baseline(cfg underfs.Config) (underfs.Baseline, error) {
	c, err := d.client(cfg)
	if err != nil {
		return nil, err
	}
	return &baseline{c}, nil
}

// baseline is WebHDFS without anything around it.
type baseline struct{ c *client }

// Get implements underfs.Baseline.
func (b *baseline) Get(ctx context.Context, key underfs.Key, w io.Writer) (int64, error) {
	body, err := b.c.get(ctx, path.Join(b.c.top, string(key)), url.Values{})
	if err != nil {
		return 0, underfs.Fail("get", key, namenode.KindOf(err), err)
	}
	defer body.Close()
	n, err := io.Copy(w, body)
	return n, underfs.Fail("get", key, sluice.Unavailable, err)
}

// Put implements underfs.Baseline.
func (b *baseline) Put(ctx context.Context, key underfs.Key, r io.Reader, _ int64) error {
	err := b.c.put(ctx, path.Join(b.c.top, string(key)), url.Values{"overwrite": {"true"}}, r)
	return underfs.Fail("put", key, namenode.KindOf(err), err)
}

// Close implements underfs.Baseline.
func (b *baseline) Close() error { return b.c.Close() }

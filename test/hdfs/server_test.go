//go:build e2e

package hdfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"go.uber.org/goleak"

	"github.com/sluicefs/sluice/test/hdfsserver"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/hdfs"
	"github.com/sluicefs/sluice/underfs/webhdfs"
)

// theServer is the one HDFS of this package's tests, started when it is first needed.
var theServer struct {
	once sync.Once
	srv  *hdfsserver.Server
	err  error
}

// A writer that died loses its lease after this many seconds rather than 20 minutes.
const leaseSeconds = 15

func TestMain(m *testing.M) {
	code := m.Run()
	if theServer.srv != nil {
		if err := theServer.srv.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
		if code == 0 {
			os.RemoveAll(theServer.srv.Dir)
		} else {
			fmt.Fprintln(os.Stderr, "the logs of the HDFS are in", theServer.srv.Dir)
		}
	}
	if code == 0 {
		// A link that delays sits its delay out, whatever became of its ends.
		if err := goleak.Find(goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).Start"),
			goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"),
			goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*LatencyToxic).Pipe"),
			goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read"),
			goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).write")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// server returns the HDFS. Where there can be none the test is skipped, loudly.
func server(t *testing.T) *hdfsserver.Server {
	t.Helper()
	theServer.once.Do(func() {
		dir, err := os.MkdirTemp("", "sluice-hdfs-")
		if err != nil {
			theServer.err = err
			return
		}
		theServer.srv, theServer.err = hdfsserver.Start(context.Background(), dir, property("dfs.namenode.lease-hard-limit-sec", leaseSeconds)+
			// A data node that closes a file for WebHDFS asks again after 400 ms otherwise.
			property("dfs.client.block.write.locateFollowingBlock.initial.delay.ms", 10))
		if errors.Is(theServer.err, hdfsserver.ErrMissing) {
			os.RemoveAll(dir)
		}
	})
	if errors.Is(theServer.err, hdfsserver.ErrMissing) {
		fmt.Fprintln(os.Stderr, "SKIPPED:", theServer.err)
		t.Skip(theServer.err)
	}
	if theServer.err != nil {
		t.Fatal(theServer.err)
	}
	return theServer.srv
}

// property is an element of hdfs-site.xml.
func property(name string, value int) string {
	return fmt.Sprintf("<property><name>%s</name><value>%d</value></property>", name, value)
}

// me is who the tests run as, who is the HDFS's superuser.
func me(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}

// ask makes one WebHDFS request of the tests' own: a second opinion.
func ask(t *testing.T, method, name, op string, params ...string) string {
	t.Helper()
	q := url.Values{"op": {op}, "user.name": {me(t)}}
	for i := 0; i+1 < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	u := url.URL{Scheme: "http", Host: server(t).HTTP, Path: path.Join("/webhdfs/v1", name), RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(t.Context(), method, u.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// schemes are the drivers under test.
func schemes() []string { return []string{"hdfs", "webhdfs"} }

// uri returns the URI of a directory by one of the schemes.
func uri(t *testing.T, scheme, dir string) string {
	t.Helper()
	if scheme == "hdfs" {
		return "hdfs://" + server(t).NameNode + dir
	}
	return "webhdfs://" + server(t).HTTP + dir
}

// dialFunc connects.
type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// registry knows the drivers under test.
func registry(dial dialFunc) *underfs.Registry {
	return underfs.NewRegistry(hdfs.Driver{Dial: dial}, webhdfs.Driver{Dial: dial})
}

// open opens a directory, which is made; dial may be nil.
func open(t *testing.T, scheme, dir string, dial dialFunc) underfs.Store {
	t.Helper()
	if out := ask(t, http.MethodPut, dir, "MKDIRS"); !strings.Contains(out, "true") {
		t.Fatalf("make %s: %s", dir, out)
	}
	s, err := registry(dial).Open(underfs.Config{URI: uri(t, scheme, dir)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// proxies are proxies before the servers, by the address that each stands for.
type proxies map[string]*toxiproxy.Proxy

// zero returns a new value of what p points to: toxiproxy wants a logger whose package is
// none of ours to import.
func zero[T any](*T) *T { return new(T) }

// proxied puts a proxy before each address.
func proxied(t *testing.T, addresses ...string) proxies {
	t.Helper()
	all := make(proxies)
	for _, a := range addresses {
		all[a] = toxic(t, a, "127.0.0.1:0")
	}
	return all
}

// toxic starts a proxy.
func toxic(t *testing.T, addr, listen string) *toxiproxy.Proxy {
	t.Helper()
	api := &toxiproxy.ApiServer{Metrics: toxiproxy.NewMetricsContainer(nil)}
	api.Logger = zero(api.Logger)
	p := toxiproxy.NewProxy(api, addr, listen, addr)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

// dial goes through the proxies.
func (p proxies) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if x := p[addr]; x != nil {
		addr = x.Listen
	}
	return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, addr)
}

// cut closes what goes through a proxy and refuses more.
func (p proxies) cut(addr string) { p[addr].Stop() }

// hang holds back what comes back through a proxy, and keeps its connections. Data that
// flows meanwhile must be read, or toxiproxy waits for it.
func (p proxies) hang(addr string) error {
	_, err := p[addr].Toxics.AddToxicJson(strings.NewReader(`{"name":"hang","type":"latency","stream":"downstream","attributes":{"latency":20000}}`))
	return err
}

// slow lets so many KB/s come back through a proxy, so that there is a middle.
func (p proxies) slow(t *testing.T, addr string, rate int) {
	t.Helper()
	if _, err := p[addr].Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(
		`{"name":"slow","type":"bandwidth","stream":"downstream","attributes":{"rate":%d}}`, rate))); err != nil {
		t.Fatal(err)
	}
}

// heal undoes cut and hang by a proxy without a fault in the place of the faulty one: to
// take a toxic out of a link whose ends are gone does not always end.
func (p proxies) heal(t *testing.T, addr string) {
	t.Helper()
	p[addr].Stop()
	p[addr] = toxic(t, addr, p[addr].Listen)
}

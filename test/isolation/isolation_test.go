// Package isolation shows that a store that hangs harms its own mount only, with a real
// S3 server behind a proxy that swallows its answers.
package isolation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/internal/cluster"
	"github.com/sluicefs/sluice/test/s3server"
)

// TestMain puts all files into memory where it can: what is shown is waiting for a store and
// not for this machine's disk, whose syncs take seconds while others use it.
func TestMain(m *testing.M) {
	cluster.UseMemory()
	goleak.VerifyTestMain(m)
}

// deadline is that of one call to the sick store.
const deadline = 2 * time.Second

// zero returns a new value of what p points to: toxiproxy wants a logger whose package is
// none of ours to import.
func zero[T any](*T) *T { return new(T) }

// proxied puts a proxy before address.
func proxied(t *testing.T, address string) *toxiproxy.Proxy {
	t.Helper()
	server := &toxiproxy.ApiServer{Metrics: toxiproxy.NewMetricsContainer(nil)}
	server.Logger = zero(server.Logger)
	p := toxiproxy.NewProxy(server, "s3", "127.0.0.1:0", address)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

// With the S3 mount's server hanging, the other mount and what is cached answer before
// the sick mount's deadline would have passed; calls to the sick mount end by themselves
// as unavailable, with a message that names it; and it heals without being told.
func TestSickMountHarmsNobodyElse(t *testing.T) {
	srv := s3server.New(t)
	if err := srv.Bucket("bucket"); err != nil {
		t.Fatal(err)
	}
	proxy := proxied(t, srv.Address)
	c := cluster.Start(t, cluster.Options{})
	properties := srv.Properties()
	properties["endpoint"] = "http://" + proxy.Listen
	c.Mount("/s3", "s3://bucket", sluice.MountOptions{Timeout: deadline, Properties: properties}, srv.Secrets())
	c.MountLocal("/local", sluice.MountOptions{})
	s := &site{t: t, fs: c.Client(t), data: bytes.Repeat([]byte("sluice"), 50_000)}
	s.must(s.put(t.Context(), "/local/f"))
	s.must(s.put(t.Context(), "/s3/warm"))
	for i := range 8 {
		p := sluice.Path(fmt.Sprintf("/s3/cold-%d", i))
		s.must(s.put(t.Context(), p))
		if _, err := s.fs.Free(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	s.must(s.get(t.Context(), "/s3/warm", sluice.Freshness{}))

	before := s.measure("healthy")
	if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(`{"name":"hang","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`)); err != nil {
		t.Fatal(err)
	}
	end := s.hammer()
	during := s.measure("with /s3 hanging")
	calls := end()
	for name, was := range before {
		t.Logf("%-28s median %8v healthy, %8v while /s3 hangs: ratio %.2f", name, was, during[name], float64(during[name])/float64(was))
	}
	t.Logf("%d calls to the sick mount ended", calls)

	if err := proxy.Toxics.RemoveToxic(context.Background(), "hang"); err != nil {
		t.Fatal(err)
	}
	c.Until("the mount heals", func(ctx context.Context) bool { return s.get(ctx, "/s3/cold-0", sluice.Always()) == nil })
}

// site is what the test works with.
type site struct {
	t    *testing.T
	fs   *client.Client
	data []byte
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) put(ctx context.Context, p sluice.Path) error {
	w, err := s.fs.Create(ctx, p, sluice.CreateOptions{})
	if err != nil {
		return err
	}
	defer w.Abort(context.WithoutCancel(ctx))
	if _, err := w.Write(ctx, s.data); err != nil {
		return err
	}
	_, err = w.Close(ctx)
	return err
}

// get reads the whole file and compares.
func (s *site) get(ctx context.Context, p sluice.Path, f sluice.Freshness) error {
	h, err := s.fs.Open(ctx, p, sluice.OpenOptions{Freshness: f})
	if err != nil {
		return err
	}
	defer h.Close()
	b, err := io.ReadAll(sluice.NewReader(ctx, h, 0))
	if err == nil && !bytes.Equal(b, s.data) {
		err = fmt.Errorf("%s: %d bytes are not those written", p, len(b))
	}
	return err
}

// measure does what must go on working, each time within the sick mount's deadline, and
// returns the median of each.
func (s *site) measure(when string) map[string]time.Duration {
	s.t.Helper()
	out := map[string]time.Duration{}
	for name, do := range map[string]func(context.Context) error{
		"read /local, asking the store": func(ctx context.Context) error { return s.get(ctx, "/local/f", sluice.Always()) },
		"write /local":                  func(ctx context.Context) error { return s.put(ctx, "/local/new") },
		"read cached of /s3":            func(ctx context.Context) error { return s.get(ctx, "/s3/warm", sluice.Freshness{}) },
		"stat known of /s3": func(ctx context.Context) error {
			_, err := s.fs.Stat(ctx, "/s3/warm", sluice.StatOptions{Freshness: sluice.NeverAsk()})
			return err
		},
		"mkdir outside mounts": func(ctx context.Context) error {
			_, err := s.fs.Mkdir(ctx, "/d", sluice.MkdirOptions{Parents: true})
			return err
		},
	} {
		var took []time.Duration
		for range 15 {
			ctx, cancel := context.WithTimeout(s.t.Context(), deadline)
			began := time.Now()
			if err := do(ctx); err != nil {
				s.t.Errorf("%s, %s: %v", name, when, err)
			}
			took = append(took, time.Since(began))
			cancel()
		}
		slices.Sort(took)
		out[name] = took[len(took)/2]
	}
	return out
}

// hammer calls the sick mount from many sides until the returned function is called,
// which waits for all calls and says how many there were. Every call must end before its
// generous context does, as unavailable, and name the mount.
func (s *site) hammer() func() int {
	ctx, stop := context.WithCancel(s.t.Context())
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		calls int
	)
	call := func(name string, do func(context.Context) error) {
		for first := true; first || ctx.Err() == nil; first = false {
			bounded, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
			err := do(bounded)
			late := bounded.Err() != nil
			cancel()
			switch {
			case err == nil:
				s.t.Errorf("%s: works though the store hangs", name)
			case !errors.Is(err, sluice.Unavailable):
				s.t.Errorf("%s: %v, want kind unavailable", name, err)
			case !strings.Contains(err.Error(), "/s3"):
				s.t.Errorf("%s: %v does not name the mount", name, err)
			case late:
				s.t.Errorf("%s: ended with its caller's deadline, not its own: %v", name, err)
			}
			mu.Lock()
			calls++
			mu.Unlock()
		}
	}
	for i := range 8 {
		cold := sluice.Path(fmt.Sprintf("/s3/cold-%d", i))
		wg.Go(func() {
			call("read "+string(cold), func(ctx context.Context) error { return s.get(ctx, cold, sluice.NeverAsk()) })
		})
	}
	for range 4 {
		wg.Go(func() {
			call("stat", func(ctx context.Context) error {
				_, err := s.fs.Stat(ctx, "/s3/other", sluice.StatOptions{Freshness: sluice.Always()})
				return err
			})
		})
		wg.Go(func() {
			call("list", func(ctx context.Context) error {
				for _, err := range s.fs.List(ctx, "/s3", sluice.ListOptions{Freshness: sluice.Always()}) {
					if err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	return func() int {
		stop()
		wg.Wait()
		return calls
	}
}

package guard_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/test/s3server"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/breaker"
	"github.com/sluicefs/sluice/underfs/guard"
	"github.com/sluicefs/sluice/underfs/s3"
)

// zero returns a new value of what p points to: toxiproxy wants a logger whose package is
// none of ours to import.
func zero[T any](*T) *T { return new(T) }

// toxic puts a proxy before address.
func toxic(t *testing.T, address string) *toxiproxy.Proxy {
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

// With one mount's server hanging, its calls end at their deadline as unavailable and name
// the mount; the other mount's go on as if nothing were; and it comes back by itself.
func TestIsolation(t *testing.T) {
	srv := s3server.New(t)
	if err := srv.Bucket("bucket"); err != nil {
		t.Fatal(err)
	}
	proxy := toxic(t, srv.Address)
	mount := func(path, endpoint string) underfs.Store {
		properties := srv.Properties()
		properties["endpoint"] = endpoint
		g, err := guard.Open(underfs.NewRegistry(s3.Driver{}), underfs.Config{
			URI: "s3://bucket", Properties: properties, Secrets: srv.Secrets(), Options: sluice.MountOptions{Timeout: 500 * time.Millisecond},
		}, guard.Config{Mount: path, Breaker: breaker.Config{Pause: 50 * time.Millisecond}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { g.Close() })
		return g.Store()
	}
	good, sick := mount("/good", srv.Endpoint), mount("/sick", "http://"+proxy.Listen)
	u, err := good.Create(t.Context(), "o", underfs.CreateOptions{Length: 5})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Write(t.Context(), []byte("12345")); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	o, err := u.Commit(t.Context(), underfs.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	read := func(ctx context.Context, s underfs.Store) error {
		r, err := s.Read(ctx, underfs.ReadRequest{Key: "o", Version: o.Version, Length: 5})
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.Copy(io.Discard, r)
		return err
	}
	if err := read(t.Context(), sick); err != nil {
		t.Fatalf("through the proxy, as long as it passes everything: %v", err)
	}
	if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(`{"name":"hang","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := read(t.Context(), sick); !errors.Is(err, sluice.Unavailable) || !strings.Contains(err.Error(), "/sick") {
				t.Errorf("the hanging mount: %v, want kind unavailable and its name", err)
			}
		})
		wg.Go(func() {
			for range 10 {
				if err := read(t.Context(), good); err != nil {
					t.Errorf("the other mount: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if err := proxy.Toxics.RemoveToxic(t.Context(), "hang"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		err := read(ctx, sick)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("the mount does not come back: %v", err)
		}
		select {
		case <-time.After(20 * time.Millisecond): // the breaker's pause, in real time
		case <-ctx.Done():
		}
	}
}

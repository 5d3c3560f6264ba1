package badinput

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/cluster"
	"github.com/sluicefs/sluice/test/s3server"
	"github.com/sluicefs/sluice/underfs"
)

func underfsKey(s string) underfs.Key { return underfs.Key(s) }

// Where a mount cannot be, it is refused with a kind; mounts inside mounts work; what is
// refused leaves nothing.
func TestMountPlaces(t *testing.T) {
	c := cluster.Start(t, cluster.Options{})
	store := c.MountLocal("/m", sluice.MountOptions{})
	fs, ctx := c.Client(t), t.Context()
	if err := os.MkdirAll(filepath.Join(store, "sub", "deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(store, "sub", "f"), []byte("f"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := put(ctx, fs, "/file", []byte("x"), sluice.CreateOptions{Write: sluice.MustCache}); err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct {
		path, uri string
		want      []sluice.Kind
	}{
		{"/m", "file://" + store, []sluice.Kind{sluice.Exists, sluice.Busy}},
		{"/file", "file://" + store, []sluice.Kind{sluice.NotDirectory, sluice.Exists}},
		{"/file/below", "file://" + store, []sluice.Kind{sluice.NotDirectory}},
		{"/m/sub/f", "file://" + store, []sluice.Kind{sluice.NotDirectory, sluice.Exists}},
		{"/m/sub/f/below", "file://" + store, []sluice.Kind{sluice.NotDirectory}},
		{"/", "file://" + store, []sluice.Kind{sluice.Invalid}},
		{"/n", "file://" + store + "/missing", []sluice.Kind{sluice.NotFound, sluice.Invalid}},
		{"/n", "file://" + store + "/sub/f", []sluice.Kind{sluice.NotDirectory, sluice.Invalid}},
		{"/n", "nfs3://host/x", []sluice.Kind{sluice.Invalid}},
		{"/n", "relative", []sluice.Kind{sluice.Invalid}},
		{"/n", "", []sluice.Kind{sluice.Invalid}},
	} {
		_, err := fs.Mount(ctx, sluice.Path(m.path), m.uri, sluice.MountOptions{}, nil)
		ok := false
		for _, k := range m.want {
			ok = ok || errors.Is(err, k)
		}
		if !ok {
			t.Errorf("mount %s at %s: %v, want one of %v", m.uri, m.path, err, m.want)
		}
	}
	// A mount of a store inside itself shows it once more, and no further.
	c.Mount("/m/again", "file://"+store, sluice.MountOptions{}, nil)
	if got, err := get(ctx, fs, "/m/again/sub/f", sluice.OpenOptions{}); err != nil || string(got) != "f" {
		t.Errorf("through the mount inside itself: %q, %v", got, err)
	}
	limited, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	n := 0
	for info, err := range fs.List(limited, "/m", sluice.ListOptions{Recursive: true}) {
		if err != nil {
			t.Fatalf("list it all: %v", err)
		}
		if n++; n > 100 {
			t.Fatalf("the listing goes round: %s", info.Path)
		}
	}
	all, err := fs.Mounts(ctx)
	if err != nil || len(all) != 2 {
		t.Errorf("mounts after all that: %v, %v; want /m and /m/again", all, err)
	}
	if err := fs.Unmount(ctx, "/m/again", false); err != nil {
		t.Errorf("unmount it: %v", err)
	}
}

// A store that cannot be mounted is refused at once with what to change, shows no secret,
// and leaves nothing in the way of the right settings.
func TestMountS3(t *testing.T) {
	srv := s3server.New(t)
	if err := srv.Bucket("bucket"); err != nil {
		t.Fatal(err)
	}
	c := cluster.Start(t, cluster.Options{Workers: -1})
	fs := c.Client(t)
	with := func(m map[string]string, name, value string) map[string]string {
		m = maps.Clone(m)
		m[name] = value
		return m
	}
	const secret = "not-the-secret-key-of-anything"
	for name, m := range map[string]struct {
		uri                 string
		properties, secrets map[string]string
		kinds               []sluice.Kind
	}{
		"a missing bucket": {"s3://missing-bucket", srv.Properties(), srv.Secrets(), []sluice.Kind{sluice.NotFound}},
		"a wrong secret": {"s3://bucket", srv.Properties(), with(srv.Secrets(), "secret_key", secret),
			[]sluice.Kind{sluice.Unauthenticated, sluice.Permission}},
		"a wrong key": {"s3://bucket", srv.Properties(), with(srv.Secrets(), "access_key", "nobody"),
			[]sluice.Kind{sluice.Unauthenticated, sluice.Permission}},
		"a dead endpoint":      {"s3://bucket", with(srv.Properties(), "endpoint", "http://127.0.0.1:1"), srv.Secrets(), []sluice.Kind{sluice.Unavailable}},
		"a typo":               {"s3://bucket", with(srv.Properties(), "regoin", "x"), srv.Secrets(), []sluice.Kind{sluice.Invalid}},
		"a secret in the open": {"s3://bucket", with(srv.Properties(), "secret_key", secret), nil, []sluice.Kind{sluice.Invalid}},
		"no bucket":            {"s3://", srv.Properties(), srv.Secrets(), []sluice.Kind{sluice.Invalid}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		_, err := fs.Mount(ctx, "/s3", m.uri, sluice.MountOptions{Timeout: 5 * time.Second, Properties: m.properties}, sluice.Secrets(m.secrets))
		if ctx.Err() != nil {
			t.Errorf("%s: only our patience ended it: %v", name, err)
		}
		cancel()
		ok := false
		for _, k := range m.kinds {
			ok = ok || errors.Is(err, k)
		}
		if !ok {
			t.Errorf("%s: %v, want one of %v", name, err, m.kinds)
		}
		if err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), s3server.SecretKey)) {
			t.Errorf("%s: the message shows a secret: %v", name, err)
		}
	}
	if all, err := fs.Mounts(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("mounts: %v, %v; want none", all, err)
	}
	c.Mount("/s3", "s3://bucket", sluice.MountOptions{Properties: srv.Properties()}, srv.Secrets())
	for _, s := range []string{secret, s3server.SecretKey} {
		if strings.Contains(c.Log(), s) {
			t.Errorf("the log shows the secret %.8s...", s)
		}
	}
}

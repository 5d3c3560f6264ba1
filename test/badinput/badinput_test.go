// Package badinput gives a cluster what it must not trust: paths, mounts, keys and
// contents of stores, peers.
package badinput

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/internal/cluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func put(ctx context.Context, c *client.Client, p sluice.Path, data []byte, opts sluice.CreateOptions) error {
	w, err := c.Create(ctx, p, opts)
	if err != nil {
		return err
	}
	defer w.Abort(context.WithoutCancel(ctx))
	if _, err := w.Write(ctx, data); err != nil {
		return err
	}
	_, err = w.Close(ctx)
	return err
}

func get(ctx context.Context, c *client.Client, p sluice.Path, opts sluice.OpenOptions) ([]byte, error) {
	h, err := c.Open(ctx, p, opts)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return io.ReadAll(sluice.NewReader(ctx, h, 0))
}

// A path that is no path is refused as invalid by every operation, whatever the client
// says it is, and never mended into another name.
func TestPaths(t *testing.T) {
	c := cluster.Start(t, cluster.Options{})
	c.MountLocal("/m", sluice.MountOptions{})
	fs, ctx := c.Client(t), t.Context()
	long := strings.Repeat("n", sluice.MaxName)
	for _, dir := range []sluice.Path{"", "/m"} {
		for _, bad := range []string{
			"", "/..", "/../etc", "/a/../b", "/.", "/./a", "/a//b", "//a", "/a/", "/" + long + "x", "/\xff\xfe", "/a\x00b", "/a\nb", "/\x7f",
			strings.Repeat("/x", 2100),
		} {
			p := dir + sluice.Path(bad)
			if bad == "" && dir != "" {
				continue
			}
			_, statErr := fs.Stat(ctx, p, sluice.StatOptions{})
			_, mkdirErr := fs.Mkdir(ctx, p, sluice.MkdirOptions{Parents: true})
			_, openErr := fs.Open(ctx, p, sluice.OpenOptions{})
			_, linkErr := fs.Symlink(ctx, "x", p)
			_, attrErr := fs.SetAttr(ctx, p, sluice.AttrChange{Mode: new(sluice.Mode(0o600))})
			_, mountErr := fs.Mount(ctx, p, "mem://other", sluice.MountOptions{}, nil)
			var listErr error
			for _, err := range fs.List(ctx, p, sluice.ListOptions{}) {
				listErr = err
				break
			}
			for op, err := range map[string]error{
				"stat": statErr, "mkdir": mkdirErr, "open": openErr, "symlink": linkErr, "set attributes": attrErr, "mount": mountErr, "list": listErr,
				"create":      put(ctx, fs, p, []byte("x"), sluice.CreateOptions{Parents: true}),
				"remove":      fs.Remove(ctx, p, sluice.RemoveOptions{Recursive: true}),
				"rename from": fs.Rename(ctx, p, dir+"/to", sluice.RenameOptions{}),
				"rename to":   fs.Rename(ctx, dir+"/from", p, sluice.RenameOptions{}),
			} {
				if !errors.Is(err, sluice.Invalid) {
					t.Errorf("%s of %.40q: %v, want kind invalid", op, p, err)
				}
			}
		}
		p := dir.Join(long)
		if dir == "" {
			p = sluice.Root.Join(long)
		}
		if err := put(ctx, fs, p, []byte("long"), sluice.CreateOptions{}); err != nil {
			t.Errorf("a name of 255 bytes in %q: %v", dir, err)
		} else if got, err := get(ctx, fs, p, sluice.OpenOptions{}); err != nil || string(got) != "long" {
			t.Errorf("a name of 255 bytes in %q: read %q, %v", dir, got, err)
		}
	}
}

// Objects whose keys are no paths are counted and left alone; of "d" and "d/e" the
// directory wins; a key is never shown as another.
func TestKeys(t *testing.T) {
	c := cluster.Start(t, cluster.Options{})
	mem := c.Mem.Memory("bucket")
	keys := []string{"good", "d", "d/e", "marker/", "full/", "a//b", "/lead", "x/../y", "ctl\x01", "bad\xff", "dots/./z", strings.Repeat("k", 256)}
	for _, k := range keys {
		data := []byte("content of " + k)
		if k == "marker/" {
			data = nil
		}
		mem.Put(underfsKey(k), data)
	}
	c.Mount("/m", "mem://bucket", sluice.MountOptions{}, nil)
	fs, ctx := c.Client(t), t.Context()
	var got []string
	for info, err := range fs.List(ctx, "/m", sluice.ListOptions{Recursive: true, Freshness: sluice.Always()}) {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sluice.ParsePath(string(info.Path)); err != nil {
			t.Errorf("a listing shows what is no path: %v", err)
		}
		got = append(got, fmt.Sprintf("%s %v", info.Path, info.Type))
		if info.Type == sluice.File {
			want := "content of " + strings.TrimPrefix(string(info.Path), "/m/")
			if data, err := get(ctx, fs, info.Path, sluice.OpenOptions{}); err != nil || string(data) != want {
				t.Errorf("%s: %q, %v, want %q", info.Path, data, err, want)
			}
		}
	}
	for _, want := range []string{"/m/good file", "/m/d directory", "/m/d/e file", "/m/marker directory"} {
		if !strings.Contains(strings.Join(got, "\n")+"\n", want+"\n") {
			t.Errorf("the listing lacks %q: %q", want, got)
		}
	}
	all, err := fs.Mounts(ctx)
	if err != nil || len(all) != 1 || all[0].Health.Skipped == 0 {
		t.Errorf("mounts: %+v, %v; want a count of skipped keys", all, err)
	}
	if left := mem.Keys(); len(left) != len(keys) {
		t.Errorf("the store had %d objects and has %d: %q", len(keys), len(left), left)
	}
}

// A tier that is full refuses what can lie nowhere else, with a reason, and goes on
// serving everything else.
func TestFullTier(t *testing.T) {
	c := cluster.Start(t, cluster.Options{Mem: 16 << 20, SSD: -1})
	c.MountLocal("/m", sluice.MountOptions{})
	fs, ctx := c.Client(t), t.Context()
	small := bytes.Repeat([]byte("s"), 1<<20)
	if err := put(ctx, fs, "/kept", small, sluice.CreateOptions{Write: sluice.MustCache}); err != nil {
		t.Fatal(err)
	}
	limited, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	err := put(limited, fs, "/big", make([]byte, 64<<20), sluice.CreateOptions{Write: sluice.MustCache})
	if !errors.Is(err, sluice.NoSpace) {
		t.Errorf("64 MiB of MUST_CACHE into 16 MiB: %v, want kind no space", err)
	}
	if info, err := fs.Stat(ctx, "/big", sluice.StatOptions{}); err == nil && info.Complete {
		t.Errorf("what did not fit is shown: %+v", info)
	}
	through := bytes.Repeat([]byte("through"), 6<<20)
	if err := put(limited, fs, "/m/through", through, sluice.CreateOptions{Write: sluice.CacheThrough}); err != nil {
		t.Errorf("42 MiB of CACHE_THROUGH with a full tier: %v", err)
	} else if got, err := get(limited, fs, "/m/through", sluice.OpenOptions{}); err != nil || !bytes.Equal(got, through) {
		t.Errorf("read it back: %d bytes, %v", len(got), err)
	}
	if got, err := get(limited, fs, "/kept", sluice.OpenOptions{}); err != nil || !bytes.Equal(got, small) {
		t.Errorf("what exists only in the cache, after all that: %d bytes, %v", len(got), err)
	}
}

// A peer of another version is told so; one that announces a frame of 4 GiB is cut off;
// nobody else notices.
func TestPeers(t *testing.T) {
	c := cluster.Start(t, cluster.Options{})
	socket := strings.TrimPrefix(c.Address(), "unix:")
	// Prefix (length, type 1), then the hello: 1 "sluice", 2 and 3 the versions 98 to 99, 8 a nonce.
	hello := append([]byte("\x0a\x06sluice\x10\x62\x18\x63\x42\x20"), make([]byte, 32)...)
	frame := append([]byte{byte(len(hello)), 0, 0, 0, 1, 0, 0, 0}, hello...)
	if answer := talk(t, socket, frame); !bytes.Contains(answer, []byte("version")) {
		t.Errorf("a client of versions 98 to 99 was answered %q; want a reason that speaks of versions", answer)
	}
	for _, bad := range []string{"\xff\xff\xff\xff\x01\x00\x00\x00", "\xff\xff\xff\xff\xff\xff\xff\xff", "GET / HTTP/1.1\r\n\r\n", "\x00\x00\x00\x00\x05\x00\x00\x00"} {
		talk(t, socket, []byte(bad)) // returns because the server closes
	}
	if _, err := c.Client(t).Mkdir(t.Context(), "/d", sluice.MkdirOptions{}); err != nil {
		t.Errorf("an honest client after that: %v", err)
	}
}

// talk sends bytes to a socket and returns what came until the other side closed.
func talk(t *testing.T, socket string, p []byte) []byte {
	t.Helper()
	nc, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Write(p); err != nil {
		t.Logf("write: %v", err) // closed already
	}
	answer, err := io.ReadAll(nc)
	if errors.Is(err, context.DeadlineExceeded) || err != nil && strings.Contains(err.Error(), "timeout") {
		t.Errorf("%q: the server keeps the connection", p)
	}
	return answer
}

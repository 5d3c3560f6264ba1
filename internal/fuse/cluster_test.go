package fuse

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/internal/cluster"
)

// TestClusterLikeADirectory does random things on a real cluster, in its cache alone and
// through to a store.
func TestClusterLikeADirectory(t *testing.T) {
	needKernel(t)
	c := cluster.Start(t, cluster.Options{})
	c.MountLocal("/m", sluice.MountOptions{})
	for _, root := range []sluice.Path{"/", "/m"} {
		t.Run(string(root), func(t *testing.T) {
			// Who reads by passthrough keeps its version, which is not what a directory does.
			_, at := mounted(t, c.Client(t), func(o *Options) { o.Root, o.NoPass = root, true })
			likeADirectory(t, at)
		})
	}
}

// TestClusterPassthrough: a file that lies whole on this host is passed through from the
// next open on, and holds what was written.
func TestClusterPassthrough(t *testing.T) {
	needKernel(t)
	c := cluster.Start(t, cluster.Options{})
	store := c.MountLocal("/m", sluice.MountOptions{Settle: time.Nanosecond}) // cached at once
	data := make([]byte, 5<<20+123)
	r := rand.NewChaCha8([32]byte{1})
	_, err := r.Read(data)
	must(t, err)
	must(t, os.WriteFile(store+"/cold", data, 0o644))
	m, at := mounted(t, c.Client(t), nil)
	if !m.pass {
		t.Skip("SKIPPED: this kernel has no passthrough")
	}
	must(t, os.WriteFile(at+"/m/warm", data, 0o644))
	for _, name := range []string{at + "/m/warm", at + "/m/cold"} {
		wantSoon(t, name+" is passed through", func() bool {
			f := open(t, name, os.O_RDONLY)
			defer f.Close()
			mode := modeOf(t, name)
			b, err := os.ReadFile(name)
			if err != nil || !bytes.Equal(b, data) {
				t.Fatalf("%s read by %s: %d bytes, %v; want the %d written", name, mode, len(b), err, len(data))
			}
			// What the kernel remembers, the worker is not asked for.
			must(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
			return mode == string(modePass)
		})
		f := passing(t, m, name)
		w := open(t, name, os.O_WRONLY|os.O_APPEND)
		_, err := w.WriteString("more")
		must(t, err)
		must(t, w.Close())
		b := make([]byte, 10)
		if n, err := f.ReadAt(b, int64(len(data))); n != 0 {
			t.Errorf("the open reader sees %q, %v behind its version's end", b[:n], err)
		}
		wantFile(t, name, string(data)+"more")
	}
}

// TestTwoMounts: what one mount has closed the other sees at its next open, and a writer
// that comes second is told.
func TestTwoMounts(t *testing.T) {
	needKernel(t)
	c := cluster.Start(t, cluster.Options{})
	c.MountLocal("/m", sluice.MountOptions{})
	_, a := mounted(t, c.Client(t), nil)
	_, b := mounted(t, c.Client(t), nil)
	for _, dir := range []string{"/", "/m/"} {
		for _, text := range []string{"one", "two two", "", strings.Repeat("three", 100_000), "x"} {
			write(t, a+dir+"f", text)
			wantFile(t, b+dir+"f", text)
		}
		must(t, os.Rename(a+dir+"f", a+dir+"g"))
		wantFile(t, b+dir+"g", "x")
		f, g := open(t, a+dir+"g", os.O_RDWR), open(t, b+dir+"g", os.O_RDWR)
		_, err := f.WriteString("F")
		must(t, err)
		_, err = g.WriteString("G")
		must(t, err)
		must(t, f.Close())
		if err := g.Close(); err == nil {
			t.Errorf("%s: the second close over the same version succeeded", dir)
		}
		wantFile(t, a+dir+"g", "F")
		must(t, os.Remove(b+dir+"g"))
	}
}

// TestClusterCallers: requests are made for the user who makes them.
func TestClusterCallers(t *testing.T) {
	needKernel(t)
	var c *cluster.Cluster
	c = cluster.Start(t, cluster.Options{Client: func(cfg *client.Config) {
		if c != nil {
			cfg.Keys = c.Keys
		}
	}})
	fs := c.Client(t)
	_, at := mounted(t, fs, func(o *Options) { o.Speak, o.AllowOther, o.Super = true, true, uint32(os.Geteuid()) })
	for dir := at; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755)) // the way there
	}
	must(t, os.Mkdir(at+"/pub", 0o755))
	must(t, os.Chmod(at+"/pub", os.ModeSticky|0o777))
	as := func(uid uint32, script string) error {
		// It enters the mount itself: a child whose directory lies in a mount of this very
		// process would wait for it before its exec, and this process for the child.
		cmd := exec.Command("/bin/sh", "-c", `cd "$0" && `+script, at+"/pub")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		return cmd.Run()
	}
	must(t, as(12345, "echo mine > f && chmod 600 f"))
	info, err := fs.Stat(t.Context(), "/pub/f", sluice.StatOptions{})
	must(t, err)
	if info.Owner != "#12345" || info.Group != "#12345" || info.Mode != 0o600 {
		t.Errorf("the file belongs to %s:%s with mode %v", info.Owner, info.Group, info.Mode)
	}
	var st unix.Stat_t
	must(t, unix.Stat(at+"/pub/f", &st))
	if st.Uid != 12345 || st.Gid != 12345 {
		t.Errorf("the kernel shows %d:%d", st.Uid, st.Gid)
	}
	for what, script := range map[string]string{"read": "cat f", "write": "echo x >> f", "remove": "rm -f f", "make": "echo x > ../g", "give away": "chown 1 f"} {
		if as(54321, script) == nil {
			t.Errorf("%s: another user may", what)
		}
	}
	must(t, as(12345, "echo more >> f"))
	wantFile(t, at+"/pub/f", "mine\nmore\n")
}

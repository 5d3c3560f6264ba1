package badinput

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/cluster"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// length of an object: several pages, so that a read takes several requests.
const length = 5<<20 + 123

// version makes a content in which every byte tells which it is.
func version(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

// replaced are the lengths an object gets when it is replaced.
func replaced() map[string]int {
	return map[string]int{"shorter": length - 2<<20, "longer": length + 2<<20, "same length": length, "one byte": 1, "empty": 0}
}

// An object that is replaced between two reads through one handle: what comes is of one
// version, or the read fails as changed. A new open sees the new one.
func TestReplacedBetweenReads(t *testing.T) {
	c := cluster.Start(t, cluster.Options{})
	mem := c.Mem.Memory("bucket")
	c.Mount("/mem", "mem://bucket", sluice.MountOptions{}, nil)
	dir := c.MountLocal("/local", sluice.MountOptions{})
	stores := map[sluice.Path]func(name string, data []byte){
		"/mem": func(name string, data []byte) { mem.Put(underfs.Key(name), data) },
		"/local": func(name string, data []byte) {
			tmp := filepath.Join(dir, "tmp-"+name)
			if err := errors.Join(os.WriteFile(tmp, data, 0o644), os.Rename(tmp, filepath.Join(dir, name))); err != nil {
				t.Fatal(err)
			}
		},
	}
	fs, ctx := c.Client(t), t.Context()
	n := 0
	for mount, place := range stores {
		for what, size := range replaced() {
			for _, read := range []sluice.ReadType{sluice.Cache, sluice.NoCache} {
				n++
				name := fmt.Sprintf("o%d", n)
				at := fmt.Sprintf("%s, replaced by %s, read type %v", mount, what, read)
				place(name, version('A', length))
				h, err := fs.Open(ctx, mount.Join(name), sluice.OpenOptions{Freshness: sluice.Always(), Read: read})
				if err != nil {
					t.Fatalf("%s: %v", at, err)
				}
				first := make([]byte, 1000)
				if _, err := h.ReadAt(ctx, first, 0); err != nil || !bytes.Equal(first, version('A', 1000)) {
					t.Errorf("%s: before: %v", at, err)
				}
				place(name, version('B', size))
				got := make([]byte, length)
				good, err := h.ReadAt(ctx, got, 0)
				if err != nil && err != io.EOF && !errors.Is(err, sluice.Changed) {
					t.Errorf("%s: the old handle: %v, want kind changed or the old bytes", at, err)
				}
				if !bytes.Equal(got[:good], version('A', good)) {
					t.Errorf("%s: the old handle gave bytes of another version", at)
				}
				if err == nil && good != length {
					t.Errorf("%s: the old handle gave %d bytes and no error", at, good)
				}
				h.Close()
				now, err := get(ctx, fs, mount.Join(name), sluice.OpenOptions{Freshness: sluice.Always(), Read: read})
				if err != nil || !bytes.Equal(now, version('B', size)) {
					t.Errorf("%s: opened again: %d bytes, %v; want %d new ones", at, len(now), err, size)
				}
			}
		}
	}
}

// An object that is replaced while a read of it runs gives one version or kind changed,
// and nothing of the mixture stays in the cache.
func TestReplacedDuringRead(t *testing.T) {
	c := cluster.Start(t, cluster.Options{})
	fs, ctx := c.Client(t), t.Context()
	for _, local := range []bool{false, true} {
		name := fmt.Sprintf("local-%v", local)
		mem := underfstest.NewMemory(underfstest.Options{Local: local})
		c.Mem.Add(name, mem)
		mount := sluice.Path("/" + name)
		c.Mount(mount, "mem://"+name, sluice.MountOptions{}, nil)
		for i := range 10 {
			key := fmt.Sprintf("o%d", i)
			old := version('A', length)
			mem.Put(underfs.Key(key), old)
			mem.Inject(underfs.OpRead, underfstest.Fault{Flip: true, Short: true, Times: 1, Skip: i % 3})
			got, err := get(ctx, fs, mount.Join(key), sluice.OpenOptions{Freshness: sluice.Always()})
			mem.Heal()
			if err != nil && !errors.Is(err, sluice.Changed) {
				t.Errorf("%s/%s: %v, want kind changed or one version", name, key, err)
			}
			present, _ := mem.Get(underfs.Key(key))
			if !bytes.Equal(got, old[:len(got)]) && !bytes.Equal(got, present[:min(len(got), len(present))]) {
				t.Errorf("%s/%s: %d bytes of more than one version", name, key, len(got))
			}
			again, err := get(ctx, fs, mount.Join(key), sluice.OpenOptions{Freshness: sluice.Always()})
			if err != nil || !bytes.Equal(again, present) {
				t.Errorf("%s/%s: read again: %d bytes, %v; want what the store has", name, key, len(again), err)
			}
		}
	}
}

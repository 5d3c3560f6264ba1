package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/test/s3server"
	"github.com/sluicefs/sluice/underfs"
)

// archive is the key of the one large object.
const archive = "go-toolchain.tar"

// fill starts the store and puts the Go source tree and an archive of the toolchain in.
func (s *stage) fill(ctx context.Context) error {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	goroot := strings.TrimSpace(string(root))
	if s.store, err = s3server.Start(ctx, filepath.Join(s.dir, "s3")); err != nil {
		return err
	}
	if err := s.store.Bucket(bucketName); err != nil {
		return err
	}
	if s.bucket, err = s.baseline(s.store.Endpoint); err != nil {
		return err
	}
	begin := time.Now()
	if err := s.putTree(ctx, filepath.Join(goroot, "src")); err != nil {
		return err
	}
	files := len(s.objects)
	if err := s.putArchive(ctx, goroot); err != nil {
		return err
	}
	large := s.objects[files].length
	if large < 200<<20 {
		return fmt.Errorf("the archive of the toolchain has only %d bytes", large)
	}
	fmt.Printf("%s holds %d source files and %s (%.0f MB), put there in %.1f s\n", s.store.Endpoint, files, archive, float64(large)/1e6, time.Since(begin).Seconds())
	return nil
}

func (s *stage) putTree(ctx context.Context, src string) error {
	var mu sync.Mutex
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	err := filepath.WalkDir(src, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		group.Go(func() error {
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			o := object{key: "src/" + filepath.ToSlash(strings.TrimPrefix(name, src+string(filepath.Separator))), length: int64(len(b)), sum: sha256.Sum256(b)}
			if err := s.bucket.Put(gctx, underfs.Key(o.key), bytes.NewReader(b), o.length); err != nil {
				return fmt.Errorf("put %s: %w", o.key, err)
			}
			mu.Lock()
			defer mu.Unlock()
			s.objects = append(s.objects, o)
			return nil
		})
		return nil
	})
	if failed := group.Wait(); failed != nil {
		return failed
	}
	return err
}

// putArchive writes the toolchain's files into one tar and puts it.
func (s *stage) putArchive(ctx context.Context, goroot string) error {
	name := filepath.Join(s.dir, archive)
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer os.Remove(name)
	defer f.Close()
	sum := sha256.New()
	t := tar.NewWriter(io.MultiWriter(f, sum))
	if err := t.AddFS(os.DirFS(goroot)); err != nil {
		return err
	}
	if err := t.Close(); err != nil {
		return err
	}
	length, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	s.objects = append(s.objects, object{archive, length, [32]byte(sum.Sum(nil))})
	return s.bucket.Put(ctx, archive, f, length)
}

// raise starts Sluice and mounts both stores.
func (s *stage) raise(ctx context.Context) (err error) {
	if err := os.MkdirAll(s.local(), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.local(), "hello.txt"), []byte("hello from a directory\n"), 0o644); err != nil {
		return err
	}
	for _, role := range []string{"master", "worker"} {
		if err := s.start(ctx, role); err != nil {
			return err
		}
	}
	if s.client, err = client.New(ctx, client.Config{Masters: client.Static("unix:" + filepath.Join(s.data(), "run", "master.sock"))}); err != nil {
		return err
	}
	if err := s.ready(ctx); err != nil {
		return err
	}
	if _, err := s.sluice(ctx, s.keys(), "fs", "mount", "/s3", "s3://"+bucketName, "-o", "endpoint="+s.store.Endpoint, "-o", "path_style=true", "--secrets-stdin"); err != nil {
		return err
	}
	_, err = s.sluice(ctx, "", "fs", "mount", "/local", "file://"+s.local())
	return err
}

// keys are the store's secrets as --secrets-stdin reads them.
func (s *stage) keys() string {
	var keys strings.Builder
	for name, value := range s.store.Secrets() {
		fmt.Fprintf(&keys, "%s=%s\n", name, value)
	}
	return keys.String()
}

// list shows both stores under one tree.
func (s *stage) list(ctx context.Context) error {
	for _, args := range [][]string{{"fs", "mounts"}, {"fs", "ls", "-l", "-h", "/s3"}, {"fs", "cat", "/local/hello.txt"}, {"fs", "count", "/s3/src"}} {
		if err := s.show(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// pass reads all the small objects, then the large one, and says how long each took.
func (s *stage) pass(ctx context.Context, read func(ctx context.Context, o object, w io.Writer) error, check bool) (small, large time.Duration, err error) {
	files, tar := s.objects[:len(s.objects)-1], s.objects[len(s.objects)-1]
	one := func(ctx context.Context, o object) error {
		var w io.Writer = discard{}
		var sum hash.Hash
		if check {
			sum = sha256.New()
			w = sum
		}
		if err := read(ctx, o, w); err != nil {
			return fmt.Errorf("%s: %w", o.key, err)
		}
		if check && [32]byte(sum.Sum(nil)) != o.sum {
			return fmt.Errorf("%s: SHA-256 differs from the origin", o.key)
		}
		return nil
	}
	begin := time.Now()
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for _, o := range files {
		group.Go(func() error { return one(gctx, o) })
	}
	if err := group.Wait(); err != nil {
		return 0, 0, err
	}
	small = time.Since(begin)
	begin = time.Now()
	err = one(ctx, tar)
	return small, time.Since(begin), err
}

// direct reads with the store's own client.
func (s *stage) direct(ctx context.Context, o object, w io.Writer) error {
	_, err := s.bucket.Get(ctx, underfs.Key(o.key), w)
	return err
}

// through reads with Sluice.
func (s *stage) through(ctx context.Context, o object, w io.Writer) error {
	return s.copyOut(ctx, sluice.Path("/s3/"+o.key), w)
}

// copyOut reads a whole file with Sluice.
func (s *stage) copyOut(ctx context.Context, p sluice.Path, w io.Writer) error {
	h, err := s.client.Open(ctx, p, sluice.OpenOptions{})
	if err != nil {
		return err
	}
	defer h.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, sluice.NewReader(ctx, h, 0), make([]byte, 1<<20))
	return err
}

// read compares the passes.
func (s *stage) read(ctx context.Context) error {
	type result struct{ small, large time.Duration }
	passes := []struct {
		name string
		read func(context.Context, object, io.Writer) error
	}{{"direct", s.direct}, {"cold", s.through}, {"warm", s.through}}
	var got [3]result
	for i, p := range passes {
		small, large, err := s.pass(ctx, p.read, false)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		got[i] = result{small, large}
		fmt.Printf("%-8s %d files in %6.2f s, %s in %5.2f s\n", p.name, len(s.objects)-1, small.Seconds(), archive, large.Seconds())
	}
	files, bytes := float64(len(s.objects)-1), float64(s.objects[len(s.objects)-1].length)
	perSecond := func(d time.Duration) string { return fmt.Sprintf("%.0f files/s", files/d.Seconds()) }
	speed := func(d time.Duration) string { return fmt.Sprintf("%.2f GB/s", bytes/1e9/d.Seconds()) }
	ratio := func(a, b time.Duration) string { return fmt.Sprintf("%.2fx", a.Seconds()/b.Seconds()) }
	for i, name := range []string{"cold", "warm"} {
		s.row(fmt.Sprintf("%d source files, %s", len(s.objects)-1, name), perSecond(got[0].small), perSecond(got[i+1].small), ratio(got[0].small, got[i+1].small))
		s.row(fmt.Sprintf("%.0f MB archive, %s", bytes/1e6, name), speed(got[0].large), speed(got[i+1].large), ratio(got[0].large, got[i+1].large))
	}
	if err := s.readFar(ctx); err != nil {
		return fmt.Errorf("behind a link: %w", err)
	}
	return s.verify(ctx, "after reading warm")
}

// readFar reads the archive once more behind a link of realistic speed, where the store
// is not the page cache next door.
func (s *stage) readFar(ctx context.Context) error {
	endpoint, err := s.link(ctx)
	if err != nil {
		return err
	}
	bucket, err := s.baseline(endpoint)
	if err != nil {
		return err
	}
	defer bucket.Close()
	if _, err := s.sluice(ctx, s.keys(), "fs", "mount", "/far", "s3://"+bucketName, "-o", "endpoint="+endpoint, "-o", "path_style=true", "--secrets-stdin"); err != nil {
		return err
	}
	large := s.objects[len(s.objects)-1]
	timed := func(read func(io.Writer) error) (time.Duration, error) {
		begin := time.Now()
		if err := read(discard{}); err != nil {
			return 0, err
		}
		return time.Since(begin), nil
	}
	direct, err := timed(func(w io.Writer) error { _, err := bucket.Get(ctx, underfs.Key(large.key), w); return err })
	if err != nil {
		return err
	}
	cold, err := timed(func(w io.Writer) error { return s.copyOut(ctx, sluice.Path("/far/"+large.key), w) })
	if err != nil {
		return err
	}
	speed := func(d time.Duration) string { return fmt.Sprintf("%.2f GB/s", float64(large.length)/1e9/d.Seconds()) }
	s.row(fmt.Sprintf("%.0f MB archive, cold, link 200 MB/s 5 ms", float64(large.length)/1e6), speed(direct), speed(cold), fmt.Sprintf("%.2fx", direct.Seconds()/cold.Seconds()))
	_, err = s.sluice(ctx, "", "fs", "unmount", "/far")
	return err
}

// verify compares the SHA-256 of every file with its origin.
func (s *stage) verify(ctx context.Context, when string) error {
	if _, _, err := s.pass(ctx, s.through, true); err != nil {
		return err
	}
	fmt.Printf("SHA-256 of all %d files equals the origin's (%s)\n", len(s.objects), when)
	return nil
}

// written is the part of the source tree that is written through.
func (s *stage) written() []object {
	var all []object
	for _, o := range s.objects {
		if strings.HasPrefix(o.key, "src/net/") {
			all = append(all, o)
		}
	}
	return all
}

// write copies a tree through Sluice into both stores and reads it back without Sluice.
func (s *stage) write(ctx context.Context) error {
	tree := s.written()
	begin := time.Now()
	var bytes atomic.Int64
	for _, args := range [][]string{{"fs", "cp", "-r", "/s3/src/net", "/s3/copy"}, {"fs", "cp", "-r", "/s3/src/net", "/local/copy"}} {
		if _, err := s.sluice(ctx, "", args...); err != nil {
			return err
		}
	}
	took := time.Since(begin)
	for _, o := range tree {
		name := strings.TrimPrefix(o.key, "src/net/")
		sum := sha256.New()
		if _, err := s.bucket.Get(ctx, underfs.Key("copy/"+name), sum); err != nil {
			return fmt.Errorf("the bucket has no whole copy/%s: %w", name, err)
		}
		if [32]byte(sum.Sum(nil)) != o.sum {
			return fmt.Errorf("copy/%s in the bucket differs from its origin", name)
		}
		b, err := os.ReadFile(filepath.Join(s.local(), "copy", filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		if sha256.Sum256(b) != o.sum {
			return fmt.Errorf("copy/%s in the directory differs from its origin", name)
		}
		bytes.Add(o.length)
	}
	fmt.Printf("%d files (%.1f MB) written through to the bucket and the directory in %.1f s; read back without Sluice: all equal\n", len(tree), float64(bytes.Load())/1e6, took.Seconds())
	return nil
}

// kill ends both servers without warning and looks at everything again.
func (s *stage) kill(ctx context.Context) error {
	if _, err := s.sluice(ctx, "precious, in the cache only\n", "fs", "put", "-", "/note.txt"); err != nil {
		return err
	}
	for _, role := range []string{"master", "worker"} {
		fmt.Printf("$ kill -9 %d   # %s\n", s.procs[role].Process.Pid, role)
		if err := s.end(role, syscall.SIGKILL); err != nil {
			return err
		}
	}
	begin := time.Now()
	for _, role := range []string{"master", "worker"} {
		if err := s.start(ctx, role); err != nil {
			return err
		}
	}
	if err := s.ready(ctx); err != nil {
		return err
	}
	fmt.Printf("both are back after %.0f ms\n", time.Since(begin).Seconds()*1000)
	out, err := s.sluice(ctx, "", "fs", "cat", "/note.txt")
	if err != nil {
		return err
	}
	if out != "precious, in the cache only\n" {
		return fmt.Errorf("/note.txt is %q after the restart", out)
	}
	if err := s.verify(ctx, "after kill -9"); err != nil {
		return err
	}
	return s.secretIsNowhere()
}

// secretIsNowhere looks for the store's secret key in everything Sluice wrote.
func (s *stage) secretIsNowhere() error {
	return filepath.WalkDir(s.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(name, filepath.Join(s.dir, "s3")) {
			return err
		}
		if d.Name() == "sluice" || strings.Contains(name, string(filepath.Separator)+"blocks"+string(filepath.Separator)) {
			return nil
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if bytes.Contains(b, []byte(secret)) {
			return fmt.Errorf("%s contains the secret key of the store", name)
		}
		return nil
	})
}

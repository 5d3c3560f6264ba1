//go:build e2e

package scale

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/internal/keyvalue"
)

// maxMaster is what a master may keep in memory, whatever the size of its tree, in bytes.
const maxMaster = 400 << 20

// TestMaster: a master with millions of files needs no more memory than one with few, is
// back at once after kill -9, and forgets none.
func TestMaster(t *testing.T) {
	sizes := []int{100_000}
	if soak() {
		sizes = []int{1_000_000, 5_000_000}
	}
	for _, n := range sizes {
		t.Run(fmt.Sprintf("stored-%d", n), func(t *testing.T) { masterWith(t, n, loadListing) })
	}
	n := 20_000
	if soak() {
		n = 1_000_000
	}
	t.Run(fmt.Sprintf("made-%d", n), func(t *testing.T) { masterWith(t, n, makeEmpty) })
}

// masterWith fills a master with n files below the directory that fill returns.
func masterWith(t *testing.T, n int, fill func(t *testing.T, c *client.Client, n int) sluice.Path) {
	s := newSite(t)
	s.launch("master", "master.session_lease=10m")
	c := s.connect(client.Config{})
	dir := fill(t, c, n)
	if got := s.resident("master"); got > maxMaster {
		t.Errorf("the master keeps %d MiB in memory, at most %d", got>>20, maxMaster>>20)
	}
	t.Logf("%d files: resident %d MiB", n, s.resident("master")>>20)
	s.end("master", syscall.SIGKILL)
	s.launch("master")
	last := dir.Join(key(n - 1))
	impatient := s.connect(client.Config{Retry: time.Millisecond})
	took := s.until("the master answers again", func() error {
		_, err := impatient.Stat(t.Context(), last, sluice.StatOptions{Freshness: sluice.NeverAsk()})
		return err
	})
	t.Logf("%d files: from kill -9 and start to the first answer %v", n, took)
	seen := 0
	for f, err := range c.List(t.Context(), dir, sluice.ListOptions{Freshness: sluice.NeverAsk()}) {
		if err != nil {
			t.Fatal(err)
		}
		if f.Path != dir.Join(key(seen)) {
			t.Fatalf("entry %d is %s", seen, f.Path)
		}
		seen++
	}
	if seen != n {
		t.Fatalf("%d of %d files are there", seen, n)
	}
	if got := s.resident("master"); got > maxMaster {
		t.Errorf("after the restart the master keeps %d MiB in memory, at most %d", got>>20, maxMaster>>20)
	}
	s.end("master", syscall.SIGTERM)
	t.Logf("%d files: %.1f bytes on disk each, compacted", n, float64(compacted(t, s))/float64(n))
}

// loadListing brings in what a bucket lists.
func loadListing(t *testing.T, c *client.Client, n int) sluice.Path {
	options := sluice.MountOptions{ReadOnly: true, Freshness: sluice.NeverAsk(), Properties: map[string]string{
		"endpoint": endpoint{n}.serve(t), "path_style": "true", "region": "us-east-1",
	}}
	if _, err := c.Mount(t.Context(), "/s3", "s3://bucket", options, sluice.Secrets{"access_key": "a", "secret_key": "b"}); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, err := range c.List(t.Context(), "/s3", sluice.ListOptions{Freshness: sluice.Always()}) {
		if err != nil {
			t.Fatal(err)
		}
		seen++
	}
	if seen != n {
		t.Fatalf("%d of %d objects were listed", seen, n)
	}
	return "/s3"
}

// makeEmpty makes empty files.
func makeEmpty(t *testing.T, c *client.Client, n int) sluice.Path {
	const callers = 64
	failed := make([]error, callers)
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			for i := caller; i < n && failed[caller] == nil; i += callers {
				failed[caller] = makeOne(t.Context(), c, sluice.Root.Join(key(i)))
			}
		})
	}
	all.Wait()
	if err := errors.Join(failed...); err != nil {
		t.Fatal(err)
	}
	return sluice.Root
}

func makeOne(ctx context.Context, c *client.Client, p sluice.Path) error {
	w, err := c.Create(ctx, p, sluice.CreateOptions{Empty: true})
	if err != nil {
		return err
	}
	_, err = w.Close(ctx)
	return err
}

// compacted returns the bytes of a stopped master's tables in their smallest form.
func compacted(t *testing.T, s *site) int64 {
	t.Helper()
	db, err := keyvalue.OpenPebble(keyvalue.PebbleConfig{Dir: filepath.Join(s.data, "master", "state")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Compact(); err != nil {
		t.Fatal(err)
	}
	return db.Stats().TableBytes
}

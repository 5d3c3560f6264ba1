package local

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/sluicefs/sluice/underfs"
)

// The names of a large directory are kept between the pages of a listing, and only as long
// as nothing changes.
func TestLargeDirectory(t *testing.T) {
	dir := t.TempDir()
	const n = snapshotMin + 1000
	for i := range n {
		if err := os.WriteFile(fmt.Sprintf("%s/%05d", dir, i), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := open(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.settled = -time.Hour // the test changes the directory's mtime itself
	count, req := 0, underfs.ListRequest{Limit: 700}
	for {
		page, err := s.List(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.listings) != 1 {
			t.Fatalf("%d snapshots are kept, want 1", len(s.listings))
		}
		count += len(page.Objects)
		if !page.More {
			break
		}
		req.After = page.Objects[len(page.Objects)-1].Key
		if count == 2100 { // a stranger adds two and removes one behind the page that was read
			for _, name := range []string{"05999x", "05999y"} {
				if err := os.WriteFile(dir+"/"+name, nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Remove(dir + "/04000"); err != nil {
				t.Fatal(err)
			}
			later := time.Now().Add(time.Second)
			if err := os.Chtimes(dir, later, later); err != nil {
				t.Fatal(err)
			}
		}
	}
	if count != n+1 {
		t.Errorf("%d entries were listed, want %d: two were added and one removed behind the page", count, n+1)
	}
	if err := s.Close(); err != nil || s.listings != nil {
		t.Errorf("after close: %v, %d snapshots", err, len(s.listings))
	}
}

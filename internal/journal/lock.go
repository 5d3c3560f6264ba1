package journal

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
)

const (
	lockName  = "LOCK"
	ownerName = "OWNER"
)

// lockDir keeps a second master off dir until the result is closed, and leaves word
// of who holds it.
func lockDir(fs vfs.FS, dir string) (io.Closer, error) {
	lock, err := fs.Lock(fs.PathJoin(dir, lockName))
	owner := fs.PathJoin(dir, ownerName)
	if err != nil {
		who := "another process"
		if b, err := readFile(fs, owner); err == nil && len(b) > 0 {
			who = strings.TrimSpace(string(b[:min(len(b), 200)]))
		}
		return nil, &sluice.Error{Op: "open journal", Kind: sluice.Busy, Err: fmt.Errorf("%s is in use by %s: stop that master first (%w)", dir, who, err)}
	}
	_ = writeOwner(fs, owner) // a courtesy that a full disk may refuse
	return lock, nil
}

// writeOwner says who this process is. It is for people; nothing is decided by it.
func writeOwner(fs vfs.FS, path string) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "process %d on %s since %s\n", os.Getpid(), host, time.Now().UTC().Format(time.RFC3339))
	if err2 := f.Close(); err == nil {
		err = err2
	}
	return err
}

package journal

import (
	"errors"
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
	if err != nil {
		return nil, inUse(fs, dir, err)
	}
	_ = writeOwner(fs, fs.PathJoin(dir, ownerName)) // a courtesy that a full disk may refuse
	return lock, nil
}

// inUse is the error for a directory that is locked.
func inUse(fs vfs.FS, dir string, cause error) error {
	who := "another process"
	if b, err := readFile(fs, fs.PathJoin(dir, ownerName)); err == nil && len(b) > 0 {
		who = strings.TrimSpace(string(b[:min(len(b), 200)]))
	}
	return &sluice.Error{Op: "open journal", Kind: sluice.Busy, Err: fmt.Errorf("%s is in use by %s: stop that master first (%w)", dir, who, cause)}
}

// claim keeps masters off dir while it is read. Where nothing was ever locked, or the
// files may only be read (a copy), there is nothing to claim.
func claim(fs vfs.FS, dir string) (release func(), err error) {
	path := fs.PathJoin(dir, lockName)
	if _, err := fs.Stat(path); err != nil {
		return func() {}, nil
	}
	lock, err := fs.Lock(path)
	if err == nil {
		return func() { _ = lock.Close() }, nil
	}
	if _, ok := errors.AsType[*os.PathError](err); ok { // it could not even be opened
		return func() {}, nil
	}
	return nil, inUse(fs, dir, err)
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

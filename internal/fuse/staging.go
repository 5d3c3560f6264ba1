package fuse

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// staging is the directory where written bytes wait for their publication. Each mount has
// a subdirectory of its own in it, locked while it lives; what a killed mount left is
// found by [Recover].
type staging struct {
	dir   string // this mount's own
	lock  *os.File
	quota int64

	mu   sync.Mutex
	used int64 // guarded by mu: bytes of pages, in all files
}

const (
	stagedData = ".data" // the bytes, at their place in the file
	stagedNote = ".json" // what recovery needs; there once the file was synced
)

// openStaging makes a mount's directory below dir.
func openStaging(dir string, quota int64) (*staging, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &staging{dir: filepath.Join(dir, "mount-"+rand.Text()), quota: quota}
	for _, left := range leftovers(dir) { // what waits for recovery takes room
		entries, err := os.ReadDir(left)
		if err != nil {
			continue
		}
		for _, e := range entries {
			var st unix.Stat_t
			if unix.Lstat(filepath.Join(left, e.Name()), &st) == nil {
				s.used += st.Blocks * 512
			}
		}
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockDir(s.dir)
	if err != nil {
		return nil, errors.Join(err, os.Remove(s.dir))
	}
	s.lock = lock
	return s, nil
}

// lockDir locks a mount's directory; EWOULDBLOCK: its mount lives.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// leftovers returns the directories of mounts that do not live any more. Those in which
// nothing was synced are removed: nobody was promised anything.
func leftovers(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var left []string
	for _, e := range entries {
		at := filepath.Join(dir, e.Name())
		if !e.IsDir() || !strings.HasPrefix(e.Name(), "mount-") {
			continue
		}
		lock, err := lockDir(at)
		if err != nil {
			continue
		}
		if sweep(at) {
			left = append(left, at)
		}
		lock.Close()
	}
	return left
}

// sweep removes what has no note, and the directory if nothing is left. It says whether
// something is.
func sweep(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	kept := false
	for _, e := range entries {
		at := filepath.Join(dir, e.Name())
		if name, ok := strings.CutSuffix(at, stagedData); ok {
			if _, err := os.Stat(name + stagedNote); err == nil {
				kept = true
				continue
			}
		}
		if name, ok := strings.CutSuffix(at, stagedNote); ok {
			if _, err := os.Stat(name + stagedData); err == nil {
				continue
			}
		}
		_ = os.Remove(at) // tried again at the next start
	}
	return !(!kept && os.Remove(dir) == nil)
}

// close removes the directory where nothing waits in it.
func (s *staging) close() {
	sweep(s.dir)
	s.lock.Close()
}

// take reserves room.
func (s *staging) take(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used+n > s.quota {
		return syscall.ENOSPC
	}
	s.used += n
	return nil
}

// give returns room.
func (s *staging) give(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
}

// create makes an empty file and returns it with its name, without ending.
func (s *staging) create() (*os.File, string, error) {
	name := filepath.Join(s.dir, rand.Text())
	f, err := os.OpenFile(name+stagedData, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	return f, name, err
}

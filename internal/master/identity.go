package master

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
)

// identityMagic begins the file that holds the cluster's id, which must be known before
// the journal is opened. Its format is described in docs/format/master.md.
const identityMagic = "sluice-master 1"

// identity is what a master's directory is of.
type identity struct {
	cluster     string // the id, drawn at the first start
	incarnation uint64 // for the Format command
}

// loadIdentity reads the file, or writes a new one with fresh.
func loadIdentity(fs vfs.FS, dir string, fresh func() identity) (identity, error) {
	path := fs.PathJoin(dir, "CLUSTER")
	f, err := fs.Open(path)
	if err == nil {
		b, err := io.ReadAll(io.LimitReader(f, 4096))
		if err = errors.Join(err, f.Close()); err != nil {
			return identity{}, err
		}
		return parseIdentity(string(b))
	}
	if !errors.Is(err, os.ErrNotExist) {
		return identity{}, err
	}
	id := fresh()
	return id, writeIdentity(fs, dir, path, id)
}

func (id identity) text() string {
	return fmt.Sprintf("%s\ncluster %s\nincarnation %016x\n", identityMagic, id.cluster, id.incarnation)
}

func parseIdentity(s string) (identity, error) {
	bad := &sluice.Error{Kind: sluice.Corrupt, Err: errors.New("the file CLUSTER of the master's directory is damaged; restore it from a copy of the directory")}
	lines := strings.Split(s, "\n")
	if len(lines) != 4 || lines[0] != identityMagic || lines[3] != "" {
		return identity{}, bad
	}
	cluster, ok1 := strings.CutPrefix(lines[1], "cluster ")
	number, ok2 := strings.CutPrefix(lines[2], "incarnation ")
	n, err := strconv.ParseUint(number, 16, 64)
	if !ok1 || !ok2 || err != nil || cluster == "" {
		return identity{}, bad
	}
	return identity{cluster: cluster, incarnation: n}, nil
}

// writeIdentity puts the file in place in one step.
func writeIdentity(fs vfs.FS, dir, path string, id identity) error {
	f, err := fs.Create(path+".new", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, id.text())
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(fs, dir)
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// checkOwner refuses a directory of another user: what root would make in it the
// owner's master could not read any more.
func checkOwner(fs vfs.FS, dir string) error {
	if fs != vfs.Default {
		return nil
	}
	fi, err := os.Stat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return &sluice.Error{Kind: sluice.Invalid, Err: fmt.Errorf("%s is not a directory; name one for the master", dir)}
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if uid := os.Getuid(); ok && int(st.Uid) != uid {
		return &sluice.Error{Kind: sluice.Permission, Err: fmt.Errorf(
			"%s belongs to user %d and this process is user %d; start it as the owner, or name another directory", dir, st.Uid, uid)}
	}
	return nil
}

// lockDir keeps a second master off dir until the result is closed.
func lockDir(fs vfs.FS, dir string) (io.Closer, error) {
	lock, err := fs.Lock(fs.PathJoin(dir, "LOCK"))
	if err != nil {
		return nil, &sluice.Error{Kind: sluice.Busy, Err: fmt.Errorf("%s is in use by another master; stop that one first (%w)", dir, err)}
	}
	return lock, nil
}

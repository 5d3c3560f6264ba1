package journal

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
)

// Place is where a Machine keeps its state, below a directory of its owner's: in
// "state", or where a checkpoint that arrived was put.
type Place struct {
	Dir    string // path
	Origin []byte // for Config.Origin
}

const (
	placeFile   = "STATE"
	placeMagic  = "sluice-state 1"
	placeFirst  = "state"
	placePrefix = "state-"
)

// FindPlace returns the place of the state below parent, and removes what an unfinished
// or earlier change of it has left. Kind Corrupt: the file STATE cannot be read.
func FindPlace(fs vfs.FS, parent string) (Place, error) {
	name, origin, err := readPlace(fs, fs.PathJoin(parent, placeFile))
	if err != nil {
		return Place{}, err
	}
	names, err := fs.List(parent)
	if err != nil {
		return Place{}, err
	}
	for _, n := range names {
		n = fs.PathBase(n)
		if n != name && (n == placeFirst || strings.HasPrefix(n, placePrefix)) {
			if err := fs.RemoveAll(fs.PathJoin(parent, n)); err != nil {
				return Place{}, err
			}
		}
	}
	return Place{Dir: fs.PathJoin(parent, name), Origin: origin}, nil
}

// Replace makes the checkpoint that arrived the state below parent, in one step: the
// file STATE is replaced. The old state goes at the next FindPlace. Journal and Machine
// must be closed.
func Replace(fs vfs.FS, parent string, a *Arrived) error {
	name := fmt.Sprintf("%s%d", placePrefix, a.Index)
	dir := fs.PathJoin(parent, name)
	if err := fs.RemoveAll(dir); err != nil {
		return err
	}
	if err := fs.Rename(a.Dir, dir); err != nil {
		return err
	}
	if err := errors.Join(syncDir(fs, fs.PathDir(a.Dir)), syncDir(fs, parent)); err != nil {
		return err
	}
	path := fs.PathJoin(parent, placeFile)
	f, err := fs.Create(path+tmpSuffix, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s\ndir %s\norigin %s\n", placeMagic, name, hex.EncodeToString(a.Origin))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(path+tmpSuffix, path); err != nil {
		return err
	}
	return syncDir(fs, parent)
}

// readPlace reads the file STATE, which is not there before a checkpoint has arrived.
func readPlace(fs vfs.FS, path string) (name string, origin []byte, err error) {
	f, err := fs.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return placeFirst, nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", nil, err
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) == 4 && lines[0] == placeMagic && lines[3] == "" {
		name, ok1 := strings.CutPrefix(lines[1], "dir ")
		text, ok2 := strings.CutPrefix(lines[2], "origin ")
		origin, err := hex.DecodeString(text)
		if ok1 && ok2 && err == nil && strings.HasPrefix(name, placePrefix) && !strings.ContainsAny(name, "/\\") {
			return name, origin, nil
		}
	}
	return "", nil, &sluice.Error{Kind: sluice.Corrupt, Err: fmt.Errorf("%s is damaged: remove this master from the cluster and add it again", path)}
}

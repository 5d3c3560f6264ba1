package namenode

import (
	"context"
	"errors"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// tempDir is the hidden directory of uploads at the mount's top. Names that begin like it
// are never listed and never taken.
const tempDir = ".sluice-tmp"

// partSize is the length of a ranged read that suits data nodes, in bytes.
const partSize = 8 << 20

// Config makes a Store.
type Config struct {
	Top   string // the directory that is mounted: absolute, clean
	Node  Node
	Data  Data
	Plain Data // where Data cannot decrypt or decode: what does; nil refuses such files
	// Advice ends the message that refuses a file that Data cannot read.
	Advice string
	// Transparent: Data itself reads encrypted and erasure-coded files, and writes them.
	Transparent bool
}

// Store is a directory of an HDFS. It implements underfs.Store and the capabilities that
// HDFS has; it has no Copier, since HDFS copies nothing by itself.
type Store struct {
	cfg     Config
	cursors cursors
	closed  atomic.Bool
	made    atomic.Bool // tempDir was there when it was last needed
}

// New makes a store; Data and Plain belong to it from here on.
func New(cfg Config) *Store { return &Store{cfg: cfg} }

// Features says what an HDFS can promise.
func (s *Store) Features() underfs.Features {
	return underfs.Features{CreateIfAbsent: true, NativeDirs: true, AtomicRename: true, Settle: true, PartSize: partSize}
}

// Close lets go of the connections.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	err := s.cfg.Data.Close()
	if s.cfg.Plain != nil {
		err = errors.Join(err, s.cfg.Plain.Close())
	}
	return err
}

// begin refuses calls of a closed store, of a context that has ended, and of keys that are
// no paths or are ours.
func (s *Store) begin(ctx context.Context, op string, key underfs.Key) error {
	switch {
	case s.closed.Load():
		return underfs.Failf(op, key, sluice.Invalid, "the store is closed")
	case !underfs.ValidKey(key):
		return underfs.Failf(op, key, sluice.Invalid, "the key is no path")
	case strings.Contains("/"+string(key), "/"+tempDir):
		return underfs.Failf(op, key, sluice.NotFound, "names that begin with %s are kept for uploads", tempDir)
	}
	return underfs.Fail(op, key, sluice.Unavailable, ctx.Err())
}

// target is begin for keys under which something is made.
func (s *Store) target(ctx context.Context, op string, key underfs.Key) error {
	if key == "" {
		return underfs.Failf(op, key, sluice.Invalid, "the mount's top is always there")
	}
	err := s.begin(ctx, op, key)
	if errors.Is(err, sluice.NotFound) {
		err = Rekind(op, sluice.Invalid, err)
	}
	return err
}

// path returns the absolute path of key.
func (s *Store) path(key underfs.Key) string {
	return path.Join(s.cfg.Top, strings.TrimSuffix(string(key), "/"))
}

// fail names the operation and key of an error from below.
func fail(op string, key underfs.Key, err error) error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*sluice.Error](err)
	switch {
	case ok && e.Op != "": // it names the key already
		return &sluice.Error{Op: op, Kind: e.Kind, Err: e.Err}
	case ok:
		return underfs.Fail(op, key, e.Kind, e.Err)
	}
	return underfs.Fail(op, key, KindOf(err), err)
}

// Rekind returns err as one of another kind. The kind it had is no longer in its chain,
// where callers that ask errors.Is would find it.
func Rekind(op string, kind sluice.Kind, err error) error {
	return &sluice.Error{Op: op, Kind: kind, Err: errors.New(err.Error())}
}

// isDirKey says whether a key is that of a directory.
func isDirKey(key underfs.Key) bool { return key == "" || strings.HasSuffix(string(key), "/") }

// object describes what st says lies under key, with or without the "/" of a directory.
func object(key underfs.Key, st *Status) underfs.Object {
	o := underfs.Object{
		Key:     underfs.Key(strings.TrimSuffix(string(key), "/")),
		Dir:     st.Dir,
		Mtime:   time.UnixMilli(st.Mtime),
		Version: st.version(),
		Mode:    st.Mode & sluice.ModeMask,
		Owner:   st.Owner,
		Group:   st.Group,
		Native:  true,
		Target:  st.Target,
	}
	if st.Dir {
		if o.Key != "" {
			o.Key += "/"
		}
		return o
	}
	o.Length = st.Length
	if st.Target != "" {
		o.Length = int64(len(st.Target))
	}
	return o
}

// Stat implements underfs.Store: one call, and a second for a file that may be open.
func (s *Store) Stat(ctx context.Context, key underfs.Key) (underfs.Object, error) {
	st, err := s.stat(ctx, "stat", key)
	if err != nil {
		return underfs.Object{}, err
	}
	return object(key, &st), nil
}

// stat asks for key.
func (s *Store) stat(ctx context.Context, op string, key underfs.Key) (Status, error) {
	if err := s.begin(ctx, op, key); err != nil {
		return Status{}, err
	}
	st, err := s.cfg.Node.Stat(ctx, s.path(key))
	switch {
	case errors.Is(err, sluice.NotDirectory): // a component above is a file
		return Status{}, underfs.Failf(op, key, sluice.NotFound, "a name above it is a file's")
	case err != nil:
		return Status{}, fail(op, key, err)
	case isDirKey(key) && !st.Dir:
		return Status{}, underfs.Failf(op, key, sluice.NotFound, "it is no directory")
	}
	return st, nil
}

// expect says whether the version of key is v.
func (s *Store) expect(ctx context.Context, op string, key underfs.Key, v sluice.Version) error {
	st, err := s.stat(ctx, op, key)
	switch {
	case errors.Is(err, sluice.NotFound):
		return underfs.Failf(op, key, sluice.Changed, "it is gone")
	case err != nil:
		return err
	case st.version() != v:
		return underfs.Failf(op, key, sluice.Changed, "another version lies there")
	}
	return nil
}

// Probe says whether the mount's top is a directory that can be listed.
func (s *Store) Probe(ctx context.Context) error {
	st, err := s.stat(ctx, "probe", "")
	if errors.Is(err, sluice.NotFound) {
		return underfs.Failf("probe", "", sluice.NotFound, "%s is no directory of this HDFS; make it first or mount another path", s.cfg.Top)
	}
	if err != nil {
		return err
	}
	if !st.Dir {
		return underfs.Failf("probe", "", sluice.NotDirectory, "%s is a file", s.cfg.Top)
	}
	_, _, err = s.cfg.Node.List(ctx, s.cfg.Top, "")
	return fail("probe", "", err)
}

// The capabilities of HDFS.
var (
	_ underfs.Store       = (*Store)(nil)
	_ underfs.Completer   = (*Store)(nil)
	_ underfs.Renamer     = (*Store)(nil)
	_ underfs.Directories = (*Store)(nil)
	_ underfs.Attributer  = (*Store)(nil)
	_ underfs.Sweeper     = (*Store)(nil)
	_ underfs.Prober      = (*Store)(nil)
)

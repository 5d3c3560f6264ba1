package sluice

import (
	"context"
	"io"
	"iter"
	"time"
)

// FS is the one file system that every door shows. All methods may be called at
// once by many goroutines; all errors are *[Error]. What a door needs beyond it is
// an optional interface ([Cacher], [Locator], [Admin]) found by a type assertion.
type FS interface {
	Tree
	Contents
	// As returns the same file system acting for p. It costs nothing and may be
	// called per request. A client whose credential may not speak for others gets
	// kind Permission from the operations of what As returns.
	As(p Principal) FS
}

// Tree is the namespace.
type Tree interface {
	// Stat describes path. Kind NotFound if it is neither known nor, as far as the
	// freshness asks, in the store. Symlinks are not followed.
	Stat(ctx context.Context, path Path, opts StatOptions) (FileInfo, error)
	// List yields the children of a directory in byte order of their names (of a
	// file: itself), reading page by page: memory does not depend on the size of the
	// directory. Iteration ends at the first error.
	List(ctx context.Context, path Path, opts ListOptions) iter.Seq2[FileInfo, error]
	// Mkdir makes a directory. Kind Exists unless opts.Parents and it is a directory.
	Mkdir(ctx context.Context, path Path, opts MkdirOptions) (FileInfo, error)
	// Rename moves from to to in one step. It replaces a file, and an empty directory by
	// a directory, unless opts.NoReplace. Kind CrossMount between mounts.
	Rename(ctx context.Context, from, to Path, opts RenameOptions) error
	// Remove deletes path. A directory must be empty unless opts.Recursive.
	Remove(ctx context.Context, path Path, opts RemoveOptions) error
	// SetAttr changes what change names and returns the result.
	SetAttr(ctx context.Context, path Path, change AttrChange) (FileInfo, error)
	// Symlink makes path a symbolic link to target, which is not interpreted.
	Symlink(ctx context.Context, target string, path Path) (FileInfo, error)
}

// Contents reads and writes files.
type Contents interface {
	// Open opens a complete file for reading: everything read through the File is of
	// the version it had at this moment, or the read fails with kind Changed.
	Open(ctx context.Context, path Path, opts OpenOptions) (Handle, error)
	// Create starts a new content for path. Nothing of it is seen before Close
	// returns; then it replaces the old content in one step.
	Create(ctx context.Context, path Path, opts CreateOptions) (Writer, error)
}

// Handle is a file opened for reading. Many goroutines may read at once.
type Handle interface {
	// Info is what the file was at open.
	Info() FileInfo
	// ReadAt fills p from offset off. Like io.ReaderAt it returns io.EOF with what
	// there is where the file ends before p is full. A failed read tells how many
	// bytes are good.
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	// Close lets go of the file. Further reads fail with kind Invalid.
	Close() error
}

// Writer is a file being written, from its start to its end. It is for one
// goroutine.
type Writer interface {
	// Write appends p. The bytes are the caller's again when it returns.
	Write(ctx context.Context, p []byte) (int, error)
	// Close publishes the content, durable as its write type says. After an error of
	// kind UnknownOutcome the file may or may not be published.
	Close(ctx context.Context) (FileInfo, error)
	// Abort drops everything written. After Close it does nothing, so it may be deferred.
	Abort(ctx context.Context) error
}

// EntryWriter is an optional interface of a [Writer]: a door that needs the entry at once
// is spared a question.
type EntryWriter interface {
	// Entry is what Create made, or found and will replace.
	Entry() FileInfo
}

// StatOptions modify Stat.
type StatOptions struct {
	Freshness Freshness
	XAttrs    bool // fill FileInfo.XAttrs
}

// ListOptions modify List.
type ListOptions struct {
	Freshness Freshness
	After     string // start behind this name
	Recursive bool   // depth first, directories before their children
}

// MkdirOptions modify Mkdir.
type MkdirOptions struct {
	Parents bool // make missing parents, and accept an existing directory
	Mode    Mode // default 0755
}

// RenameOptions modify Rename.
type RenameOptions struct {
	NoReplace bool // kind Exists where the target is there
}

// RemoveOptions modify Remove.
type RemoveOptions struct {
	Recursive bool
	CacheOnly bool // forget the entry here, leave the store alone
}

// AttrChange names what SetAttr changes: nil fields stay.
type AttrChange struct {
	Mode      *Mode
	Owner     *string
	Group     *string
	Mtime     *time.Time
	Atime     *time.Time
	TTL       *time.Duration // 0 removes it
	TTLAction *TTLAction
	Pinned    *bool
	XAttrs    map[string][]byte // a nil value removes the name
	XAttrMode XAttrMode
	Recursive bool // apply to everything below; each inode in a step of its own
}

// XAttrMode says what setting an extended attribute expects.
type XAttrMode uint8

// The modes, as setxattr(2) has them.
const (
	XAttrAny     XAttrMode = iota
	XAttrCreate            // kind Exists where the name is there
	XAttrReplace           // kind NotFound where it is not; also of a removal
)

// OpenOptions modify Open.
type OpenOptions struct {
	Freshness Freshness
	Read      ReadType
}

// CreateOptions modify Create.
type CreateOptions struct {
	Exclusive bool      // kind Exists where path is there
	Parents   bool      // make missing parent directories
	Mode      Mode      // default 0644
	Write     WriteType // default by the mount
	BlockSize int64     // bytes, a multiple of PageSize; default by the mount
	Base      ContentID // if not zero: kind Stale unless this is the content replaced
	TTL       time.Duration
	TTLAction TTLAction
	Pinned    bool
	Empty     bool // promises that nothing will be written: one trip instead of two
}

// Cacher steers what is cached. Implemented by the client library.
type Cacher interface {
	// Free drops the cached blocks of path, recursively; never what is pinned or exists
	// only in the cache, which it counts.
	Free(ctx context.Context, path Path) (FreeResult, error)
	// Load reads everything below path into the cache and calls progress now and then.
	Load(ctx context.Context, path Path, progress func(LoadProgress)) error
	// Persist writes a cache-only file into the under store of its mount.
	Persist(ctx context.Context, path Path) error
	// Cached says how many bytes of the file are on which worker.
	Cached(ctx context.Context, path Path) ([]Location, error)
}

// FreeResult says what Free did.
type FreeResult struct {
	Files, Bytes int64 // dropped
	Kept         int64 // files left because they are pinned or exist only here
}

// LoadProgress says how far a Load is.
type LoadProgress struct {
	Files, Bytes   int64 // done
	Found, Planned int64 // files and bytes known of so far
	Failed         int64
}

// Location is a worker that holds part of a file.
type Location struct {
	Worker WorkerID
	Host   string
	Bytes  int64
}

// Locator tells where a byte range is best read. It is a hint, never a promise.
type Locator interface {
	// Hosts returns for each block of the file the host names of workers, best first.
	Hosts(ctx context.Context, path Path) ([][]string, error)
}

// Watcher tells a door what changed of what it may have cached.
type Watcher interface {
	// Changes yields the inodes that changed since the call; an id of 0 means "anything
	// may have". It ends with ctx.
	Changes(ctx context.Context) iter.Seq[FileID]
}

// LocalFile is an optional interface of a [Handle] whose whole content lies verified
// in one block file on this host.
type LocalFile interface {
	// Local returns a read-only descriptor of that block file, or kind Unavailable. The
	// descriptor is the callee's until release is called.
	Local(ctx context.Context) (fd uintptr, release func(), err error)
}

// NewReader returns a sequential reader of h that starts at off. It does not close h.
func NewReader(ctx context.Context, h Handle, off int64) io.Reader {
	return &reader{ctx: ctx, h: h, off: off}
}

// reader keeps a context because io.Reader has none; it lives as long as one copy.
type reader struct {
	ctx context.Context
	h   Handle
	off int64
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	n, err := r.h.ReadAt(r.ctx, p, r.off)
	r.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

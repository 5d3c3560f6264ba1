// Package underfs is the contract between Sluice and a store behind it: a small core
// that every driver has, optional capabilities found with [As], and the registry that
// makes a store from a URI. Drivers hold no cache and no policy; retries, limits and
// breakers are interceptors around them (see [Intercept]). It knows no particular store
// and makes no decision about what is cached.
package underfs

import (
	"context"
	"io"
	"time"

	"github.com/sluicefs/sluice"
)

// Key names an object in a store, relative to the mount's URI, without a leading
// slash; "" is the mount's top. A key that ends in "/" is a directory marker. Any key
// a store has may be listed; only those that make a valid path are used.
type Key string

// Object describes what lies under a key.
type Object struct {
	Key      Key  // of a directory it ends in "/", except that of the top, which is ""
	Dir      bool // a directory (native, a common prefix, or a marker)
	Marker   bool // an object whose key ends in "/"; Dir too if it is empty
	Length   int64
	Mtime    time.Time
	Version  sluice.Version // "" where the store does not say, as for common prefixes
	Mode     sluice.Mode    // with HasOwner
	Owner    string
	Group    string
	Native   bool   // Mode, Owner and Group are the store's own
	Target   string // of a symlink the store has as such
	Archived bool
	Tag      string // CreateOptions.Tag, where the store keeps it and Stat can tell
}

// Store is one mounted store. All methods may be called at once by many goroutines and
// end soon after ctx does (a file system may hold a system call for longer). Errors are
// *sluice.Error of kinds NotFound, Permission, Unauthenticated, Changed (a precondition
// failed), Exists (created meanwhile), NotEmpty, IsDirectory, NotDirectory, Unavailable,
// Timeout, Cancelled, NoSpace, ReadOnly, Invalid, Unsupported, Archived, UnknownOutcome,
// and Corrupt of a body that does not fit the checksum the store keeps.
// A change that failed was not made, and one that is Unavailable may be sent again; one
// that was sent and not answered is UnknownOutcome, whatever ended the wait.
type Store interface {
	// Features says what reads and writes of this store can promise. Constant.
	Features() Features
	// Stat describes key; a prefix under which objects lie is a directory. Requests: one,
	// and a second only where the key could be a directory.
	Stat(ctx context.Context, key Key) (Object, error)
	// List returns a page of what lies under the directory prefix ("" or ending in "/").
	List(ctx context.Context, req ListRequest) (ListPage, error)
	// Read opens the byte range of one version. See [ReadRequest].
	Read(ctx context.Context, req ReadRequest) (io.ReadCloser, error)
	// Create starts an upload. Nothing is visible under key before its commit.
	Create(ctx context.Context, key Key, opts CreateOptions) (Upload, error)
	// Delete removes an object, or an empty native directory or marker (key ends in "/").
	// If cond.Version is set and differs: kind Changed. A missing key is kind NotFound; with
	// cond.Version set it may also be kind Changed, or no error.
	Delete(ctx context.Context, key Key, cond Condition) error
	// Close lets go of connections. Calls after it fail.
	Close() error
}

// Features are what a store can promise.
type Features struct {
	// Conditional: a Read names its version to the store, so that every byte is of it.
	// Otherwise the reader's io.EOF is the confirmation, see ReadRequest.
	Conditional bool
	// CreateIfAbsent and ReplaceIf: commits and deletes honour a Condition atomically.
	// Without, the driver checks first and a window remains; for copies it may always.
	CreateIfAbsent, ReplaceIf bool
	// NativeDirs: directories are things of their own; mkdir and rmdir reach the store.
	NativeDirs bool
	// AtomicRename: Renamer renames files and directories in one step.
	AtomicRename bool
	// Settle: a version whose Mtime lies within MountOptions.Settle of now cannot be
	// trusted to differ from the next one, and is not cached.
	Settle bool
	// LateListings: a listing may lack for a while what Stat finds, because it was written
	// just now. What a listing does not show is then asked for before it counts as gone.
	LateListings bool
	// SmallUpload is the length in bytes up to which a content is sent by one request
	// when it is committed and held by the uploader until then (Prepared.Inline). 0: never.
	SmallUpload int64
	// PartSize is the length of ranged reads that suits the store, in bytes.
	PartSize int64
}

// ListRequest asks for a page of a listing.
type ListRequest struct {
	Prefix    Key    // "" or ending in "/"
	After     Key    // a full key (or common prefix); what sorts behind it is returned
	Recursive bool   // everything below, flat; else one level with common prefixes as Dir
	Limit     int    // at most so many objects; 0 means the driver's best (1,000)
	Token     string // from the page before, may save work; After is still given
}

// ListPage is a part of a listing, in byte order of the keys; a directory's Key ends in
// "/" and takes part in the order with it ("a-b", "a.b", "a/", "a0"). Where the prefix
// itself is a marker object, that is listed too, first. A page may be short or empty and
// still have More after it.
type ListPage struct {
	Objects []Object
	More    bool
	Token   string
	Skipped int // objects of this page whose keys are no valid paths (also listed, with Invalid keys)
}

// ReadRequest asks for bytes [Offset, Offset+Length) of one version. Where
// Features.Conditional is false, the bytes are provisional until the reader has
// returned io.EOF, which it does only after it confirmed, behind the last byte, that
// the object still is of that version; else it returns kind Changed. A range beyond the
// end of the object is kind Changed (the caller knew another length).
type ReadRequest struct {
	Key     Key
	Version sluice.Version // "" reads whatever is there
	Offset  int64
	Length  int64 // > 0
}

// CreateOptions modify Create.
type CreateOptions struct {
	Length int64  // the exact length in bytes where it is known, else -1
	Tag    string // unique to this content; kept with the object where the store can
	Mode   sluice.Mode
	Owner  string
	Group  string
}

// Condition is what a change expects to find. The zero value expects nothing.
type Condition struct {
	Absent  bool           // nothing lies under the key
	Version sluice.Version // this version does
}

// Upload is an object being written. It is for one goroutine.
type Upload interface {
	// Write takes the next bytes. Memory is bounded: it blocks while parts are sent.
	Write(ctx context.Context, p []byte) error
	// Prepare makes what was written durable in the store, invisible still, or says that
	// it is held for one PUT (Inline). After it only Commit and Abort may be called.
	Prepare(ctx context.Context) (sluice.Prepared, error)
	// Commit makes it visible in one step and returns what lies there then. A repeated
	// Commit of what was committed returns the same. Kind Changed or Exists: the
	// condition failed and nothing was done. Kind UnknownOutcome: look with Stat.
	Commit(ctx context.Context, cond Condition) (Object, error)
	// Abort removes whatever was sent. It is idempotent and does nothing after Commit, nor
	// after another process has completed the upload.
	Abort(ctx context.Context) error
}

// Completer completes or aborts what another process prepared (not Inline).
type Completer interface {
	Complete(ctx context.Context, key Key, p sluice.Prepared, cond Condition) (Object, error)
	AbortPrepared(ctx context.Context, key Key, p sluice.Prepared) error
}

// Renamer renames within the store, files and directories (both keys end in "/").
// It does not replace unless cond names what is replaced.
type Renamer interface {
	Rename(ctx context.Context, from, to Key, cond Condition) (Object, error)
}

// Copier copies within the store, of one version (srcVersion "" is any).
type Copier interface {
	Copy(ctx context.Context, from Key, srcVersion sluice.Version, to Key, cond Condition) (Object, error)
}

// Directories makes native directories (or markers). An existing one is kind Exists.
type Directories interface {
	Mkdir(ctx context.Context, key Key, mode sluice.Mode) (Object, error)
}

// Attributer changes mode, owner, group and times in stores that keep them.
type Attributer interface {
	SetAttr(ctx context.Context, key Key, change sluice.AttrChange) (Object, error)
}

// Sweeper removes what uploads of dead writers left, older than age, and says how many.
type Sweeper interface {
	Sweep(ctx context.Context, age time.Duration, keep func(tagOrUpload string) bool) (int, error)
}

// Prober finds out at mount time whether the store is what its Features say and
// whether its credentials work; the error says which setting to change.
type Prober interface {
	Probe(ctx context.Context) error
}

// Adviser tries, when a mount that takes changes is made, how the store behaves where
// only trying tells, with objects of its own that it removes again. It returns the
// properties that this mount must have and that its Config did not give; none is fine. It
// is asked of the bare store, once, and what it says is kept with the mount.
type Adviser interface {
	Advise(ctx context.Context) (map[string]string, error)
}

// Config is what a driver is made from.
type Config struct {
	URI        string
	Properties map[string]string // the driver's settings; unknown ones are kind Invalid
	Secrets    sluice.Secrets    // already resolved to literal values
	Options    sluice.MountOptions
}

// Driver makes stores of one URI scheme.
type Driver interface {
	// Schemes are the URI schemes it serves, such as "s3".
	Schemes() []string
	// Open makes a store. It checks the settings and does not touch the network.
	Open(cfg Config) (Store, error)
	// Settings describes the properties and secrets it knows, for the documentation.
	Settings() []Setting
	// Baseline opens plain reads and writes by the driver's own library, for bench.
	Baseline(cfg Config) (Baseline, error)
}

// Setting describes one property or secret of a driver.
type Setting struct {
	Name, Help, Default string
	Secret              bool
}

// Baseline is the store's own client without anything of ours around it.
type Baseline interface {
	// Get reads the whole object and returns its length.
	Get(ctx context.Context, key Key, w io.Writer) (int64, error)
	// Put writes the whole object.
	Put(ctx context.Context, key Key, r io.Reader, length int64) error
	Close() error
}

// Package namenode is what the drivers of HDFS share: a store made of the calls that a
// name node answers, however it is spoken to. It owns the order of listings, uploads by
// temporary file and rename, checked reads, and what a Java exception means. It speaks no
// protocol; the drivers implement [Node] and [Data].
//
// What it promises. A commit is a file in one hidden directory at the mount's top that was
// closed, and one rename: visible in one step, on as many data nodes as the replication
// says. "Durable" is what HDFS means by it: in the memory of those data nodes, on their
// disks when their kernels please (dfs.datanode.synconclose makes it at once). A create
// that expects nothing there is a rename that overwrites nothing, which the name node
// decides: atomic. A replacement or deletion that expects a version is checked and then
// made, two calls after each other: who replaces the file between the two (a millisecond or
// two, up to one attempt's time where the second call hangs) loses it. Reads are checked
// before the first and after the last byte. A version is file id, length and mtime in
// milliseconds; two changes within one millisecond that keep the length look equal, hence
// Features.Settle. A file that somebody has open for its first writing has no version and
// no length yet: what is there is shown, and is never cached.
package namenode

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice"
)

// Status is what a name node says of a path.
type Status struct {
	Name      string // the last component; "" of what was asked for by its path
	Dir       bool
	ID        uint64 // file id; stays with the file when it is renamed or written to
	Length    int64
	BlockSize int64
	Mtime     int64 // milliseconds since 1970
	Mode      sluice.Mode
	Owner     string
	Group     string
	Target    string // of a symbolic link
	Open      bool   // a file that somebody is writing for the first time
	Encrypted bool   // in an encryption zone
	Coded     bool   // erasure-coded
}

// Suspect says whether a file may be under construction although its status does not show
// it: the length counts whole blocks until the file is closed.
func (s *Status) Suspect() bool {
	return !s.Dir && s.Target == "" && (s.BlockSize <= 0 || s.Length%s.BlockSize == 0)
}

// version identifies one state of a file; "" while it is open. Renames do not change it.
func (s *Status) version() sluice.Version {
	if s.Open || s.Dir {
		return ""
	}
	b := strconv.AppendUint(make([]byte, 0, 48), s.ID, 16)
	b = strconv.AppendInt(append(b, '-'), s.Length, 16)
	b = strconv.AppendInt(append(b, '-'), s.Mtime, 16)
	return sluice.Version(b)
}

// Node is the namespace of an HDFS. Paths are absolute and clean. Errors are
// *sluice.Error of the kinds that [Exception] gives; a change that was sent and not
// answered is kind UnknownOutcome. All methods may be called at once.
type Node interface {
	// Stat describes a path. Open is right.
	Stat(ctx context.Context, path string) (Status, error)
	// List returns entries of a directory whose names come after a name, in the name
	// node's order (signed bytes), and whether there are more behind them. Open is right.
	List(ctx context.Context, path, after string) ([]Status, bool, error)
	// Mkdirs makes a directory and those above it. An existing one is no error.
	Mkdirs(ctx context.Context, path string, mode sluice.Mode) error
	// Rename renames in one step. Without overwrite something at to is kind Exists.
	Rename(ctx context.Context, from, to string, overwrite bool) error
	// Delete removes a file or an empty directory.
	Delete(ctx context.Context, path string) error
	// SetMode changes the permission bits.
	SetMode(ctx context.Context, path string, mode sluice.Mode) error
	// SetOwner changes owner and group; "" leaves one.
	SetOwner(ctx context.Context, path, owner, group string) error
	// SetTimes changes times; nil leaves one.
	SetTimes(ctx context.Context, path string, mtime, atime *time.Time) error
}

// Data moves the bytes of files.
type Data interface {
	// Open opens bytes [off, off+n) of the file at path if accept has nothing against the
	// status it has at the moment. The body may end early, with or without an error.
	Open(ctx context.Context, path string, off, n int64, accept func(Status) error) (io.ReadCloser, error)
	// Create makes a file that must not be there and opens it for writing.
	Create(ctx context.Context, path string, mode sluice.Mode) (Writer, error)
	// Close lets go of connections. Calls under way fail.
	Close() error
}

// Writer writes one file. It is for one goroutine. After an error only Abort helps.
type Writer interface {
	// Write takes the next bytes.
	Write(ctx context.Context, p []byte) error
	// Finish sends the rest and closes the file: complete, and seen with its length.
	Finish(ctx context.Context) error
	// Abort stops without finishing. The file may stay, for the caller to delete.
	Abort()
}

// Exception is what a Java server said went wrong.
type Exception struct {
	Class   string // with or without its package
	Message string // of several lines, of which the first says it
}

// Error returns the class's own name and the first line of the message.
func (e *Exception) Error() string {
	line, _, _ := strings.Cut(e.Message, "\n")
	if len(line) > 500 {
		line = line[:500] + "..."
	}
	if line == "" {
		return e.name()
	}
	return e.name() + ": " + line
}

// name returns the class without its package.
func (e *Exception) name() string { return e.Class[strings.LastIndexByte(e.Class, '.')+1:] }

// Standby says whether a name node refused because another one is active.
func (e *Exception) Standby() bool { return e.name() == "StandbyException" }

// Kind returns the kind of the exception. One that nobody knows is Unavailable: the server
// refused, so nothing was done.
func (e *Exception) Kind() sluice.Kind {
	switch e.name() {
	case "FileNotFoundException":
		return sluice.NotFound
	case "FileAlreadyExistsException":
		return sluice.Exists
	case "PathIsNotEmptyDirectoryException":
		return sluice.NotEmpty
	case "ParentNotDirectoryException", "PathIsNotDirectoryException":
		return sluice.NotDirectory
	case "AccessControlException", "AuthorizationException":
		return sluice.Permission
	case "AuthenticationException", "SecretManager$InvalidToken", "InvalidToken":
		return sluice.Unauthenticated
	case "SnapshotAccessControlException":
		return sluice.ReadOnly
	case "QuotaExceededException", "NSQuotaExceededException", "DSQuotaExceededException", "QuotaByStorageTypeExceededException",
		"FSLimitException$MaxDirectoryItemsExceededException", "MaxDirectoryItemsExceededException":
		return sluice.NoSpace
	case "InvalidPathException", "IllegalArgumentException", "HadoopIllegalArgumentException",
		"FSLimitException$PathComponentTooLongException", "PathComponentTooLongException":
		return sluice.Invalid
	case "UnsupportedOperationException", "RpcNoSuchMethodException", "RpcNoSuchProtocolException":
		return sluice.Unsupported
	default: // SafeModeException, RetriableException, LeaseExpiredException, IOException, ...
		return sluice.Unavailable
	}
}

// KindOf returns the kind of an error below a driver: an exception's, or Unavailable for
// what went wrong on the way.
func KindOf(err error) sluice.Kind {
	if e, ok := errors.AsType[*sluice.Error](err); ok {
		return e.Kind
	}
	if e, ok := errors.AsType[*Exception](err); ok {
		return e.Kind()
	}
	return sluice.Unavailable
}

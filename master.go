package sluice

import (
	"context"
	"time"
)

// Call is on whose behalf a request to a master is made, and for mutations the id
// that makes it happen once.
type Call struct {
	Principal Principal
	Request   RequestID // zero for reads
}

// Grant is a capability signed by a master: which content may be read or written,
// until when, and where its bytes lie in the store. Clients pass it to workers
// unread. At most 8 KiB.
type Grant []byte

// Master is what the client library asks of the primary master. A mutation repeated
// with the same Call.Request is answered with its first answer.
type Master interface {
	Reader
	Mutator
	Sessions
}

// Reader answers questions about the namespace, linearizably.
type Reader interface {
	// Stat is Tree.Stat.
	Stat(ctx context.Context, c Call, path Path, opts StatOptions) (FileInfo, error)
	// List returns at most limit children behind opts.After in name order.
	// opts.Recursive is ignored.
	List(ctx context.Context, c Call, path Path, opts ListOptions, limit int) (ListPage, error)
	// Open returns what is needed to read the file from workers in one trip. known is
	// the version of the view of the workers the client has.
	Open(ctx context.Context, c Call, path Path, opts OpenOptions, known uint64) (Opened, error)
}

// Mutator changes the namespace. Every answer means "kept" (DESIGN promise 1).
type Mutator interface {
	// Mkdir is Tree.Mkdir.
	Mkdir(ctx context.Context, c Call, path Path, opts MkdirOptions) (FileInfo, error)
	// Create makes an incomplete entry (or with opts.Empty a complete one) that only the
	// session of c can fill, or starts a replacement of what is there.
	Create(ctx context.Context, c Call, path Path, opts CreateOptions, known uint64) (Created, error)
	// Commit publishes the sealed content of the file created by the same session.
	Commit(ctx context.Context, c Call, file FileID, sealed Sealed) (FileInfo, error)
	// Abandon drops what Create started.
	Abandon(ctx context.Context, c Call, file FileID, content ContentID) error
	// Rename is Tree.Rename.
	Rename(ctx context.Context, c Call, from, to Path, opts RenameOptions) error
	// Remove is Tree.Remove.
	Remove(ctx context.Context, c Call, path Path, opts RemoveOptions) error
	// SetAttr is Tree.SetAttr for one inode; change.Recursive is ignored.
	SetAttr(ctx context.Context, c Call, path Path, change AttrChange) (FileInfo, error)
	// Symlink is Tree.Symlink.
	Symlink(ctx context.Context, c Call, target string, path Path) (FileInfo, error)
}

// Sessions are a client's lives, as the masters remember them.
type Sessions interface {
	// OpenSession starts the session id, or finds it again.
	OpenSession(ctx context.Context, c Call, id SessionID) (SessionInfo, error)
	// RenewSession keeps it alive. Kind NotFound: it expired, and with it every
	// incomplete file and remembered answer.
	RenewSession(ctx context.Context, c Call, id SessionID) error
	// CloseSession ends it and abandons its incomplete files.
	CloseSession(ctx context.Context, c Call, id SessionID) error
	// Await leaves a request waiting; it returns what changed of what the session holds
	// grants of, having acknowledged the notices up to acked. Lease is how long, from
	// the sending of this request, the grants may be used again without asking.
	Await(ctx context.Context, c Call, id SessionID, acked uint64) (Notices, error)
}

// SessionInfo is what a client must know of its session.
type SessionInfo struct {
	Lease   time.Duration // renew well before this has passed
	Window  int           // at most so many mutations unacknowledged at once
	Cluster string        // the cluster's id
	View    View
}

// Notices tell a client what it must forget.
type Notices struct {
	Upto  uint64        // acknowledge with the next Await
	Files []FileID      // changed; 0 means all
	Lease time.Duration // 0: grants must not be used again
	View  *View         // when it changed
}

// ListPage is a part of a listing.
type ListPage struct {
	Entries []FileInfo
	More    bool // ask again behind the last entry's name
}

// Opened is what reading needs.
type Opened struct {
	Info    FileInfo
	Grant   Grant
	Expires time.Duration // of the grant, from the sending of the request
	Lease   time.Duration // the grant may be used for further opens until then; 0: not at all
	Holders []Holder      // where bytes lie besides the hash order
	View    *View         // nil when the client's is current
}

// Created is what writing needs. A file created with Empty has no grant.
type Created struct {
	Info      FileInfo
	Content   ContentID
	Grant     Grant
	Write     WriteType // as decided by the mount
	BlockSize int64     // bytes
	View      *View
}

// Holder is a worker that holds blocks [First, First+Count) of a content.
type Holder struct {
	Content ContentID
	Worker  WorkerID
	First   uint32
	Count   uint32
}

// View is the set of live workers at one moment.
type View struct {
	Version uint64 // grows with every change within one primary's time
	Workers []WorkerInfo
}

// WorkerInfo is what clients and operators may know of a worker.
type WorkerInfo struct {
	ID      WorkerID
	Host    string  // as it calls itself
	Address string  // host:port of its rpc listener; "" where it has only a socket
	Socket  string  // path of its unix socket; tried first, works where it can be reached
	Weight  float64 // share of the hash ring, by capacity
	Labels  map[string]string
	Tiers   []TierInfo
	Seen    time.Time
}

// TierInfo is one tier of a worker. Invariant: Used+Held+Free == Quota.
type TierInfo struct {
	Name                    string
	Quota, Used, Held, Free int64 // bytes
	Blocks                  int64
	Directories             []string
	Note                    string // what an operator should know, such as "no tmpfs: a directory on flash"
}

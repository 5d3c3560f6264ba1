package namespace

import (
	"time"

	"github.com/sluicefs/sluice"
)

// Access is a set of permission bits as POSIX has them.
type Access uint8

// The permission bits.
const (
	MayExecute Access = 1 // search, of a directory
	MayWrite   Access = 2
	MayRead    Access = 4
)

// Resolved is what is known of a path, whoever asks.
type Resolved struct {
	Found      bool
	Info       sluice.FileInfo // of the path, where it was found
	Parent     sluice.FileInfo // of the deepest existing ancestor, itself not included
	HasParent  bool            // false for the root only
	InMount    bool
	Mount      sluice.Mount // the innermost mount around the path
	MountEpoch uint64
	Key        string // the store's key for the path below that mount, remembered keys honoured
	Incomplete bool   // found, and its first writer has not closed it
}

// MountRow is a mount with what only servers may see.
type MountRow struct {
	sluice.Mount
	Root    sluice.FileID     // the mount point's inode
	Epoch   uint64            // changes with the settings
	Secrets map[string][]byte // sealed, or references; not to be changed
}

// Op says what an intent wants of the store.
type Op uint8

// The operations of intents. What a store is to do for each:
const (
	// OpCommit: make Sealed (or, with Empty, an empty object) visible under Key, where
	// what lies there satisfies Absent or Version. Object of the end: what lies there then.
	OpCommit Op = iota + 1
	// OpMkdir: make the directories Dirs, in their order; one that exists is fine.
	OpMkdir
	// OpRename: move the file under Key (of Version) to ToKey, which satisfies ToAbsent or
	// ToVersion. An empty Key: only delete what lies under ToKey. The namespace changes
	// at the end; its object is what lies under ToKey then.
	OpRename
	// OpRenameDir: move the directory Key to ToKey in one step, replacing an empty one.
	// The namespace changes at the end.
	OpRenameDir
	// OpMoveTree: bring every object below Key to the same place below ToKey, in steps
	// (see [State.Moves] and MoveKeys). The namespace has changed already.
	OpMoveTree
	// OpRemove: delete the object Key of Version. The namespace changes at the end.
	OpRemove
	// OpRmdir: delete the empty directory or marker Key (it ends in "/"); a missing one
	// is fine. The namespace changes at the end.
	OpRmdir
	// OpRemoveTree: delete what [State.DetachedPage] lists, page by page, each followed by
	// a Reap of as many rows. The namespace has changed already.
	OpRemoveTree
)

// String returns the operation in a user's words.
func (o Op) String() string {
	switch o {
	case OpCommit:
		return "commit"
	case OpMkdir:
		return "mkdir"
	case OpRename:
		return "rename"
	case OpRenameDir:
		return "rename directory"
	case OpMoveTree:
		return "move tree"
	case OpRemove:
		return "remove"
	case OpRmdir:
		return "remove directory"
	case OpRemoveTree:
		return "remove tree"
	default:
		return "unknown"
	}
}

// Intent is a change of a store that was decided and is to be carried out, by whoever
// is primary, until it is done or refused for good.
type Intent struct {
	ID        uint64 // intents whose footprints overlap run in the order of their ids
	Op        Op
	Mount     sluice.MountID
	Path, To  sluice.Path    // as the user named them
	Key       string         // the store's key; of a directory it ends in "/"
	ToKey     string         // likewise, of renames
	Absent    bool           // nothing lies under Key
	Version   sluice.Version // this lies under Key; "" with !Absent: not known
	ToAbsent  bool
	ToVersion sluice.Version
	Dirs      []string // of OpMkdir, the keys from the top, ending in "/"
	Mode      sluice.Mode
	File      sluice.FileID // the inode it is about; the topmost new one's parent for OpMkdir
	Write     sluice.WriteType
	Empty     bool // of OpCommit: there is no sealed content, the object is empty
	Sealed    sluice.Sealed
	Session   sluice.SessionID
	Detached  uint64 // of OpRemoveTree
	By        sluice.Principal
	Request   sluice.RequestID // waits for the end; zero: nobody does
	Since     time.Duration    // journal time of its beginning
	Attempts  int
	Attempt   Attempt // the last
	Diverged  bool    // the store refused it for good and it could not be taken back
	Message   string  // why it diverged
	// Content is the writer's content of OpCommit, that of Sealed unless Empty.
	Content sluice.ContentID
}

// Ahead says whether the namespace changed when the intent began.
func (i *Intent) Ahead() bool { return i.Op == OpMoveTree || i.Op == OpRemoveTree }

// Attempt is one fenced try at a store.
type Attempt struct {
	Number   int
	Term     sluice.Term
	Worker   sluice.WorkerID
	TimeLeft time.Duration
	At       time.Duration // journal time of its entry
}

// Info describes the intent for an operator at journal time tick.
func (i *Intent) Info(tick time.Duration) sluice.IntentInfo {
	info := sluice.IntentInfo{
		ID: i.ID, Mount: i.Mount, Op: i.Op.String(), Path: i.Path, To: i.To, Age: int64((tick - i.Since) / time.Second),
		State: "waiting", Message: i.Message, Attempts: i.Attempts,
	}
	switch {
	case i.Diverged:
		info.State = "diverged"
	case i.Attempts > 0:
		info.State = "running"
	}
	return info
}

// RequestState says what is known of a request.
type RequestState uint8

// The states of a request.
const (
	RequestUnseen  RequestState = iota // not executed; it may be proposed
	RequestKnown                       // the answer is there
	RequestPending                     // it waits for the intent in the answer
	RequestUnknown                     // no such session, or below its window: UnknownOutcome
)

// SessionRow is a client session.
type SessionRow struct {
	ID     sluice.SessionID
	Epoch  sluice.Epoch
	User   string
	Opened time.Duration // journal time
}

// DetachedRow is a subtree (or the left-overs of a session) that is out of the tree and
// is to be taken away in steps.
type DetachedRow struct {
	ID     uint64
	Mount  sluice.MountID
	Intent uint64 // if not 0, that intent deletes the objects first and reaps itself
	Path   sluice.Path
	Since  time.Duration // journal time
}

// DetachedEntry is one inode below a detached root, in the order in which Reap takes
// them: directories behind what is in them.
type DetachedEntry struct {
	File    sluice.FileID
	Dir     bool
	Stored  bool           // it is in the store (or may be): to be deleted there
	Key     string         // of a directory it ends in "/"
	Version sluice.Version // as last seen
}

// Move is one object that an [OpMoveTree] still has to bring over.
type Move struct {
	File     sluice.FileID
	From, To string
	Version  sluice.Version
	Path     string // below the moved directory; the cursor for the next page
}

// TTLDue is an inode whose time has passed.
type TTLDue struct {
	File   sluice.FileID
	Epoch  uint64 // the precondition of ExpireTTL
	Action sluice.TTLAction
}

// Verdict says what a worker may do with a never-evictable content.
type Verdict uint8

// The verdicts, as they travel.
const (
	VerdictKeep      Verdict = iota // it exists nowhere else
	VerdictDead                     // nobody can read it any more
	VerdictPersisted                // the store has it
)

// Stats are sizes and counters.
type Stats struct {
	Applied     sluice.Index
	Files, Dirs int64 // symlinks are files; detached inodes count until they are reaped
	Bytes       int64
	Unpersisted int64 // files whose bytes are in workers only
	Sessions    int
	Intents     int
	CachedRows  int
	CacheHits   int64
	CacheMisses int64
}

// Terms are what Format laid down.
type Terms struct {
	Cluster string
	Lease   time.Duration // of a session, in journal time
	Window  int           // answers remembered per session
	Version uint32        // the cluster's version
}

package sluice

// Kind says what sort of failure an [Error] is. Callers decide on kinds with
// errors.Is(err, sluice.NotFound); each door has one total table from kind to its
// own language. The numbers travel on the wire and in the journal: add at the end,
// never renumber.
type Kind uint8

// The kinds of failure.
const (
	Internal        Kind = iota // a broken expectation of ours; the message is for a bug report
	NotFound                    // no such file, directory, mount, session or id
	Exists                      // the name is taken
	NotEmpty                    // a directory that must be empty is not
	IsDirectory                 // the operation wants a file
	NotDirectory                // the operation wants a directory, or a parent is a file
	Permission                  // the principal may not
	Unauthenticated             // nobody proved who the caller is
	Invalid                     // the request is wrong in itself
	ReadOnly                    // the mount (or the master, for want of disk) takes no changes
	NoSpace                     // no room, and nothing that may be dropped
	Quota                       // a quota of the namespace is used up
	Changed                     // the object changed in the store since the file was opened
	Lost                        // bytes that existed only in the cache are gone
	Unavailable                 // a store, worker or master does not answer now; may be retried
	Timeout                     // the deadline passed before an answer
	Cancelled                   // the caller gave up
	Corrupt                     // bytes fail their checksum and no other copy was found
	Unsupported                 // not possible here, by design
	Busy                        // an operation on the same names is under way; may be retried
	Diverged                    // the store refused what was acknowledged; needs a person
	CrossMount                  // source and target lie in different mounts
	NotPrimary                  // this master is not the primary; Error.Primary is, if known
	Archived                    // the object must be restored from an archive class first
	Stale                       // the content this change was based on was replaced
	TooLarge                    // a message, file, listing or value above its limit
	UnknownOutcome              // the change may or may not have happened; look before you repeat
	kinds                       // the number of kinds; keep last
)

// Kinds returns every kind in order, for tables and their tests.
func Kinds() []Kind {
	all := make([]Kind, kinds)
	for i := range all {
		all[i] = Kind(i)
	}
	return all
}

// String returns the kind's name in words.
func (k Kind) String() string {
	switch k {
	case Internal:
		return "internal error"
	case NotFound:
		return "not found"
	case Exists:
		return "exists"
	case NotEmpty:
		return "not empty"
	case IsDirectory:
		return "is a directory"
	case NotDirectory:
		return "not a directory"
	case Permission:
		return "permission denied"
	case Unauthenticated:
		return "unauthenticated"
	case Invalid:
		return "invalid"
	case ReadOnly:
		return "read-only"
	case NoSpace:
		return "no space"
	case Quota:
		return "quota exceeded"
	case Changed:
		return "changed"
	case Lost:
		return "lost"
	case Unavailable:
		return "unavailable"
	case Timeout:
		return "timeout"
	case Cancelled:
		return "cancelled"
	case Corrupt:
		return "corrupt"
	case Unsupported:
		return "unsupported"
	case Busy:
		return "busy"
	case Diverged:
		return "diverged"
	case CrossMount:
		return "cross mount"
	case NotPrimary:
		return "not primary"
	case Archived:
		return "archived"
	case Stale:
		return "stale"
	case TooLarge:
		return "too large"
	case UnknownOutcome:
		return "unknown outcome"
	default:
		return "unknown kind"
	}
}

// Error makes a kind a target for errors.Is.
func (k Kind) Error() string { return k.String() }

// Retriable says whether the same request may succeed a little later without
// anybody changing anything.
func (k Kind) Retriable() bool { return k == Unavailable || k == Busy || k == NotPrimary }

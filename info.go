package sluice

import (
	"fmt"
	"slices"
	"time"
)

// Type is the sort of an inode.
type Type uint8

// The types of inodes.
const (
	File Type = iota + 1
	Directory
	Symlink
)

// String returns the type in words.
func (t Type) String() string {
	switch t {
	case File:
		return "file"
	case Directory:
		return "directory"
	case Symlink:
		return "symlink"
	default:
		return "unknown"
	}
}

// Mode holds permission bits as POSIX defines them: rwx for owner, group and
// others, and setuid, setgid and sticky. The type is not part of it.
type Mode uint16

// ModeMask are the bits a Mode may have.
const ModeMask Mode = 0o7777

// String returns the mode as "rwxr-xr-x" with s and t where those bits are set.
func (m Mode) String() string {
	b := []byte("rwxrwxrwx")
	for i := range 9 {
		if m&(1<<(8-i)) == 0 {
			b[i] = '-'
		}
	}
	special := func(bit Mode, i int, c byte) {
		if m&bit == 0 {
			return
		}
		if b[i] == '-' {
			c -= 'a' - 'A'
		}
		b[i] = c
	}
	special(0o4000, 2, 's')
	special(0o2000, 5, 's')
	special(0o1000, 8, 't')
	return string(b)
}

// Persistence says where the only safe copy of a file's bytes is.
type Persistence uint8

// The states of persistence.
const (
	Persisted     Persistence = iota // in the under store (or a directory, which has no bytes)
	CacheOnly                        // in workers only, by its writer's choice (MUST_CACHE)
	ToBePersisted                    // in workers, on its way to the under store
	BytesLost                        // were in workers only, and those reported without them
)

// String returns the state as listings show it.
func (p Persistence) String() string {
	switch p {
	case Persisted:
		return "persisted"
	case CacheOnly:
		return "cache-only"
	case ToBePersisted:
		return "to-be-persisted"
	case BytesLost:
		return "lost"
	default:
		return "unknown"
	}
}

// Extent is a run of blocks of one content. A file normally has one; an append or
// edit adds further ones. Invariant: extents are in file order without gaps, and
// every one but the last holds Count full blocks.
type Extent struct {
	Content   ContentID
	First     uint32 // index of the extent's first block within Content
	Count     uint32
	BlockSize int64 // bytes
}

// Version is what identifies one state of an object in its store, in the driver's
// own words (a version id, or ETag with length and time, ...). It is opaque and only
// compared for equality; "" means the store does not say.
type Version string

// FileInfo describes an inode as users see it.
type FileInfo struct {
	Path        Path
	ID          FileID
	Type        Type
	Length      int64 // bytes; 0 for directories and incomplete files, target's length for symlinks
	Mode        Mode
	Owner       string
	Group       string
	Mtime       time.Time
	Ctime       time.Time
	Atime       time.Time // kept only when set; else equal to Mtime
	Links       uint32
	Complete    bool // false while its first writer has not closed it
	Persistence Persistence
	Extents     []Extent      // nil for directories and empty files
	Target      string        // of a symlink
	Pinned      bool          // its blocks are never evicted
	TTL         time.Duration // 0 is none; counted in journal time from its setting
	TTLAction   TTLAction
	XAttrs      map[string][]byte // only where asked for; nil otherwise

	Mount   MountID   // 0 outside mounts
	Key     string    // the store's key of the bytes; "" for what is not in a store
	Store   Version   // the version the content was read from or written as
	StoreAt time.Time // the store's own modification time, zero if unknown
	Local   bool      // made here and not (or not yet) in the store
	IsMount bool      // a mount point
}

// IsDir says whether it is a directory.
func (f *FileInfo) IsDir() bool { return f.Type == Directory }

// BlockSize returns the block size of the content in bytes, 0 for none.
func (f *FileInfo) BlockSize() int64 {
	if len(f.Extents) == 0 {
		return 0
	}
	return f.Extents[0].BlockSize
}

// Content returns the id of the content, the zero id for none. Of a file of several
// extents it is that of the last, which changes with every edit.
func (f *FileInfo) Content() ContentID {
	if len(f.Extents) == 0 {
		return ContentID{}
	}
	return f.Extents[len(f.Extents)-1].Content
}

// TTLAction is what happens to a file when its TTL has passed.
type TTLAction uint8

// The TTL actions. The store is the user's: the default never touches it.
const (
	TTLFree   TTLAction = iota // drop the cached blocks
	TTLDelete                  // delete the file, in the store too
)

// String returns the action as the command line spells it.
func (a TTLAction) String() string {
	if a == TTLDelete {
		return "delete"
	}
	return "free"
}

// WriteType says when a write is durable, and where (DESIGN promise 5).
type WriteType uint8

// The write types.
const (
	WriteDefault WriteType = iota // CACHE_THROUGH in a mount, MUST_CACHE outside
	CacheThrough                  // in the store when close returns, and cached
	Through                       // in the store when close returns, not cached
	MustCache                     // in workers only
	AsyncThrough                  // on workers at close, in the store later; unsupported as yet
)

// String returns the write type as the field spells it.
func (w WriteType) String() string {
	switch w {
	case WriteDefault:
		return "DEFAULT"
	case CacheThrough:
		return "CACHE_THROUGH"
	case Through:
		return "THROUGH"
	case MustCache:
		return "MUST_CACHE"
	case AsyncThrough:
		return "ASYNC_THROUGH"
	default:
		return "UNKNOWN"
	}
}

// ParseWriteType reads what [WriteType.String] writes.
func ParseWriteType(s string) (WriteType, error) {
	for w := WriteDefault; w <= AsyncThrough; w++ {
		if w.String() == s {
			return w, nil
		}
	}
	return 0, &Error{Op: "parse write type", Kind: Invalid, Err: fmt.Errorf("%q is none of CACHE_THROUGH, THROUGH, MUST_CACHE, ASYNC_THROUGH", s)}
}

// ReadType says whether a read fills the cache.
type ReadType uint8

// The read types.
const (
	Cache   ReadType = iota // keep the pages that were fetched
	NoCache                 // serve what is cached, keep nothing more
)

// Freshness says how old the knowledge about a store may be that answers a request.
// The zero value means the mount's own setting. It concerns changes made in the
// store behind us; changes made through Sluice are always seen.
type Freshness struct {
	Set   bool
	Never bool          // never ask the store about what is known
	Every time.Duration // ask when the last answer is older; 0 with Set is "always"
}

// Always returns the freshness that asks the store each time.
func Always() Freshness { return Freshness{Set: true} }

// NeverAsk returns the freshness that trusts what is known.
func NeverAsk() Freshness { return Freshness{Set: true, Never: true} }

// Every returns the freshness that asks again after d.
func Every(d time.Duration) Freshness { return Freshness{Set: true, Every: d} }

// String returns never, always, every T, or default.
func (f Freshness) String() string {
	switch {
	case !f.Set:
		return "default"
	case f.Never:
		return "never"
	case f.Every == 0:
		return "always"
	default:
		return "every " + f.Every.String()
	}
}

// ParseFreshness reads never, always, a duration, or "every" and a duration.
func ParseFreshness(s string) (Freshness, error) {
	switch s {
	case "", "default":
		return Freshness{}, nil
	case "never":
		return NeverAsk(), nil
	case "always":
		return Always(), nil
	}
	text := s
	if len(s) > 6 && s[:6] == "every " {
		text = s[6:]
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return Freshness{}, &Error{Op: "parse freshness", Kind: Invalid, Err: fmt.Errorf("%q is none of never, always, or a time such as 30s or 5m", s)}
	}
	return Every(d), nil
}

// Principal is on whose behalf something is done. Owners and groups are names.
type Principal struct {
	User   string
	Groups []string // the first is the group of what is created
	Super  bool     // passes every permission check; only it mounts
}

// In says whether the principal is a member of group.
func (p Principal) In(group string) bool {
	return slices.Contains(p.Groups, group)
}

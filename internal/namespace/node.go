package namespace

import (
	"time"

	"github.com/sluicefs/sluice"
)

// perm is an owner, group and mode. Nodes share them by number, since few combinations
// make up a whole tree.
type perm struct {
	number uint64
	owner  string
	group  string
	mode   sluice.Mode
}

func (p *perm) append(dst []byte) []byte {
	return putUint(putString(putString(dst, p.owner), p.group), uint64(p.mode))
}

// The flags of a node's row: what it is, and which fields follow.
const (
	flagDir = 1 << iota
	flagSymlink
	flagComplete // files only
	flagLocal    // made here and not (or not yet) in the store
	flagMount    // a mount point
	flagPinned
	flagUserAttrs // a user set owner, group, mode or mtime: a sync leaves them
	flagPersist   // persistence is not Persisted
	flagCtime     // differs from mtime
	flagAtime
	flagLength
	flagExtents
	flagTarget
	flagVersion
	flagStoreAt
	flagKey // the store key is remembered, not implied by the path
	flagTTL
	flagXAttrs
	flagMoved
	flagStoreLink // a symlink that the store has as such
	flagWriters   // there may be writers of it
	flagHeld      // its contents have rows of their own
	flagMade      // a directory made here without asking the store: no sync removes it
)

// stored are the flags that are kept as they are; the others follow from the fields.
const stored = flagDir | flagSymlink | flagComplete | flagLocal | flagMount | flagPinned | flagUserAttrs | flagXAttrs | flagKey | flagStoreLink | flagWriters | flagHeld | flagMade

// node is an inode with one name, as it lies under (parent, name).
type node struct {
	id      sluice.FileID
	flags   uint32 // of the stored ones
	persist sluice.Persistence
	perm    *perm
	mtime   int64 // Unix ns
	ctime   int64
	atime   int64 // 0: as mtime
	length  int64 // bytes
	extents []sluice.Extent
	target  string
	version sluice.Version // of the store's object
	storeAt int64          // its modification time
	key     string         // with flagKey: where the bytes lie; of a directory without "/"
	// changed is the index at which the entry last changed in a way that a listing of the
	// store, made before, cannot know of.
	changed sluice.Index
	moved   sluice.Index // of a directory: when it last came to this place
	ttl     *ttl
}

// ttl is a time to live.
type ttl struct {
	after  int64 // ns
	due    int64 // journal time
	epoch  uint64
	action sluice.TTLAction
}

func (n *node) has(f uint32) bool { return n.flags&f != 0 }
func (n *node) dir() bool         { return n.flags&flagDir != 0 }
func (n *node) file() bool        { return n.flags&(flagDir|flagSymlink) == 0 }

// set returns the flags with f on or off.
func (n *node) set(f uint32, on bool) {
	if on {
		n.flags |= f
	} else {
		n.flags &^= f
	}
}

// inStore says whether the store has it, as far as is known.
func (n *node) inStore() bool {
	return !n.has(flagLocal | flagMount)
}

// content is the id of its last extent.
func (n *node) content() sluice.ContentID {
	if len(n.extents) == 0 {
		return sluice.ContentID{}
	}
	return n.extents[len(n.extents)-1].Content
}

func (n *node) kind() sluice.Type {
	switch {
	case n.dir():
		return sluice.Directory
	case n.has(flagSymlink):
		return sluice.Symlink
	default:
		return sluice.File
	}
}

func (n *node) rowFlags() uint32 {
	f := n.flags & stored
	on := func(bit uint32, b bool) {
		if b {
			f |= bit
		}
	}
	on(flagPersist, n.persist != sluice.Persisted)
	on(flagCtime, n.ctime != n.mtime)
	on(flagAtime, n.atime != 0)
	on(flagLength, n.length != 0)
	on(flagExtents, len(n.extents) > 0)
	on(flagTarget, n.target != "")
	on(flagVersion, n.version != "")
	on(flagStoreAt, n.storeAt != 0 && (n.storeAt != n.mtime || n.version == ""))
	on(flagTTL, n.ttl != nil)
	on(flagMoved, n.moved != 0)
	return f
}

func (n *node) append(dst []byte) []byte {
	f := n.rowFlags()
	dst = putUint(dst, uint64(f))
	dst = putUint(dst, uint64(n.id))
	dst = putUint(dst, n.perm.number)
	dst = putUint(dst, uint64(n.changed))
	dst = putInt(dst, n.mtime)
	if f&flagPersist != 0 {
		dst = append(dst, byte(n.persist))
	}
	if f&flagCtime != 0 {
		dst = putInt(dst, n.ctime-n.mtime)
	}
	if f&flagAtime != 0 {
		dst = putInt(dst, n.atime-n.mtime)
	}
	if f&flagLength != 0 {
		dst = putInt(dst, n.length)
	}
	if f&flagExtents != 0 {
		dst = putUint(dst, uint64(len(n.extents)))
		for _, e := range n.extents {
			dst = putContent(dst, e.Content)
			dst = putUint(putUint(dst, uint64(e.First)), uint64(e.Count))
			dst = putUint(dst, uint64(e.BlockSize))
		}
	}
	if f&flagTarget != 0 {
		dst = putString(dst, n.target)
	}
	if f&flagVersion != 0 {
		dst = putString(dst, string(n.version))
		dst = putBool(dst, n.storeAt == 0)
	}
	if f&flagStoreAt != 0 {
		dst = putInt(dst, n.storeAt-n.mtime)
	}
	if f&flagKey != 0 {
		dst = putString(dst, n.key)
	}
	if f&flagTTL != 0 {
		dst = putUint(putInt(putInt(dst, n.ttl.after), n.ttl.due), n.ttl.epoch)
		dst = append(dst, byte(n.ttl.action))
	}
	if f&flagMoved != 0 {
		dst = putUint(dst, uint64(n.moved))
	}
	return dst
}

func decodeNode(d *decoder, perms permsOf) *node {
	f := uint32(d.uint())
	n := &node{flags: f & stored, id: sluice.FileID(d.uint())}
	if n.perm = perms(d.uint()); n.perm == nil {
		d.fail("owner, group and mode")
		n.perm = &perm{}
	}
	n.changed = sluice.Index(d.uint())
	n.mtime = d.int()
	n.ctime = n.mtime
	if f&flagPersist != 0 {
		n.persist = sluice.Persistence(d.byte())
	}
	if f&flagCtime != 0 {
		n.ctime = n.mtime + d.int()
	}
	if f&flagAtime != 0 {
		n.atime = n.mtime + d.int()
	}
	if f&flagLength != 0 {
		n.length = d.int()
	}
	if f&flagExtents != 0 {
		n.extents = make([]sluice.Extent, d.count())
		for i := range n.extents {
			n.extents[i] = sluice.Extent{Content: d.content(), First: uint32(d.uint()), Count: uint32(d.uint()), BlockSize: int64(d.uint())}
		}
	}
	decodeRare(n, f, d)
	return n
}

// decodeRare reads the fields that few nodes of a kind have.
func decodeRare(n *node, f uint32, d *decoder) {
	if f&flagTarget != 0 {
		n.target = d.string()
	}
	if f&flagVersion != 0 {
		n.version = sluice.Version(d.string())
		if !d.bool() {
			n.storeAt = n.mtime
		}
	}
	if f&flagStoreAt != 0 {
		n.storeAt = n.mtime + d.int()
	}
	if f&flagKey != 0 {
		n.key = d.string()
	}
	if f&flagTTL != 0 {
		n.ttl = &ttl{after: d.int(), due: d.int(), epoch: d.uint(), action: sluice.TTLAction(d.byte())}
	}
	if f&flagMoved != 0 {
		n.moved = sluice.Index(d.uint())
	}
}

// info describes the node; where it lies is the caller's to fill in.
func (n *node) info(path sluice.Path) sluice.FileInfo {
	info := sluice.FileInfo{
		Path: path, ID: n.id, Type: n.kind(), Length: n.length, Mode: n.perm.mode, Owner: n.perm.owner, Group: n.perm.group,
		Mtime: fromNano(n.mtime), Ctime: fromNano(n.ctime), Links: 1, Complete: !n.file() || n.has(flagComplete),
		Persistence: n.persist, Extents: n.extents, Target: n.target, Pinned: n.has(flagPinned),
		Store: n.version, Local: n.has(flagLocal), IsMount: n.has(flagMount),
	}
	info.Atime = info.Mtime
	if n.atime != 0 {
		info.Atime = fromNano(n.atime)
	}
	if n.storeAt != 0 {
		info.StoreAt = fromNano(n.storeAt)
	}
	if n.ttl != nil {
		info.TTL, info.TTLAction = time.Duration(n.ttl.after), n.ttl.action
	}
	if n.has(flagSymlink) {
		info.Length = int64(len(n.target))
	}
	return info
}

func fromNano(ns int64) time.Time { return time.Unix(0, ns).UTC() }

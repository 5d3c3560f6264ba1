package namespace

import (
	"encoding/binary"

	"github.com/sluicefs/sluice"
)

// The tables of the state: the first byte of every key (docs/format/namespace.md).
const (
	tagAnswer    = 'a' // session, seq -> answer
	tagCounts    = 'c' // mount -> counters
	tagDetached  = 'd' // id -> detached
	tagHidden    = 'h' // parent, name -> node shadowed by a mount point
	tagIntent    = 'i' // id -> intent
	tagContent   = 'k' // content -> who holds it
	tagMount     = 'm' // id -> mount
	tagMeta      = 'M' // -> counters of ids, times, applied index
	tagNode      = 'n' // parent, name -> node
	tagPerm      = 'p' // number -> owner, group, mode
	tagTTL       = 'q' // due, file -> nothing
	tagName      = 'r' // file -> parent, name
	tagSession   = 's' // session -> session
	tagTomb      = 't' // parent, name -> index of its removal
	tagWriter    = 'w' // file, content -> writer
	tagSessionOf = 'W' // session, file, content -> nothing
	tagXAttrs    = 'x' // file -> extended attributes
)

// rootKeyParent is the parent under which the root's own node lies.
const rootKeyParent sluice.FileID = 0

// detachedBit marks the parents of nodes that were taken out of the tree.
const detachedBit sluice.FileID = 1 << 63

func key64(tag byte, a uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{tag}, a)
}

func key128(tag byte, a, b uint64) []byte {
	return binary.BigEndian.AppendUint64(key64(tag, a), b)
}

// appendChild appends the key of the entry name of parent in a table.
func appendChild(dst []byte, tag byte, parent sluice.FileID, name string) []byte {
	dst = append(dst, tag)
	dst = binary.BigEndian.AppendUint64(dst, uint64(parent))
	return append(dst, name...)
}

func childKey(tag byte, parent sluice.FileID, name string) []byte {
	return appendChild(make([]byte, 0, 9+len(name)), tag, parent, name)
}

func nameKey(id sluice.FileID) []byte   { return key64(tagName, uint64(id)) }
func xattrsKey(id sluice.FileID) []byte { return key64(tagXAttrs, uint64(id)) }

func contentKey(c sluice.ContentID) []byte {
	return key128(tagContent, uint64(c.Incarnation), c.Counter)
}

func writerKey(f sluice.FileID, c sluice.ContentID) []byte {
	return binary.BigEndian.AppendUint64(key128(tagWriter, uint64(f), uint64(c.Incarnation)), c.Counter)
}

func sessionOfKey(s sluice.SessionID, f sluice.FileID, c sluice.ContentID) []byte {
	k := key128(tagSessionOf, uint64(s), uint64(f))
	k = binary.BigEndian.AppendUint64(k, uint64(c.Incarnation))
	return binary.BigEndian.AppendUint64(k, c.Counter)
}

func ttlKey(due int64, f sluice.FileID) []byte { return key128(tagTTL, uint64(due), uint64(f)) }

// be64 reads the number at byte i of a key.
func be64(key string, i int) uint64 {
	return binary.BigEndian.Uint64([]byte(key[i : i+8]))
}

// prefixEnd returns the first key behind all that begin with p.
func prefixEnd(p []byte) []byte {
	end := append([]byte(nil), p...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] != 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}

package blockstore

import (
	"fmt"
	"strings"

	"github.com/sluicefs/sluice"
)

// Info describes a block at one moment.
type Info struct {
	ID          sluice.BlockID
	Length      int64  // bytes
	Pages       []byte // bitmap of the pages present, bit i%8 of byte i/8; the caller's
	Present     int64  // bytes in present pages
	Complete    bool   // every page is present
	Pinned      bool
	Unpersisted bool
	Tier        string
}

// Has says whether page i is present.
func (i *Info) Has(page int64) bool {
	return page >= 0 && page/8 < int64(len(i.Pages)) && i.Pages[page/8]&(1<<(page%8)) != 0
}

// ContentInfo describes the blocks of one content that are here.
type ContentInfo struct {
	Content     sluice.ContentID
	Blocks      int
	First, Last uint32 // the lowest and highest index here
	Bytes       int64  // in present pages
	Unpersisted bool   // at least one block exists only here
	Pinned      bool   // at least one block is pinned
	Quarantined bool   // its incarnation is not live
}

// MissingError is the cause of kind NotFound from [Store.Read]: pages that are not
// here, in rising order, never empty.
type MissingError struct {
	Block sluice.BlockID
	Pages []int64
}

// Error names the block and its missing pages.
func (e *MissingError) Error() string {
	return fmt.Sprintf("block %v: pages %v are not cached", e.Block, e.Pages)
}

// SpaceError is the cause of kind NoSpace: what holds the space of the directories
// that were asked.
type SpaceError struct {
	Need                            int64 // bytes
	Quota                           int64 // of the directories large enough for the block; 0 where none is
	Pinned, Unpersisted, Held, Open int64 // bytes that may not be dropped, by reason
}

// Error says what holds the space and what to do.
func (e *SpaceError) Error() string {
	if e.Quota == 0 {
		return fmt.Sprintf("no directory in service is large enough for %d bytes: raise a quota or use smaller blocks", e.Need)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "no room for %d bytes in a quota of %d, and nothing that may be dropped: %d bytes are pinned, %d exist only here, %d are in use",
		e.Need, e.Quota, e.Pinned, e.Unpersisted, e.Held+e.Open)
	switch {
	case e.Unpersisted > e.Pinned && e.Unpersisted > e.Held+e.Open:
		b.WriteString("; persist or delete files, or raise the quota")
	case e.Pinned > e.Held+e.Open:
		b.WriteString("; unpin files, or raise the quota")
	default:
		b.WriteString("; wait for readers, or raise the quota")
	}
	return b.String()
}

// Counters count since the start. They only grow.
type Counters struct {
	Evicted, EvictedBytes int64 // blocks dropped to make room, and their bytes
	Filled, FilledBytes   int64 // pages
	Written, WrittenBytes int64 // blocks finished by writers
	ReadBytes             int64
	Corrupt               int64 // chunks that failed their checksum
	Orphans               int64 // files removed at start because no index knew them
	Missing               int64 // blocks dropped because their file was gone or of another length
	Damaged               int64 // index records that failed their checksum, as runs of damage
	Lost                  int64 // blocks that existed only here and are gone
	FailedDirs            int64
}

// Stats describes the store at one moment.
type Stats struct {
	// Tiers in order. Invariant: Used+Held+Free == Quota in each.
	Tiers       []sluice.TierInfo
	Blocks      int64
	Pinned      int64 // bytes
	Unpersisted int64 // bytes
	Open        int64 // files kept open
	Counters    Counters
}

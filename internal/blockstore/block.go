package blockstore

import (
	"strconv"
	"sync/atomic"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/policy"
)

const (
	chunksPerPage = sluice.PageSize / sluice.ChunkSize
	hugePage      = 2 << 20
	smallPage     = 4096
)

// block is a cached block. A worker may hold many small ones: it is kept at 96
// bytes, and a block of one chunk needs nothing besides.
//
// Fields without a remark are constant once the block is in a shard.
type block struct {
	id     sluice.BlockID
	length int64
	gen    uint64 // names the file within home
	home   *dir

	// words holds, one behind the other, bitmaps of pages present, pages charged and
	// pages filled since the start (guarded by the shard), a bitmap of chunks verified
	// (atomic) and the checksums of the chunks (atomic: a reader that began before a
	// page was found corrupt may look while it is filled again). nil for a block of one chunk, for which flags and sum stand.
	words []uint32
	live  *live         // guarded by the shard; nil while the file is not open
	slot  policy.Slot   // guarded by home
	sum   uint32        // the only chunk's checksum
	flags atomic.Uint32 // changed under the shard, but flagVerified at any time
	refs  atomic.Int32  // changed under the shard; the file is not closed above 0
}

// Bits of block.flags.
const (
	flagPinned uint32 = 1 << iota
	flagUnpersisted
	flagDead     // no longer in the shard; its space is held until refs is 0
	flagIndexed  // its block record is in the index
	flagSeen     // only while opening: its file exists
	flagPresent  // these four only of blocks of one chunk, for their bitmaps
	flagCharged  //
	flagFilled   //
	flagVerified //
	flagPassed   // its shard knows of descriptors that others hold
)

// live is what a block needs while its file is open. Guarded by the shard.
type live struct {
	file    File
	opening chan struct{}           // closed when file or err is set; nil afterwards
	err     error                   //
	filling map[int64]chan struct{} // pages being filled; closed when done
}

func newBlock(id sluice.BlockID, length int64, gen uint64, home *dir) *block {
	b := &block{id: id, length: length, gen: gen, home: home}
	if length > sluice.ChunkSize {
		pw, chunks := b.pageWords(), b.chunks()
		b.words = make([]uint32, 3*pw+bitWords(chunks)+chunks)
	}
	return b
}

func bitWords(n int64) int64 { return (n + 31) / 32 }

func (b *block) pages() int64     { return (b.length + sluice.PageSize - 1) / sluice.PageSize }
func (b *block) chunks() int64    { return (b.length + sluice.ChunkSize - 1) / sluice.ChunkSize }
func (b *block) pageWords() int64 { return bitWords(b.pages()) }

// pageLen is the number of bytes in a page.
func (b *block) pageLen(page int64) int64 {
	return min(sluice.PageSize, b.length-page*sluice.PageSize)
}

// chunkLen is the number of bytes in a chunk.
func (b *block) chunkLen(chunk int64) int64 {
	return min(sluice.ChunkSize, b.length-chunk*sluice.ChunkSize)
}

func (b *block) has(flag uint32) bool { return b.flags.Load()&flag != 0 }
func (b *block) set(flag uint32)      { b.flags.Or(flag) }
func (b *block) unset(flag uint32)    { b.flags.And(^flag) }

// bit is a bitmap of pages, in words or as a flag.
type bit struct {
	flag uint32
	at   int64 // the how-manieth of the bitmaps in words
}

func bitPresent() bit { return bit{flagPresent, 0} }
func bitCharged() bit { return bit{flagCharged, 1} }
func bitFilled() bit  { return bit{flagFilled, 2} }

func (b *block) get(k bit, page int64) bool {
	if b.words == nil {
		return b.has(k.flag)
	}
	return b.words[k.at*b.pageWords()+page/32]&(1<<(page%32)) != 0
}

func (b *block) put(k bit, page int64, on bool) {
	switch {
	case b.words == nil && on:
		b.set(k.flag)
	case b.words == nil:
		b.unset(k.flag)
	case on:
		b.words[k.at*b.pageWords()+page/32] |= 1 << (page % 32)
	default:
		b.words[k.at*b.pageWords()+page/32] &^= 1 << (page % 32)
	}
}

// count is the number of pages in the bitmap.
func (b *block) count(k bit) (n int64) {
	for page := range b.pages() {
		if b.get(k, page) {
			n++
		}
	}
	return n
}

// present is the number of bytes in present pages.
func (b *block) present() (n int64) {
	for page := range b.pages() {
		if b.get(bitPresent(), page) {
			n += b.pageLen(page)
		}
	}
	return n
}

func (b *block) verifiedWord(chunk int64) *uint32 {
	return &b.words[3*b.pageWords()+chunk/32]
}

func (b *block) verified(chunk int64) bool {
	if b.words == nil {
		return b.has(flagVerified)
	}
	return atomic.LoadUint32(b.verifiedWord(chunk))&(1<<(chunk%32)) != 0
}

func (b *block) setVerified(chunk int64, on bool) {
	switch {
	case b.words == nil && on:
		b.set(flagVerified)
	case b.words == nil:
		b.unset(flagVerified)
	case on:
		atomic.OrUint32(b.verifiedWord(chunk), 1<<(chunk%32))
	default:
		atomic.AndUint32(b.verifiedWord(chunk), ^(uint32(1) << (chunk % 32)))
	}
}

// sums are the checksums of all chunks; not to be called for blocks of one chunk.
func (b *block) sums() []uint32 {
	return b.words[3*b.pageWords()+bitWords(b.chunks()):]
}

func (b *block) chunkSum(chunk int64) uint32 {
	if b.words == nil {
		return atomic.LoadUint32(&b.sum)
	}
	return atomic.LoadUint32(&b.sums()[chunk])
}

func (b *block) setSums(page int64, sums []uint32) {
	if b.words == nil {
		atomic.StoreUint32(&b.sum, sums[0])
		return
	}
	into := b.pageSums(page)
	for i, sum := range sums {
		atomic.StoreUint32(&into[i], sum)
	}
}

func (b *block) pageSums(page int64) []uint32 {
	if b.words == nil {
		return []uint32{b.sum}
	}
	all := b.sums()
	return all[page*chunksPerPage : min((page+1)*chunksPerPage, int64(len(all)))]
}

// kept are the flags as the index keeps them.
func (b *block) kept() (flags uint8) {
	if b.has(flagPinned) {
		flags |= keptPinned
	}
	if b.has(flagUnpersisted) {
		flags |= keptUnpersisted
	}
	return flags
}

// charge is the space the charged pages take in home.
func (b *block) charge() (n int64) {
	for page := int64(0); page < b.pages(); page++ {
		if !b.get(bitCharged(), page) {
			continue
		}
		n += b.pageCharge(page)
		if b.hugeUnit(page) {
			page |= 1 // the unit's other page lies in the same allocation
		}
	}
	return n
}

// chargeFor is what charging page adds to the charge.
func (b *block) chargeFor(page int64) int64 {
	if b.get(bitCharged(), page) || b.hugeUnit(page) && b.get(bitCharged(), page^1) {
		return 0
	}
	return b.pageCharge(page)
}

func (b *block) hugeUnit(page int64) bool    { return b.home.hugeUnit(b.length, page) }
func (b *block) pageCharge(page int64) int64 { return b.home.pageCharge(b.length, page) }

// hugeUnit says whether the page of a block lies in a huge page: in 2 MiB that are
// wholly within the file's length, as huge=within_size has it.
func (d *dir) hugeUnit(length, page int64) bool {
	return d.huge && (page|1)*sluice.PageSize+sluice.PageSize <= roundUp(length, smallPage)
}

// pageCharge is what the first page charged in an allocation costs.
func (d *dir) pageCharge(length, page int64) int64 {
	if d.hugeUnit(length, page) {
		return hugePage
	}
	return roundUp(min(sluice.PageSize, length-page*sluice.PageSize), d.unit)
}

// fullCharge is what a block of this length takes when every page is present.
func fullCharge(length, unit int64) int64 { return roundUp(length, unit) }

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// appendName appends the block's file name, "id~generation" in hexadecimal. The
// generation makes every file of a directory's life a name of its own, so that
// unlinking one can never hit its successor.
func (b *block) appendName(dst []byte) []byte {
	dst = append(dst, b.id.String()...)
	dst = append(dst, '~')
	return strconv.AppendUint(dst, b.gen, 16)
}

func (b *block) path() string {
	return string(b.appendName([]byte(b.home.path + "/" + blocksDir + "/")))
}

package blockstore

import (
	"cmp"
	"io"
	"slices"
	"sync"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/policy"
)

// dir is one directory of a tier: its space, its order of eviction and its index.
type dir struct {
	tier     int
	path     string
	unit     int64 // allocation unit, bytes
	huge     bool
	volatile bool
	log      *indexLog
	lock     io.Closer
	kick     chan struct{} // wakes the evictor; holds one
	low      int           // percent
	high     int

	mu sync.Mutex
	// Invariant: used is the sum of charges of the blocks here, of what writers
	// reserved and of the index; held that of dead blocks still in use, here or by
	// passed descriptors. used+held <= quota but for the index's growth.
	quota, used, held int64
	index             int64 // the part of used that the index takes
	pinned            int64 // the parts of used that may not be dropped
	unpersisted       int64
	count             int64 // blocks
	nextGen           uint64
	order             policy.Order
	slots             []*block
	free              []policy.Slot
	failed            error         // out of service, and why
	returned          chan struct{} // closed and forgotten when held shrinks; nil while nobody waits
	deaf              bool          // waiting for held to shrink was in vain, and it has not since
}

// indexSlack is kept free of blocks, so that the index can grow a little.
const indexSlack = 64 << 10

// reserve takes n bytes if they are free, and wakes the evictor when few are left.
func (d *dir) reserve(n int64) bool {
	d.mu.Lock()
	ok := d.failed == nil && n <= d.freeLocked()-indexSlack
	if ok {
		d.used += n
	}
	low := d.freeLocked() < d.shareLocked(d.low)
	d.mu.Unlock()
	if low || !ok {
		d.wake()
	}
	return ok
}

// shareLocked is a percentage of the space that may come and go. Of the whole quota it
// would keep the rest empty once nearly everything is pinned.
func (d *dir) shareLocked(percent int) int64 {
	return max(0, d.quota-d.pinned-d.unpersisted-d.held) / 100 * int64(percent)
}

func (d *dir) wake() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

func (d *dir) freeLocked() int64 { return max(0, d.quota-d.used-d.held) }

// release gives back n reserved bytes.
func (d *dir) release(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed == nil {
		d.used -= n
	}
}

// room is indexLog.room.
func (d *dir) room(n int64) bool {
	if n < 0 {
		d.release(-n)
		return true
	}
	return d.reserve(n)
}

// grown is indexLog.grown.
func (d *dir) grown(size int64) {
	size = roundUp(size, d.unit)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed == nil {
		d.used += size - d.index
		d.index = size
	}
}

// gen returns a fresh generation.
func (d *dir) gen() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nextGen++
	return d.nextGen - 1
}

// admit takes b in: its charge n is reserved already. The caller holds b's shard.
func (d *dir) admit(b *block, n int64, key uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if k := len(d.free); k > 0 {
		b.slot = d.free[k-1]
		d.free = d.free[:k-1]
		d.slots[b.slot] = b
	} else {
		b.slot = policy.Slot(len(d.slots))
		d.slots = append(d.slots, b)
	}
	d.count++
	d.keepLocked(b, n)
	if b.flags.Load()&(flagPinned|flagUnpersisted) == 0 {
		d.order.Admit(b.slot, key)
	}
}

// keepLocked counts n bytes of b where its flags belong.
func (d *dir) keepLocked(b *block, n int64) {
	switch {
	case b.has(flagUnpersisted):
		d.unpersisted += n
	case b.has(flagPinned):
		d.pinned += n
	}
}

// charged counts n further bytes of b, which are reserved already.
func (d *dir) charged(b *block, n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keepLocked(b, n)
}

// reflag gives b other flags. The caller holds b's shard and knows b to be alive.
func (d *dir) reflag(b *block, set, unset uint32, key uint64) {
	n := b.charge()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keepLocked(b, -n)
	b.set(set)
	b.unset(unset)
	d.keepLocked(b, n)
	if b.flags.Load()&(flagPinned|flagUnpersisted) == 0 {
		d.order.Admit(b.slot, key)
	} else {
		d.order.Remove(b.slot)
	}
}

// bury turns the charge of b from used to held. The caller holds b's shard and has
// marked it dead.
func (d *dir) bury(b *block) {
	n := b.charge()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.order.Remove(b.slot)
	d.slots[b.slot] = nil
	d.free = append(d.free, b.slot)
	d.count--
	d.keepLocked(b, -n)
	if d.failed == nil {
		d.used -= n
		d.held += n
	}
}

// unhold frees the space of a dead block whose last user let go.
func (d *dir) unhold(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed == nil {
		d.held -= n
	}
	d.deaf = false
	if d.returned != nil {
		close(d.returned)
		d.returned = nil
	}
}

func (d *dir) touch(b *block) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !b.has(flagDead) {
		d.order.Touch(b.slot)
	}
}

// victims returns blocks nobody uses, the best victims first, until they make up for
// need bytes, at most 64: those of which others hold descriptors, or those of which
// nobody does. cold leaves the hotter half of the directory alone.
func (d *dir) victims(need int64, passed, cold bool) []*block {
	d.mu.Lock()
	defer d.mu.Unlock()
	var found []*block
	looked, most := 0, d.order.Len()
	if cold {
		most = (most + 1) / 2
	}
	for slot := range d.order.Victims() {
		if looked++; looked > most {
			break
		}
		b := d.slots[slot]
		if b.refs.Load() != 0 || b.has(flagPassed) != passed {
			continue
		}
		found = append(found, b)
		if need -= roundUp(min(b.length, sluice.PageSize), d.unit); need <= 0 || len(found) == 64 {
			break
		}
	}
	return found
}

// lacks is the number of bytes missing until n are free.
func (d *dir) lacks(n int64) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return 0
	}
	return max(0, n+indexSlack-d.freeLocked())
}

// out says whether the directory is out of service.
func (d *dir) out() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed != nil
}

// fits says whether n bytes would fit if everything that may be dropped were.
func (d *dir) fits(n int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed == nil && n+indexSlack <= d.quota-d.index
}

func (d *dir) spare() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.freeLocked()
}

// sortBySpare puts the directory with the most free space first.
func sortBySpare(dirs []*dir) {
	slices.SortStableFunc(dirs, func(a, b *dir) int { return cmp.Compare(b.spare(), a.spare()) })
}

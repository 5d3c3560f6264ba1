package policy

import "iter"

// Slot is a small dense number that the owner of an [Order] gives to each thing it
// keeps, so that an order costs a few bytes a thing and no map of its own.
type Slot uint32

// Order decides what is evicted next. It is not safe for concurrent use: its owner
// calls it under its own lock, and no call waits for anything.
//
// Things that must stay (pinned, or not safe anywhere else) are removed from the
// order while that lasts, so that looking for a victim never walks over them.
type Order interface {
	// Admit takes slot in. key is a hash of the thing's identity ([Hash]), by which a
	// policy may recognise what it saw evicted. Admitting what is in is a touch.
	Admit(slot Slot, key uint64)
	// Touch notes a use of slot. A slot that is not in stays out.
	Touch(slot Slot)
	// Remove takes slot out. A slot that is not in stays out.
	Remove(slot Slot)
	// Victims yields the slots to evict, the best victim first. The order must not be
	// changed before the iteration has ended.
	Victims() iter.Seq[Slot]
	// Len is the number of slots in the order.
	Len() int
}

// LRU evicts what was used the longest ago. The zero value is empty and ready. It
// needs 8 bytes for every slot up to the highest one seen.
type LRU struct {
	// links is a ring through links[0], which stands for no slot: slot s lies at s+1.
	// Invariant: links[links[i].next].prev == i for every i in the ring; a place that
	// is not in the ring has next == out.
	links []link
	n     int
}

type link struct{ prev, next uint32 }

// out marks a place that is not in the ring.
const out = ^uint32(0)

var _ Order = (*LRU)(nil)

// Admit implements [Order].
func (l *LRU) Admit(slot Slot, _ uint64) {
	i := uint32(slot) + 1
	for len(l.links) <= int(i) {
		l.links = append(l.links, link{out, out})
		if len(l.links) == 1 {
			l.links[0] = link{}
		}
	}
	if l.links[i].next != out {
		l.unlink(i)
	} else {
		l.n++
	}
	l.push(i)
}

// Touch implements [Order].
func (l *LRU) Touch(slot Slot) {
	i := uint32(slot) + 1
	if !l.in(i) || l.links[0].prev == i {
		return
	}
	l.unlink(i)
	l.push(i)
}

// Remove implements [Order].
func (l *LRU) Remove(slot Slot) {
	i := uint32(slot) + 1
	if !l.in(i) {
		return
	}
	l.unlink(i)
	l.links[i] = link{out, out}
	l.n--
}

// Victims implements [Order].
func (l *LRU) Victims() iter.Seq[Slot] {
	return func(yield func(Slot) bool) {
		if len(l.links) == 0 {
			return
		}
		for i := l.links[0].next; i != 0; i = l.links[i].next {
			if !yield(Slot(i - 1)) {
				return
			}
		}
	}
}

// Len implements [Order].
func (l *LRU) Len() int { return l.n }

func (l *LRU) in(i uint32) bool { return int(i) < len(l.links) && l.links[i].next != out }

func (l *LRU) unlink(i uint32) {
	k := l.links[i]
	l.links[k.prev].next = k.next
	l.links[k.next].prev = k.prev
}

// push puts i at the end of the ring, where the most recently used lie.
func (l *LRU) push(i uint32) {
	last := l.links[0].prev
	l.links[i] = link{prev: last, next: 0}
	l.links[last].next = i
	l.links[0].prev = i
}

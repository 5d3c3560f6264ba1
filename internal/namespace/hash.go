package namespace

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// hashEvery is how many entries lie between two marks of the hash.
const hashEvery = 4096

// changeHash is a hash of all changes of rows since the format, in their order. Two
// checksums that the processor computes fast are enough: it is to find members that went
// apart by a defect, not by intent.
type changeHash struct{ castagnoli, ieee uint32 }

// add returns the hash with a change of a row; no value is its removal.
func (h changeHash) add(key string, value []byte) changeHash {
	var head [2 * binary.MaxVarintLen64]byte
	b := binary.AppendUvarint(head[:0], uint64(len(key)))
	b = binary.AppendUvarint(b, uint64(len(value)))
	for _, part := range [][]byte{b, []byte(key), value} {
		h.castagnoli = crc32.Update(h.castagnoli, crc32.MakeTable(crc32.Castagnoli), part)
		h.ieee = crc32.Update(h.ieee, crc32.IEEETable, part)
	}
	return h
}

// number is the hash in one.
func (h changeHash) number() uint64 { return uint64(h.castagnoli)<<32 | uint64(h.ieee) }

// hashOf is the inverse of number.
func hashOf(n uint64) changeHash { return changeHash{uint32(n >> 32), uint32(n)} }

// Mark returns the last index at which the hash of all changes was noted, and that
// hash, for CheckHash; 0 is none. Every member notes it at the same indexes.
func (s *State) Mark() (sluice.Index, uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.meta.mark, s.meta.markHash.number()
}

// checkHash is CheckHash: a member whose changes up to the index were others than the
// primary's stops. An index that is not its last mark says nothing.
func (w *writer) checkHash(c *wire.CheckHash) (*wire.Answer, error) {
	if index := sluice.Index(c.Index); index != 0 && index == w.meta.mark && c.Hash != w.meta.markHash.number() {
		w.broken = fail(sluice.Corrupt, "the changes up to entry %d have the hash %016x, those of the primary %016x: this member's state went apart from the others'; move its directory away and seed it again from another member or a backup",
			index, w.meta.markHash.number(), c.Hash)
		return nil, w.broken
	}
	return &wire.Answer{}, nil
}

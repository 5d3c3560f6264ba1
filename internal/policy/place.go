package policy

import (
	"cmp"
	"math"
	"slices"

	"github.com/sluicefs/sluice"
)

// Rank returns the ids of workers in the order in which they should hold, and be
// asked for, the block: weighted rendezvous hashing (Thaler and Ravishankar 1998,
// weights after Schindelhauer and Schomaker 2005). The order depends on ids and
// weights only, not on the order of workers, so that everybody who has the same view
// reaches the same answer. When a worker joins or leaves, only blocks that it wins
// or held change their first place; the others keep their relative order.
//
// A worker whose weight is not above 0 comes after all others, in hash order. The
// result is fresh and the caller's.
func Rank(block sluice.BlockID, workers []sluice.WorkerInfo) []sluice.WorkerID {
	if len(workers) == 0 {
		return nil
	}
	seed := blockSeed(block)
	all := make([]scored, len(workers))
	for i := range workers {
		all[i] = scored{score(seed, &workers[i]), workers[i].ID}
	}
	slices.SortFunc(all, scored.compare)
	ids := make([]sluice.WorkerID, len(all))
	for i, s := range all {
		ids[i] = s.id
	}
	return ids
}

// Home returns the first of [Rank] without sorting or allocating, and false where
// there are no workers.
func Home(block sluice.BlockID, workers []sluice.WorkerInfo) (sluice.WorkerID, bool) {
	if len(workers) == 0 {
		return 0, false
	}
	seed := blockSeed(block)
	best := scored{score(seed, &workers[0]), workers[0].ID}
	for i := 1; i < len(workers); i++ {
		s := scored{score(seed, &workers[i]), workers[i].ID}
		if s.compare(best) < 0 {
			best = s
		}
	}
	return best.id, true
}

// Hash returns a well-mixed 64-bit hash of a block id, equal in every process. It
// is no protection against an adversary.
func Hash(block sluice.BlockID) uint64 { return mix(blockSeed(block)) }

type scored struct {
	score float64
	id    sluice.WorkerID
}

// compare orders by falling score, then by id so that the order is total.
func (s scored) compare(t scored) int {
	return cmp.Or(cmp.Compare(t.score, s.score), cmp.Compare(s.id, t.id))
}

// score is -weight/ln(u) for u uniform in (0, 1): the highest of several such scores
// belongs to a worker with a probability proportional to its weight.
func score(seed uint64, w *sluice.WorkerInfo) float64 {
	h := mix(seed ^ mix(uint64(w.ID)+0x9e3779b97f4a7c15))
	u := (float64(h>>11) + 0.5) / (1 << 53)
	if !(w.Weight > 0) {
		return u - 1 // below every score of a weighted worker
	}
	return -min(w.Weight, math.MaxFloat32) / math.Log(u)
}

func blockSeed(b sluice.BlockID) uint64 {
	h := mix(uint64(b.Content.Incarnation) + 0x9e3779b97f4a7c15)
	h = mix(h ^ b.Content.Counter)
	return mix(h ^ uint64(b.Index)<<32 ^ 0xd6e8feb86659fd93)
}

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection in which
// every input bit changes every output bit with probability one half.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	x ^= x >> 31
	return x
}

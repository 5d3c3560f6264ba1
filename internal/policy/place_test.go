package policy

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sluicefs/sluice"
)

func workers(n int) []sluice.WorkerInfo {
	r := rand.New(rand.NewPCG(1, 2))
	all := make([]sluice.WorkerInfo, n)
	for i := range all {
		all[i] = sluice.WorkerInfo{ID: sluice.WorkerID(r.Uint64()), Weight: 1}
	}
	return all
}

func block(i int) sluice.BlockID {
	return sluice.BlockID{Content: sluice.ContentID{Incarnation: 99, Counter: uint64(i / 8)}, Index: uint32(i % 8)}
}

const blocks = 20_000

// When one of n workers leaves, the blocks it had move and no others do, and it had
// about 1/n of them; the next in a block's order becomes its home. Read backwards the
// same is true of a worker that joins.
func TestRankMovesLittle(t *testing.T) {
	for _, n := range []int{2, 5, 20} {
		all := workers(n)
		gone := all[n/2].ID
		rest := slices.DeleteFunc(slices.Clone(all), func(w sluice.WorkerInfo) bool { return w.ID == gone })
		moved := 0
		for i := range blocks {
			before, after := Rank(block(i), all), Rank(block(i), rest)
			want := slices.DeleteFunc(slices.Clone(before), func(id sluice.WorkerID) bool { return id == gone })
			if !slices.Equal(after, want) {
				t.Fatalf("block %d: order %v became %v", i, before, after)
			}
			if before[0] != after[0] {
				moved++
			}
		}
		if limit := blocks/n + blocks/50; moved > limit {
			t.Errorf("%d of %d blocks moved with one of %d workers, want at most %d", moved, blocks, n, limit)
		}
	}
}

func TestRankFollowsWeights(t *testing.T) {
	all := workers(4)
	for i := range all {
		all[i].Weight = float64(i) // 0, 1, 2, 3
	}
	homes := map[sluice.WorkerID]int{}
	for i := range blocks {
		rank := Rank(block(i), all)
		homes[rank[0]]++
		if rank[3] != all[0].ID {
			t.Fatalf("block %d: a worker of no weight is not the last: %v", i, rank)
		}
	}
	for i := range all {
		want := blocks * i / 6
		if got := homes[all[i].ID]; got < want-blocks/50 || got > want+blocks/50 {
			t.Errorf("weight %d: home of %d blocks, want about %d", i, got, want)
		}
	}
}

// Everybody with the same view reaches the same answer, whatever order it came in,
// and Home is the first of Rank.
func TestRankDependsOnTheSetOnly(t *testing.T) {
	all := workers(9)
	all[3].Weight, all[4].Weight = 0, 0
	shuffled := slices.Clone(all)
	slices.Reverse(shuffled)
	for i := range 1000 {
		a, b := Rank(block(i), all), Rank(block(i), shuffled)
		home, ok := Home(block(i), all)
		if !slices.Equal(a, b) || !ok || home != a[0] {
			t.Fatalf("block %d: %v, %v, home %v", i, a, b, home)
		}
	}
	if _, ok := Home(block(1), nil); ok || Rank(block(1), nil) != nil {
		t.Error("no workers must rank nobody")
	}
	// Clusters of all versions must agree: these may never change.
	three := []sluice.WorkerInfo{{ID: 1, Weight: 1}, {ID: 2, Weight: 2}, {ID: 3, Weight: 1}}
	var got []sluice.WorkerID
	for i := range 12 {
		id, _ := Home(block(i), three)
		got = append(got, id)
	}
	if want := goldenHomes(); !slices.Equal(got, want) {
		t.Errorf("homes %v, want %v", got, want)
	}
}

func BenchmarkHome(b *testing.B) {
	all := workers(20)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		Home(block(i), all)
		i++
	}
}

// goldenHomes are the homes of the first twelve blocks among three workers.
func goldenHomes() []sluice.WorkerID { return []sluice.WorkerID{2, 3, 2, 3, 2, 2, 2, 1, 3, 2, 2, 2} }

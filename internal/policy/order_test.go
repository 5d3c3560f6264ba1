package policy

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// LRU against the obvious list.
func TestLRU(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var (
			lru   LRU
			model []Slot // the least recently used first
		)
		drop := func(s Slot) bool {
			i := slices.Index(model, s)
			if i >= 0 {
				model = slices.Delete(model, i, i+1)
			}
			return i >= 0
		}
		slot := rapid.Map(rapid.IntRange(0, 12), func(i int) Slot { return Slot(i * i) })
		t.Repeat(map[string]func(*rapid.T){
			"admit": func(t *rapid.T) {
				s := slot.Draw(t, "slot")
				drop(s)
				model = append(model, s)
				lru.Admit(s, 0)
			},
			"touch": func(t *rapid.T) {
				s := slot.Draw(t, "slot")
				if drop(s) {
					model = append(model, s)
				}
				lru.Touch(s)
			},
			"remove": func(t *rapid.T) {
				s := slot.Draw(t, "slot")
				drop(s)
				lru.Remove(s)
			},
			"": func(t *rapid.T) {
				if got := slices.Collect(lru.Victims()); !slices.Equal(got, model) || lru.Len() != len(model) {
					t.Fatalf("victims %v, length %d, want %v", got, lru.Len(), model)
				}
			},
		})
	})
}

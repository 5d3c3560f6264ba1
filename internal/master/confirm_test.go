package master

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// A file that was written not long ago stays while a listing does not show it yet, its
// directory with it; one that is gone from the store goes.
func TestALateListingHidesNothing(t *testing.T) {
	for _, late := range []bool{true, false} {
		t.Run(fmt.Sprint("late listings ", late), func(t *testing.T) {
			d := newDesk(t, nil)
			mem := d.mountMem("/m", "b", underfstest.Options{LateListings: late}, sluice.MountOptions{})
			var all []string
			for i := range 40 {
				name := fmt.Sprintf("f%02d", i)
				mem.Put(underfs.Key("d/"+name), []byte("x"))
				all = append(all, name)
			}
			if got := d.names("/m/d", 100, sluice.Always()); !slices.Equal(got, all) {
				t.Fatalf("listed %v", got)
			}
			hide := []underfs.Key{"d/f03", "d/f17", "d/f39"}
			mem.Unlist(hide...)
			mem.Remove("d/f39")
			want := 40 - 1
			if !late {
				want = 40 - 3
			}
			if got := d.names("/m/d", 100, sluice.Always()); len(got) != want || slices.Contains(got, "f39") {
				t.Errorf("%d names, want %d without f39", len(got), want)
			}
			mem.Unlist(mem.Keys()...)
			if late {
				if got := d.names("/m/d", 100, sluice.Always()); len(got) != want {
					t.Errorf("with a listing of nothing: %d names, want %d", len(got), want)
				}
			}
		})
	}
}

// What was written long ago is not asked for one by one: its absence is believed.
func TestALateListingIsBelievedOfOldFiles(t *testing.T) {
	later := time.Duration(0)
	d := newDesk(t, func(c *Config) { c.Wall = func() time.Time { return time.Now().Add(later) } })
	mem := d.mountMem("/m", "b", underfstest.Options{LateListings: true}, sluice.MountOptions{})
	mem.Put("a", []byte("x"))
	mem.Put("b", []byte("x"))
	d.names("/m", 10, sluice.Always())
	mem.Unlist("b")
	later = 2 * lateness
	stats := mem.Calls(underfs.OpStat)
	if got := d.names("/m", 10, sluice.Always()); !slices.Equal(got, []string{"a"}) || mem.Calls(underfs.OpStat) != stats {
		t.Errorf("listed %v with %d questions, want a without any", got, mem.Calls(underfs.OpStat)-stats)
	}
}

package master

import (
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// TestTheEndOfATimeToLiveLosesNothing: freeing lets go of what the store has, never of
// the only copy or of what is pinned; deleting lets go of it with the file.
func TestTheEndOfATimeToLiveLosesNothing(t *testing.T) {
	d := newDesk(t, nil)
	ctx := t.Context()
	d.beat(5)
	mem := d.mountMem("/m", "b", underfstest.Options{SmallUpload: -1}, sluice.MountOptions{})
	for _, f := range []struct {
		name    string
		make    func() sluice.FileInfo
		action  sluice.TTLAction
		pinned  bool
		dropped int
	}{
		{"free the only copy", func() sluice.FileInfo { return d.put("/only", 100) }, sluice.TTLFree, false, 0},
		{"free what the store has", func() sluice.FileInfo { return must(d.through(mem, "/m/f", "f", "bytes")) }, sluice.TTLFree, false, 1},
		{"free what is pinned", func() sluice.FileInfo { return must(d.through(mem, "/m/p", "p", "bytes")) }, sluice.TTLFree, true, 0},
		{"delete the only copy", func() sluice.FileInfo { return d.put("/gone", 100) }, sluice.TTLDelete, false, 1},
	} {
		info := f.make()
		_, err := d.SetAttr(ctx, d.call(), info.Path, sluice.AttrChange{TTL: new(time.Millisecond), TTLAction: new(f.action), Pinned: new(f.pinned)})
		d.want(f.name, err)
		d.eventually(f.name, func() bool {
			now, there := d.state.FileByID(info.ID)
			return !there || now.TTL == 0
		})
		d.want("another change", d.expireTTL(ctx, new(string))) // nothing of the first is under way when it returns
		orders := 0
		for wait := time.Duration(f.dropped) * 10 * time.Second; ; wait = 0 {
			got, err := d.fleet.Ask(ctx, 5, nil, max(wait, 20*time.Millisecond))
			d.want("ask", err)
			if len(got) == 0 {
				break
			}
			orders += len(got)
		}
		if orders != f.dropped {
			t.Errorf("%s: %d orders to drop blocks, want %d", f.name, orders, f.dropped)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

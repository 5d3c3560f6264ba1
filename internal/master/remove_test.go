package master

import (
	"fmt"
	"testing"

	"github.com/sluicefs/sluice"
)

// TestARecursiveRemovalIsJudgedWhole: one entry that its owner protects saves a tree
// from others, also where it lies behind more entries than one command looks at.
func TestARecursiveRemovalIsJudgedWhole(t *testing.T) {
	d := newDesk(t, nil)
	ctx := t.Context()
	ann := sluice.Principal{User: "ann", Groups: []string{"staff"}}
	as := func(p sluice.Principal) sluice.Call {
		c := d.call()
		c.Principal = p
		return c
	}
	mkdir := func(c sluice.Call, path sluice.Path, mode sluice.Mode) {
		t.Helper()
		_, err := d.Mkdir(ctx, c, path, sluice.MkdirOptions{Mode: mode})
		d.want("mkdir "+string(path), err)
	}
	mkdir(d.call(), "/pub", 0o777)
	mkdir(as(ann), "/pub/a", 0o777)
	for i := range 1200 {
		_, err := d.Create(ctx, as(ann), sluice.Path(fmt.Sprintf("/pub/a/f%04d", i)), sluice.CreateOptions{Empty: true}, 0)
		d.want("create", err)
	}
	bob := sluice.Principal{User: "bob", Groups: []string{"staff"}}
	mkdir(as(bob), "/pub/a/z", 0o700)
	_, err := d.Create(ctx, as(bob), "/pub/a/z/kept", sluice.CreateOptions{Empty: true}, 0)
	d.want("create", err)
	all := sluice.RemoveOptions{Recursive: true}
	d.want("remove what bob protects", d.Remove(ctx, as(ann), "/pub/a", all), sluice.Permission)
	_, err = d.Stat(ctx, d.read(), "/pub/a/z/kept", sluice.StatOptions{})
	d.want("stat of what was protected", err)
	d.want("remove by bob", d.Remove(ctx, as(bob), "/pub/a/z", all))
	again := as(ann)
	d.want("remove", d.Remove(ctx, again, "/pub/a", all))
	d.want("remove, sent again", d.Remove(ctx, again, "/pub/a", all))
}

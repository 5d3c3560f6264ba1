package fuse

import (
	"maps"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// excluded are the checks of go-fuse's suite that ask for what is refused by design.
func excluded() map[string]string {
	return map[string]string{
		"Link":                "hard links: the namespace gives an inode one name",
		"LinkUnlinkRename":    "hard links",
		"OpenSymlinkRace":     "a name that is replaced without a pause while it is opened: one open in some hundreds meets two replacements and gets ESTALE (docs/mount.md)",
		"FcntlFlockLocksFile": "expects one process to conflict with itself, which POSIX locks never do (a plain directory fails it too)",
	}
}

func TestPOSIX(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
		t.Run(name, func(t *testing.T) {
			if why := excluded()[name]; why != "" {
				t.Skip(why)
			}
			_, at := mounted(t, inMemory(), nil)
			posixtest.All[name](t, at)
		})
	}
}

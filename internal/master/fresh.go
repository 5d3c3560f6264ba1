package master

import (
	"sync"
	"time"

	"github.com/sluicefs/sluice"
)

// maxAsked bounds each of the two generations of what was asked lately.
const maxAsked = 1 << 16

// asked remembers when the store was last asked about a path, and how far the listing
// of a directory has come. It is soft: whoever is not in it is asked about again. What
// the answer was stands in the tree, so that absence needs no entry of its own and is
// forgotten the moment the name is made.
type asked struct {
	mu       sync.Mutex
	paths    generations[time.Duration] // guarded by mu: path -> boot time of the asking
	listings generations[listing]       // guarded by mu: directory -> how far
}

// listing says that a directory's names up to upto ("" with done: all) were asked for,
// no part of them before since.
type listing struct {
	since time.Duration
	upto  string
	done  bool
}

// covers says whether name lies in what was listed.
func (l listing) covers(name string) bool { return l.done || name <= l.upto }

// generations is a map that forgets in two steps: when the young half is full, it
// becomes the old half and the old half is dropped.
type generations[V any] struct{ young, old map[sluice.Path]V }

func (g *generations[V]) get(p sluice.Path) (V, bool) {
	if v, ok := g.young[p]; ok {
		return v, true
	}
	v, ok := g.old[p]
	return v, ok
}

func (g *generations[V]) put(p sluice.Path, v V) {
	if g.young == nil || len(g.young) >= maxAsked {
		g.old, g.young = g.young, make(map[sluice.Path]V)
	}
	g.young[p] = v
}

func (g *generations[V]) drop(p sluice.Path) {
	delete(g.young, p)
	delete(g.old, p)
}

// path returns when the store was last asked about p: by itself, or in a listing of its
// directory. ok is false where it is not known.
func (a *asked) path(p sluice.Path) (at time.Duration, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok = a.paths.get(p)
	if l, listed := a.listings.get(p.Parent()); listed && l.covers(p.Name()) && (!ok || l.since > at) {
		return l.since, true
	}
	return at, ok
}

// sawPath notes that p was asked about at the time at.
func (a *asked) sawPath(p sluice.Path, at time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.paths.put(p, at)
}

// listing returns how far the listing of dir has come.
func (a *asked) listing(dir sluice.Path) (listing, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.listings.get(dir)
}

// sawPage notes that the names of dir in (after, upto] were asked for at the time at.
// done: that is the end of the directory.
func (a *asked) sawPage(dir sluice.Path, after, upto string, done bool, at time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l, ok := a.listings.get(dir)
	switch {
	case after == "":
		l = listing{since: at}
	case !ok || !l.covers(after):
		return // a page out of the middle says nothing about the start
	}
	if upto > l.upto {
		l.upto = upto
	}
	l.done = l.done || done
	a.listings.put(dir, l)
}

// forget drops what is known of a path as a name and as a directory.
func (a *asked) forget(p sluice.Path) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.paths.drop(p)
	a.listings.drop(p)
	a.listings.drop(p.Parent())
}

// forgetAll drops everything, as when the mount table changed.
func (a *asked) forgetAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.paths, a.listings = generations[time.Duration]{}, generations[listing]{}
}

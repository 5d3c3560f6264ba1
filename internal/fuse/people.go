package fuse

import (
	"os/user"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
)

// nobody is shown for names that this host does not know.
const nobody = 65534

// peopleFor is how long an answer of the host's user database is remembered, peopleMost
// how many of them.
const (
	peopleFor  = time.Minute
	peopleMost = 4096
)

// people translates between the kernel's numbers and the names of owners and groups, by
// the host's user database. A number without a name is "#1234", and back.
type people struct {
	super uint32 // the uid that acts as the superuser

	mu    sync.Mutex
	since time.Time                      // guarded by mu: when the maps were emptied last
	who   map[[2]uint32]sluice.Principal // guarded by mu: by uid and gid
	uids  map[string]uint32              // guarded by mu
	gids  map[string]uint32              // guarded by mu
	names map[uint32]string              // guarded by mu: of groups
}

// freshLocked forgets what is old or too much.
func (p *people) freshLocked() {
	if p.who != nil && time.Since(p.since) < peopleFor && len(p.who)+len(p.uids)+len(p.gids)+len(p.names) < peopleMost {
		return
	}
	p.since = time.Now()
	p.who, p.uids, p.gids, p.names = map[[2]uint32]sluice.Principal{}, map[string]uint32{}, map[string]uint32{}, map[uint32]string{}
}

// remember returns the value under key, making it without holding the lock.
func remember[K comparable, V any](p *people, in func() map[K]V, key K, make func(K) V) V {
	p.mu.Lock()
	p.freshLocked()
	v, ok := in()[key]
	p.mu.Unlock()
	if ok {
		return v
	}
	v = make(key)
	p.mu.Lock()
	p.freshLocked()
	in()[key] = v
	p.mu.Unlock()
	return v
}

// principal returns who calls with these numbers. Groups are those of the user database,
// the caller's own group first.
func (p *people) principal(uid, gid uint32) sluice.Principal {
	return remember(p, func() map[[2]uint32]sluice.Principal { return p.who }, [2]uint32{uid, gid}, func([2]uint32) sluice.Principal {
		c := sluice.Principal{User: number(uid), Groups: []string{p.group(gid)}, Super: uid == p.super}
		u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
		if err != nil {
			return c
		}
		c.User = u.Username
		ids, err := u.GroupIds()
		if err != nil {
			return c
		}
		for _, id := range ids {
			if n, err := strconv.ParseUint(id, 10, 32); err == nil && uint32(n) != gid {
				c.Groups = append(c.Groups, p.group(uint32(n)))
			}
		}
		return c
	})
}

// owner returns the name of a user.
func (p *people) owner(uid uint32) string {
	return p.principal(uid, nobody).User
}

// group returns the name of a group.
func (p *people) group(gid uint32) string {
	return remember(p, func() map[uint32]string { return p.names }, gid, func(uint32) string {
		if g, err := user.LookupGroupId(strconv.FormatUint(uint64(gid), 10)); err == nil {
			return g.Name
		}
		return number(gid)
	})
}

// uid returns the number of a user's name.
func (p *people) uid(name string) uint32 {
	return remember(p, func() map[string]uint32 { return p.uids }, name, func(string) uint32 {
		u, err := user.Lookup(name)
		if err != nil {
			return fromNumber(name)
		}
		return parseID(u.Uid)
	})
}

// gid returns the number of a group's name.
func (p *people) gid(name string) uint32 {
	return remember(p, func() map[string]uint32 { return p.gids }, name, func(string) uint32 {
		g, err := user.LookupGroup(name)
		if err != nil {
			return fromNumber(name)
		}
		return parseID(g.Gid)
	})
}

// number is the name of what has none.
func number(id uint32) string { return "#" + strconv.FormatUint(uint64(id), 10) }

func fromNumber(name string) uint32 {
	if text, ok := strings.CutPrefix(name, "#"); ok {
		return parseID(text)
	}
	return nobody
}

func parseID(text string) uint32 {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return nobody
	}
	return uint32(n)
}

package local

import (
	"os/user"
	"strconv"
	"strings"
	"sync"
)

// maxOwners bounds the names kept in memory; beyond it the table starts anew.
const maxOwners = 4096

// owners remembers the names of numeric ids: looking one up reads /etc/passwd.
type owners struct {
	mu     sync.Mutex
	users  map[uint32]string // guarded by mu
	groups map[uint32]string // guarded by mu
}

// user returns the name of uid, "#uid" for an unknown one.
func (o *owners) user(uid uint32) string {
	return o.name(&o.users, uid, func(id string) (string, error) {
		u, err := user.LookupId(id)
		if err != nil {
			return "", err
		}
		return u.Username, nil
	})
}

// group returns the name of gid, "#gid" for an unknown one.
func (o *owners) group(gid uint32) string {
	return o.name(&o.groups, gid, func(id string) (string, error) {
		g, err := user.LookupGroupId(id)
		if err != nil {
			return "", err
		}
		return g.Name, nil
	})
}

// name returns the remembered name of id or looks it up.
func (o *owners) name(m *map[uint32]string, id uint32, lookup func(string) (string, error)) string {
	o.mu.Lock()
	n, ok := (*m)[id]
	o.mu.Unlock()
	if ok {
		return n
	}
	text := strconv.FormatUint(uint64(id), 10)
	n, err := lookup(text)
	if err != nil {
		n = "#" + text
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if *m == nil || len(*m) >= maxOwners {
		*m = make(map[uint32]string)
	}
	(*m)[id] = n
	return n
}

// userID returns the number of a user's name or of "#number".
func userID(name string) (int, bool) {
	return number(name, func() (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
}

// groupID returns the number of a group's name or of "#number".
func groupID(name string) (int, bool) {
	return number(name, func() (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
}

// number parses "#number" or what lookup returns.
func number(name string, lookup func() (string, error)) (int, bool) {
	text, ok := strings.CutPrefix(name, "#")
	if !ok {
		var err error
		if text, err = lookup(); err != nil {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(text, 10, 31)
	return int(n), err == nil
}

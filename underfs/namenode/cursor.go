package namenode

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// maxCursors is how many places are remembered at which pages of listings end.
const maxCursors = 256

// tick is how long after a directory's time was asked another change of it may still have
// the same time.
const tick = 2 * time.Millisecond

// scan is one pass over a directory in the name node's order, and as a cursor the place
// where a later page may take it up: everything that the name node lists up to from has a
// key of at most last.
type scan struct {
	dir   string
	id    uint64 // of the directory
	mtime int64  // of the directory, when the pass began
	asked time.Time
	at    string // the name that the pass has come to
	from  string
	last  underfs.Key
}

// cursors remembers where pages ended. A cursor counts only while the directory's mtime is
// what it was when the pass over it began: every name that comes or goes changes it, and a
// new name may sort before from for the name node and behind last for us. Then the page is
// found by reading the directory from its start.
type cursors struct {
	mu  sync.Mutex
	all []scan // guarded by mu; oldest first
}

// begin starts a pass over dir for what lies behind after; with deep also for what lies
// below a directory in which after lies.
func (c *cursors) begin(ctx context.Context, n Node, dir string, prefix, after underfs.Key, deep bool) (*scan, error) {
	now := time.Now()
	st, err := n.Stat(ctx, dir)
	if err != nil {
		return nil, err
	}
	if !st.Dir {
		return nil, &sluice.Error{Kind: sluice.NotDirectory, Err: errNoDirectory}
	}
	s := &scan{dir: dir, id: st.ID, mtime: st.Mtime, asked: now, last: prefix}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.all {
		k := &c.all[i]
		if deep && isDirKey(k.last) && strings.HasPrefix(string(after), string(k.last)) {
			continue
		}
		if k.dir == dir && k.id == st.ID && k.mtime == st.Mtime && k.last <= after && k.last > s.last {
			s.at, s.from, s.last, s.asked = k.from, k.from, k.last, k.asked
		}
	}
	return s, nil
}

// keep remembers a pass that ended because its page was full.
func (c *cursors) keep(s *scan) {
	if s.from == "" || time.Since(s.asked) < tick {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = slices.DeleteFunc(c.all, func(o scan) bool {
		return o.dir == s.dir && (o.id != s.id || o.mtime != s.mtime || o.last == s.last)
	})
	if len(c.all) >= maxCursors {
		c.all = slices.Delete(c.all, 0, 1)
	}
	c.all = append(c.all, *s)
}

package namespace

import (
	"slices"
	"strings"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// all calls f for every row of a table.
func all(v view, tag byte, f func(key string, r row) (bool, error)) error {
	return v.scan([]byte{tag}, []byte{tag + 1}, f)
}

// Intents returns the open intents in the order of their ids.
func (s *State) Intents() ([]Intent, error) {
	var out []Intent
	err := s.lookAt(func(v view) error {
		return all(v, tagIntent, func(_ string, r row) (bool, error) {
			out = append(out, r.(*intentRow).Intent)
			return true, nil
		})
	})
	return out, err
}

// Intent returns an open intent.
func (s *State) Intent(id uint64) (i Intent, ok bool, err error) {
	err = s.look(func(v view) error {
		r, err := as[intentRow](v.get(key64(tagIntent, id)))
		if ok = r != nil; ok {
			i = r.Intent
		}
		return err
	})
	return i, ok, err
}

// Remembered says what is known of a request, so that one sent again need not be
// proposed. With RequestPending the answer names the intent.
func (s *State) Remembered(r sluice.RequestID) (*wire.Answer, RequestState, error) {
	var a *wire.Answer
	state := RequestUnseen
	err := s.look(func(v view) error {
		a, state = nil, RequestUnseen
		session, err := as[sessionRow](v.get(key64(tagSession, uint64(r.Session))))
		if err != nil {
			return err
		}
		if session == nil || r.Seq < r.Lowest || r.Seq < session.lowest {
			state = RequestUnknown
			return nil
		}
		row, err := as[answerRow](v.get(key128(tagAnswer, uint64(r.Session), r.Seq)))
		if err != nil || row == nil {
			return err
		}
		a, state = row.decode(), RequestKnown
		if row.intent != 0 {
			state = RequestPending
		}
		return nil
	})
	return a, state, err
}

// SessionCount returns how many client sessions there are.
func (s *State) SessionCount() int { return int(s.sessions.Load()) }

// Sessions returns the client sessions.
func (s *State) Sessions() ([]SessionRow, error) {
	var out []SessionRow
	err := s.lookAt(func(v view) error {
		return all(v, tagSession, func(key string, r row) (bool, error) {
			x := r.(*sessionRow)
			out = append(out, SessionRow{
				ID: sluice.SessionID(be64(key, 1)), Epoch: sluice.Epoch(x.epoch), User: x.user, Opened: time.Duration(x.opened),
			})
			return true, nil
		})
	})
	return out, err
}

// Detached returns what is out of the tree and to be reaped.
func (s *State) Detached() ([]DetachedRow, error) {
	var out []DetachedRow
	err := s.lookAt(func(v view) error {
		return all(v, tagDetached, func(key string, r row) (bool, error) {
			x := r.(*detachedRow)
			out = append(out, DetachedRow{ID: be64(key, 1), Mount: x.mount, Intent: x.intent, Path: x.path, Since: time.Duration(x.since)})
			return true, nil
		})
	})
	return out, err
}

// DetachedPage returns the first limit inodes of a detached subtree, in the order in
// which Reap takes them; none where nothing is left.
func (s *State) DetachedPage(id uint64, limit int) ([]DetachedEntry, error) {
	var out []DetachedEntry
	err := s.lookAt(func(v view) error {
		_, root, err := detachedRoot(v, id)
		if err != nil || root == nil {
			return err
		}
		_, err = postOrder(v, *root, func(l leaf) (bool, error) {
			if len(out) >= limit {
				return false, nil
			}
			e := DetachedEntry{File: l.node.id, Dir: l.node.dir(), Key: l.key, Version: l.node.version}
			e.Stored = l.node.inStore() && (l.node.has(flagComplete) || !l.node.file()) && !(l.node.has(flagSymlink) && !l.node.has(flagStoreLink))
			if e.Dir {
				e.Key += "/"
			}
			out = append(out, e)
			return true, nil
		})
		return err
	})
	return out, err
}

// Moves returns up to limit objects behind the cursor after ("" is the start) that the
// intent, an [OpMoveTree], still has to bring over.
func (s *State) Moves(intent uint64, after string, limit int) ([]Move, error) {
	var out []Move
	err := s.lookAt(func(v view) error {
		r, err := as[intentRow](v.get(key64(tagIntent, intent)))
		if err != nil || r == nil || r.Op != OpMoveTree {
			return err
		}
		p, err := locate(v, r.File)
		if err != nil || !p.found() {
			return err
		}
		m := moves{v: v, old: strings.TrimSuffix(r.Key, "/"), after: after, limit: limit, mount: p.mount}
		_, err = m.below(&p, "")
		out = m.out
		return err
	})
	return out, err
}

// moves collects what lies under an old key.
type moves struct {
	v     view
	old   string
	after string
	limit int
	mount *mountRow
	out   []Move
}

// below walks a directory, entries in order of their names, each directory's own
// content in its place, behind the cursor; rel is its path below the moved one.
func (m *moves) below(dir *place, rel string) (bool, error) {
	on := true
	first, rest, within := strings.Cut(m.after, "/")
	start := ""
	if m.after != "" {
		start = first
	}
	visit := func(name string, n *node) (bool, error) {
		c := dir.childPlace(m.v, name, n)
		path := joinKey(rel, name)
		if n.dir() {
			if name != start {
				m.after = ""
			}
			var err error
			on, err = m.below(&c, path)
			return on, err
		}
		m.after = ""
		if len(m.out) >= m.limit {
			on = false
			return false, nil
		}
		if key := c.key(); n.inStore() && (n.has(flagComplete) || n.has(flagStoreLink)) && below(m.old, key) && key != c.ownKey() {
			m.out = append(m.out, Move{File: n.id, From: key, To: c.ownKey(), Version: n.version, Path: path})
		}
		return true, nil
	}
	if within { // the cursor lies inside the entry start
		n, err := child(m.v, dir.node.id, start)
		if err != nil {
			return false, err
		}
		if m.after = rest; n != nil && n.dir() {
			if _, err := visit(start, n); err != nil || !on {
				return false, err
			}
		}
	}
	m.after = ""
	if err := children(m.v, dir.node.id, start, visit); err != nil {
		return false, err
	}
	return on, nil
}

// DueTTL returns up to limit inodes whose time to live has passed at journal time tick,
// from the cursor that an earlier call returned ("" is the start), and the cursor to go on
// with, "" where there are no more: who begins again each time would see those in the way
// of all others that cannot be ended yet.
func (s *State) DueTTL(tick time.Duration, cursor string, limit int) (out []TTLDue, next string, err error) {
	lo := []byte{tagTTL}
	if cursor != "" {
		lo = []byte(cursor)
	}
	err = s.lookAt(func(v view) error {
		return v.scan(lo, key64(tagTTL, uint64(tick)+1), func(key string, _ row) (bool, error) {
			if len(out) >= limit {
				next = key
				return false, nil
			}
			p, err := locate(v, sluice.FileID(be64(key, 9)))
			if err == nil && p.found() && p.node.ttl != nil {
				out = append(out, TTLDue{p.node.id, p.node.ttl.epoch, p.node.ttl.action})
			}
			return true, err
		})
	})
	return out, next, err
}

// Verdict says what a worker may do with a never-evictable content, and whether the
// file that has it is pinned. A content of an incarnation that is not live is kept: it
// is for a person to say what becomes of it.
func (s *State) Verdict(c sluice.ContentID) (verdict Verdict, pinned bool, err error) {
	err = s.look(func(v view) error {
		verdict, pinned = VerdictDead, false
		r, err := as[contentRow](v.get(contentKey(c)))
		if err != nil || r == nil {
			return err
		}
		verdict = VerdictKeep
		p, err := locate(v, r.file)
		if err != nil || !p.found() {
			return err
		}
		pinned = p.node.has(flagPinned)
		for _, e := range p.node.extents {
			if e.Content == c && p.node.persist == sluice.Persisted {
				verdict = VerdictPersisted
			}
		}
		return nil
	})
	if verdict == VerdictDead && !slices.Contains(s.Incarnations(), c.Incarnation) {
		verdict = VerdictKeep
	}
	return verdict, pinned, err
}

// Holders returns the workers that were given a content when it was published.
func (s *State) Holders(c sluice.ContentID) []sluice.Holder {
	var out []sluice.Holder
	_ = s.look(func(v view) error {
		r, err := as[contentRow](v.get(contentKey(c)))
		out = nil
		if r != nil {
			for _, h := range r.holders {
				h.Content = c
				out = append(out, h)
			}
		}
		return err
	})
	return out
}

package statemachine

import (
	"maps"
	"slices"
	"strings"

	"github.com/sluicefs/sluice"
)

// model is what the tree should be, written from DESIGN sections 3 and 4 and not from
// the code: a map of maps. It knows one mount (/s, a store without directories and
// renames of them), no permissions and no intents that stay open.
type model struct {
	root     *entry
	index    sluice.Index // of the command being judged
	sessions map[uint64]bool
}

// entry is a file or directory.
type entry struct {
	dir     bool
	kids    map[string]*entry       // of a directory
	tombs   map[string]sluice.Index // names of a directory's that went through us, and when
	made    bool                    // a directory made here: no sync removes it
	stored  bool                    // the store has it, as far as is known
	cached  bool                    // a file whose bytes are in workers only
	whole   bool                    // a complete file
	length  int64
	content string // "" for none, "?" for one that is to be new
	version string
	writers map[string]writer // by content
	changed sluice.Index      // through us
	moved   sluice.Index      // of a directory
	id      sluice.FileID     // as first seen
}

type writer struct {
	session uint64
	through bool
	path    string // where it was created
}

func newModel() *model {
	s := dirEntry()
	return &model{root: &entry{dir: true, kids: map[string]*entry{"s": s}, tombs: map[string]sluice.Index{}}, sessions: map[uint64]bool{}}
}

func dirEntry() *entry {
	return &entry{dir: true, kids: map[string]*entry{}, tombs: map[string]sluice.Index{}}
}

func names(path string) []string {
	if path == "/" {
		return nil
	}
	return strings.Split(path[1:], "/")
}

func inMount(path string) bool { return path == "/s" || strings.HasPrefix(path, "/s/") }

// spot is what a path leads to.
type spot struct {
	e       *entry
	dir     *entry   // the deepest directory on the way, e not included
	missing []string // e's own name last
	name    string
	moved   sluice.Index
}

// walk fails with "not a directory" where a file is on the way.
func (m *model) walk(path string) (spot, string) {
	s := spot{e: m.root}
	all := names(path)
	for i, name := range all {
		if !s.e.dir {
			return s, "not a directory"
		}
		s.dir, s.name = s.e, name
		s.e = s.dir.kids[name]
		if s.e == nil {
			s.missing = all[i:]
			s.name = all[len(all)-1]
			return s, ""
		}
		if s.e.dir {
			s.moved = max(s.moved, s.e.moved)
		}
	}
	return s, ""
}

// fill makes the missing directories above a spot.
func (m *model) fill(s *spot) {
	for _, name := range s.missing[:len(s.missing)-1] {
		d := dirEntry()
		d.made, d.changed, d.moved = true, m.index, m.index
		s.dir.kids[name] = d
		s.dir = d
	}
	s.missing = s.missing[len(s.missing)-1:]
}

func (m *model) mkdir(path string, parents bool) string {
	s, kind := m.walk(path)
	switch {
	case kind != "":
		return kind
	case s.e != nil && s.e.dir && parents:
		return "ok"
	case s.e != nil:
		return "exists"
	case len(s.missing) > 1 && !parents:
		return "not found"
	}
	m.fill(&s)
	d := dirEntry()
	d.made, d.changed, d.moved = true, m.index, m.index
	s.dir.kids[s.name] = d
	return "ok"
}

// create judges; content is the one the answer gave.
func (m *model) create(path string, session uint64, must, exclusive, parents bool, content string) string {
	s, kind := m.walk(path)
	switch {
	case kind != "":
		return kind
	case s.e == nil && len(s.missing) > 1 && !parents:
		return "not found"
	case s.e != nil && exclusive:
		return "exists"
	case s.e != nil && s.e.dir:
		return "is a directory"
	}
	if s.e == nil {
		m.fill(&s)
		s.e = &entry{writers: map[string]writer{}, changed: m.index}
		s.dir.kids[s.name] = s.e
	} else if !s.e.whole {
		for _, w := range s.e.writers {
			if w.session != session {
				return "busy"
			}
		}
		clear(s.e.writers)
	}
	s.e.writers[content] = writer{session, !must && inMount(path), path}
	return "ok"
}

// byID finds a file by the id it was first seen with, and where it is.
func (m *model) byID(id sluice.FileID) (found *entry, dir *entry, at string) {
	var look func(d *entry, path string)
	look = func(d *entry, path string) {
		for name, e := range d.kids {
			if e.id == id {
				found, dir, at = e, d, path+"/"+name
			}
			if e.dir {
				look(e, path+"/"+name)
			}
		}
	}
	look(m.root, "")
	return found, dir, at
}

// commit judges; through says that the store was asked, and did it unless refused.
func (m *model) commit(id sluice.FileID, content string, session uint64, length int64, refused bool) (kind string, through bool) {
	e, dir, path := m.byID(id)
	if e == nil || e.dir || e.writers[content].session != session || !m.sessions[session] {
		return "not found", false
	}
	w := e.writers[content]
	if w.through && (w.path != path || refused) {
		m.drop(e, dir, path, content)
		if refused && w.path == path {
			return "permission denied", true
		}
		return "changed", false
	}
	delete(e.writers, content)
	e.whole, e.length, e.content, e.changed = true, length, content, m.index
	if length == 0 {
		e.content = ""
	}
	e.cached = !w.through
	if w.through {
		e.stored, e.version = true, version(m.index)
		m.storedAbove(path)
	}
	return "ok", w.through
}

// storedAbove: where the store has a file, it has the directories above it, up to one
// that is known to be there.
func (m *model) storedAbove(path string) {
	var above []*entry
	d := m.root
	for _, name := range names(path)[:len(names(path))-1] {
		d = d.kids[name]
		above = append(above, d)
	}
	for i := len(above) - 1; i > 0 && !above[i].stored; i-- {
		above[i].stored = true
	}
}

// drop takes a writer away, and an incomplete entry without one.
func (m *model) drop(e, dir *entry, path, content string) {
	delete(e.writers, content)
	if !e.whole && len(e.writers) == 0 {
		delete(dir.kids, path[strings.LastIndexByte(path, '/')+1:])
	}
}

func (m *model) abandon(id sluice.FileID, content string, session uint64) string {
	e, dir, path := m.byID(id)
	if e == nil || e.dir {
		return "ok"
	}
	w, ok := e.writers[content]
	switch {
	case !ok:
		return "ok"
	case w.session != session:
		return "permission denied"
	}
	m.drop(e, dir, path, content)
	return "ok"
}

func (m *model) closeSession(session uint64) {
	delete(m.sessions, session)
	var look func(d *entry)
	look = func(d *entry) {
		for name, e := range maps.Clone(d.kids) {
			if e.dir {
				look(e)
			}
			for c, w := range maps.Clone(e.writers) {
				if w.session == session {
					m.drop(e, d, "/"+name, c)
				}
			}
		}
	}
	look(m.root)
}

// rename judges; stored says that the store is asked first, tree that it catches up.
func (m *model) rename(from, to string, noReplace, refused bool) (kind string, asked bool) {
	f, kind := m.walk(from)
	switch {
	case kind != "":
		return kind, false
	case f.e == nil:
		return "not found", false
	case from == to:
		return "ok", false
	}
	t, kind := m.walk(to)
	switch {
	case kind != "":
		return kind, false
	case from == "/" || to == "/" || from == "/s" || to == "/s":
		return "busy", false
	case inMount(from) != inMount(to):
		return "cross mount", false
	case strings.HasPrefix(to, from+"/"):
		return "invalid", false
	case len(t.missing) > 1:
		return "not found", false
	case t.e != nil && noReplace:
		return "exists", false
	case t.e != nil && f.e.dir && !t.e.dir:
		return "not a directory", false
	case t.e != nil && !f.e.dir && t.e.dir:
		return "is a directory", false
	case t.e != nil && t.e.dir && len(t.e.kids) > 0:
		return "not empty", false
	}
	stored := f.e.inStore() || t.e != nil && t.e.stored
	if stored = stored && inMount(from); stored && refused {
		return "permission denied", true
	}
	delete(f.dir.kids, f.name)
	t.dir.kids[t.name] = f.e
	f.dir.tombs[f.name] = m.index
	f.e.changed = m.index
	if f.e.dir {
		f.e.moved = m.index
	} else if stored && f.e.stored {
		f.e.version = version(m.index)
	}
	if stored {
		f.e.stored = f.e.stored || f.e.dir
		m.storedAbove(to)
	}
	return "ok", stored
}

func (m *model) remove(path string, recursive, refused bool) (kind string, asked bool) {
	s, kind := m.walk(path)
	switch {
	case kind != "":
		return kind, false
	case s.e == nil:
		return "not found", false
	case path == "/" || path == "/s":
		return "busy", false
	case len(s.e.kids) > 0 && !recursive:
		return "not empty", false
	}
	tree := len(s.e.kids) > 0
	stored := inMount(path) && (s.e.stored || tree)
	if stored && refused && !tree {
		return "permission denied", true
	}
	delete(s.dir.kids, s.name)
	s.dir.tombs[s.name] = m.index
	return "ok", stored
}

// inStore says whether the store has it or anything below it.
func (e *entry) inStore() bool {
	for _, k := range e.kids {
		if k.inStore() {
			return true
		}
	}
	return e.stored
}

// object is what a listing says of a name.
type object struct {
	dir     bool
	length  int64
	version string
}

// load brings in a listing of a directory that was begun when noted was applied.
func (m *model) load(path string, objects map[string]object, noted sluice.Index, complete, gone bool) string {
	s, kind := m.walk(path)
	switch {
	case kind != "":
		return kind
	case s.moved > noted:
		return "ok"
	case gone:
		if s.e != nil && path != "/s" {
			m.absent(s.e, s.dir, s.name, noted)
		}
		return "ok"
	}
	if s.e == nil {
		if len(objects) == 0 || s.dir.tombs[s.missing[0]] > noted {
			return "ok"
		}
		for _, name := range s.missing {
			s.e = dirEntry()
			s.e.stored = true
			s.dir.kids[name] = s.e
			s.dir = s.e
		}
	}
	if !s.e.dir {
		return "not a directory"
	}
	added := false
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		added = m.object(s.e, name, objects[name], noted) || added
	}
	if complete {
		for name, e := range maps.Clone(s.e.kids) {
			// Of what lies below a name that was not seen in the store, or changed since,
			// its own listing tells.
			if _, seen := objects[name]; !seen && e.stored && e.changed <= noted {
				m.absent(e, s.e, name, noted)
			}
		}
	}
	if added {
		m.storedAbove(path + "/x")
	}
	return "ok"
}

// object brings in one object, and says whether it is a further entry.
func (m *model) object(d *entry, name string, o object, noted sluice.Index) (added bool) {
	e := d.kids[name]
	switch {
	case e == nil && d.tombs[name] > noted:
	case e == nil:
		d.kids[name] = fromStore(o)
		return true
	case e.changed > noted:
	case e.dir && o.dir:
		e.stored = true
	case e.dir != o.dir:
		if !e.stored || e.cached {
			return false
		}
		if m.absent(e, d, name, noted); d.kids[name] == nil {
			d.kids[name] = fromStore(o)
			return true
		}
	case !e.whole || e.cached:
	case !e.stored || e.version != o.version:
		e.stored, e.version, e.length, e.content = true, o.version, o.length, "?"
		if o.length == 0 {
			e.content = ""
		}
	}
	return false
}

func fromStore(o object) *entry {
	if o.dir {
		d := dirEntry()
		d.stored = true
		return d
	}
	e := &entry{stored: true, whole: true, length: o.length, version: o.version, content: "?", writers: map[string]writer{}}
	if o.length == 0 {
		e.content = ""
	}
	return e
}

// absent takes away what had been seen in the store and is not there, as far as nobody
// changed it since, and says whether nothing is left. What was made here stays, and what
// it lies in.
func (m *model) absent(e, d *entry, name string, noted sluice.Index) bool {
	left := false
	for _, k := range slices.Sorted(maps.Keys(e.kids)) {
		if !m.absent(e.kids[k], e, k, noted) {
			left = true
		}
	}
	switch {
	case !e.stored || e.changed > noted || e.moved > noted || left:
		return false
	case e.cached || e.made:
		e.stored, e.version = false, ""
		return false
	case len(e.writers) > 0:
		e.stored, e.whole, e.length, e.content, e.version = false, false, 0, "", ""
		return false
	}
	delete(d.kids, name)
	return true
}

package namespace

import (
	"slices"
	"strings"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// intentRow is an open intent.
type intentRow struct{ Intent }

func (r *intentRow) append(dst []byte) []byte {
	i := &r.Intent
	dst = append(dst, byte(i.Op))
	dst = putUint(putUint(dst, i.ID), uint64(i.Mount))
	for _, s := range []string{string(i.Path), string(i.To), i.Key, i.ToKey, string(i.Version), string(i.ToVersion), i.Message} {
		dst = putString(dst, s)
	}
	for _, b := range []bool{i.Absent, i.ToAbsent, i.Empty, i.Diverged, i.By.Super} {
		dst = putBool(dst, b)
	}
	dst = putStrings(putStrings(dst, i.Dirs), i.By.Groups)
	dst = putString(dst, i.By.User)
	dst = putUint(putUint(dst, uint64(i.Mode)), uint64(i.File))
	dst = append(dst, byte(i.Write))
	dst = putString(dst, string(marshalSealed(&i.Sealed)))
	dst = putContent(dst, i.Content)
	dst = putUint(putUint(dst, uint64(i.Session)), i.Detached)
	dst = putUint(putUint(putUint(dst, uint64(i.Request.Session)), i.Request.Seq), i.Request.Lowest)
	dst = putUint(putInt(dst, int64(i.Since)), uint64(i.Attempts))
	a := &i.Attempt
	dst = putUint(putUint(putUint(dst, uint64(a.Number)), uint64(a.Term)), uint64(a.Worker))
	return putInt(putInt(dst, int64(a.TimeLeft)), int64(a.At))
}

func putStrings(dst []byte, all []string) []byte {
	dst = putUint(dst, uint64(len(all)))
	for _, s := range all {
		dst = putString(dst, s)
	}
	return dst
}

func (d *decoder) strings() []string {
	n := d.count()
	if n == 0 {
		return nil
	}
	all := make([]string, n)
	for i := range all {
		all[i] = d.string()
	}
	return all
}

// marshalSealed returns s as a wire.Sealed, nothing for the zero value. It has no maps,
// so that the same value gives the same bytes.
func marshalSealed(s *sluice.Sealed) []byte {
	if s.Content.IsZero() {
		return nil
	}
	b, err := wire.FromSealed(*s).MarshalVT()
	if err != nil {
		panic("namespace: encode a sealed content: " + err.Error())
	}
	return b
}

func decodeIntent(d *decoder) *intentRow {
	r := &intentRow{}
	i := &r.Intent
	i.Op = Op(d.byte())
	i.ID, i.Mount = d.uint(), sluice.MountID(d.uint())
	for _, s := range []*string{(*string)(&i.Path), (*string)(&i.To), &i.Key, &i.ToKey, (*string)(&i.Version), (*string)(&i.ToVersion), &i.Message} {
		*s = d.string()
	}
	for _, b := range []*bool{&i.Absent, &i.ToAbsent, &i.Empty, &i.Diverged, &i.By.Super} {
		*b = d.bool()
	}
	i.Dirs, i.By.Groups = d.strings(), d.strings()
	i.By.User = d.string()
	i.Mode, i.File = sluice.Mode(d.uint()), sluice.FileID(d.uint())
	i.Write = sluice.WriteType(d.byte())
	if b := d.bytes(); len(b) > 0 {
		var s wire.Sealed
		if err := s.UnmarshalVT(b); err != nil {
			d.fail("sealed content")
		}
		i.Sealed = s.Sluice()
	}
	i.Content = d.content()
	i.Session, i.Detached = sluice.SessionID(d.uint()), d.uint()
	i.Request = sluice.RequestID{Session: sluice.SessionID(d.uint()), Seq: d.uint(), Lowest: d.uint()}
	i.Since, i.Attempts = time.Duration(d.int()), int(d.uint())
	a := &i.Attempt
	a.Number, a.Term, a.Worker = int(d.uint()), sluice.Term(d.uint()), sluice.WorkerID(d.uint())
	a.TimeLeft, a.At = time.Duration(d.int()), time.Duration(d.int())
	return r
}

// span is one key of a footprint: a file's, or with dir everything below a directory.
type span struct {
	key string // without a slash at its end
	dir bool
}

// footprint returns all keys that the intent reads or writes in its mount.
func (i *Intent) footprint() []span {
	trim := func(s string) string { return strings.TrimSuffix(s, "/") }
	switch i.Op {
	case OpMkdir:
		return []span{{trim(i.Dirs[0]), true}}
	case OpRename:
		if i.Key == "" {
			return []span{{i.ToKey, false}}
		}
		return []span{{i.Key, false}, {i.ToKey, false}}
	case OpRenameDir, OpMoveTree:
		return []span{{trim(i.Key), true}, {trim(i.ToKey), true}}
	case OpRmdir, OpRemoveTree:
		return []span{{trim(i.Key), true}}
	default:
		return []span{{i.Key, false}}
	}
}

// below says whether key is dir or lies in it. The key "" is the top of the mount.
func below(dir, key string) bool {
	return dir == "" || key == dir || len(key) > len(dir) && key[len(dir)] == '/' && key[:len(dir)] == dir
}

// overlaps says whether two spans share a key.
func (a span) overlaps(b span) bool {
	return a.key == b.key || a.dir && below(a.key, b.key) || b.dir && below(b.key, a.key)
}

// footprints finds the open intents in the way of a change. Apply alone uses it.
type footprints struct {
	exact map[fileKey]uint64   // spans of files
	dirs  map[fileKey][]uint64 // spans of directories, in the order of their ids
	spans map[uint64]*Intent   // all
	of    map[sluice.MountID]int
}

type fileKey struct {
	mount sluice.MountID
	key   string
}

func newFootprints() *footprints {
	return &footprints{exact: map[fileKey]uint64{}, dirs: map[fileKey][]uint64{}, spans: map[uint64]*Intent{}, of: map[sluice.MountID]int{}}
}

func (f *footprints) add(i *Intent) {
	f.spans[i.ID] = i
	f.of[i.Mount]++
	for _, s := range i.footprint() {
		k := fileKey{i.Mount, s.key}
		if s.dir {
			f.dirs[k] = append(f.dirs[k], i.ID)
		} else {
			f.exact[k] = i.ID
		}
	}
}

func (f *footprints) remove(i *Intent) {
	delete(f.spans, i.ID)
	if f.of[i.Mount]--; f.of[i.Mount] == 0 {
		delete(f.of, i.Mount)
	}
	for _, s := range i.footprint() {
		k := fileKey{i.Mount, s.key}
		if !s.dir {
			delete(f.exact, k)
			continue
		}
		var rest []uint64
		for _, id := range f.dirs[k] {
			if id != i.ID {
				rest = append(rest, id)
			}
		}
		if len(rest) == 0 {
			delete(f.dirs, k)
		} else {
			f.dirs[k] = rest
		}
	}
}

// find returns the last open intent of the mount that overlaps s, 0 for none. ahead
// says whether those count whose change of the namespace was made already.
func (f *footprints) find(mount sluice.MountID, s span, ahead bool) uint64 {
	if len(f.spans) == 0 {
		return 0
	}
	var found uint64
	see := func(id uint64) {
		if i := f.spans[id]; id > found && (ahead || !i.Ahead()) {
			found = id
		}
	}
	see0 := func(id uint64, ok bool) {
		if ok {
			see(id)
		}
	}
	id, ok := f.exact[fileKey{mount, s.key}]
	see0(id, ok)
	for k := s.key; ; {
		for _, id := range f.dirs[fileKey{mount, k}] {
			see(id)
		}
		if k == "" {
			break
		}
		k = k[:max(0, strings.LastIndexByte(k, '/'))]
	}
	if s.dir {
		for id, i := range f.spans { // the highest is the same in any order
			if i.Mount != mount {
				continue
			}
			for _, t := range i.footprint() {
				if s.overlaps(t) {
					see(id)
				}
			}
		}
	}
	return found
}

// openOf returns the open intents of a mount in order.
func (w *writer) openOf(mount sluice.MountID) []uint64 {
	var ids []uint64
	for id, i := range w.open.spans {
		if i.Mount == mount {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

package journal

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
)

// Report says what [ReadLog] found.
type Report struct {
	Cluster  string
	Node     uint64
	Segments int
	Bytes    int64 // of the files
	First    sluice.Index
	Last     sluice.Index
	Commit   sluice.Index // known to be acknowledged; later entries may be
	Term     sluice.Term
	Vote     uint64
	Voters   []uint64
	Torn     int64 // bytes after the last good record that a crash left; a start cuts them
}

// ReadLog calls fn for the entries of the log in dir, in order, until it fails. It
// changes nothing and may be used on a copy. Errors: Busy while a master runs on dir;
// NotFound; Corrupt, which says where the files are damaged: the report then covers,
// and fn has seen, what lies before that.
func ReadLog(fs vfs.FS, dir string, fn func(Entry) error) (Report, error) {
	release, err := claim(fs, dir)
	if err != nil {
		return Report{}, err
	}
	defer release()
	img, damage := readImage(fs, dir)
	if img == nil {
		return Report{}, sluice.Wrap("read journal", "", damage)
	}
	rep := Report{Segments: len(img.segments)}
	if len(img.segments) == 0 {
		if damage == nil {
			damage = &sluice.Error{Kind: sluice.NotFound, Err: fmt.Errorf("%s holds no journal", dir)}
		}
		return rep, sluice.Wrap("read journal", "", damage)
	}
	for _, s := range img.segments {
		rep.Bytes += s.size
		if s.torn {
			rep.Torn = s.size - s.end
		}
	}
	rep.Cluster, rep.Node = img.segments[0].cluster, img.segments[0].node
	rep.First, rep.Last = sluice.Index(img.base.index+1), sluice.Index(img.last())
	rep.Commit, rep.Term, rep.Vote = sluice.Index(img.base.hard.Commit), sluice.Term(img.base.hard.Term), img.base.hard.Vote
	if n := len(img.base.confs); n > 0 {
		rep.Voters = img.base.confs[n-1].conf.Voters
	}
	if damage == nil && rep.Commit > rep.Last {
		last := img.segments[len(img.segments)-1]
		damage = damaged(last.path, last.end, fmt.Sprintf("entries up to %d were acknowledged, but the last one here is %d", rep.Commit, rep.Last))
	}
	r := &fetcher{fs: fs, dir: dir}
	defer r.close()
	for _, p := range img.pos {
		rec, err := r.fetch(p)
		if err != nil {
			return rep, sluice.Wrap("read journal", "", err)
		}
		e := rec.entry()
		x := Entry{Index: sluice.Index(rec.index), Term: sluice.Term(e.Term)}
		if rec.kind == kindEntry {
			x.Data = e.Data
		}
		if err := fn(x); err != nil {
			return rep, err
		}
	}
	return rep, sluice.Wrap("read journal", "", damage)
}

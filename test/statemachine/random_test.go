package statemachine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/keyvalue"
	"github.com/sluicefs/sluice/internal/namespace"
	"github.com/sluicefs/sluice/internal/wire"
)

func version(i sluice.Index) string { return fmt.Sprintf("w%d", i) }

// pair is a machine beside its model.
type pair struct {
	t        *rapid.T
	m        *machine
	model    *model
	seq      map[uint64]uint64
	files    []open // what was created, ended or not
	contents map[string]bool
	floor    sluice.Index // no listing is older
	last     string
}

type open struct {
	file    sluice.FileID
	content *wire.ContentID
}

// TestModel applies random commands to the state and to a simple model: answers have the
// same kinds, and the trees are the same after each.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		db := keyvalue.OpenMemory()
		defer db.Close()
		p := &pair{t: t, m: begin(t, db, 4), model: newModel(), seq: map[uint64]uint64{}, contents: map[string]bool{}}
		p.m.apply(&wire.Command{Op: &wire.Command_MountStore{MountStore: &wire.MountStore{Path: "/s", Uri: "s3://b", Options: &wire.MountOptions{Owner: "o", Group: "g"}}}})
		p.floor = p.m.index()
		p.session(1)
		p.session(2)
		for range rapid.IntRange(5, 60).Draw(t, "commands") {
			p.model.index = p.m.index() + 1
			p.step()
			p.compare("/", p.model.root)
		}
	})
}

func (p *pair) n(k int, what string) int { return rapid.IntRange(0, k-1).Draw(p.t, what) }
func (p *pair) yes(what string) bool     { return p.n(4, what) == 0 }

func (p *pair) path() string {
	var path strings.Builder
	path.WriteString([...]string{"", "", "/s", "/s", "/s"}[p.n(5, "where")])
	for range 1 + p.n(3, "depth") {
		path.WriteString("/" + [...]string{"a", "b", "c"}[p.n(3, "name")])
	}
	if p.n(40, "top") == 0 {
		return [...]string{"/", "/s"}[p.n(2, "which")]
	}
	return path.String()
}

func (p *pair) session(id uint64) {
	p.send(&wire.Command{Op: &wire.Command_OpenSession{OpenSession: &wire.OpenSession{Session: id}}})
	p.model.sessions[id], p.seq[id] = true, 0
}

func (p *pair) send(c *wire.Command) *wire.Answer {
	p.last = fmt.Sprint(c)
	a := p.m.apply(c)[0]
	p.t.Logf("%d: %s\n\t%v", p.m.index(), p.last, a)
	return a
}

// request gives a command the next id of a session.
func (p *pair) request(session uint64) *wire.RequestID {
	p.seq[session]++
	return &wire.RequestID{Session: session, Seq: p.seq[session], Lowest: p.seq[session]}
}

// want fails where the kinds differ.
func (p *pair) want(a *wire.Answer, kind string) {
	p.t.Helper()
	if got := kindOf(a); got != kind {
		p.t.Fatalf("%s:\n got %s (%v)\nwant %s", p.last, got, a.Error, kind)
	}
}

// finish carries an intent out, or refuses it, and gives the answer of its end.
func (p *pair) finish(a *wire.Answer, asked, refused bool) *wire.Answer {
	p.t.Helper()
	all, err := p.m.state.Intents()
	if err != nil || len(all) > 1 || asked != (len(all) == 1) {
		p.t.Fatalf("%s: %d intents are open, want one: %t (%v)", p.last, len(all), asked, err)
	}
	if len(all) == 0 {
		return a
	}
	i := all[0]
	f := &wire.FinishIntent{Intent: i.ID, Done: !refused, Object: &wire.Object{Version: version(p.model.index), Mtime: 1}}
	if refused {
		f.Refused, f.Object = &wire.Error{Kind: uint32(sluice.Permission)}, nil
		p.floor = p.m.index() + 1
	}
	if i.Op == namespace.OpRemoveTree {
		p.reap(i.Detached)
	}
	end := p.m.apply(&wire.Command{Op: &wire.Command_FinishIntent{FinishIntent: f}})[0]
	p.floor = max(p.floor, p.m.index()) // a listing of before saw neither the old nor the new
	return end
}

// reap takes a detached tree away row by row.
func (p *pair) reap(id uint64) {
	for range 200 {
		a := p.m.apply(&wire.Command{Op: &wire.Command_Reap{Reap: &wire.Reap{Detached: id, Limit: 2}}})[0]
		if a.Reaped == 0 && !a.More {
			return
		}
	}
	p.t.Fatalf("%s: reaping does not end", p.last)
}

func (p *pair) step() {
	switch p.n(11, "command") {
	case 0:
		path, parents := p.path(), p.yes("parents")
		a := p.send(&wire.Command{Op: &wire.Command_Mkdir{Mkdir: &wire.Mkdir{Path: path, Parents: parents}}})
		p.want(a, p.model.mkdir(path, parents))
	case 1, 2:
		p.create()
	case 3, 4:
		p.commit()
	case 5:
		if len(p.files) == 0 {
			return
		}
		f, s := p.files[p.n(len(p.files), "file")], uint64(1+p.n(2, "session"))
		a := p.send(&wire.Command{Request: p.request(s), Op: &wire.Command_Abandon{Abandon: &wire.Abandon{File: uint64(f.file), Content: f.content}}})
		p.want(a, p.model.abandon(f.file, fmt.Sprint(f.content), s))
	case 6:
		p.rename()
	case 7:
		path, recursive, refused := p.path(), p.yes("recursive"), p.yes("refused")
		a := p.send(&wire.Command{Op: &wire.Command_Remove{Remove: &wire.Remove{Path: path, Recursive: recursive}}})
		if a.Detached != 0 {
			p.reap(a.Detached)
		}
		if a.Intent != 0 && refused { // a tree's removal is not refused here
			i, _, _ := p.m.state.Intent(a.Intent)
			refused = i.Op != namespace.OpRemoveTree
		}
		kind, asked := p.model.remove(path, recursive, refused)
		p.want(p.finish(a, asked, refused), kind)
	case 8, 9:
		p.load()
	default:
		if !p.yes("close") {
			return
		}
		s := uint64(1 + p.n(2, "session"))
		p.send(&wire.Command{Op: &wire.Command_CloseSession{CloseSession: &wire.CloseSession{Session: s}}})
		p.model.closeSession(s)
		p.session(s)
	}
}

func (p *pair) create() {
	path, s := p.path(), uint64(1+p.n(2, "session"))
	must, exclusive, parents := p.yes("must"), p.yes("exclusive"), p.yes("parents")
	o := sluice.CreateOptions{Exclusive: exclusive, Parents: parents}
	if must {
		o.Write = sluice.MustCache
	}
	a := p.send(&wire.Command{Request: p.request(s), Op: &wire.Command_CreateFile{CreateFile: &wire.CreateFile{
		Path: path, Options: wire.FromCreateOptions(o), DefaultBlockSize: sluice.DefaultBlockSize,
	}}})
	p.want(a, p.model.create(path, s, must, exclusive, parents, fmt.Sprint(a.Content)))
	if a.Error == nil {
		p.files = append(p.files, open{sluice.FileID(a.Info.Id), a.Content})
		p.contents[fmt.Sprint(a.Content)] = true
		p.see(path, sluice.FileID(a.Info.Id))
	}
}

// see tells the model the id of a file.
func (p *pair) see(path string, id sluice.FileID) {
	if s, _ := p.model.walk(path); s.e != nil && s.e.id == 0 {
		s.e.id = id
	}
}

func (p *pair) commit() {
	if len(p.files) == 0 {
		return
	}
	f, s := p.files[p.n(len(p.files), "file")], uint64(1+p.n(2, "session"))
	if e, _, _ := p.model.byID(f.file); e != nil && e.writers[fmt.Sprint(f.content)].session != 0 && !p.yes("other session") {
		s = e.writers[fmt.Sprint(f.content)].session
	}
	length, refused := int64(p.n(3, "length")), p.yes("refused")
	a := p.send(&wire.Command{Request: p.request(s), Op: &wire.Command_CommitContent{CommitContent: &wire.CommitContent{
		File: uint64(f.file), Sealed: &wire.Sealed{Content: f.content, Length: length, Prepared: &wire.Prepared{Upload: "u"}},
	}}})
	kind, through := p.model.commit(f.file, fmt.Sprint(f.content), s, length, refused)
	p.want(p.finish(a, through, refused), kind)
}

func (p *pair) rename() {
	from, to, noReplace, refused := p.path(), p.path(), p.yes("no replace"), p.yes("refused")
	if s, kind := p.model.walk(to); kind == "" && s.e != nil && s.e.dir {
		refused = false // what it replaced is gone
	}
	a := p.send(&wire.Command{Op: &wire.Command_Rename{Rename: &wire.Rename{From: from, To: to, NoReplace: noReplace}}})
	kind, asked := p.model.rename(from, to, noReplace, refused)
	p.want(p.finish(a, asked, refused), kind)
}

func (p *pair) load() {
	var dir strings.Builder
	dir.WriteString("/s")
	for range p.n(3, "depth") {
		dir.WriteString("/" + [...]string{"a", "b", "c"}[p.n(3, "name")])
	}
	l := &wire.LoadChildren{Mount: 1, Dir: dir.String(), Noted: uint64(p.m.index())}
	if p.yes("old") {
		l.Noted = uint64(p.floor) + uint64(p.n(int(p.m.index()-p.floor)+1, "age"))
	}
	objects := map[string]object{}
	if l.Gone = p.n(8, "gone") == 0; !l.Gone {
		l.Complete = !p.yes("part")
		for _, name := range []string{"a", "b", "c"} {
			switch p.n(4, "object") {
			case 0:
				objects[name] = object{dir: true}
			case 1:
				objects[name] = object{length: int64(p.n(3, "length")), version: fmt.Sprint("v", p.n(3, "version"))}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		o := objects[name]
		l.Objects = append(l.Objects, &wire.Object{Key: name, Dir: o.dir, Length: o.length, Version: o.version, Mtime: 1})
	}
	a := p.send(&wire.Command{Op: &wire.Command_LoadChildren{LoadChildren: l}})
	p.want(a, p.model.load(dir.String(), objects, sluice.Index(l.Noted), l.Complete, l.Gone))
}

// compare fails where the trees below a directory differ.
func (p *pair) compare(path string, d *entry) {
	p.t.Helper()
	page, err := p.m.state.List(super(), sluice.Path(path), "", 0)
	if err != nil {
		p.t.Fatalf("%s: list %s: %v", p.last, path, err)
	}
	var got []string
	for _, f := range page.Entries {
		got = append(got, f.Path.Name())
	}
	if want := slices.Sorted(maps.Keys(d.kids)); !slices.Equal(got, want) {
		p.t.Fatalf("%s:\n%s has %v\nwant %v", p.last, path, got, want)
	}
	for _, f := range page.Entries {
		e := d.kids[f.Path.Name()]
		p.compareOne(f, e)
		if e.dir {
			p.compare(string(f.Path), e)
		}
	}
}

func (p *pair) compareOne(f sluice.FileInfo, e *entry) {
	p.t.Helper()
	if e.id == 0 {
		e.id = f.ID
	}
	content := ""
	if c := f.Content(); !c.IsZero() {
		content = fmt.Sprint(wire.FromContentID(c))
	}
	if e.content == "?" { // it must be one that nobody has seen
		if content == "" || p.contents[content] {
			p.t.Fatalf("%s:\n%s has the content %q; want a new one", p.last, f.Path, content)
		}
		p.contents[content] = true
		e.content = content
	}
	type facts struct {
		id          sluice.FileID
		dir, whole  bool
		length      int64
		content     string
		persistence sluice.Persistence
		local       bool
		version     string
	}
	want := facts{e.id, e.dir, e.dir || e.whole, e.length, e.content, sluice.Persisted, !e.stored, ""}
	if e.cached && e.whole {
		want.persistence = sluice.CacheOnly
	}
	if !e.dir && e.stored && !e.cached {
		want.version = e.version
	}
	got := facts{f.ID, f.IsDir(), f.Complete, f.Length, content, f.Persistence, f.Local, string(f.Store)}
	if got != want {
		p.t.Fatalf("%s:\n%s is\n     %+v\nwant %+v", p.last, f.Path, got, want)
	}
}

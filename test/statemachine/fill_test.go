package statemachine

import (
	"strings"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// fill makes the command of a line; false: there is none of that name.
func (s *script) fill(name string, a *args, c *wire.Command) bool {
	word := func(i int) string {
		if i >= len(a.words) {
			s.fail("%s wants more words", name)
		}
		return a.words[i]
	}
	switch name {
	case "session": // session ID
		c.Op = &wire.Command_OpenSession{OpenSession: &wire.OpenSession{Session: s.number(word(0))}}
	case "close": // close ID
		c.Op = &wire.Command_CloseSession{CloseSession: &wire.CloseSession{Session: s.number(word(0))}}
	case "expire": // expire ID epoch=N
		c.Op = &wire.Command_ExpireSessions{ExpireSessions: &wire.ExpireSessions{Sessions: []*wire.SessionEpoch{{Session: s.number(word(0)), Epoch: s.num(a, "epoch")}}}}
	case "mkdir": // mkdir PATH [parents] [native] [mode=M]
		c.Op = &wire.Command_Mkdir{Mkdir: &wire.Mkdir{Path: word(0), Mode: s.mode(a), Parents: a.flags["parents"], Native: a.flags["native"]}}
	case "create": // create PATH [exclusive] [parents] [empty] [pinned] [mode=M] [write=W] [base=C] [ttl=T] [delete]
		c.Op = &wire.Command_CreateFile{CreateFile: s.create(a, word(0))}
	case "commit": // commit FILE CONTENT LENGTH [worker=W] [inline]
		c.Op = &wire.Command_CommitContent{CommitContent: &wire.CommitContent{File: s.file(word(0)), Sealed: s.sealed(a, word(1), int64(s.number(word(2))))}}
	case "abandon": // abandon FILE CONTENT
		c.Op = &wire.Command_Abandon{Abandon: &wire.Abandon{File: s.file(word(0)), Content: s.content(word(1))}}
	case "rename": // rename FROM TO [noreplace] [atomic]
		c.Op = &wire.Command_Rename{Rename: &wire.Rename{From: word(0), To: word(1), NoReplace: a.flags["noreplace"], Atomic: a.flags["atomic"]}}
	case "remove": // remove PATH [recursive] [cacheonly] [native]
		c.Op = &wire.Command_Remove{Remove: &wire.Remove{Path: word(0), Recursive: a.flags["recursive"], CacheOnly: a.flags["cacheonly"], Native: a.flags["native"]}}
	case "setattr": // setattr PATH [mode=M] [owner=O] [group=G] [mtime=T] [ttl=T] [action=A] [pinned=BOOL] [xattr=NAME:VALUE]
		c.Op = &wire.Command_SetAttr{SetAttr: &wire.SetAttr{Path: word(0), Change: wire.FromAttrChange(s.change(a))}}
	case "symlink": // symlink TARGET PATH
		c.Op = &wire.Command_Symlink{Symlink: &wire.Symlink{Target: word(0), Path: word(1)}}
	default:
		return s.fillDesk(name, a, c, word)
	}
	return true
}

// fillDesk makes the commands of operators and of the desk itself.
func (s *script) fillDesk(name string, a *args, c *wire.Command, word func(int) string) bool {
	switch name {
	case "mount": // mount PATH URI [readonly] [owner=O] [group=G]
		c.Op = &wire.Command_MountStore{MountStore: &wire.MountStore{Path: word(0), Uri: word(1), Options: s.options(a)}}
	case "unmount": // unmount PATH [force]
		c.Op = &wire.Command_UnmountStore{UnmountStore: &wire.UnmountStore{Path: word(0), Force: a.flags["force"]}}
	case "remount": // remount PATH [readonly] ...: other options
		c.Op = &wire.Command_UpdateMount{UpdateMount: &wire.UpdateMount{Path: word(0), Options: s.options(a), KeepSecrets: true}}
	case "load": // load DIR [NAME:LENGTH:VERSION | NAME/]... [noted=NAME] [complete] [after=N] [upto=N] [gone]
		c.Op = &wire.Command_LoadChildren{LoadChildren: s.load(a, word(0))}
	case "reap": // reap DETACHED [limit=N]
		c.Op = &wire.Command_Reap{Reap: &wire.Reap{Detached: s.open(word(0), s.detached), Limit: uint32(s.num(a, "limit"))}}
	case "expirettl": // expirettl FILE [epoch=N]
		c.Op = &wire.Command_ExpireTtl{ExpireTtl: &wire.ExpireTTL{File: s.file(word(0)), Epoch: s.ttlEpoch(a, word(0))}}
	case "lost": // lost CONTENT [worker=W]
		c.Op = &wire.Command_ReportLost{ReportLost: &wire.ReportLost{Content: s.content(word(0)), Worker: s.num(a, "worker")}}
	case "attempt": // attempt INTENT [worker=W]
		c.Op = &wire.Command_BeginAttempt{BeginAttempt: &wire.BeginAttempt{Intent: s.open(word(0), s.intent), Worker: s.num(a, "worker"), TimeLeft: int64(30 * time.Second), Term: 1}}
	case "finish": // finish INTENT done [VERSION] [length=N] | finish INTENT refused KIND
		c.Op = &wire.Command_FinishIntent{FinishIntent: s.finish(a, word)}
	case "movekeys": // movekeys INTENT FILE FROM VERSION
		c.Op = &wire.Command_MoveKeys{MoveKeys: &wire.MoveKeys{Intent: s.open(word(0), s.intent), Moved: []*wire.MovedKey{
			{File: s.file(word(1)), From: word(2), Object: &wire.Object{Version: word(3)}},
		}}}
	case "incarnation": // incarnation N
		c.Op = &wire.Command_SetIncarnation{SetIncarnation: &wire.SetIncarnation{Incarnation: s.number(word(0))}}
	default:
		return false
	}
	return true
}

// ttlEpoch is that of the option, or what is due of the file.
func (s *script) ttlEpoch(a *args, file string) uint64 {
	if _, ok := a.set["epoch"]; ok {
		return s.num(a, "epoch")
	}
	due, _, err := s.m.state.DueTTL(s.m.tick, "", 100)
	if err != nil {
		s.fail("%v", err)
	}
	for _, d := range due {
		if uint64(d.File) == s.file(file) {
			return d.Epoch
		}
	}
	return 0
}

func (s *script) create(a *args, path string) *wire.CreateFile {
	o := sluice.CreateOptions{
		Exclusive: a.flags["exclusive"], Parents: a.flags["parents"], Empty: a.flags["empty"], Pinned: a.flags["pinned"],
		Mode: sluice.Mode(s.mode(a)), Base: s.content(a.set["base"]).Sluice(),
	}
	if v, ok := a.set["write"]; ok {
		w, err := sluice.ParseWriteType(v)
		if err != nil {
			s.fail("%v", err)
		}
		o.Write = w
	}
	if v, ok := a.set["ttl"]; ok {
		o.TTL = time.Duration(s.duration(v))
	}
	if a.flags["delete"] {
		o.TTLAction = sluice.TTLDelete
	}
	return &wire.CreateFile{Path: path, Options: wire.FromCreateOptions(o), DefaultBlockSize: sluice.DefaultBlockSize}
}

func (s *script) sealed(a *args, content string, length int64) *wire.Sealed {
	c := s.content(content)
	x := &wire.Sealed{Content: c, Length: length, Worker: s.num(a, "worker"), Prepared: &wire.Prepared{Inline: a.flags["inline"], Upload: "u"}}
	if x.Worker != 0 {
		x.Holders = []*wire.Holder{{Content: c, Worker: x.Worker, Count: 1}}
	}
	return x
}

func (s *script) change(a *args) sluice.AttrChange {
	var c sluice.AttrChange
	for key, v := range a.set {
		switch key {
		case "mode":
			c.Mode = new(sluice.Mode(s.mode(a)))
		case "owner":
			c.Owner = new(v)
		case "group":
			c.Group = new(v)
		case "mtime":
			c.Mtime = new(time.Unix(int64(s.number(v)), 0).UTC())
		case "ttl":
			c.TTL = new(time.Duration(s.duration(v)))
		case "action":
			c.TTLAction = new(sluice.TTLFree)
			if v == "delete" {
				c.TTLAction = new(sluice.TTLDelete)
			}
		case "pinned":
			c.Pinned = new(v == "yes")
		case "xattr":
			name, value, ok := strings.Cut(v, ":")
			c.XAttrs = map[string][]byte{name: nil}
			if ok {
				c.XAttrs[name] = []byte(value)
			}
		case "xattrmode":
			c.XAttrMode = map[string]sluice.XAttrMode{"create": sluice.XAttrCreate, "replace": sluice.XAttrReplace}[v]
		default:
			s.fail("unknown attribute %q", key)
		}
	}
	return c
}

func (s *script) options(a *args) *wire.MountOptions {
	return wire.FromMountOptions(sluice.MountOptions{ReadOnly: a.flags["readonly"], Owner: a.set["owner"], Group: a.set["group"]})
}

// mountOf returns the id of the innermost mount around a path.
func (s *script) mountOf(path string) uint64 {
	r := s.m.state.Resolve(sluice.Path(path))
	if !r.InMount {
		s.fail("%s lies in no mount", path)
	}
	return uint64(r.Mount.ID)
}

func (s *script) load(a *args, dir string) *wire.LoadChildren {
	l := &wire.LoadChildren{
		Mount: s.mountOf(dir), Dir: dir, Noted: uint64(s.m.index()), Complete: a.flags["complete"],
		After: a.set["after"], Upto: a.set["upto"], Gone: a.flags["gone"],
	}
	if name, ok := a.set["noted"]; ok {
		if l.Noted, ok = s.notes[name]; !ok {
			s.fail("nothing was noted as %q", name)
		}
	}
	for _, w := range a.words[1:] {
		l.Objects = append(l.Objects, s.object(w))
	}
	return l
}

// object reads NAME:LENGTH:VERSION or NAME/.
func (s *script) object(w string) *wire.Object {
	if name, ok := strings.CutSuffix(w, "/"); ok {
		return &wire.Object{Key: name, Dir: true}
	}
	f := strings.Split(w, ":")
	if len(f) != 3 {
		s.fail("%q is neither NAME:LENGTH:VERSION nor NAME/", w)
	}
	return &wire.Object{Key: f[0], Length: int64(s.number(f[1])), Version: f[2], Mtime: 900_000_000_000_000_000}
}

func (s *script) finish(a *args, word func(int) string) *wire.FinishIntent {
	f := &wire.FinishIntent{Intent: s.open(word(0), s.intent), Done: a.flags["done"]}
	if f.Done {
		if len(a.words) > 1 {
			f.Object = &wire.Object{Version: word(1), Length: int64(s.num(a, "length")), Mtime: 910_000_000_000_000_000}
		}
		return f
	}
	if word(1) != "refused" {
		s.fail("finish INTENT done or finish INTENT refused KIND")
	}
	for _, k := range sluice.Kinds() {
		if strings.ReplaceAll(k.String(), " ", "-") == word(2) {
			f.Refused = &wire.Error{Kind: uint32(k)}
		}
	}
	if f.Refused == nil {
		s.fail("unknown kind %q", word(2))
	}
	return f
}

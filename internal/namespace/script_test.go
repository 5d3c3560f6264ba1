package namespace

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the scripts in testdata with what the state machine says")

// TestScripts runs the scripts in testdata: a command a line, below it what came out,
// indented. Check follows every line. -rewrite writes what comes out.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts (%v)", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(text))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := string(text); got != want && !*rewrite {
				t.Errorf("%s differs (run with -rewrite and look at the diff):\n%s", file, firstDifference(got, want))
			}
		})
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			return fmt.Sprintf("line %d: got %q, want %q", i+1, g[i], append(w, "")[min(i, len(w))])
		}
	}
	return "it has more lines than came out"
}

func runScript(t *testing.T, text string) string {
	x := &script{machine: newMachine(t), vars: map[string]*wire.Answer{}, marks: map[string]sluice.Index{}}
	var out strings.Builder
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("up to the failure:\n" + out.String())
		}
	})
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "\t") {
			continue
		}
		out.WriteString(line + "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		for s := range strings.Lines(x.run(line)) {
			out.WriteString("\t" + strings.TrimSuffix(s, "\n") + "\n")
		}
		x.check()
	}
	return out.String()
}

// script is a machine that understands lines.
type script struct {
	*machine
	by    *sluice.Principal
	vars  map[string]*wire.Answer // of create, by the path
	marks map[string]sluice.Index
	mnt   uint64

	intent, detached uint64 // of the last answers that had one
}

// run executes one line: a verb, then words. A word name=value is an option.
func (x *script) run(line string) string {
	var words []string
	opt := map[string]string{}
	for w := range strings.FieldsSeq(line) {
		switch w {
		case "I": // the intent seen last
			w = strconv.FormatUint(x.intent, 10)
		case "D":
			w = strconv.FormatUint(x.detached, 10)
		}
		if k, v, ok := strings.Cut(w, "="); ok && !strings.HasPrefix(w, "/") {
			opt[k] = v
		} else {
			words = append(words, w)
		}
	}
	if s, ok := x.local(words, opt); ok {
		return s
	}
	op := x.operation(words, opt)
	if op == nil {
		x.t.Fatalf("script: %q is no command", line)
	}
	var a *wire.Answer
	if seq := opt["seq"]; seq != "" {
		c := command(x.by, op)
		c.Request = &wire.RequestID{Session: number(or(opt["session"], "7")), Seq: number(seq), Lowest: number(or(opt["lowest"], "1"))}
		a = x.apply(c)[0]
	} else if session := opt["session"]; session != "" {
		c := command(x.by, op)
		x.seq++
		c.Request = &wire.RequestID{Session: number(session), Seq: x.seq, Lowest: x.seq}
		a = x.apply(c)[0]
	} else {
		a = x.ask(x.by, op)
	}
	if a.Content != nil {
		x.vars[words[1]] = a
	}
	if a.Mount != nil && words[0] == "mount" {
		x.mnt = a.Mount.Id
	}
	if a.Intent != 0 {
		x.intent = a.Intent
	}
	if a.Detached != 0 {
		x.detached = a.Detached
	}
	return show(a)
}

func or(s, d string) string {
	if s == "" {
		return d
	}
	return s
}

func number(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		panic("script: " + err.Error())
	}
	return n
}

// local runs what is no command of the journal.
func (x *script) local(words []string, opt map[string]string) (string, bool) {
	if _, ok := x.vars[words[min(1, len(words)-1)]]; !ok && slices.Contains([]string{"commit", "abandon", "verdict", "lost"}, words[0]) {
		x.t.Fatalf("script: %s was not created", words[1])
	}
	switch words[0] {
	case "as": // as USER GROUP...
		x.by = &sluice.Principal{User: words[1], Groups: words[2:]}
		return "", true
	case "super":
		x.by = nil
		return "", true
	case "note": // the applied index, for load noted=NAME
		x.marks[words[1]] = x.s.Applied()
		return "", true
	case "later": // journal time passes
		d, err := time.ParseDuration(words[1])
		if err != nil {
			x.t.Fatal(err)
		}
		x.tick += int64(d)
		return "", true
	case "ls":
		return strings.Join(x.names(sluice.Path(words[1])), " "), true
	case "stat":
		return x.showStat(words[1]), true
	case "pick": // I is the newest open intent
		list, err := x.s.Intents()
		if err != nil || len(list) == 0 {
			x.t.Fatalf("script: no intent to pick (%v)", err)
		}
		x.intent = list[len(list)-1].ID
		return "", true
	case "intents":
		return x.showIntents(), true
	case "page":
		return x.showPage(number(words[1])), true
	case "moves":
		return x.showMoves(number(words[1])), true
	case "due":
		var all []TTLDue
		for cursor := ""; ; { // one at a time
			due, next, err := x.s.DueTTL(time.Duration(x.tick), cursor, 1)
			if all = append(all, due...); err != nil || next == "" {
				return fmt.Sprint(all, err), true
			}
			cursor = next
		}
	case "verdict":
		v, pinned, err := x.s.Verdict(x.vars[words[1]].Content.Sluice())
		return fmt.Sprint([]string{"keep", "dead", "persisted"}[v], " pinned=", pinned, " ", err), true
	case "remembered":
		_, state, err := x.s.Remembered(sluice.RequestID{Session: sluice.SessionID(number(or(opt["session"], "7"))), Seq: number(words[1]), Lowest: number(or(opt["lowest"], "1"))})
		return fmt.Sprint([]string{"unseen", "known", "pending", "unknown"}[state], " ", err), true
	case "resolve":
		r := x.s.Resolve(sluice.Path(words[1]))
		return fmt.Sprintf("found=%v parent=%s mount=%s key=%q incomplete=%v", r.Found, r.Parent.Path, r.Mount.Path, r.Key, r.Incomplete), true
	default:
		return "", false
	}
}

// operation makes the command of a line.
func (x *script) operation(words []string, opt map[string]string) any {
	arg := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	has := func(s string) bool { return slices.Contains(words, s) }
	switch words[0] {
	case "mkdir":
		c := mkdir(arg(1), has("-p"), has("native"))
		if m := opt["mode"]; m != "" {
			c.Mkdir.Mode = uint32(octal(m))
		}
		return c
	case "create":
		o := sluice.CreateOptions{Exclusive: has("excl"), Parents: has("-p"), Empty: has("empty"), Pinned: has("pinned")}
		for w := sluice.WriteDefault; w <= sluice.AsyncThrough; w++ {
			if has(w.String()) {
				o.Write = w
			}
		}
		if m := opt["mode"]; m != "" {
			o.Mode = octal(m)
		}
		if p := opt["base"]; p != "" {
			o.Base = x.vars[p].Content.Sluice()
		}
		if s := opt["ttl"]; s != "" {
			o.TTL, _ = time.ParseDuration(s)
			if has("delete") {
				o.TTLAction = sluice.TTLDelete
			}
		}
		return create(arg(1), o)
	case "commit":
		return commitOf(x.vars[arg(1)], int64(number(arg(2))))
	case "abandon":
		a := x.vars[arg(1)]
		return &wire.Command_Abandon{Abandon: &wire.Abandon{File: a.Info.Id, Content: a.Content}}
	case "mv":
		c := rename(arg(1), arg(2), has("atomic"))
		c.Rename.NoReplace = has("noreplace")
		return c
	case "rm":
		c := remove(arg(1), has("-r"))
		c.Remove.CacheOnly = has("cacheonly")
		return c
	case "ln":
		return &wire.Command_Symlink{Symlink: &wire.Symlink{Target: arg(1), Path: arg(2)}}
	case "set":
		return x.set(arg(1), opt)
	default:
		return x.deskOperation(words, opt, arg, has)
	}
}

func octal(s string) sluice.Mode {
	n, err := strconv.ParseUint(s, 8, 16)
	if err != nil {
		panic("script: " + err.Error())
	}
	return sluice.Mode(n)
}

func (x *script) set(path string, opt map[string]string) any {
	var c sluice.AttrChange
	for k, v := range opt {
		switch k {
		case "mode":
			c.Mode = new(octal(v))
		case "owner":
			c.Owner = new(v)
		case "group":
			c.Group = new(v)
		case "pinned":
			c.Pinned = new(v == "true")
		case "ttl":
			d, _ := time.ParseDuration(v)
			c.TTL = &d
		case "action":
			c.TTLAction = new(map[string]sluice.TTLAction{"free": sluice.TTLFree, "delete": sluice.TTLDelete}[v])
		case "xattr":
			name, value, _ := strings.Cut(v, ":")
			c.XAttrs = map[string][]byte{name: []byte(value)}
			if value == "" {
				c.XAttrs[name] = nil
			}
		case "how":
			c.XAttrMode = map[string]sluice.XAttrMode{"create": sluice.XAttrCreate, "replace": sluice.XAttrReplace}[v]
		}
	}
	return &wire.Command_SetAttr{SetAttr: &wire.SetAttr{Path: path, Change: wire.FromAttrChange(c)}}
}

func (x *script) deskOperation(words []string, opt map[string]string, arg func(int) string, has func(string) bool) any {
	switch words[0] {
	case "mount":
		return &wire.Command_MountStore{MountStore: &wire.MountStore{
			Path: arg(1), Uri: "mem://x", Options: wire.FromMountOptions(sluice.MountOptions{Owner: "o", Group: "g", ReadOnly: has("ro")}),
		}}
	case "unmount":
		return &wire.Command_UnmountStore{UnmountStore: &wire.UnmountStore{Path: arg(1), Force: has("force")}}
	case "session":
		return &wire.Command_OpenSession{OpenSession: &wire.OpenSession{Session: number(arg(1))}}
	case "end":
		return &wire.Command_CloseSession{CloseSession: &wire.CloseSession{Session: number(arg(1))}}
	case "expire":
		return &wire.Command_ExpireSessions{ExpireSessions: &wire.ExpireSessions{Sessions: []*wire.SessionEpoch{{Session: number(arg(1)), Epoch: number(opt["epoch"])}}}}
	case "attempt":
		return &wire.Command_BeginAttempt{BeginAttempt: &wire.BeginAttempt{Intent: number(arg(1)), Worker: 3, TimeLeft: 30, Term: 1}}
	case "done":
		var o *wire.Object
		if v := opt["version"]; v != "" {
			o = object("", v, 0)
		}
		return finish(number(arg(1)), o)
	case "refuse":
		return refuse(number(arg(1)), sluice.Changed)
	case "moved": // INTENT PATH from=KEY version=V
		return &wire.Command_MoveKeys{MoveKeys: &wire.MoveKeys{Intent: number(arg(1)), Moved: []*wire.MovedKey{{
			File: uint64(x.stat(sluice.Path(arg(2))).ID), From: opt["from"], Object: object("", opt["version"], 0),
		}}}}
	case "reap":
		return &wire.Command_Reap{Reap: &wire.Reap{Detached: number(arg(1)), Limit: uint32(number(arg(2)))}}
	case "ttl":
		return &wire.Command_ExpireTtl{ExpireTtl: &wire.ExpireTTL{File: uint64(x.stat(sluice.Path(arg(1))).ID), Epoch: number(opt["epoch"])}}
	case "lost":
		return &wire.Command_ReportLost{ReportLost: &wire.ReportLost{Content: x.vars[arg(1)].Content, Worker: number(arg(2))}}
	case "load": // load DIR [name:version:length | name/]... [noted=MARK] [after=A upto=B] [partial] [gone]
		return x.loadOperation(words, opt, has)
	default:
		return nil
	}
}

func (x *script) loadOperation(words []string, opt map[string]string, has func(string) bool) any {
	c := &wire.LoadChildren{
		Mount: x.mnt, Dir: words[1], Noted: uint64(x.s.Applied()), Complete: !has("partial") && !has("gone"), Gone: has("gone"),
		After: opt["after"], Upto: opt["upto"],
	}
	if m := opt["noted"]; m != "" {
		c.Noted = uint64(x.marks[m])
	}
	for _, w := range words[2:] {
		f := strings.Split(w, ":")
		switch {
		case w == "partial", w == "gone":
		case strings.HasSuffix(w, "/"):
			c.Objects = append(c.Objects, directory(strings.TrimSuffix(w, "/")))
		default:
			c.Objects = append(c.Objects, object(f[0], f[1], int64(number(f[2]))))
		}
	}
	return &wire.Command_LoadChildren{LoadChildren: c}
}

// show prints an answer.
func show(a *wire.Answer) string {
	var b strings.Builder
	if a.Error != nil {
		fmt.Fprintf(&b, "%s", sluice.Kind(a.Error.Kind))
		if a.Error.Text != "" {
			fmt.Fprintf(&b, ": %s", a.Error.Text)
		}
	} else {
		b.WriteString("ok")
	}
	for _, f := range []struct {
		name string
		n    uint64
	}{{"intent", a.Intent}, {"busy-with", a.BusyWith}, {"detached", a.Detached}, {"reaped", a.Reaped}, {"loaded", uint64(a.Loaded)}, {"epoch", a.Epoch}} {
		if f.n != 0 {
			fmt.Fprintf(&b, " %s=%d", f.name, f.n)
		}
	}
	if a.More {
		b.WriteString(" more")
	}
	if a.Content != nil {
		fmt.Fprintf(&b, " content=%d %s", a.Content.Counter, sluice.WriteType(a.Write))
	}
	if a.Info != nil {
		fmt.Fprintf(&b, " id=%d", a.Info.Id)
	}
	if len(a.Changed) > 0 {
		fmt.Fprintf(&b, " changed=%v", a.Changed)
	}
	return b.String()
}

func (x *script) showStat(path string) string {
	by := sluice.Principal{Super: true}
	if x.by != nil {
		by = *x.by
	}
	i, err := x.s.Stat(by, sluice.Path(path), true)
	if err != nil {
		return err.Error()
	}
	var s strings.Builder
	s.WriteString(fmt.Sprintf("%s id=%d %s %s %s:%s length=%d", i.Type, i.ID, i.Mode, i.Persistence, i.Owner, i.Group, i.Length))
	for _, e := range i.Extents {
		s.WriteString(fmt.Sprintf(" content=%d+%d*%d", e.Content.Counter, e.Count, e.BlockSize))
	}
	for _, f := range []struct {
		on   bool
		text string
	}{
		{!i.Complete, "incomplete"}, {i.Local, "local"}, {i.IsMount, "mount"}, {i.Pinned, "pinned"}, {i.Key != "", "key=" + i.Key},
		{i.Store != "", "version=" + string(i.Store)}, {i.Target != "", "target=" + i.Target}, {i.TTL != 0, "ttl=" + i.TTL.String() + "," + i.TTLAction.String()},
		{len(i.XAttrs) > 0, fmt.Sprintf("xattrs=%s", i.XAttrs)},
	} {
		if f.on {
			s.WriteString(" " + f.text)
		}
	}
	return s.String()
}

func (x *script) showIntents() string {
	list, err := x.s.Intents()
	if err != nil {
		x.t.Fatal(err)
	}
	var b strings.Builder
	for _, i := range list {
		info := i.Info(time.Duration(x.tick))
		fmt.Fprintf(&b, "%d %s %s %s key=%q to=%q absent=%v version=%q to-absent=%v to-version=%q dirs=%q %s attempts=%d\n", i.ID, info.Op, i.Path, i.To,
			i.Key, i.ToKey, i.Absent, i.Version, i.ToAbsent, i.ToVersion, i.Dirs, info.State, info.Attempts)
	}
	return b.String()
}

func (x *script) showPage(id uint64) string {
	page, err := x.s.DetachedPage(id, 100)
	if err != nil {
		x.t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range page {
		fmt.Fprintf(&b, "%d %q stored=%v version=%q\n", e.File, e.Key, e.Stored, e.Version)
	}
	return b.String()
}

func (x *script) showMoves(id uint64) string {
	var b strings.Builder
	for after := ""; ; {
		page, err := x.s.Moves(id, after, 2)
		if err != nil {
			x.t.Fatal(err)
		}
		if len(page) == 0 {
			return b.String()
		}
		for _, e := range page {
			fmt.Fprintf(&b, "%d %q -> %q version=%q at %s\n", e.File, e.From, e.To, e.Version, e.Path)
			after = e.Path
		}
	}
}

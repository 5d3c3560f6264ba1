package statemachine

import (
	"fmt"
	"strings"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/namespace"
	"github.com/sluicefs/sluice/internal/wire"
)

// look runs the commands that only read, or do something to the test's own means.
func (s *script) look(name string, a *args, by *wire.Principal) (string, bool) {
	p := by.Sluice()
	st := s.m.state
	word := func(i int) string {
		if i >= len(a.words) {
			s.fail("%s wants more words", name)
		}
		return a.words[i]
	}
	switch name {
	case "stat": // stat PATH
		info, err := st.Stat(p, sluice.Path(word(0)), true)
		if err != nil {
			return sluice.KindOf(err).String(), true
		}
		return shown(info) + xattrs(info), true
	case "mtime": // mtime PATH, in Unix seconds
		info, err := st.Stat(p, sluice.Path(word(0)), false)
		if err != nil {
			return sluice.KindOf(err).String(), true
		}
		return fmt.Sprint(info.Mtime.Unix()), true
	case "ls": // ls PATH
		return s.list(p, sluice.Path(word(0))), true
	case "access": // access PATH BITS
		if err := st.Access(p, sluice.Path(word(0)), namespace.Access(s.number(word(1)))); err != nil {
			return sluice.KindOf(err).String(), true
		}
		return "ok", true
	case "note": // note NAME: the applied index, as before asking a store
		s.notes[word(0)] = uint64(s.m.index())
		return "ok", true
	case "tick": // tick DURATION: journal time goes on
		s.m.tick += time.Duration(s.duration(word(0)))
		return "ok", true
	case "reopen": // reopen: the state is read from its rows, as after a start
		s.m.open()
		return "ok", true
	default:
		return s.lookDesk(name, word)
	}
}

func xattrs(f sluice.FileInfo) string {
	var b strings.Builder
	for _, name := range sorted(f.XAttrs) {
		fmt.Fprintf(&b, " %s=%s", name, f.XAttrs[name])
	}
	return b.String()
}

// list shows a directory page by page, two entries at a time.
func (s *script) list(p sluice.Principal, path sluice.Path) string {
	var b strings.Builder
	for after := ""; ; {
		page, err := s.m.state.List(p, path, after, 2)
		if err != nil {
			return sluice.KindOf(err).String()
		}
		for _, e := range page.Entries {
			fmt.Fprintln(&b, shown(e))
			after = e.Path.Name()
		}
		if !page.More {
			break
		}
	}
	if b.Len() == 0 {
		return "nothing"
	}
	return b.String()
}

// lookDesk runs what the desk asks.
func (s *script) lookDesk(name string, word func(int) string) (string, bool) {
	st := s.m.state
	var b strings.Builder
	var err error
	switch name {
	case "intents":
		var all []namespace.Intent
		all, err = st.Intents()
		for _, i := range all {
			fmt.Fprintln(&b, shownIntent(&i))
		}
	case "remembered": // remembered SESSION.SEQ[/LOWEST]
		var r namespace.RequestState
		var x *wire.Answer
		x, r, err = st.Remembered(s.request(word(0)).Sluice())
		fmt.Fprint(&b, [...]string{"unseen", "known", "pending", "unknown outcome"}[r])
		if x != nil {
			fmt.Fprint(&b, ": ", s.answer(x))
		}
	case "detached":
		var all []namespace.DetachedRow
		all, err = st.Detached()
		for _, d := range all {
			fmt.Fprintf(&b, "%d %s of mount %d, intent %d\n", d.ID, d.Path, d.Mount, d.Intent)
		}
	case "page": // page DETACHED LIMIT
		var all []namespace.DetachedEntry
		all, err = st.DetachedPage(s.open(word(0), s.detached), int(s.number(word(1))))
		for _, d := range all {
			fmt.Fprintf(&b, "#%d %s stored=%t version=%s\n", d.File, d.Key, d.Stored, d.Version)
		}
	case "moves": // moves INTENT LIMIT [AFTER]
		var all []namespace.Move
		all, err = st.Moves(s.open(word(0), s.intent), "", int(s.number(word(1))))
		for _, x := range all {
			fmt.Fprintf(&b, "#%d %s -> %s version=%s at %s\n", x.File, x.From, x.To, x.Version, x.Path)
		}
	case "due": // due: what has passed its time to live
		var all []namespace.TTLDue
		all, _, err = st.DueTTL(s.m.tick, "", 100)
		for _, x := range all {
			fmt.Fprintf(&b, "#%d epoch %d %s\n", x.File, x.Epoch, x.Action)
		}
	case "verdict": // verdict CONTENT
		var v namespace.Verdict
		var pinned bool
		v, pinned, err = st.Verdict(s.content(word(0)).Sluice())
		fmt.Fprintf(&b, "%s pinned=%t", [...]string{"keep", "dead", "persisted"}[v], pinned)
	case "holders": // holders CONTENT
		for _, h := range st.Holders(s.content(word(0)).Sluice()) {
			fmt.Fprintf(&b, "worker %d blocks %d+%d\n", h.Worker, h.First, h.Count)
		}
	case "sessions":
		var all []namespace.SessionRow
		all, err = st.Sessions()
		for _, x := range all {
			fmt.Fprintf(&b, "%d epoch %d of %s\n", x.ID, x.Epoch, x.User)
		}
	case "mounts":
		for _, r := range st.Mounts() {
			fmt.Fprintf(&b, "%d %s %s readonly=%t\n", r.ID, r.Path, r.URI, r.Options.ReadOnly)
		}
	case "stats":
		x := st.Stats()
		fmt.Fprintf(&b, "files %d, directories %d, bytes %d, unpersisted %d, sessions %d, intents %d", x.Files, x.Dirs, x.Bytes, x.Unpersisted, x.Sessions, x.Intents)
	case "check":
		err = st.Check()
		fmt.Fprint(&b, "ok")
	default:
		return "", false
	}
	if err != nil {
		return "error: " + err.Error(), true
	}
	if b.Len() == 0 {
		return "nothing", true
	}
	return b.String(), true
}

func shownIntent(i *namespace.Intent) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s %s", i.ID, i.Op, i.Path)
	add := func(on bool, format string, v ...any) {
		if on {
			fmt.Fprintf(&b, " "+format, v...)
		}
	}
	add(i.To != "", "to %s", i.To)
	add(i.Key != "", "key=%s", i.Key)
	add(i.Absent, "absent")
	add(i.Version != "", "version=%s", i.Version)
	add(i.ToKey != "", "tokey=%s", i.ToKey)
	add(i.ToAbsent, "toabsent")
	add(i.ToVersion != "", "toversion=%s", i.ToVersion)
	add(len(i.Dirs) > 0, "dirs=%v", i.Dirs)
	add(i.Detached != 0, "detached=%d", i.Detached)
	add(i.Attempts > 0, "attempts=%d", i.Attempts)
	add(i.Diverged, "diverged")
	return b.String()
}

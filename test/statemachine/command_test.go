package statemachine

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// script runs commands against a machine. Every command that changes the state may end
// in "as USER[:GROUP,...]" (else it is the superuser; "as nobody" is the cluster itself)
// and carry a request id "@SESSION.SEQ[/LOWEST]".
type script struct {
	m     *machine
	t     *testing.T
	line  int
	notes map[string]uint64 // applied indexes noted under a name
	last  *wire.Command     // for "again"
	// what "it" stands for: the intent, content and detached subtree answered last
	intent, detached uint64
	given            *wire.ContentID
}

// args are the words of a command line.
type args struct {
	words []string          // that are none of the following
	set   map[string]string // key=value
	flags map[string]bool   // bare words behind the first two that name an option
}

// command runs one line and returns what there is to say about it.
func (s *script) command(line string) string {
	words := strings.Fields(line)
	c := &wire.Command{By: wire.FromPrincipal(super())}
	a := args{set: map[string]string{}, flags: map[string]bool{}}
	for i := 1; i < len(words); i++ {
		w := words[i]
		switch key, value, ok := strings.Cut(w, "="); {
		case w == "as" && i+1 < len(words):
			i++
			c.By = principal(words[i])
		case w[0] == '@':
			c.Request = s.request(w[1:])
		case ok && key != "":
			a.set[key] = value
		case isOption(w):
			a.flags[w] = true
		default:
			a.words = append(a.words, w)
		}
	}
	if out, ok := s.look(words[0], &a, c.By); ok {
		return out
	}
	if words[0] == "again" {
		return s.send(s.last)
	}
	if !s.fill(words[0], &a, c) {
		s.fail("unknown command %q", line)
	}
	return s.send(c)
}

func isOption(w string) bool {
	switch w {
	case "parents", "native", "exclusive", "empty", "pinned", "noreplace", "atomic", "recursive", "cacheonly", "force", "readonly", "complete", "gone", "done", "inline", "delete":
		return true
	}
	return false
}

func (s *script) fail(format string, v ...any) {
	s.t.Fatalf("line %d: "+format, append([]any{s.line}, v...)...)
}

func principal(w string) *wire.Principal {
	if w == "nobody" {
		return nil
	}
	user, groups, _ := strings.Cut(w, ":")
	p := &wire.Principal{User: user, Groups: []string{user}}
	if groups != "" {
		p.Groups = strings.Split(groups, ",")
	}
	return p
}

func (s *script) request(w string) *wire.RequestID {
	id, lowest, ok := strings.Cut(w, "/")
	session, seq, _ := strings.Cut(id, ".")
	r := &wire.RequestID{Session: s.number(session), Seq: s.number(seq), Lowest: 1}
	if ok {
		r.Lowest = s.number(lowest)
	}
	return r
}

func (s *script) number(w string) uint64 {
	n, err := strconv.ParseUint(w, 10, 64)
	if err != nil {
		s.fail("%q is no number", w)
	}
	return n
}

// num is a number of an option, 0 where it is not there.
func (s *script) num(a *args, key string) uint64 {
	if v, ok := a.set[key]; ok {
		return s.number(v)
	}
	return 0
}

func (s *script) mode(a *args) uint32 {
	m, err := strconv.ParseUint("0"+a.set["mode"], 8, 32)
	if err != nil {
		s.fail("bad mode %q", a.set["mode"])
	}
	return uint32(m)
}

func (s *script) duration(w string) int64 {
	d, err := time.ParseDuration(w)
	if err != nil {
		s.fail("bad time %q", w)
	}
	return int64(d)
}

// content reads c7, or c7@def for one of another incarnation.
func (s *script) content(w string) *wire.ContentID {
	switch w {
	case "":
		return nil
	case "it":
		return s.given
	}
	n, other, ok := strings.Cut(strings.TrimPrefix(w, "c"), "@")
	c := &wire.ContentID{Incarnation: incarnation, Counter: s.number(n)}
	if ok {
		i, err := strconv.ParseUint(other, 16, 64)
		if err != nil {
			s.fail("bad incarnation %q", other)
		}
		c.Incarnation = i
	}
	return c
}

// file reads #7, or the path of a file.
func (s *script) file(w string) uint64 {
	if id, ok := strings.CutPrefix(w, "#"); ok {
		return s.number(id)
	}
	info, err := s.m.state.Stat(super(), sluice.Path(w), false)
	if err != nil {
		s.fail("%s: %v", w, err)
	}
	return uint64(info.ID)
}

// send applies a command in an entry of its own and shows the answer.
func (s *script) send(c *wire.Command) string {
	s.last = c
	a := s.m.apply(c)[0]
	if a.Intent != 0 {
		s.intent = a.Intent
	}
	if a.Content != nil {
		s.given = a.Content
	}
	if all, _ := s.m.state.Detached(); len(all) > 0 {
		s.detached = all[len(all)-1].ID
	}
	if all, _ := s.m.state.Intents(); len(all) > 0 && s.intent < all[len(all)-1].ID {
		s.intent = all[len(all)-1].ID // of a change that was answered at once
	}
	return s.answer(a)
}

// open is the number of an intent or a detached subtree, or "it": the last one.
func (s *script) open(w string, last uint64) uint64 {
	if w == "it" {
		return last
	}
	return s.number(w)
}

// answer shows an answer on one line.
func (s *script) answer(a *wire.Answer) string {
	out := []string{kindOf(a)}
	add := func(on bool, format string, v ...any) {
		if on {
			out = append(out, fmt.Sprintf(format, v...))
		}
	}
	add(a.BusyWith != 0, "with intent %d", a.BusyWith)
	add(a.Intent != 0, "intent %d", a.Intent)
	if a.Info != nil {
		add(true, "%s", shown(a.Info.Sluice()))
	}
	if a.Content != nil {
		add(true, "writing %s", shownContent(a.Content.Sluice()))
	}
	add(a.Write != 0, "%s", sluice.WriteType(a.Write))
	add(a.Detached != 0, "detached %d", a.Detached)
	add(a.Reaped != 0, "reaped %d", a.Reaped)
	add(a.Loaded != 0, "loaded %d", a.Loaded)
	add(a.More, "more")
	if a.Mount != nil {
		add(true, "mount %d %s %s", a.Mount.Id, a.Mount.Path, a.Mount.Uri)
	}
	add(len(a.Changed) > 0, "changed %v", a.Changed)
	add(a.Epoch != 0, "epoch %d", a.Epoch)
	return strings.Join(out, ", ")
}

func shownContent(c sluice.ContentID) string {
	if c.Incarnation == incarnation {
		return fmt.Sprintf("c%d", c.Counter)
	}
	return fmt.Sprintf("c%d@%x", c.Counter, uint64(c.Incarnation))
}

// shown shows an inode on one line: what a reviewer must see, no times.
func shown(f sluice.FileInfo) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s #%d %s %s %s:%s", f.Path, f.ID, f.Type, f.Mode, f.Owner, f.Group)
	if f.Type == sluice.File {
		fmt.Fprintf(&b, " %d", f.Length)
		if c := f.Content(); !c.IsZero() {
			b.WriteString(" " + shownContent(c))
		}
		if f.Complete {
			b.WriteString(" " + f.Persistence.String())
		} else {
			b.WriteString(" incomplete")
		}
	}
	for _, x := range []struct {
		on   bool
		text string
	}{
		{f.Target != "", "-> " + f.Target}, {f.IsMount, "mountpoint"}, {f.Local, "local"}, {f.Pinned, "pinned"},
		{f.Key != "", "key=" + f.Key}, {f.Store != "", "store=" + string(f.Store)},
		{f.TTL != 0, "ttl=" + f.TTL.String() + "," + f.TTLAction.String()},
	} {
		if x.on {
			b.WriteString(" " + x.text)
		}
	}
	return b.String()
}

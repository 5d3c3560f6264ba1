package inspect

import (
	"fmt"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/journal"
	"github.com/sluicefs/sluice/internal/wire"
)

// maxProblems bounds how many problems are told.
const maxProblems = 100

// overtaking is by how much journal time may go back from entry to entry: entries are
// stamped before they are handed to the journal, and may overtake each other there.
// Whoever applies them takes the highest so far.
const overtaking = int64(time.Minute)

// Report says what Verify found.
type Report struct {
	Journal  journal.Report
	Entries  int            // entries that hold commands
	Commands map[string]int // by op
	Version  uint32         // highest cluster version of an entry
	Problems []string       // what is wrong though each record is whole; at most 100
}

// Verify reads every record of the journal of the master's directory dir and checks
// that they are whole, follow each other, and hold commands in order of time. Errors:
// Busy while the master runs; NotFound; Corrupt for damage, with the report of what
// lies before it, and when there are problems.
func Verify(dir string, o Options) (Report, error) {
	fs := o.fs()
	v := verifier{rep: Report{Commands: map[string]int{}}}
	rep, err := journal.ReadLog(fs, journalDir(fs, dir), v.entry)
	v.rep.Journal = rep
	if err == nil && len(v.rep.Problems) > 0 {
		err = &sluice.Error{Kind: sluice.Corrupt, Err: fmt.Errorf("%s (%d problems in all)", v.rep.Problems[0], v.found)}
	}
	return v.rep, sluice.Wrap("verify journal", "", err)
}

// verifier goes through the entries in order.
type verifier struct {
	rep   Report
	found int // problems
	index sluice.Index
	term  sluice.Term
	tick  int64
}

func (v *verifier) problem(format string, args ...any) {
	v.found++
	if len(v.rep.Problems) < maxProblems {
		v.rep.Problems = append(v.rep.Problems, fmt.Sprintf(format, args...))
	}
}

// entry checks one entry. Only what makes the rest unreadable is an error.
func (v *verifier) entry(e journal.Entry) error {
	if v.index != 0 && e.Index != v.index+1 {
		v.problem("entry %d follows entry %d", e.Index, v.index)
	}
	if e.Term < v.term {
		v.problem("entry %d is of term %d, the one before of term %d", e.Index, e.Term, v.term)
	}
	v.index, v.term = e.Index, e.Term
	if len(e.Data) == 0 {
		return nil
	}
	entry, err := decode(e)
	if err != nil {
		v.problem("%v", err)
		return nil
	}
	v.rep.Entries++
	v.rep.Version = max(v.rep.Version, entry.Version)
	if entry.Term != 0 && sluice.Term(entry.Term) != e.Term {
		v.problem("entry %d of term %d was stamped in term %d", e.Index, e.Term, entry.Term)
	}
	if entry.Tick < v.tick-overtaking {
		v.problem("journal time goes back at entry %d: %s after %s", e.Index, duration(entry.Tick), duration(v.tick))
	}
	v.tick = max(v.tick, entry.Tick)
	for i, c := range entry.Commands {
		v.command(e.Index, i, c)
	}
	return nil
}

func (v *verifier) command(index sluice.Index, i int, c *wire.Command) {
	m := c.ProtoReflect()
	if op := m.WhichOneof(m.Descriptor().Oneofs().ByName("op")); op != nil {
		v.rep.Commands[string(op.Message().Name())]++
		return
	}
	v.problem("entry %d, command %d: a command of a later version", index, i)
}

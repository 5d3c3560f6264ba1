package kill

import (
	"fmt"
	"strconv"
	"strings"
)

// state is what a path may hold: the seed and length of its content, or absent.
type state struct {
	seed   uint64
	length int
	absent bool
}

func (s state) String() string {
	if s.absent {
		return "absent"
	}
	return fmt.Sprintf("%d:%d", s.seed, s.length)
}

func parseState(text string) state {
	if text == "absent" {
		return state{absent: true}
	}
	seed, length, _ := strings.Cut(text, ":")
	n, _ := strconv.ParseUint(seed, 10, 64)
	l, _ := strconv.Atoi(length)
	return state{seed: n, length: l}
}

// ledger keeps, for each path, what was acknowledged last and what was tried since.
// One writer owns a path, so its lines about it are in order.
type ledger struct {
	acked map[string]state
	tried map[string][]state // what an unanswered operation may have made of it
	acks  int
}

func newLedger() *ledger { return &ledger{acked: map[string]state{}, tried: map[string][]state{}} }

// line takes one line of a writer: "try PATH STATE", "ack PATH STATE", "fail PATH".
func (l *ledger) line(text string) {
	f := strings.Fields(text)
	switch {
	case len(f) == 3 && f[0] == "try":
		l.tried[f[1]] = append(l.tried[f[1]], parseState(f[2]))
	case len(f) == 3 && f[0] == "ack":
		l.acked[f[1]] = parseState(f[2])
		delete(l.tried, f[1])
		l.acks++
	case len(f) == 2 && f[0] == "fail": // refused for certain: nothing changed
		if n := len(l.tried[f[1]]); n > 0 {
			l.tried[f[1]] = l.tried[f[1]][:n-1]
		}
	}
}

// paths returns every path that was ever tried.
func (l *ledger) paths() []string {
	seen := map[string]bool{}
	for p := range l.acked {
		seen[p] = true
	}
	for p := range l.tried {
		seen[p] = true
	}
	all := make([]string, 0, len(seen))
	for p := range seen {
		all = append(all, p)
	}
	return all
}

// allowed returns the states in which path may be found.
func (l *ledger) allowed(path string) []state {
	last, ok := l.acked[path]
	if !ok {
		last = state{absent: true}
	}
	return append([]state{last}, l.tried[path]...)
}

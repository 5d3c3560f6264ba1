package statemachine

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/internal/keyvalue"
)

var update = flag.Bool("update", false, "write what the scripts answer into testdata")

// TestScripts runs testdata/*.txt. A line that begins with # is a comment, one that is
// indented is what the command above it answers, any other is a command (see
// command_test.go). go test -update writes the answers: review them as a diff.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got := run(t, string(want))
			if *update {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			compare(t, name, got, string(want))
		})
	}
}

// run returns the script with what its commands answer.
func run(t *testing.T, text string) string {
	s := &script{m: begin(t, closing(t, keyvalue.OpenMemory()), 4), t: t, notes: map[string]uint64{}}
	var out strings.Builder
	for i, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		switch {
		case strings.HasPrefix(line, "    "):
			continue
		case line == "" || strings.HasPrefix(line, "#"):
			out.WriteString(line + "\n")
			continue
		}
		s.line = i + 1
		out.WriteString(line + "\n")
		for a := range strings.SplitSeq(strings.TrimRight(s.command(line), "\n"), "\n") {
			out.WriteString("    " + a + "\n")
		}
	}
	return out.String()
}

// compare names the first line that differs, with the command it belongs to.
func compare(t *testing.T, name, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	command := ""
	for i := range max(len(g), len(w)) {
		a, b := "(nothing)", "(nothing)"
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != "" && a[0] != ' ' {
			command = a
		}
		if a != b {
			t.Fatalf("%s:%d: after %q\n got %s\nwant %s", name, i+1, command, a, b)
		}
	}
}

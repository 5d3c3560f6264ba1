package shell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/test/memfs"
)

// TestScripts runs testdata/*.txtar: they read like a manual, on a file system in memory.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			e.Values["fs"] = memfs.New(func() time.Time { return at })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"sluice":   func(ts *testscript.TestScript, neg bool, args []string) { sluiceCommand(ts, neg, false, args) },
			"terminal": func(ts *testscript.TestScript, neg bool, args []string) { sluiceCommand(ts, neg, true, args) },
			"fail":     failCommand,
		},
	})
}

// sluiceCommand runs the command line; "! sluice" expects exit status 1, "status N"
// can be asked with: sluice -2 args (expects exit status 2). "terminal" is the same where
// standard error is a terminal.
func sluiceCommand(ts *testscript.TestScript, neg, terminal bool, args []string) {
	want := ExitOK
	if neg {
		want = ExitFailed
	}
	if len(args) > 0 && args[0] == "-2" {
		args, want = args[1:], ExitUsage
	}
	in := strings.NewReader(ts.ReadFile("stdin"))
	env := Env{
		Out: ts.Stdout(), Err: ts.Stderr(), In: in, Dir: ts.Getenv("WORK"), Terminal: terminal,
		Connect: func(context.Context) (System, func(), error) { return ts.Value("fs").(*memfs.FS), func() {}, nil },
	}
	got := run(context.Background(), env, args)
	if got != want {
		ts.Fatalf("sluice %s: exit status %d, want %d", strings.Join(args, " "), got, want)
	}
}

// failCommand plants an error: fail PATH KIND.
func failCommand(ts *testscript.TestScript, _ bool, args []string) {
	for _, k := range sluice.Kinds() {
		if k.String() == strings.Join(args[1:], " ") {
			ts.Value("fs").(*memfs.FS).Fail(sluice.Path(args[0]), &sluice.Error{Kind: k, Err: errors.New("planted")})
			return
		}
	}
	ts.Fatalf("no kind %q", args[1:])
}

// run runs the two groups as `sluice` has them.
func run(ctx context.Context, env Env, args []string) int {
	root := &cobra.Command{Use: "sluice", SilenceErrors: true, SilenceUsage: true, RunE: needsSubcommand}
	fs, admin := New(env)
	root.AddCommand(fs, admin)
	root.SetArgs(args)
	root.SetOut(env.Out)
	root.SetErr(env.Err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &Usage{err} })
	return Exit(env.Err, root.ExecuteContext(ctx))
}

// TestHints: the table of kinds is total, and every line is one line.
func TestHints(t *testing.T) {
	for _, k := range sluice.Kinds() {
		var b strings.Builder
		if got := Exit(&b, &sluice.Error{Op: "open", Path: "/x", Kind: k, Err: errors.New("two\nlines")}); got != ExitFailed {
			t.Errorf("%v: exit status %d", k, got)
		}
		if strings.Count(b.String(), "\n") != 1 {
			t.Errorf("%v: not one line: %q", k, b.String())
		}
	}
}

// TestHintsFit: advice about paths goes with paths alone, and what Sluice did not make is
// never called its bug.
func TestHintsFit(t *testing.T) {
	for _, x := range []struct {
		err  error
		want string
	}{
		{&sluice.Error{Op: "rename", Path: "/x", Kind: sluice.Busy}, "admin intents"},
		{&sluice.Error{Op: "open journal", Kind: sluice.Busy, Err: errors.New("stop that master first")}, ""},
		{&sluice.Error{Op: "create", Path: "/x", Kind: sluice.Exists}, "-f"},
		{&sluice.Error{Op: "mount", Path: "/x", Kind: sluice.Exists, Err: errors.New("unmount it first")}, ""},
		{&sluice.Error{Op: "list workers", Kind: sluice.Unauthenticated}, "admin token"},
		{&sluice.Error{Op: "stat", Path: "/x", Kind: sluice.Internal}, "bug"},
		{fmt.Errorf("copy: %w", &sluice.Error{Op: "open", Path: "/x", Kind: sluice.Corrupt}), "logs"},
		{errors.New("no master answers"), ""},
		{os.ErrNotExist, ""},
	} {
		if got := Hint(x.err); (got == "") != (x.want == "") || !strings.Contains(got, x.want) {
			t.Errorf("%v: hint %q, want one with %q", x.err, got, x.want)
		}
	}
}

// TestEveryCommandHasAScript: what no script types, nobody tried.
func TestEveryCommandHasAScript(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	fs, admin := New(Env{})
	for _, group := range []*cobra.Command{fs, admin} {
		for _, c := range group.Commands() {
			if typed := "sluice " + group.Name() + " " + c.Name(); !strings.Contains(all.String(), typed) {
				t.Errorf("no script types %q", typed)
			}
		}
	}
}

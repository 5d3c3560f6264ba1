// Package shell is the terminal's door: what `sluice fs` and `sluice admin` do, over
// the file system and the operator's contract of the words. It owns arguments, output
// and exit statuses, and refuses to know how the file system is made or reached.
package shell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice"
)

// Exit statuses that scripts can trust.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// System is what the commands work on: a file system with everything optional.
type System interface {
	sluice.FS
	sluice.Cacher
	sluice.Admin
}

// Tokens issues credentials of users. Optional on a [System].
type Tokens interface {
	Token(ctx context.Context, who sluice.Principal, lifetime time.Duration, speakFor bool) (string, error)
}

// Env is where the commands run.
type Env struct {
	Out, Err io.Writer
	In       io.Reader
	Terminal bool   // Err is a terminal: progress bars may be drawn
	Dir      string // local names are relative to it; "" is the process's own directory
	// Connect makes the system when a command first needs it. It is called at most once
	// per command; release is called when the command ends.
	Connect func(ctx context.Context) (sys System, release func(), err error)
}

// Usage is an error of the command line itself: exit status 2.
type Usage struct{ Err error }

// Error implements error.
func (u *Usage) Error() string { return u.Err.Error() }

// Unwrap returns the cause.
func (u *Usage) Unwrap() error { return u.Err }

// Failed is a failure whose message was printed already, or needs none.
type Failed struct{}

// Error implements error.
func (Failed) Error() string { return "failed" }

// Exit prints err on one line with what to do next and returns the exit status.
func Exit(w io.Writer, err error) int {
	switch {
	case err == nil:
		return ExitOK
	case errors.Is(err, Failed{}):
		return ExitFailed
	}
	if u, ok := errors.AsType[*Usage](err); ok {
		fmt.Fprintf(w, "sluice: %s\n", oneLine(u.Error()))
		return ExitUsage
	}
	text := oneLine(err.Error())
	if hint := Hint(err); hint != "" {
		text += " (" + hint + ")"
	}
	fmt.Fprintf(w, "sluice: %s\n", text)
	return ExitFailed
}

func oneLine(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "; ") }

// Hint says what a person may do about err, "" where the message itself says it: an
// error that no room of Sluice made explains itself, and so does one that is about a
// server's own files or a mount, where the advice on paths would mislead.
func Hint(err error) string {
	e, ours := errors.AsType[*sluice.Error](err)
	switch {
	case !ours:
		return ""
	case e.Path == "" && hintOfPath(e.Kind) != "":
		return ""
	case e.Kind == sluice.Exists && (e.Op == "mount" || e.Op == "mkdir"):
		return ""
	}
	return hintOfPath(e.Kind) + hintOfCluster(e.Kind)
}

// hintOfPath is what to do about a path; with [hintOfCluster] it is total over the kinds.
func hintOfPath(k sluice.Kind) string {
	switch k {
	case sluice.Exists:
		return "use -f to replace it, where the command has it"
	case sluice.NotEmpty:
		return "use rm -r to remove it with everything below"
	case sluice.IsDirectory:
		return "use -r for directories, where the command has it"
	case sluice.Permission:
		return "see `sluice fs stat` for owner and mode"
	case sluice.ReadOnly:
		return "see the mount's options in `sluice fs mounts`"
	case sluice.Changed, sluice.Stale:
		return "somebody replaced the file; read it again and repeat"
	case sluice.Lost:
		return "the bytes existed only on a worker that lost them; write the file again"
	case sluice.Busy:
		return "another change of the same names is under way; see `sluice admin intents`"
	case sluice.Diverged:
		return "see `sluice admin intents`"
	case sluice.CrossMount:
		return "copy with `sluice fs cp -r` and remove the source"
	case sluice.Archived:
		return "restore the object from its archive class first"
	case sluice.UnknownOutcome:
		return "look with `sluice fs stat` before you repeat it"
	default:
		return ""
	}
}

// hintOfCluster is what to do about servers, stores and credentials.
func hintOfCluster(k sluice.Kind) string {
	switch k {
	case sluice.Internal:
		return "this is a bug: please report it with the servers' logs"
	case sluice.Unauthenticated:
		return "get a token with `sluice admin token` and set SLUICE_CLIENT_TOKEN"
	case sluice.NoSpace:
		return "see what holds the space in `sluice admin report`"
	case sluice.Unavailable:
		return "try again; see `sluice admin report` and `sluice fs mounts`"
	case sluice.Timeout:
		return "try again, or with a longer --set client.timeout=DURATION"
	case sluice.Corrupt:
		return "no good copy was found; see the workers' logs"
	case sluice.NotPrimary:
		return "check the list of masters in the configuration"
	case sluice.Cancelled:
		return "what was not finished is not visible; repeat the command"
	default:
		return ""
	}
}

// command is a running command's surroundings.
type command struct {
	Env
	json bool
}

// New returns the groups `fs` and `admin`, complete but for what needs the files of a
// stopped server.
func New(env Env) (fs, admin *cobra.Command) {
	c := &command{Env: env}
	fs = &cobra.Command{Use: "fs", Short: "Work with files and mounts"}
	admin = &cobra.Command{Use: "admin", Short: "Look after a cluster"}
	fs.AddCommand(c.ls(), c.find(), c.du(), c.count(), c.stat(), c.test())
	fs.AddCommand(c.cat(), c.head(), c.tail(), c.checksum(), c.get(), c.put(), c.cp(), c.touch())
	fs.AddCommand(c.mv(), c.rm(), c.mkdir(), c.chmod(), c.chown(), c.chgrp(), c.setfattr(), c.getfattr(), c.pin(), c.unpin(), c.setttl(), c.ln())
	fs.AddCommand(c.location(), c.free(), c.load(), c.persist())
	fs.AddCommand(c.mount(), c.unmount(), c.mounts())
	admin.AddCommand(c.report(), c.intents(), c.token(), c.masters())
	for _, group := range []*cobra.Command{fs, admin} {
		Group(group)
		Output(group, &c.json)
	}
	return fs, admin
}

// Group makes cmd a group: by itself it prints help, an unknown subcommand is an error
// of usage that names the nearest one.
func Group(cmd *cobra.Command) *cobra.Command {
	cmd.Args, cmd.RunE, cmd.SuggestionsMinimumDistance = cobra.ArbitraryArgs, needsSubcommand, 2
	return cmd
}

// Output gives --output to cmd and all below it.
func Output(cmd *cobra.Command, json *bool) {
	cmd.PersistentFlags().Var(&format{json}, "output", "text or json (one object a line)")
}

// needsSubcommand is what a group does by itself: help, or an error of usage.
func needsSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			text += fmt.Sprintf("; did you mean %q?", near[0])
		} else {
			text += fmt.Sprintf("; see %s --help", cmd.CommandPath())
		}
		return &Usage{errors.New(text)}
	}
	return cmd.Help()
}

// format is the value of --output.
type format struct{ json *bool }

func (f *format) String() string {
	if f.json != nil && *f.json {
		return "json"
	}
	return "text"
}

func (f *format) Type() string { return "text|json" }

func (f *format) Set(s string) error {
	switch s {
	case "text", "json":
		*f.json = s == "json"
		return nil
	}
	return fmt.Errorf("--output is text or json, not %q", s)
}

// run makes a RunE that connects first.
func (c *command) run(do func(ctx context.Context, sys System, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		sys, release, err := c.Connect(cmd.Context())
		if err != nil {
			return err
		}
		defer release()
		return do(cmd.Context(), sys, args)
	}
}

// args checks the number of arguments; a violation is an error of usage.
func args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if n := len(args); n < least || most >= 0 && n > most {
			return &Usage{fmt.Errorf("%s takes %s, got %d; usage: %s", cmd.CommandPath(), howMany(least, most), n, cmd.UseLine())}
		}
		return nil
	}
}

// exactlyOne checks that one of the flags was given; else it is an error of usage.
func exactlyOne(names ...string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		n := 0
		for _, name := range names {
			if cmd.Flags().Changed(name) {
				n++
			}
		}
		if n != 1 {
			return &Usage{fmt.Errorf("%s takes exactly one of --%s", cmd.CommandPath(), strings.Join(names, ", --"))}
		}
		return nil
	}
}

func howMany(least, most int) string {
	switch {
	case most < 0:
		return fmt.Sprintf("at least %d arguments", least)
	case least == most:
		return fmt.Sprintf("%d arguments", least)
	default:
		return fmt.Sprintf("%d to %d arguments", least, most)
	}
}

// path reads a path as a person types it: one trailing slash is forgiven.
func path(s string) (sluice.Path, error) {
	if len(s) > 1 {
		s = strings.TrimSuffix(s, "/")
	}
	return sluice.ParsePath(s)
}

// each runs do for every path, goes on after failures, prints them, and ends with
// Failed if there were any. An error of the context ends it at once.
func (c *command) each(ctx context.Context, names []string, do func(sluice.Path) error) error {
	var failed error
	for _, name := range names {
		p, err := path(name)
		if err == nil {
			err = do(p)
		}
		if err == nil {
			continue
		}
		if ctx.Err() != nil || len(names) == 1 {
			return err
		}
		Exit(c.Err, err)
		failed = Failed{}
	}
	return failed
}

// emit prints v as one line of JSON.
func (c *command) emit(v any) error { return Emit(c.Out, v) }

// Emit prints v on w as one line of JSON, as --output json does everywhere.
func Emit(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

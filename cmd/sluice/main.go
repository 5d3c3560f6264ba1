// Command sluice is the one binary: servers, tools and documentation of Sluice. Flags,
// files and environment end here; it assembles rooms and holds no logic of theirs.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/internal/shell"
	"github.com/sluicefs/sluice/internal/wire"
)

// unknownVersion is said where the binary was built without version control.
const unknownVersion = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], standard())
	stop()
	os.Exit(status)
}

// surroundings are what a process has from outside.
type surroundings struct {
	in       io.Reader
	out, err io.Writer
	environ  []string
	terminal bool
}

// standard are those of this process.
func standard() surroundings {
	st, err := os.Stderr.Stat()
	return surroundings{os.Stdin, os.Stdout, os.Stderr, os.Environ(), err == nil && st.Mode()&os.ModeCharDevice != 0}
}

// program is one run of the command line.
type program struct {
	surroundings
	file  string   // --config
	data  string   // --data
	set   []string // --set
	json  bool     // --output json, of commands that are not the shell's
	ended []func() // what is let go when the command has ended
}

// run runs one command line and returns its exit status.
func run(ctx context.Context, args []string, around surroundings) int {
	p := &program{surroundings: around}
	defer func() {
		for _, end := range p.ended {
			end()
		}
	}()
	root := p.root()
	root.SetArgs(args)
	root.SetIn(around.in)
	root.SetOut(around.out)
	root.SetErr(around.err)
	return shell.Exit(around.err, root.ExecuteContext(ctx))
}

// root is the whole command line.
func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "sluice",
		Short: "One namespace over many stores, cached next to the computation",
		Long: `Sluice stands between storage (S3, directories, ...) and compute (Spark, PyTorch, plain programs):
one tree over many stores, cached in memory and flash next to the computation.

  sluice up                               start everything on this machine
  sluice fs mount /data file:///some/dir  show a store in the tree
  sluice fs ls -l /data                   look at it
  sluice admin report                     see what is cached and how it fares`,
		SilenceErrors: true, SilenceUsage: true,
	}
	shell.Group(root)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &shell.Usage{Err: fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
	})
	root.PersistentFlags().StringVar(&p.file, "config", os.Getenv("SLUICE_CONFIG"), "YAML file with settings (default ~/.sluice.yaml where it is there)")
	root.PersistentFlags().StringVar(&p.data, "data", "", "where this machine keeps its state, short for --set data=DIR (default ~/.sluice)")
	root.PersistentFlags().StringArrayVar(&p.set, "set", nil, "a setting, such as worker.memory=1GiB; may be repeated")
	fs, admin := shell.New(shell.Env{Out: p.out, Err: p.err, In: p.in, Terminal: p.terminal, Connect: p.connect})
	fs.PersistentPreRunE, admin.PersistentPreRunE = p.limitTime, p.limitTime
	admin.AddCommand(p.journal())
	root.AddCommand(p.up(), p.master(), p.worker(), fs, admin, p.config(), p.version(), p.docs(), p.bench(), p.mount(), p.umount())
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			shell.Group(cmd)
		}
	}
	argumentsAreUsage(root)
	return root
}

// argumentsAreUsage makes wrong arguments of every command an error of usage.
func argumentsAreUsage(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			if _, said := errors.AsType[*shell.Usage](err); err == nil || said {
				return err
			}
			return &shell.Usage{Err: fmt.Errorf("%w; usage: %s", err, cmd.UseLine())}
		}
	}
	for _, sub := range cmd.Commands() {
		argumentsAreUsage(sub)
	}
}

// limitTime ends a command of the shell after client.timeout, where that is set.
func (p *program) limitTime(cmd *cobra.Command, _ []string) error {
	cfg, err := p.read()
	if err != nil || cfg.Client.Timeout == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), cfg.Client.Timeout)
	p.ended = append(p.ended, cancel)
	cmd.SetContext(ctx)
	return nil
}

// read puts the configuration together.
func (p *program) read() (config, error) {
	set := p.set
	if p.data != "" {
		set = append(slices.Clone(set), "data="+p.data)
	}
	return read(p.file, p.environ, set)
}

func (p *program) version() *cobra.Command {
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if p.json {
				return shell.Emit(p.out, map[string]any{"version": versionText(), "cluster_version": wire.ClusterVersion,
					"go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
			}
			_, err := fmt.Fprintf(p.out, "sluice %s (cluster version %d, %s, %s/%s)\n", versionText(), wire.ClusterVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
	shell.Output(cmd, &p.json)
	return cmd
}

// versionText is the version control's revision that the binary was built from.
func versionText() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return unknownVersion
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	return unknownVersion
}

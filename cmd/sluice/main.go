// Command sluice is the one binary: servers, tools and documentation of Sluice. Flags,
// files and environment end here; it assembles rooms and holds no logic of theirs.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
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
	file string   // --config
	set  []string // --set
}

// run runs one command line and returns its exit status.
func run(ctx context.Context, args []string, around surroundings) int {
	p := &program{surroundings: around}
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
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &shell.Usage{Err: fmt.Errorf("unknown command %q; see sluice --help", args[0])}
			}
			return cmd.Help()
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &shell.Usage{Err: fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
	})
	root.PersistentFlags().StringVar(&p.file, "config", os.Getenv("SLUICE_CONFIG"), "YAML file with settings (default ~/.sluice.yaml where it is there)")
	root.PersistentFlags().StringArrayVar(&p.set, "set", nil, "a setting, such as worker.memory=1GiB; may be repeated")
	fs, admin := shell.New(shell.Env{Out: p.out, Err: p.err, In: p.in, Terminal: p.terminal, Connect: p.connect})
	admin.AddCommand(p.journal())
	root.AddCommand(p.up(), p.master(), p.worker(), fs, admin, p.config(), p.version(), p.docs(), p.bench())
	return root
}

// read puts the configuration together.
func (p *program) read() (config, error) { return read(p.file, p.environ, p.set) }

func (p *program) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(p.out, "sluice %s (cluster version %d, %s, %s/%s)\n", versionText(), wire.ClusterVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
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

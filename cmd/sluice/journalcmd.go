package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/inspect"
	"github.com/sluicefs/sluice/internal/shell"
)

// journal reads the files of a stopped master.
func (p *program) journal() *cobra.Command {
	group := shell.Group(&cobra.Command{Use: "journal", Short: "Read the journal of a stopped master"})
	var from, to uint64
	dump := &cobra.Command{
		Use: "dump [DIR]", Short: "Print its commands, one JSON object a line, without secrets", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := p.masterDir(args)
			if err != nil {
				return err
			}
			return inspect.Dump(p.out, dir, inspect.Options{From: sluice.Index(from), To: sluice.Index(to)})
		},
	}
	dump.Flags().Uint64Var(&from, "from", 0, "first index")
	dump.Flags().Uint64Var(&to, "to", 0, "last index; 0 is the end")
	verify := &cobra.Command{
		Use: "verify [DIR]", Short: "Say whether it is whole", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := p.masterDir(args)
			if err != nil {
				return err
			}
			report, err := inspect.Verify(dir, inspect.Options{})
			if err != nil {
				return err
			}
			j := report.Journal
			if cmd.Flag("output").Value.String() == "json" {
				return shell.Emit(p.out, map[string]any{"whole": true, "cluster": j.Cluster, "node": j.Node, "term": j.Term, "first": j.First, "last": j.Last,
					"commands": report.Entries, "acknowledged": j.Commit, "torn_bytes": j.Torn})
			}
			_, err = fmt.Fprintf(p.out, "whole: cluster %s, node %d, term %d, entries %d to %d (%d with commands), %d acknowledged for certain, %d bytes of a torn tail that the next start cuts\n",
				j.Cluster, j.Node, j.Term, j.First, j.Last, report.Entries, j.Commit, j.Torn)
			return err
		},
	}
	group.AddCommand(dump, verify)
	return group
}

// masterDir is the argument, or that of the configuration.
func (p *program) masterDir(args []string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	cfg, err := p.read()
	return cfg.masterDir(), err
}

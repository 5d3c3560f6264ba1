package shell

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice"
)

// masters groups what is done about the masters themselves.
func (c *command) masters() *cobra.Command {
	cmd := &cobra.Command{Use: "masters", Short: "Look after several masters", RunE: needsSubcommand}
	cmd.AddCommand(
		c.listMasters(),
		c.changeMasters("add ID ADDRESS", "Take a master in, which is then started with --join and votes when it has caught up", 2,
			func(ctx context.Context, m sluice.MasterAdmin, node uint64, address string) error {
				return m.AddMaster(ctx, node, address)
			}),
		c.changeMasters("remove ID", "Take a master out, dead or alive", 1,
			func(ctx context.Context, m sluice.MasterAdmin, node uint64, _ string) error {
				return m.RemoveMaster(ctx, node)
			}),
		c.changeMasters("transfer ID", "Hand the primary's place to a master", 1,
			func(ctx context.Context, m sluice.MasterAdmin, node uint64, _ string) error {
				return m.TransferMaster(ctx, node)
			}),
		c.changeMasters("stepdown", "Hand the primary's place to whichever master is furthest", 0,
			func(ctx context.Context, m sluice.MasterAdmin, node uint64, _ string) error {
				return m.TransferMaster(ctx, node)
			}),
	)
	return cmd
}

func masterAdmin(sys System) (sluice.MasterAdmin, error) {
	m, ok := sys.(sluice.MasterAdmin)
	if !ok {
		return nil, &sluice.Error{Op: "masters", Kind: sluice.Unsupported}
	}
	return m, nil
}

func (c *command) listMasters() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the masters, with their part and how far they are", Args: args(0, 0),
		RunE: c.run(func(ctx context.Context, sys System, _ []string) error {
			m, err := masterAdmin(sys)
			if err != nil {
				return err
			}
			all, err := m.Members(ctx)
			if err != nil {
				return err
			}
			rows := [][]string{{"ID", "ADDRESS", "ROLE", "STATE", "ENTRY"}}
			for _, x := range all {
				role, state := masterRole(x), "alive"
				if !x.Active {
					state = "silent"
				}
				if c.json {
					if err := c.emit(map[string]any{
						"id": x.Node, "address": x.Address, "role": role, "alive": x.Active, "voter": x.Voter, "entry": x.Match,
					}); err != nil {
						return err
					}
					continue
				}
				rows = append(rows, []string{strconv.FormatUint(x.Node, 10), x.Address, role, state, fmt.Sprint(x.Match)})
			}
			if c.json {
				return nil
			}
			return c.table(rows)
		}),
	}
}

// masterRole names the part of a master.
func masterRole(m sluice.MasterMember) string {
	switch {
	case m.Primary:
		return "primary"
	case m.Voter:
		return "standby"
	default:
		return "catching up"
	}
}

// changeMasters is a command about one master; what is not named has node 0.
func (c *command) changeMasters(use, short string, n int, do func(context.Context, sluice.MasterAdmin, uint64, string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: args(n, n),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			m, err := masterAdmin(sys)
			if err != nil {
				return err
			}
			var node uint64
			address := ""
			if n > 0 {
				if node, err = strconv.ParseUint(names[0], 10, 32); err != nil || node == 0 {
					return &Usage{Err: fmt.Errorf("%q is not the id of a master, a number from 1", names[0])}
				}
			}
			if n > 1 {
				address = names[1]
			}
			return do(ctx, m, node, address)
		}),
	}
}

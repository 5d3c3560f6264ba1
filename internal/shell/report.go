package shell

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice"
)

func (c *command) report() *cobra.Command {
	return &cobra.Command{
		Use: "report", Short: "Describe masters, workers, tiers, hit ratios and mounts", Args: args(0, 0),
		RunE: c.run(func(ctx context.Context, sys System, _ []string) error {
			r, err := sys.Report(ctx)
			if err != nil {
				return err
			}
			if c.json {
				return c.emit(describeReport(r))
			}
			return c.printReport(r)
		}),
	}
}

func (c *command) printReport(r sluice.Report) error {
	fmt.Fprintf(c.Out, "cluster %s, version %s, %d files\n", r.Cluster, r.Version, r.Files)
	for _, w := range r.Warnings {
		fmt.Fprintf(c.Out, "WARNING: %s\n", w)
	}
	rows := [][]string{{"\nMASTER", "ADDRESS", "ROLE", "APPLIED", "TERM", "UP", "MEMORY"}}
	for _, m := range r.Masters {
		role := "standby"
		if m.Primary {
			role = "primary"
		}
		rows = append(rows, []string{m.Name, m.Address, role, fmt.Sprint(m.Applied), fmt.Sprint(m.Term),
			(time.Duration(m.Uptime) * time.Second).String(), size(m.Resident, true)})
	}
	if err := c.table(rows); err != nil {
		return err
	}
	rows = [][]string{{"\nWORKER", "HOST", "STATE", "TIER", "USED", "HELD", "FREE", "QUOTA", "BLOCKS", "HITS", "NOTE"}}
	for _, w := range r.Workers {
		state := "lost"
		if w.Live {
			state = "live"
		}
		for i, t := range w.Tiers {
			row := []string{"", "", "", t.Name, size(t.Used, true), size(t.Held, true), size(t.Free, true), size(t.Quota, true), strconv.FormatInt(t.Blocks, 10), "", t.Note}
			if i == 0 {
				row[0], row[1], row[2], row[9] = w.ID.String(), w.Host, state, ratio(w.HitBytes, w.MissBytes)
			}
			rows = append(rows, row)
		}
	}
	if err := c.table(rows); err != nil {
		return err
	}
	rows = [][]string{{"\nMOUNT", "STORE", "MODE", "HEALTH"}}
	for _, m := range r.Mounts {
		rows = append(rows, []string{string(m.Path), m.URI, accessOf(m), healthOf(m.Health)})
	}
	return c.table(rows)
}

func ratio(hit, miss int64) string {
	if hit+miss == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(hit)/float64(hit+miss))
}

// reportEntry and its parts are a report as --output json shows it.
type reportEntry struct {
	Cluster  string        `json:"cluster"`
	Version  string        `json:"version"`
	Files    int64         `json:"files"`
	Warnings []string      `json:"warnings"`
	Masters  []masterEntry `json:"masters"`
	Workers  []workerEntry `json:"workers"`
	Mounts   []mountEntry  `json:"mounts"`
}

type masterEntry struct {
	Name          string `json:"name"`
	Address       string `json:"address"`
	Primary       bool   `json:"primary"`
	Applied       uint64 `json:"applied"`
	Term          uint64 `json:"term"`
	Sessions      int    `json:"sessions"`
	UptimeSeconds int64  `json:"uptime_seconds"`
	Resident      int64  `json:"resident_bytes"`
}

type workerEntry struct {
	ID          string      `json:"id"`
	Host        string      `json:"host"`
	Address     string      `json:"address"`
	Socket      string      `json:"socket"`
	Live        bool        `json:"live"`
	Unpersisted int64       `json:"unpersisted_bytes"`
	Pinned      int64       `json:"pinned_bytes"`
	Hit         int64       `json:"hit_bytes"`
	Miss        int64       `json:"miss_bytes"`
	Evicted     int64       `json:"evicted_blocks"`
	Corrupt     int64       `json:"corrupt_chunks"`
	Tiers       []tierEntry `json:"tiers"`
}

type tierEntry struct {
	Name        string   `json:"name"`
	Quota       int64    `json:"quota_bytes"`
	Used        int64    `json:"used_bytes"`
	Held        int64    `json:"held_bytes"`
	Free        int64    `json:"free_bytes"`
	Blocks      int64    `json:"blocks"`
	Directories []string `json:"directories"`
	Note        string   `json:"note,omitempty"`
}

func describeReport(r sluice.Report) reportEntry {
	e := reportEntry{
		Cluster: r.Cluster, Version: r.Version, Files: r.Files, Warnings: append([]string{}, r.Warnings...),
		Masters: []masterEntry{}, Workers: []workerEntry{}, Mounts: []mountEntry{},
	}
	for _, m := range r.Masters {
		e.Masters = append(e.Masters, masterEntry{m.Name, m.Address, m.Primary, uint64(m.Applied), uint64(m.Term), m.Sessions, m.Uptime, m.Resident})
	}
	for _, w := range r.Workers {
		entry := workerEntry{
			ID: w.ID.String(), Host: w.Host, Address: w.Address, Socket: w.Socket, Live: w.Live, Unpersisted: w.Unpersisted,
			Pinned: w.Pinned, Hit: w.HitBytes, Miss: w.MissBytes, Evicted: w.Evicted, Corrupt: w.Corrupt, Tiers: []tierEntry{},
		}
		for _, t := range w.Tiers {
			entry.Tiers = append(entry.Tiers, tierEntry{t.Name, t.Quota, t.Used, t.Held, t.Free, t.Blocks, t.Directories, t.Note})
		}
		e.Workers = append(e.Workers, entry)
	}
	for _, m := range r.Mounts {
		e.Mounts = append(e.Mounts, describeMount(m))
	}
	return e
}

func (c *command) intents() *cobra.Command {
	return &cobra.Command{
		Use: "intents", Short: "List changes of stores that are under way, oldest first", Args: args(0, 0),
		RunE: c.run(func(ctx context.Context, sys System, _ []string) error {
			all, err := sys.Intents(ctx)
			if err != nil {
				return err
			}
			rows := [][]string{{"ID", "CHANGE", "PATH", "TO", "STATE", "AGE", "ATTEMPTS", "MESSAGE"}}
			for _, i := range all {
				if c.json {
					if err := c.emit(map[string]any{
						"id": i.ID, "op": i.Op, "path": i.Path, "to": i.To, "state": i.State, "age_seconds": i.Age,
						"attempts": i.Attempts, "message": i.Message, "mount": i.Mount,
					}); err != nil {
						return err
					}
					continue
				}
				rows = append(rows, []string{strconv.FormatUint(i.ID, 10), i.Op, string(i.Path), string(i.To), i.State,
					(time.Duration(i.Age) * time.Second).String(), strconv.Itoa(i.Attempts), oneLine(i.Message)})
			}
			if c.json {
				return nil
			}
			return c.table(rows)
		}),
	}
}

func (c *command) token() *cobra.Command {
	var who sluice.Principal
	var lifetime time.Duration
	var speakFor bool
	cmd := &cobra.Command{
		Use: "token USER", Short: "Issue a token that proves who a user is", Args: args(1, 1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			issuer, ok := sys.(Tokens)
			if !ok {
				return &sluice.Error{Op: "token", Kind: sluice.Unsupported}
			}
			who.User = names[0]
			text, err := issuer.Token(ctx, who, lifetime, speakFor)
			if err != nil {
				return err
			}
			if c.json {
				return c.emit(map[string]any{"user": who.User, "groups": append([]string{}, who.Groups...), "admin": who.Super,
					"lifetime_seconds": int64(lifetime.Seconds()), "token": text})
			}
			_, err = fmt.Fprintln(c.Out, text)
			return err
		}),
	}
	cmd.Flags().StringSliceVar(&who.Groups, "group", nil, "groups, the first being that of new files")
	cmd.Flags().BoolVar(&who.Super, "admin", false, "may do everything, such as mount")
	cmd.Flags().BoolVar(&speakFor, "speak-for", false, "may act for other users (gateways)")
	cmd.Flags().DurationVar(&lifetime, "lifetime", 24*time.Hour, "how long it is good")
	return cmd
}

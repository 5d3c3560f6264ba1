package shell

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice"
)

// mountFlags are the flags of mount.
type mountFlags struct {
	opts                sluice.MountOptions
	freshness           string
	write               writeFlag
	blockSize           string
	bandwidth           string
	fileMode, dirMode   string
	settings, secrets   []string
	secretsFromStandard bool
}

func (c *command) mount() *cobra.Command {
	var m mountFlags
	cmd := &cobra.Command{
		Use: "mount PATH URI", Short: "Show a store at a path, such as s3://bucket/prefix or file:///data", Args: args(2, 2),
		Long: `Show a store at a path. The store is asked whether it answers before the mount is accepted.

Secrets are given as NAME=file:/path or NAME=env:NAME, which each server resolves for itself,
or with --secrets-stdin as lines NAME=VALUE on standard input, which are sealed in the journal.
They never appear on a command line, in a listing or in a log.`,
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			p, err := path(names[0])
			if err != nil {
				return err
			}
			opts, secrets, err := m.parse(c)
			if err != nil {
				return err
			}
			info, err := sys.Mount(ctx, p, names[1], opts, secrets)
			if err != nil {
				return err
			}
			if c.json {
				return c.emit(describeMount(info))
			}
			_, err = fmt.Fprintf(c.Out, "mounted %s at %s\n", info.URI, info.Path)
			return err
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&m.opts.ReadOnly, "read-only", false, "refuse changes")
	f.StringVar(&m.freshness, "freshness", "", "never, always, or a time such as 1m (the default): how old knowledge of the store may be")
	f.Var(&m.write, "write", "write type of files made below (default CACHE_THROUGH)")
	f.StringVar(&m.blockSize, "block-size", "", "of the cache, such as 128MiB")
	f.StringVar(&m.opts.Owner, "owner", "", "owner of what the store has none for (default: you)")
	f.StringVar(&m.opts.Group, "group", "", "likewise")
	f.StringVar(&m.fileMode, "file-mode", "", "mode of files the store has none for (default 0644)")
	f.StringVar(&m.dirMode, "dir-mode", "", "mode of directories the store has none for (default 0755)")
	f.BoolVar(&m.opts.Markers, "markers", false, "mkdir writes and rmdir deletes an empty object d/")
	f.BoolVar(&m.opts.Direct, "direct", false, "clients may read the store themselves when no worker can serve")
	f.DurationVar(&m.opts.Timeout, "timeout", 0, "of one call to the store (default 30s)")
	f.IntVar(&m.opts.Concurrent, "concurrency", 0, "calls to the store at once per process (default 64)")
	f.StringVar(&m.bandwidth, "bandwidth", "", "bytes per second per process, such as 200MB (default unlimited)")
	f.DurationVar(&m.opts.Settle, "settle", 0, "younger versions of files are not cached (stores without conditional reads; default 2s)")
	f.StringArrayVarP(&m.settings, "option", "o", nil, "a setting of the driver, NAME=VALUE; may be repeated")
	f.StringArrayVar(&m.secrets, "secret", nil, "NAME=file:/path or NAME=env:NAME; may be repeated")
	f.BoolVar(&m.secretsFromStandard, "secrets-stdin", false, "read lines NAME=VALUE from standard input")
	return cmd
}

// parse turns the flags into options and secrets.
func (m *mountFlags) parse(c *command) (opts sluice.MountOptions, secrets sluice.Secrets, err error) {
	opts = m.opts
	opts.WriteType = m.write.WriteType
	if opts.Freshness, err = sluice.ParseFreshness(m.freshness); err != nil {
		return opts, nil, &Usage{err}
	}
	if opts.BlockSize, err = bytesOf("--block-size", m.blockSize); err != nil {
		return opts, nil, err
	}
	if opts.Bandwidth, err = bytesOf("--bandwidth", m.bandwidth); err != nil {
		return opts, nil, err
	}
	for _, mode := range []struct {
		text string
		to   *sluice.Mode
	}{{m.fileMode, &opts.FileMode}, {m.dirMode, &opts.DirMode}} {
		if mode.text == "" {
			continue
		}
		if *mode.to, err = parseMode(mode.text); err != nil {
			return opts, nil, err
		}
	}
	if opts.Properties, err = pairs("-o", m.settings); err != nil {
		return opts, nil, err
	}
	given, err := pairs("--secret", m.secrets)
	if err != nil {
		return opts, nil, err
	}
	for name, value := range given {
		if !strings.HasPrefix(value, "file:") && !strings.HasPrefix(value, "env:") {
			return opts, nil, &Usage{fmt.Errorf("--secret %s: give file:/path or env:NAME; plain values go in through --secrets-stdin, command lines are visible to others", name)}
		}
	}
	secrets = given
	if m.secretsFromStandard {
		secrets, err = c.readSecrets(given)
	}
	return opts, secrets, err
}

// readSecrets adds lines NAME=VALUE from standard input.
func (c *command) readSecrets(secrets sluice.Secrets) (sluice.Secrets, error) {
	if secrets == nil {
		secrets = sluice.Secrets{}
	}
	lines := bufio.NewScanner(c.In)
	for lines.Scan() {
		if lines.Text() == "" {
			continue
		}
		name, value, ok := strings.Cut(lines.Text(), "=")
		if !ok {
			return nil, &Usage{fmt.Errorf("standard input: each line is NAME=VALUE")}
		}
		secrets[name] = value
	}
	return secrets, lines.Err()
}

func bytesOf(flag, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(s)
	if err != nil || n > 1<<62 {
		return 0, &Usage{fmt.Errorf("%s is a number of bytes with a unit such as 64MiB, not %q", flag, s)}
	}
	return int64(n), nil
}

func pairs(flag string, list []string) (map[string]string, error) {
	var m map[string]string
	for _, s := range list {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, &Usage{fmt.Errorf("%s takes NAME=VALUE", flag)}
		}
		if m == nil {
			m = map[string]string{}
		}
		m[name] = value
	}
	return m, nil
}

func (c *command) unmount() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "unmount PATH", Short: "Take a store out of the namespace; the store is left as it is", Args: args(1, 1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			p, err := path(names[0])
			if err != nil {
				return err
			}
			return sys.Unmount(ctx, p, force)
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "even where files are not in the store yet: they are lost")
	return cmd
}

// mountEntry is a mount as --output json shows it.
type mountEntry struct {
	Path       string            `json:"path"`
	URI        string            `json:"uri"`
	ReadOnly   bool              `json:"read_only"`
	Freshness  string            `json:"freshness"`
	Write      string            `json:"write"`
	Reads      string            `json:"reads"`
	OK         bool              `json:"ok"`
	Message    string            `json:"message,omitempty"`
	Since      time.Time         `json:"since,omitzero"`
	Breaker    string            `json:"breaker"`
	InFlight   int               `json:"in_flight"`
	Calls      int64             `json:"calls"`
	Errors     int64             `json:"errors"`
	BytesRead  int64             `json:"bytes_read"`
	BytesSent  int64             `json:"bytes_sent"`
	Skipped    int64             `json:"skipped_keys"`
	Intents    int               `json:"intents"`
	Properties map[string]string `json:"properties,omitempty"`
}

func describeMount(m sluice.MountInfo) mountEntry {
	h := m.Health
	return mountEntry{
		Path: string(m.Path), URI: m.URI, ReadOnly: m.Options.ReadOnly, Freshness: freshnessOf(m.Options), Write: writeTypeOf(m.Options),
		Reads: h.Checked, OK: h.OK, Message: h.Message, Since: h.Since, Breaker: h.Breaker, InFlight: h.InFlight, Calls: h.Calls, Errors: h.Errors,
		BytesRead: h.BytesRead, BytesSent: h.BytesSent, Skipped: h.Skipped, Intents: h.Intents, Properties: m.Options.Properties,
	}
}

func (c *command) mounts() *cobra.Command {
	return &cobra.Command{
		Use: "mounts", Short: "List the mounts and how their stores fare", Args: args(0, 0),
		RunE: c.run(func(ctx context.Context, sys System, _ []string) error {
			all, err := sys.Mounts(ctx)
			if err != nil {
				return err
			}
			rows := [][]string{{"PATH", "STORE", "MODE", "FRESHNESS", "READS", "HEALTH"}}
			for _, m := range all {
				if c.json {
					if err := c.emit(describeMount(m)); err != nil {
						return err
					}
					continue
				}
				rows = append(rows, []string{string(m.Path), m.URI, accessOf(m), freshnessOf(m.Options), m.Health.Checked, healthOf(m.Health)})
			}
			if c.json {
				return nil
			}
			return c.table(rows)
		}),
	}
}

// freshnessOf is what holds for a mount, the default of [sluice.MountOptions] included.
func freshnessOf(o sluice.MountOptions) string {
	if !o.Freshness.Set {
		return sluice.Every(time.Minute).String()
	}
	return o.Freshness.String()
}

// writeTypeOf is what holds for files made below a mount, likewise.
func writeTypeOf(o sluice.MountOptions) string {
	if o.WriteType == sluice.WriteDefault {
		return sluice.CacheThrough.String()
	}
	return o.WriteType.String()
}

func accessOf(m sluice.MountInfo) string {
	if m.Options.ReadOnly {
		return "read-only"
	}
	return "read-write"
}

func healthOf(h sluice.Health) string {
	text := "ok"
	if !h.OK {
		text = "failing: " + oneLine(h.Message)
	}
	if h.Breaker != "" && h.Breaker != "closed" {
		text += "; breaker " + h.Breaker
	}
	if h.Skipped > 0 {
		text += fmt.Sprintf("; %d keys skipped", h.Skipped)
	}
	if h.Intents > 0 {
		text += fmt.Sprintf("; %d changes under way", h.Intents)
	}
	return text
}

package shell

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice"
)

// entry is a file as --output json shows it.
type entry struct {
	Path        string            `json:"path"`
	Type        string            `json:"type"`
	ID          uint64            `json:"id"`
	Length      int64             `json:"length"`
	Mode        string            `json:"mode"`
	Owner       string            `json:"owner"`
	Group       string            `json:"group"`
	Mtime       time.Time         `json:"mtime"`
	Complete    bool              `json:"complete"`
	Persistence string            `json:"persistence"`
	Pinned      bool              `json:"pinned,omitempty"`
	TTL         string            `json:"ttl,omitempty"`
	TTLAction   string            `json:"ttl_action,omitempty"`
	Target      string            `json:"target,omitempty"`
	Content     string            `json:"content,omitempty"`
	BlockSize   int64             `json:"block_size,omitempty"`
	Mount       uint64            `json:"mount,omitempty"`
	IsMount     bool              `json:"is_mount,omitempty"`
	Key         string            `json:"key,omitempty"`
	Version     string            `json:"version,omitempty"`
	XAttrs      map[string]string `json:"xattrs,omitempty"`
}

func describe(f sluice.FileInfo) entry {
	e := entry{
		Path: string(f.Path), Type: f.Type.String(), ID: uint64(f.ID), Length: f.Length, Mode: fmt.Sprintf("%04o", f.Mode),
		Owner: f.Owner, Group: f.Group, Mtime: f.Mtime, Complete: f.Complete, Persistence: f.Persistence.String(),
		Pinned: f.Pinned, Target: f.Target, BlockSize: f.BlockSize(), Mount: uint64(f.Mount), IsMount: f.IsMount,
		Key: f.Key, Version: string(f.Store),
	}
	if c := f.Content(); !c.IsZero() {
		e.Content = c.String()
	}
	if f.TTL > 0 {
		e.TTL, e.TTLAction = f.TTL.String(), f.TTLAction.String()
	}
	for name, value := range f.XAttrs {
		if e.XAttrs == nil {
			e.XAttrs = map[string]string{}
		}
		e.XAttrs[name] = string(value)
	}
	return e
}

func (c *command) ls() *cobra.Command {
	var long, human, fresh bool
	var opts sluice.ListOptions
	cmd := &cobra.Command{
		Use: "ls [PATH...]", Short: "List a directory, or describe a file", Args: args(0, -1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			if len(names) == 0 {
				names = []string{"/"}
			}
			if fresh {
				opts.Freshness = sluice.Always()
			}
			return c.each(ctx, names, func(p sluice.Path) error {
				for f, err := range sys.List(ctx, p, opts) {
					if err != nil {
						return err
					}
					if err := c.printEntry(f, p, long, human, opts.Recursive); err != nil {
						return err
					}
				}
				return nil
			})
		}),
	}
	cmd.Flags().BoolVarP(&long, "long", "l", false, "mode, owner, group, size and time too")
	cmd.Flags().BoolVarP(&opts.Recursive, "recursive", "R", false, "everything below")
	cmd.Flags().BoolVar(&fresh, "fresh", false, "ask the stores, whatever is known")
	humanFlag(cmd, &human)
	return cmd
}

// humanFlag gives -h to sizes, as ls and du have it; help stays --help.
func humanFlag(cmd *cobra.Command, human *bool) {
	cmd.Flags().Bool("help", false, "help for "+cmd.Name())
	cmd.Flags().BoolVarP(human, "human", "h", false, "sizes with units")
}

func (c *command) printEntry(f sluice.FileInfo, below sluice.Path, long, human, whole bool) error {
	if c.json {
		return c.emit(describe(f))
	}
	name := f.Path.Name()
	if whole || f.Path == below {
		name = string(f.Path)
	}
	if f.IsDir() && name != "/" {
		name += "/"
	}
	if !long {
		_, err := fmt.Fprintln(c.Out, name)
		return err
	}
	kind := "-"
	switch f.Type {
	case sluice.Directory:
		kind = "d"
	case sluice.Symlink:
		kind, name = "l", name+" -> "+f.Target
	}
	state := ""
	if !f.Complete && f.Type == sluice.File {
		state = " (incomplete)"
	} else if f.Persistence != sluice.Persisted {
		state = " (" + f.Persistence.String() + ")"
	}
	_, err := fmt.Fprintf(c.Out, "%s%s %-8s %-8s %12s %s %s%s\n", kind, f.Mode, f.Owner, f.Group, size(f.Length, human),
		f.Mtime.Local().Format("2006-01-02 15:04:05"), name, state)
	return err
}

func size(n int64, human bool) string {
	if human {
		return humanize.IBytes(uint64(max(n, 0)))
	}
	return strconv.FormatInt(n, 10)
}

func (c *command) stat() *cobra.Command {
	var fresh bool
	cmd := &cobra.Command{
		Use: "stat PATH...", Short: "Show everything known of a file", Args: args(1, -1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			opts := sluice.StatOptions{XAttrs: true}
			if fresh {
				opts.Freshness = sluice.Always()
			}
			return c.each(ctx, names, func(p sluice.Path) error {
				f, err := sys.Stat(ctx, p, opts)
				if err != nil {
					return err
				}
				if c.json {
					return c.emit(describe(f))
				}
				return c.table(fields(f))
			})
		}),
	}
	cmd.Flags().BoolVar(&fresh, "fresh", false, "ask the store, whatever is known")
	return cmd
}

func fields(f sluice.FileInfo) [][]string {
	rows := [][]string{
		{"path", string(f.Path)}, {"type", f.Type.String()}, {"id", strconv.FormatUint(uint64(f.ID), 10)},
		{"length", strconv.FormatInt(f.Length, 10)}, {"mode", fmt.Sprintf("%04o (%s)", f.Mode, f.Mode)},
		{"owner", f.Owner + ":" + f.Group}, {"modified", f.Mtime.Local().Format(time.RFC3339Nano)},
	}
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	if f.Type == sluice.File {
		add("complete", strconv.FormatBool(f.Complete))
		add("persistence", f.Persistence.String())
		if id := f.Content(); !id.IsZero() {
			add("content", id.String())
			add("block size", strconv.FormatInt(f.BlockSize(), 10))
		}
		add("store version", string(f.Store))
		if f.Pinned {
			add("pinned", "true")
		}
	}
	if f.TTL > 0 {
		add("ttl", f.TTL.String()+", then "+f.TTLAction.String())
	}
	if f.Mount != 0 {
		add("mount", strconv.FormatUint(uint64(f.Mount), 10))
		add("store key", f.Key)
	}
	add("target", f.Target)
	return rows
}

// table prints rows in columns.
func (c *command) table(rows [][]string) error {
	w := tabwriter.NewWriter(c.Out, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

func (c *command) test() *cobra.Command {
	var exists, file, dir, empty, filled bool
	cmd := &cobra.Command{
		Use: "test -e|-f|-d|-z|-s PATH", Short: "Exit with 0 if the path is what is asked for, else with 1", Args: args(1, 1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			p, err := path(names[0])
			if err != nil {
				return err
			}
			f, err := sys.Stat(ctx, p, sluice.StatOptions{})
			if sluice.NotFound == kindOrNone(err) {
				return Failed{}
			}
			if err != nil {
				return err
			}
			ok := exists || file && f.Type == sluice.File || dir && f.IsDir() ||
				empty && f.Length == 0 && !f.IsDir() || filled && f.Length > 0
			if !ok {
				return Failed{}
			}
			return nil
		}),
	}
	cmd.Flags().BoolVarP(&exists, "exists", "e", false, "it exists")
	cmd.Flags().BoolVarP(&file, "file", "f", false, "it is a file")
	cmd.Flags().BoolVarP(&dir, "directory", "d", false, "it is a directory")
	cmd.Flags().BoolVarP(&empty, "zero", "z", false, "it is a file of length zero")
	cmd.Flags().BoolVarP(&filled, "size", "s", false, "it has a length above zero")
	cmd.PreRunE = exactlyOne("exists", "file", "directory", "zero", "size")
	return cmd
}

// kindOrNone is KindOf for an error that may be nil; no kind is 255.
func kindOrNone(err error) sluice.Kind {
	if err == nil {
		return 255
	}
	return sluice.KindOf(err)
}

// usage is what a tree holds.
type usage struct {
	Path        string `json:"path"`
	Directories int64  `json:"directories"`
	Files       int64  `json:"files"`
	Bytes       int64  `json:"bytes"`
}

func (u *usage) add(f sluice.FileInfo) {
	if f.IsDir() {
		u.Directories++
		return
	}
	u.Files++
	u.Bytes += f.Length
}

func (c *command) du() *cobra.Command {
	var human, sum bool
	cmd := &cobra.Command{
		Use: "du PATH...", Short: "Sum up lengths, for each child and below it", Args: args(1, -1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			return c.each(ctx, names, func(p sluice.Path) error {
				show := func(u usage) error {
					if c.json {
						return c.emit(u)
					}
					_, err := fmt.Fprintf(c.Out, "%12s  %s\n", size(u.Bytes, human), u.Path)
					return err
				}
				return eachChild(ctx, sys, p, sum, show)
			})
		}),
	}
	cmd.Flags().BoolVarP(&sum, "summarize", "s", false, "one total per argument")
	humanFlag(cmd, &human)
	return cmd
}

// eachChild sums up each child of dir, or dir as a whole, in one walk.
func eachChild(ctx context.Context, sys System, dir sluice.Path, whole bool, show func(usage) error) error {
	total, part := usage{Path: string(dir)}, usage{}
	flush := func() error {
		if part.Path == "" || whole {
			return nil
		}
		return show(part)
	}
	for f, err := range sys.List(ctx, dir, sluice.ListOptions{Recursive: true}) {
		if err != nil {
			return err
		}
		total.add(f)
		if f.Path == dir {
			continue
		}
		name, _, _ := strings.Cut(dir.Rel(f.Path), "/")
		if child := string(dir.Join(name)); child != part.Path {
			if err := flush(); err != nil {
				return err
			}
			part = usage{Path: child}
		}
		part.add(f)
	}
	if err := flush(); err != nil {
		return err
	}
	if whole || part.Path == "" {
		return show(total)
	}
	return nil
}

func (c *command) count() *cobra.Command {
	return &cobra.Command{
		Use: "count PATH...", Short: "Count directories, files and bytes", Args: args(1, -1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			return c.each(ctx, names, func(p sluice.Path) error {
				return eachChild(ctx, sys, p, true, func(u usage) error {
					if c.json {
						return c.emit(u)
					}
					_, err := fmt.Fprintf(c.Out, "%12d %12d %16d %s\n", u.Directories, u.Files, u.Bytes, u.Path)
					return err
				})
			})
		}),
	}
}

func (c *command) find() *cobra.Command {
	var want criteria
	cmd := &cobra.Command{
		Use: "find PATH", Short: "Print what matches, with everything below", Args: args(1, 1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			if err := want.validate(); err != nil {
				return err
			}
			return c.each(ctx, names, func(p sluice.Path) error {
				for f, err := range sys.List(ctx, p, sluice.ListOptions{Recursive: true}) {
					if err != nil {
						return err
					}
					if !want.match(f) {
						continue
					}
					if err := c.printEntry(f, p, false, false, true); err != nil {
						return err
					}
				}
				return nil
			})
		}),
	}
	cmd.Flags().StringVar(&want.name, "name", "", "the last component matches this pattern (*, ?, [a-z])")
	cmd.Flags().StringVar(&want.kind, "type", "", "f (files), d (directories) or l (symlinks)")
	cmd.Flags().Int64Var(&want.least, "min-size", 0, "files of at least so many bytes")
	cmd.Flags().Int64Var(&want.most, "max-size", -1, "files of at most so many bytes")
	cmd.Flags().BoolVar(&want.cacheOnly, "cache-only", false, "files whose bytes exist in the cache alone")
	return cmd
}

// criteria are what find looks for; all that are given must hold.
type criteria struct {
	name, kind  string
	least, most int64
	cacheOnly   bool
}

func (w *criteria) validate() error {
	if _, err := filepath.Match(w.name, ""); err != nil {
		return &Usage{fmt.Errorf("--name %q is not a pattern: %w", w.name, err)}
	}
	switch w.kind {
	case "", "f", "d", "l":
		return nil
	}
	return &Usage{fmt.Errorf("--type is f, d or l, not %q", w.kind)}
}

func (w *criteria) match(f sluice.FileInfo) bool {
	if w.name != "" {
		if ok, _ := filepath.Match(w.name, f.Path.Name()); !ok {
			return false
		}
	}
	letter := map[sluice.Type]string{sluice.File: "f", sluice.Directory: "d", sluice.Symlink: "l"}[f.Type]
	if w.kind != "" && w.kind != letter {
		return false
	}
	if w.cacheOnly && (f.Type != sluice.File || f.Persistence != sluice.CacheOnly) {
		return false
	}
	sized := w.least > 0 || w.most >= 0
	return !sized || f.Type == sluice.File && f.Length >= w.least && (w.most < 0 || f.Length <= w.most)
}

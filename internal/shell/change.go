package shell

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice"
)

func (c *command) mkdir() *cobra.Command {
	var opts sluice.MkdirOptions
	var mode string
	cmd := &cobra.Command{
		Use: "mkdir PATH...", Short: "Make directories", Args: args(1, -1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			m, err := parseMode(mode)
			if err != nil {
				return err
			}
			opts.Mode = m
			return c.each(ctx, names, func(p sluice.Path) error {
				_, err := sys.Mkdir(ctx, p, opts)
				return err
			})
		}),
	}
	cmd.Flags().BoolVarP(&opts.Parents, "parents", "p", false, "make missing parents, accept an existing directory")
	cmd.Flags().StringVarP(&mode, "mode", "m", "0755", "permissions, octal")
	return cmd
}

func parseMode(s string) (sluice.Mode, error) {
	n, err := strconv.ParseUint(s, 8, 16)
	if err != nil || sluice.Mode(n)&^sluice.ModeMask != 0 {
		return 0, &Usage{fmt.Errorf("a mode is octal, 0 to 7777, not %q", s)}
	}
	return sluice.Mode(n), nil
}

func (c *command) mv() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "mv SOURCE TARGET", Short: "Rename within a mount; an existing directory is moved into", Args: args(2, 2),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			from, err := path(names[0])
			if err != nil {
				return err
			}
			to, err := target(ctx, sys, names[1], from.Name())
			if err != nil {
				return err
			}
			return sys.Rename(ctx, from, to, sluice.RenameOptions{NoReplace: !force})
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "replace an existing file")
	return cmd
}

// target reads where something called name is to go: into an existing directory, else
// to exactly that path.
func target(ctx context.Context, sys System, s, name string) (sluice.Path, error) {
	to, err := path(s)
	if err != nil {
		return "", err
	}
	f, err := sys.Stat(ctx, to, sluice.StatOptions{})
	if err == nil && f.IsDir() {
		return to.Child(name)
	}
	if err != nil && sluice.KindOf(err) != sluice.NotFound {
		return "", err
	}
	if strings.HasSuffix(s, "/") && s != "/" {
		return "", &sluice.Error{Path: to, Kind: sluice.NotFound, Err: fmt.Errorf("no such directory")}
	}
	return to, nil
}

func (c *command) rm() *cobra.Command {
	var opts sluice.RemoveOptions
	var force bool
	cmd := &cobra.Command{
		Use: "rm PATH...", Short: "Remove files and directories, in their store too", Args: args(1, -1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			return c.each(ctx, names, func(p sluice.Path) error {
				err := sys.Remove(ctx, p, opts)
				if force && kindOrNone(err) == sluice.NotFound {
					return nil
				}
				return err
			})
		}),
	}
	cmd.Flags().BoolVarP(&opts.Recursive, "recursive", "r", false, "directories with everything below")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "a missing path is no error")
	cmd.Flags().BoolVar(&opts.CacheOnly, "cache-only", false, "forget the entry here and leave the store alone")
	return cmd
}

// change adds the flags and the body that all commands on attributes share.
func (c *command) change(use, short string, n int, parse func(args []string) (sluice.AttrChange, error)) *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use: use, Short: short, Args: args(n+1, -1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			change, err := parse(names[:n])
			if err != nil {
				return err
			}
			change.Recursive = recursive
			return c.each(ctx, names[n:], func(p sluice.Path) error {
				_, err := sys.SetAttr(ctx, p, change)
				return err
			})
		}),
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "everything below too")
	return cmd
}

func (c *command) chmod() *cobra.Command {
	return c.change("chmod MODE PATH...", "Change permissions (octal)", 1, func(a []string) (sluice.AttrChange, error) {
		m, err := parseMode(a[0])
		return sluice.AttrChange{Mode: &m}, err
	})
}

func (c *command) chown() *cobra.Command {
	return c.change("chown OWNER[:GROUP] PATH...", "Change the owner, and the group", 1, func(a []string) (sluice.AttrChange, error) {
		owner, group, both := strings.Cut(a[0], ":")
		var change sluice.AttrChange
		if owner != "" {
			change.Owner = &owner
		}
		if both && group != "" {
			change.Group = &group
		}
		if change.Owner == nil && change.Group == nil {
			return change, &Usage{fmt.Errorf("chown takes OWNER, OWNER:GROUP or :GROUP, not %q", a[0])}
		}
		return change, nil
	})
}

func (c *command) chgrp() *cobra.Command {
	return c.change("chgrp GROUP PATH...", "Change the group", 1, func(a []string) (sluice.AttrChange, error) {
		return sluice.AttrChange{Group: &a[0]}, nil
	})
}

func (c *command) pin() *cobra.Command {
	return c.change("pin PATH...", "Never evict the blocks of files", 0, func([]string) (sluice.AttrChange, error) {
		return sluice.AttrChange{Pinned: new(true)}, nil
	})
}

func (c *command) unpin() *cobra.Command {
	return c.change("unpin PATH...", "Let the blocks of files be evicted again", 0, func([]string) (sluice.AttrChange, error) {
		return sluice.AttrChange{Pinned: new(false)}, nil
	})
}

func (c *command) setttl() *cobra.Command {
	var action string
	cmd := c.change("setttl DURATION PATH...", "Set how long files live (0 removes it); the default action frees the cache only", 1,
		func(a []string) (sluice.AttrChange, error) {
			d, err := time.ParseDuration(a[0])
			if err != nil || d < 0 {
				return sluice.AttrChange{}, &Usage{fmt.Errorf("a duration is a number with a unit such as 30m or 24h, not %q", a[0])}
			}
			var do sluice.TTLAction
			switch action {
			case "free":
			case "delete":
				do = sluice.TTLDelete
			default:
				return sluice.AttrChange{}, &Usage{fmt.Errorf("--action is free or delete, not %q", action)}
			}
			return sluice.AttrChange{TTL: &d, TTLAction: &do}, nil
		})
	cmd.Flags().StringVar(&action, "action", "free", "free (drop cached blocks) or delete (the file, in its store too)")
	return cmd
}

func (c *command) setfattr() *cobra.Command {
	var name, value, remove string
	cmd := &cobra.Command{
		Use: "setfattr (-n NAME -v VALUE | -x NAME) PATH...", Short: "Set or remove an extended attribute", Args: args(1, -1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			change := sluice.AttrChange{XAttrs: map[string][]byte{name: []byte(value)}}
			if remove != "" {
				change = sluice.AttrChange{XAttrs: map[string][]byte{remove: nil}, XAttrMode: sluice.XAttrReplace}
			}
			return c.each(ctx, names, func(p sluice.Path) error {
				_, err := sys.SetAttr(ctx, p, change)
				return err
			})
		}),
	}
	cmd.Flags().StringVarP(&name, "name", "n", "", "the attribute, such as user.origin")
	cmd.Flags().StringVarP(&value, "value", "v", "", "its value")
	cmd.Flags().StringVarP(&remove, "remove", "x", "", "remove this attribute")
	cmd.PreRunE = exactlyOne("name", "remove")
	return cmd
}

func (c *command) getfattr() *cobra.Command {
	var only string
	cmd := &cobra.Command{
		Use: "getfattr PATH...", Short: "Print extended attributes", Args: args(1, -1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			return c.each(ctx, names, func(p sluice.Path) error {
				f, err := sys.Stat(ctx, p, sluice.StatOptions{XAttrs: true})
				if err != nil {
					return err
				}
				if only != "" {
					value, ok := f.XAttrs[only]
					if !ok {
						return &sluice.Error{Op: "getfattr", Path: p, Kind: sluice.NotFound, Err: fmt.Errorf("no attribute %q", only)}
					}
					f.XAttrs = map[string][]byte{only: value}
				}
				return c.printXAttrs(f)
			})
		}),
	}
	cmd.Flags().StringVarP(&only, "name", "n", "", "only this attribute")
	return cmd
}

func (c *command) printXAttrs(f sluice.FileInfo) error {
	if c.json {
		values := map[string]string{}
		for name, v := range f.XAttrs {
			values[name] = base64.StdEncoding.EncodeToString(v)
		}
		return c.emit(map[string]any{"path": f.Path, "xattrs_base64": values})
	}
	fmt.Fprintf(c.Out, "# file: %s\n", f.Path)
	for _, name := range slices.Sorted(maps.Keys(f.XAttrs)) {
		fmt.Fprintf(c.Out, "%s=%q\n", name, f.XAttrs[name])
	}
	return nil
}

func (c *command) ln() *cobra.Command {
	var symbolic bool
	cmd := &cobra.Command{
		Use: "ln -s TARGET PATH", Short: "Make a symbolic link, kept in the namespace", Args: args(2, 2),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			if !symbolic {
				return &Usage{fmt.Errorf("only symbolic links: use -s")}
			}
			p, err := path(names[1])
			if err != nil {
				return err
			}
			_, err = sys.Symlink(ctx, names[0], p)
			return err
		}),
	}
	cmd.Flags().BoolVarP(&symbolic, "symbolic", "s", false, "a symbolic link")
	return cmd
}

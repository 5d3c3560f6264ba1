package shell

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice"
)

func (c *command) free() *cobra.Command {
	return &cobra.Command{
		Use: "free PATH...", Short: "Drop cached blocks; never what is pinned or exists only in the cache", Args: args(1, -1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			return c.each(ctx, names, func(p sluice.Path) error {
				r, err := sys.Free(ctx, p)
				if err != nil {
					return err
				}
				if c.json {
					return c.emit(map[string]any{"path": p, "files": r.Files, "bytes": r.Bytes, "kept": r.Kept})
				}
				_, err = fmt.Fprintf(c.Out, "%s: freed %d files, %s; kept %d\n", p, r.Files, size(r.Bytes, true), r.Kept)
				return err
			})
		}),
	}
}

func (c *command) load() *cobra.Command {
	return &cobra.Command{
		Use: "load PATH...", Short: "Read files into the cache", Args: args(1, -1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			return c.each(ctx, names, func(p sluice.Path) error {
				bar := c.progress("load")
				var last sluice.LoadProgress
				err := sys.Load(ctx, p, func(l sluice.LoadProgress) {
					last = l
					bar.set(l.Bytes, l.Planned)
				})
				bar.done()
				if err != nil {
					return err
				}
				if c.json {
					return c.emit(map[string]any{"path": p, "files": last.Files, "bytes": last.Bytes, "failed": last.Failed})
				}
				_, err = fmt.Fprintf(c.Out, "%s: loaded %d files, %s; failed %d\n", p, last.Files, size(last.Bytes, true), last.Failed)
				if err == nil && last.Failed > 0 {
					return Failed{}
				}
				return err
			})
		}),
	}
}

func (c *command) persist() *cobra.Command {
	return &cobra.Command{
		Use: "persist PATH...", Short: "Write cache-only files into the store of their mount", Args: args(1, -1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			return c.each(ctx, names, func(p sluice.Path) error { return sys.Persist(ctx, p) })
		}),
	}
}

func (c *command) location() *cobra.Command {
	return &cobra.Command{
		Use: "location PATH...", Short: "Show which workers hold how much of a file", Args: args(1, -1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			return c.each(ctx, names, func(p sluice.Path) error {
				held, err := sys.Cached(ctx, p)
				if err != nil {
					return err
				}
				if len(held) == 0 && !c.json {
					_, err = fmt.Fprintf(c.Out, "%s  no worker holds any of it\n", p)
					return err
				}
				for _, l := range held {
					if c.json {
						err = c.emit(map[string]any{"path": p, "worker": l.Worker.String(), "host": l.Host, "bytes": l.Bytes})
					} else {
						_, err = fmt.Fprintf(c.Out, "%s  %s  %s  %s\n", p, l.Worker, l.Host, size(l.Bytes, true))
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		}),
	}
}

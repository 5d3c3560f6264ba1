package client

import (
	"context"
	"iter"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// Stat implements [sluice.Tree].
func (c *Client) Stat(ctx context.Context, path sluice.Path, opts sluice.StatOptions) (sluice.FileInfo, error) {
	req := &wire.StatRequest{Call: c.header(), Path: string(path), Freshness: wire.FromFreshness(opts.Freshness), Xattrs: opts.XAttrs}
	var a wire.StatAnswer
	if err := c.ask(ctx, wire.MethodStat, req, &a); err != nil {
		return sluice.FileInfo{}, sluice.Wrap("stat", path, err)
	}
	return a.Info.Sluice(), nil
}

// Mkdir implements [sluice.Tree].
func (c *Client) Mkdir(ctx context.Context, path sluice.Path, opts sluice.MkdirOptions) (sluice.FileInfo, error) {
	if opts.Mode == 0 {
		opts.Mode = 0o755
	}
	var a wire.StatAnswer
	err := c.mutate(ctx, wire.MethodMkdir, func(h *wire.CallHeader) rpc.Message {
		return &wire.MkdirRequest{Call: h, Path: string(path), Parents: opts.Parents, Mode: uint32(opts.Mode)}
	}, &a)
	if err != nil {
		return sluice.FileInfo{}, sluice.Wrap("mkdir", path, err)
	}
	return a.Info.Sluice(), nil
}

// Rename implements [sluice.Tree].
func (c *Client) Rename(ctx context.Context, from, to sluice.Path, opts sluice.RenameOptions) error {
	err := c.mutate(ctx, wire.MethodRename, func(h *wire.CallHeader) rpc.Message {
		return &wire.RenameRequest{Call: h, From: string(from), To: string(to), NoReplace: opts.NoReplace}
	}, nil)
	c.grants.forget(from)
	replaced := c.grants.forget(to)
	if err == nil {
		c.locals.forget(replaced)
	}
	return sluice.Wrap("rename", from, err)
}

// Remove implements [sluice.Tree].
func (c *Client) Remove(ctx context.Context, path sluice.Path, opts sluice.RemoveOptions) error {
	err := c.mutate(ctx, wire.MethodRemove, func(h *wire.CallHeader) rpc.Message {
		return &wire.RemoveRequest{Call: h, Path: string(path), Recursive: opts.Recursive, CacheOnly: opts.CacheOnly}
	}, nil)
	forget := c.grants.forget
	if opts.Recursive {
		forget = c.grants.forgetBelow
	}
	if was := forget(path); err == nil {
		c.locals.forget(was)
	}
	return sluice.Wrap("remove", path, err)
}

// Symlink implements [sluice.Tree].
func (c *Client) Symlink(ctx context.Context, target string, path sluice.Path) (sluice.FileInfo, error) {
	var a wire.StatAnswer
	err := c.mutate(ctx, wire.MethodSymlink, func(h *wire.CallHeader) rpc.Message {
		return &wire.SymlinkRequest{Call: h, Target: target, Path: string(path)}
	}, &a)
	if err != nil {
		return sluice.FileInfo{}, sluice.Wrap("symlink", path, err)
	}
	return a.Info.Sluice(), nil
}

// SetAttr implements [sluice.Tree]. With change.Recursive the directory itself comes
// last, so that taking one's own rights away does not stop half way; it ends at the
// first failure, and what was changed stays changed.
func (c *Client) SetAttr(ctx context.Context, path sluice.Path, change sluice.AttrChange) (sluice.FileInfo, error) {
	if change.Recursive {
		for info, err := range c.List(ctx, path, sluice.ListOptions{Recursive: true}) {
			if err != nil {
				return sluice.FileInfo{}, sluice.Wrap("set attributes", path, err)
			}
			if info.Path == path || info.Type == sluice.Symlink {
				continue
			}
			if _, err := c.setAttr(ctx, info.Path, change); err != nil {
				return sluice.FileInfo{}, err
			}
		}
	}
	return c.setAttr(ctx, path, change)
}

func (c *Client) setAttr(ctx context.Context, path sluice.Path, change sluice.AttrChange) (sluice.FileInfo, error) {
	var a wire.StatAnswer
	err := c.mutate(ctx, wire.MethodSetAttr, func(h *wire.CallHeader) rpc.Message {
		return &wire.SetAttrRequest{Call: h, Path: string(path), Change: wire.FromAttrChange(change)}
	}, &a)
	c.grants.forget(path)
	if err != nil {
		return sluice.FileInfo{}, sluice.Wrap("set attributes", path, err)
	}
	return a.Info.Sluice(), nil
}

// pageSize is how many entries of a directory are asked for at once, pagesAhead how
// many pages of it wait for their reader.
const (
	pageSize   = 1000
	pagesAhead = 1
)

// List implements [sluice.Tree]. The next page is fetched while one is being read.
// Recursive listings hold a page for each directory on the way down, no more.
func (c *Client) List(ctx context.Context, path sluice.Path, opts sluice.ListOptions) iter.Seq2[sluice.FileInfo, error] {
	return func(yield func(sluice.FileInfo, error) bool) {
		c.walk(ctx, path, opts, yield)
	}
}

// walk yields the children of path, and with opts.Recursive what is below them. It says
// whether to go on.
func (c *Client) walk(ctx context.Context, path sluice.Path, opts sluice.ListOptions, yield func(sluice.FileInfo, error) bool) bool {
	ctx, cancel := context.WithCancel(ctx)
	pages := c.pages(ctx, path, opts)
	defer func() {
		cancel()
		for range pages { // its goroutine ends with ctx and closes the channel
		}
	}()
	for p := range pages {
		if p.err != nil {
			yield(sluice.FileInfo{}, sluice.Wrap("list", path, p.err))
			return false
		}
		for _, e := range p.answer.Entries {
			info := e.Sluice()
			info.Path = path
			if !p.answer.File {
				info.Path = path.Join(e.Path)
			}
			if !yield(info, nil) {
				return false
			}
			if !opts.Recursive || !info.IsDir() || p.answer.File {
				continue
			}
			below := opts
			below.After = ""
			if !c.walk(ctx, info.Path, below, yield) {
				return false
			}
		}
	}
	return true
}

// page is a part of a listing, or why there is none.
type page struct {
	answer *wire.ListAnswer
	err    error
}

// pages fetches the pages of one directory in order. The channel is closed behind the
// last one, the first error, or the end of ctx.
func (c *Client) pages(ctx context.Context, path sluice.Path, opts sluice.ListOptions) <-chan page {
	out := make(chan page, pagesAhead)
	req := &wire.ListRequest{Call: c.header(), Path: string(path), Freshness: wire.FromFreshness(opts.Freshness), After: opts.After, Limit: pageSize}
	first := page{answer: new(wire.ListAnswer)}
	first.err = c.ask(ctx, wire.MethodList, req, first.answer)
	out <- first
	if first.err != nil || !first.answer.More || len(first.answer.Entries) == 0 {
		close(out)
		return out
	}
	// What the store had when the listing began is fresh enough for the rest of it.
	after := lastName(first.answer)
	go func() {
		defer close(out)
		for {
			next := page{answer: new(wire.ListAnswer)}
			req := &wire.ListRequest{Call: c.header(), Path: string(path), Freshness: wire.FromFreshness(opts.Freshness), After: after, Limit: pageSize}
			next.err = c.ask(ctx, wire.MethodList, req, next.answer)
			select {
			case out <- next:
			case <-ctx.Done():
				return
			}
			if next.err != nil || !next.answer.More || len(next.answer.Entries) == 0 {
				return
			}
			after = lastName(next.answer)
		}
	}()
	return out
}

// lastName returns the name of the last entry of a page.
func lastName(a *wire.ListAnswer) string { return a.Entries[len(a.Entries)-1].Path }

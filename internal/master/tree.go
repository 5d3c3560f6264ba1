package master

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs"
)

// The steps in which trees are moved and removed.
const (
	treePage  = 500 // entries of one step and one command
	treeCalls = 16  // calls to the store at once
)

// removeTree deletes what lies in the store of a detached subtree, page by page. Each
// page is reaped when all of it is gone, so that a restart goes on where it stopped.
// What another version lies under has appeared later, and stays.
func (c *call) removeTree(ctx context.Context) error {
	native := c.store.Features().NativeDirs // then every directory may be there, whatever was seen
	for {
		page, err := c.m.state.DetachedPage(c.t.Detached, treePage)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return nil
		}
		for i := 0; i < len(page); {
			j := i // directories come behind what is in them: never beside it
			for j < len(page) && page[j].Dir == page[i].Dir {
				j++
			}
			step := errgroup.Group{}
			step.SetLimit(treeCalls)
			if page[i].Dir {
				step.SetLimit(1)
			}
			for _, e := range page[i:j] {
				if (e.Stored || e.Dir && native) && e.Key != "" && e.Key != "/" {
					step.Go(func() error { return c.removeEntry(ctx, underfs.Key(e.Key), e.Version, e.Dir) })
				}
			}
			if err := step.Wait(); err != nil {
				return err
			}
			i = j
		}
		if _, err := c.m.reapPage(ctx, c.t.Detached, len(page)); err != nil {
			return err
		}
	}
}

// removeEntry deletes one object of a removed tree.
func (c *call) removeEntry(ctx context.Context, key underfs.Key, v sluice.Version, dir bool) error {
	err := c.delete(ctx, key, v)
	switch {
	case errors.Is(err, sluice.Changed), errors.Is(err, sluice.IsDirectory), errors.Is(err, sluice.NotDirectory):
		return nil // another one appeared under the name
	case dir && errors.Is(err, sluice.NotEmpty):
		return nil // something appeared in it
	}
	return err
}

// moveTree brings the objects of a renamed directory to their keys, page by page.
func (c *call) moveTree(ctx context.Context) error {
	after := ""
	for {
		moves, err := c.m.state.Moves(c.t.ID, after, treePage)
		if err != nil {
			return err
		}
		if len(moves) == 0 {
			break
		}
		after = moves[len(moves)-1].Path
		done := make([]*wire.MovedKey, len(moves))
		step := errgroup.Group{}
		step.SetLimit(treeCalls)
		for i, mv := range moves {
			step.Go(func() error {
				o, err := c.moveOne(ctx, underfs.Key(mv.From), mv.Version, underfs.Key(mv.To))
				if err != nil {
					return fmt.Errorf("move %s: %w", mv.From, err)
				}
				done[i] = &wire.MovedKey{File: uint64(mv.File), From: mv.From, Object: o}
				return nil
			})
		}
		failed := step.Wait()
		moved := done[:0]
		for _, d := range done {
			if d != nil {
				moved = append(moved, d)
			}
		}
		if len(moved) > 0 {
			a, err := c.m.propose(ctx, &wire.Command{Op: &wire.Command_MoveKeys{MoveKeys: &wire.MoveKeys{Intent: c.t.ID, Moved: moved}}})
			if err != nil {
				return err
			}
			if err := c.m.notices.publish(ctx, a.Changed); err != nil {
				return err
			}
		}
		if failed != nil {
			return failed
		}
	}
	return c.moveMarkers(ctx)
}

// moveOne moves one object, which an earlier attempt may have moved already.
func (c *call) moveOne(ctx context.Context, from underfs.Key, v sluice.Version, to underfs.Key) (*wire.Object, error) {
	cond := underfs.Condition{Absent: true}
	o, err := c.moveFile(ctx, from, v, to, cond)
	if err == nil || !doubtful(err) {
		return o, err
	}
	found, err2 := c.moved(ctx, from, v, to, cond)
	if found != nil || err2 != nil {
		return found, err2
	}
	return nil, err
}

// moveMarkers deletes the empty objects that stood for the directory and those in it.
// Whatever else appeared below the old name meanwhile stays there.
func (c *call) moveMarkers(ctx context.Context) error {
	req := underfs.ListRequest{Prefix: c.key(), Recursive: true, Limit: pageObjects}
	for {
		page, err := c.store.List(ctx, req)
		if errors.Is(err, sluice.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, o := range page.Objects {
			if !o.Marker || !o.Dir {
				continue
			}
			if c.mount.Options.Markers {
				if _, err := c.putEmpty(ctx, c.to()+o.Key[len(c.key()):], underfs.Condition{}); err != nil {
					return err
				}
			}
			if err := c.delete(ctx, o.Key, o.Version); err != nil {
				return err
			}
		}
		if !page.More || len(page.Objects) == 0 {
			return nil
		}
		req.After, req.Token = page.Objects[len(page.Objects)-1].Key, page.Token
	}
}

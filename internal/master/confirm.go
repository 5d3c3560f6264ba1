package master

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs"
)

const (
	// lateness is how long after a write a listing may not show it, where listings are late.
	lateness = time.Hour
	// confirming is how many objects are asked for at once.
	confirming = 16
)

// confirm asks, where listings may be late, for the files written not long ago that are
// known in the listed range and that the listing does not have, and adds those that are
// there: what a user wrote does not vanish because a listing has not caught up.
func (m *Master) confirm(ctx context.Context, store underfs.Store, mount *mountEntry, dir sluice.Path, l *wire.LoadChildren) error {
	if !store.Features().LateListings {
		return nil
	}
	missing, err := m.unlisted(dir, l)
	if err != nil || len(missing) == 0 {
		return err
	}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(confirming)
	for _, name := range missing {
		group.Go(func() error {
			o, err := store.Stat(ctx, mount.prefix(dir)+underfs.Key(name))
			if errors.Is(err, sluice.NotFound) || err == nil && o.Dir {
				return nil
			}
			if err == nil {
				mu.Lock()
				l.Objects = append(l.Objects, objectNamed(&o, name))
				mu.Unlock()
			}
			return err
		})
	}
	return group.Wait()
}

// unlisted returns the names of the files in the range of a listing that are known, were
// written not long ago and are not in it.
func (m *Master) unlisted(dir sluice.Path, l *wire.LoadChildren) ([]string, error) {
	listed := make(map[string]bool, len(l.Objects))
	for _, o := range l.Objects {
		listed[o.Key] = true
	}
	now := m.cfg.Wall()
	var names []string
	for after := l.After; ; {
		page, err := m.state.List(sluice.Principal{Super: true}, dir, after, pageObjects)
		if err != nil {
			if absent(err) {
				err = nil
			}
			return names, err
		}
		for _, e := range page.Entries {
			after = e.Path.Name()
			if l.Upto != "" && after > l.Upto {
				return names, nil
			}
			if !listed[after] && e.Type == sluice.File && e.Persistence == sluice.Persisted && now.Sub(e.StoreAt) < lateness {
				names = append(names, after)
			}
		}
		if !page.More {
			return names, nil
		}
	}
}

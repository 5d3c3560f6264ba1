package master

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs"
)

// pageObjects is how many objects of a store one page and one command carry.
const pageObjects = 1000

// notBefore returns the boot time before which an answer of the store is too old for
// the freshness, and false where it never is.
func (m *Master) notBefore(mount *mountEntry, f sluice.Freshness) (time.Duration, bool) {
	if !f.Set {
		f = mount.Options.Freshness
	}
	if !f.Set {
		f = sluice.Every(DefaultFreshness)
	}
	return m.cfg.Boot() - f.Every, !f.Never
}

// ensure makes sure that what is known of a path is as fresh as wanted, asking the store
// if it is not, and says whether anything may have changed by it. What is not known at
// all is asked about even with freshness never, but once.
func (m *Master) ensure(ctx context.Context, mount *mountEntry, path sluice.Path, known bool, f sluice.Freshness) (bool, error) {
	since, ages := m.notBefore(mount, f)
	for asked := false; ; asked = true {
		at, ok := m.asked.path(path)
		if ok && (at >= since || !ages) || known && !ages {
			return asked, nil
		}
		err := m.flights.do(ctx, mount.ID, string(path), mount.timeout(), func(ctx context.Context) error {
			return m.askPath(ctx, mount, path)
		})
		if err != nil {
			return asked, m.storeError(ctx, mount, err)
		}
	}
}

// storeError says which mount failed, where the store did not answer and it was not the
// caller that left.
func (m *Master) storeError(ctx context.Context, mount *mountEntry, err error) error {
	if ctx.Err() != nil {
		return err
	}
	switch sluice.KindOf(err) {
	case sluice.Unavailable, sluice.Timeout:
		return &sluice.Error{Kind: sluice.Unavailable, Err: fmt.Errorf("the store of mount %s does not answer: %w", mount.Path, err)}
	}
	return err
}

// askPath asks the store about one path and brings in what it says.
func (m *Master) askPath(ctx context.Context, mount *mountEntry, path sluice.Path) error {
	store, err := m.store(mount)
	if err != nil {
		return err
	}
	at, noted := m.cfg.Boot(), m.state.Applied()
	m.counters.storeStats.Add(1)
	o, err := store.Stat(ctx, mount.key(path))
	if err == nil && !o.Dir && m.showsDir(path) {
		// Of "d" and "d/e" the directory wins, which a listing has shown.
		if d, err := store.Stat(ctx, mount.key(path)+"/"); err == nil && d.Dir {
			o = d
		}
	}
	load := &wire.LoadChildren{Mount: uint64(mount.ID), Noted: uint64(noted)}
	switch {
	case err == nil && usable(&o):
		load.Dir, load.Objects = string(path.Parent()), []*wire.Object{objectNamed(&o, path.Name())}
	case err == nil, errors.Is(err, sluice.NotFound), errors.Is(err, sluice.NotDirectory):
		load.Dir, load.Gone = string(path), true
	default:
		return err
	}
	if err := m.load(ctx, load); err != nil {
		return err
	}
	m.asked.sawPath(path, at)
	return nil
}

// showsDir says whether the tree has a directory at path.
func (m *Master) showsDir(path sluice.Path) bool {
	info, err := m.state.Stat(sluice.Principal{Super: true}, path, false)
	return err == nil && info.IsDir()
}

// usable says whether an object is a file or directory to users. An object whose key
// ends in a slash and that has bytes is neither.
func usable(o *underfs.Object) bool { return !o.Marker || o.Dir }

// objectNamed is o as a command carries it, under a name.
func objectNamed(o *underfs.Object, name string) *wire.Object {
	return &wire.Object{
		Key: name, Dir: o.Dir, Marker: o.Marker, Length: o.Length, Mtime: wire.FromTime(o.Mtime), Version: string(o.Version),
		Mode: uint32(o.Mode), Owner: o.Owner, Group: o.Group, Native: o.Native, Target: o.Target, Archived: o.Archived,
	}
}

// load proposes what a store was seen to have, unless it is what the tree has already.
func (m *Master) load(ctx context.Context, l *wire.LoadChildren) error {
	for {
		if !m.state.NeedsLoad(l) {
			return nil
		}
		a, err := m.propose(ctx, &wire.Command{Op: &wire.Command_LoadChildren{LoadChildren: l}})
		switch {
		case errors.Is(err, sluice.NotFound), errors.Is(err, sluice.NotDirectory):
			return nil // the mount, or the directory, went meanwhile: the reader sees it
		case err != nil:
			return err
		}
		if err := m.notices.publish(ctx, a.Changed); err != nil || !a.More {
			return err
		}
	}
}

// ensureListed makes sure that the names of dir behind after are known as freshly as
// wanted up to some name, asking for one page of the store if they are not. It returns
// that name, or done where it is the end.
func (m *Master) ensureListed(ctx context.Context, mount *mountEntry, dir sluice.Path, after string, f sluice.Freshness) (upto string, done bool, err error) {
	since, ages := m.notBefore(mount, f)
	for {
		l, ok := m.asked.listing(dir)
		usable := ok && (!ages || l.since >= since || after != "" && m.cfg.Boot()-l.since < listingGrace)
		if usable && (l.done || l.upto > after) {
			return l.upto, l.done, nil
		}
		if after != "" && (!usable || !l.covers(after)) {
			return m.listFrom(ctx, mount, dir, after)
		}
		start := after
		err := m.flights.do(ctx, mount.ID, string(dir)+"\x00"+start, mount.timeout(), func(ctx context.Context) error {
			_, _, err := m.askPage(ctx, mount, dir, start)
			return err
		})
		if err != nil {
			return "", false, m.storeError(ctx, mount, err)
		}
	}
}

// listingGrace is how long a listing that was begun may be gone on with, so that its
// later pages fit its first.
const listingGrace = 5 * time.Minute

// listFrom asks for a page out of the middle of a listing.
func (m *Master) listFrom(ctx context.Context, mount *mountEntry, dir sluice.Path, after string) (upto string, done bool, err error) {
	limited, cancel := context.WithTimeout(ctx, mount.timeout())
	defer cancel()
	upto, done, err = m.askPage(limited, mount, dir, after)
	if err != nil {
		return "", false, m.storeError(ctx, mount, err)
	}
	return upto, done, nil
}

// askPage asks the store for the names of dir behind after and brings them in.
func (m *Master) askPage(ctx context.Context, mount *mountEntry, dir sluice.Path, after string) (upto string, done bool, err error) {
	store, err := m.store(mount)
	if err != nil {
		return "", false, err
	}
	prefix := mount.prefix(dir)
	req := underfs.ListRequest{Prefix: prefix, Limit: pageObjects}
	if after != "" {
		req.After = prefix + underfs.Key(after)
	}
	at, noted := m.cfg.Boot(), m.state.Applied()
	m.counters.storeLists.Add(1)
	page, err := store.List(ctx, req)
	empty := true // an empty page means that the directory is not there
	if errors.Is(err, sluice.NotFound) || errors.Is(err, sluice.NotDirectory) {
		page, err = underfs.ListPage{}, nil
	} else if err == nil && store.Features().NativeDirs {
		empty = false
	}
	if err != nil {
		return "", false, err
	}
	l := &wire.LoadChildren{Mount: uint64(mount.ID), Dir: string(dir), Noted: uint64(noted), Complete: true, After: after}
	late := m.gather(mount, prefix, after, page.Objects, l)
	done = !page.More
	if done {
		if err := m.confirm(ctx, store, mount, dir, l); err != nil {
			return "", false, err
		}
	}
	if empty && after == "" && len(page.Objects) == 0 && len(l.Objects) == 0 && done && dir != mount.Path {
		// Nothing lies below, not even a marker: the store has no such directory.
		if err := m.load(ctx, &wire.LoadChildren{Mount: uint64(mount.ID), Dir: string(dir), Noted: uint64(noted), Gone: true}); err != nil {
			return "", false, err
		}
	}
	if !done {
		if len(page.Objects) == 0 {
			return "", false, &sluice.Error{Kind: sluice.Internal, Err: fmt.Errorf("the store of mount %s returned an empty page that is not the last", mount.Path)}
		}
		upto = nameOf(prefix, page.Objects[len(page.Objects)-1].Key)
		l.Upto = max(upto, after)
		if err := m.askPrefixes(ctx, store, mount, dir, l); err != nil {
			return "", false, err
		}
		if err := m.confirm(ctx, store, mount, dir, l); err != nil {
			return "", false, err
		}
	}
	if len(late) > 0 {
		if err := m.load(ctx, &wire.LoadChildren{Mount: l.Mount, Dir: l.Dir, Noted: l.Noted, Objects: late}); err != nil {
			return "", false, err
		}
	}
	if upto > after || done {
		if err := m.loadPage(ctx, l); err != nil {
			return "", false, err
		}
	}
	m.asked.sawPage(dir, after, l.Upto, done, at)
	return l.Upto, done, nil
}

// nameOf returns the name below prefix that a key stands for.
func nameOf(prefix, key underfs.Key) string {
	return strings.TrimSuffix(string(key[len(prefix):]), "/")
}

// gather turns a page of objects into those of a command, the directory winning where
// a file has the same name. Those at or before after are returned apart: a directory's
// key sorts behind names that its name sorts before.
func (m *Master) gather(mount *mountEntry, prefix underfs.Key, after string, objects []underfs.Object, l *wire.LoadChildren) (late []*wire.Object) {
	skipped := 0
	place := make(map[string]int, len(objects))
	for i := range objects {
		o := &objects[i]
		if o.Key == prefix { // the directory's own marker
			continue
		}
		if !underfs.ValidKey(o.Key) || !usable(o) {
			skipped++
			continue
		}
		name := nameOf(prefix, o.Key)
		x := objectNamed(o, name)
		if name <= after && after != "" {
			late = append(late, x)
			continue
		}
		if j, ok := place[name]; ok {
			skipped++
			if o.Dir {
				l.Objects[j] = x
			}
			continue
		}
		place[name] = len(l.Objects)
		l.Objects = append(l.Objects, x)
	}
	if skipped > 0 {
		mount.skipped.Add(int64(skipped))
	}
	return late
}

// askPrefixes asks for the directories whose keys sort behind the page and whose names
// sort within it: of "a", "a-1", "a-2" a page may end at "a-1" while "a/" follows "a-2".
func (m *Master) askPrefixes(ctx context.Context, store underfs.Store, mount *mountEntry, dir sluice.Path, l *wire.LoadChildren) error {
	known := make(map[string]bool, len(l.Objects))
	for _, o := range l.Objects {
		known[o.Key] = true
	}
	since := time.Duration(0)
	if begun, ok := m.asked.listing(dir); ok && l.After != "" {
		since = begun.since
	}
	for i := 1; i < len(l.Upto); i++ {
		name := l.Upto[:i]
		if l.Upto[i] >= '/' || known[name] || name <= l.After || sluice.CheckName(name) != nil {
			continue
		}
		at := m.cfg.Boot()
		if seen, ok := m.asked.path(dir.Join(name)); ok && since > 0 && seen >= since {
			continue
		}
		o, err := askDirectory(ctx, store, mount.prefix(dir)+underfs.Key(name))
		if err != nil {
			return err
		}
		if o != nil {
			l.Objects = append(l.Objects, objectNamed(o, name))
		}
		m.asked.sawPath(dir.Join(name), at)
	}
	return nil
}

// askDirectory returns the directory under the key (without its slash), nil if there is
// none.
func askDirectory(ctx context.Context, store underfs.Store, key underfs.Key) (*underfs.Object, error) {
	if store.Features().NativeDirs {
		o, err := store.Stat(ctx, key)
		if errors.Is(err, sluice.NotFound) || err == nil && !o.Dir {
			return nil, nil
		}
		return &o, err
	}
	page, err := store.List(ctx, underfs.ListRequest{Prefix: key + "/", Limit: 1})
	if err != nil || len(page.Objects) == 0 {
		if errors.Is(err, sluice.NotFound) {
			err = nil
		}
		return nil, err
	}
	return &underfs.Object{Key: key + "/", Dir: true}, nil
}

// loadPage proposes a page, in steps where it has more objects than a command takes.
func (m *Master) loadPage(ctx context.Context, l *wire.LoadChildren) error {
	if len(l.Objects) > 1 {
		sortObjects(l.Objects)
	}
	for len(l.Objects) > pageObjects {
		part := &wire.LoadChildren{
			Mount: l.Mount, Dir: l.Dir, Noted: l.Noted, Complete: true, After: l.After,
			Objects: l.Objects[:pageObjects], Upto: l.Objects[pageObjects-1].Key,
		}
		if err := m.load(ctx, part); err != nil {
			return err
		}
		l.After, l.Objects = part.Upto, l.Objects[pageObjects:]
	}
	return m.load(ctx, l)
}

// sortObjects puts objects in order of their names.
func sortObjects(objects []*wire.Object) {
	slices.SortFunc(objects, func(a, b *wire.Object) int { return cmp.Compare(a.Key, b.Key) })
}

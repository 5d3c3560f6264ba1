package memfs

import (
	"context"
	"maps"
	"slices"

	"github.com/sluicefs/sluice"
)

// Free implements sluice.Cacher: everything counts as cached once.
func (f *FS) Free(ctx context.Context, p sluice.Path) (r sluice.FreeResult, err error) {
	err = f.each(ctx, p, func(i sluice.FileInfo) {
		if i.Pinned || i.Persistence != sluice.Persisted {
			r.Kept++
			return
		}
		r.Files++
		r.Bytes += i.Length
	})
	return r, err
}

// each calls do for the files at and below p.
func (f *FS) each(ctx context.Context, p sluice.Path, do func(sluice.FileInfo)) error {
	for i, err := range f.List(ctx, p, sluice.ListOptions{Recursive: true}) {
		if err != nil {
			return err
		}
		if i.Type == sluice.File {
			do(i)
		}
	}
	return nil
}

// Load implements sluice.Cacher.
func (f *FS) Load(ctx context.Context, p sluice.Path, progress func(sluice.LoadProgress)) error {
	var l sluice.LoadProgress
	return f.each(ctx, p, func(i sluice.FileInfo) {
		l.Files++
		l.Bytes += i.Length
		l.Found, l.Planned = l.Files, l.Bytes
		progress(l)
	})
}

// Persist implements sluice.Cacher.
func (f *FS) Persist(_ context.Context, p sluice.Path) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.findLocked("persist", p)
	if err == nil {
		n.info.Persistence = sluice.Persisted
	}
	return err
}

// Cached implements sluice.Cacher.
func (f *FS) Cached(ctx context.Context, p sluice.Path) ([]sluice.Location, error) {
	i, err := f.Stat(ctx, p, sluice.StatOptions{})
	return []sluice.Location{{Worker: 7, Host: "memory", Bytes: i.Length}}, err
}

// Mount implements sluice.Mounter; nothing of the store is shown.
func (f *FS) Mount(ctx context.Context, p sluice.Path, uri string, opts sluice.MountOptions, _ sluice.Secrets) (sluice.MountInfo, error) {
	if _, err := f.Mkdir(ctx, p, sluice.MkdirOptions{}); err != nil {
		return sluice.MountInfo{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m := sluice.MountInfo{Mount: sluice.Mount{ID: sluice.MountID(len(f.mounts) + 1), Path: p, URI: uri, Options: opts}, Health: sluice.Health{OK: true, Breaker: "closed", Checked: "conditional"}}
	f.mounts[p] = m
	return m, nil
}

// Unmount implements sluice.Mounter.
func (f *FS) Unmount(ctx context.Context, p sluice.Path, _ bool) error {
	f.mu.Lock()
	_, there := f.mounts[p]
	delete(f.mounts, p)
	f.mu.Unlock()
	if !there {
		return &sluice.Error{Op: "unmount", Path: p, Kind: sluice.NotFound}
	}
	return f.Remove(ctx, p, sluice.RemoveOptions{Recursive: true})
}

// Mounts implements sluice.Mounter.
func (f *FS) Mounts(context.Context) ([]sluice.MountInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []sluice.MountInfo
	for _, p := range slices.Sorted(maps.Keys(f.mounts)) {
		all = append(all, f.mounts[p])
	}
	return all, nil
}

// Report implements sluice.Admin.
func (f *FS) Report(ctx context.Context) (sluice.Report, error) {
	mounts, err := f.Mounts(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	return sluice.Report{
		Cluster: "memory", Version: "test", Files: int64(len(f.nodes)), Mounts: mounts,
		Masters: []sluice.MasterInfo{{Name: "m1", Primary: true, Applied: sluice.Index(f.next)}},
		Workers: []sluice.WorkerReport{{WorkerInfo: sluice.WorkerInfo{ID: 7, Host: "memory", Tiers: []sluice.TierInfo{{Name: "MEM", Quota: 10, Used: 4, Held: 1, Free: 5}}}, Live: true}},
	}, err
}

// Intents implements sluice.Admin.
func (f *FS) Intents(context.Context) ([]sluice.IntentInfo, error) { return nil, nil }

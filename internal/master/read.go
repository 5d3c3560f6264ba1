package master

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/namespace"
	"github.com/sluicefs/sluice/internal/wire"
)

// maxListPage is the most entries of one answer.
const maxListPage = 10_000

// Stat implements sluice.Reader.
func (m *Master) Stat(ctx context.Context, c sluice.Call, path sluice.Path, opts sluice.StatOptions) (sluice.FileInfo, error) {
	if err := m.barrier(ctx); err != nil {
		return sluice.FileInfo{}, sluice.Wrap("stat", path, err)
	}
	info, err := m.statFresh(ctx, c.Principal, path, opts)
	return info, sluice.Wrap("stat", path, err)
}

// statFresh is a stat that asks the store first where freshness wants it.
func (m *Master) statFresh(ctx context.Context, p sluice.Principal, path sluice.Path, opts sluice.StatOptions) (sluice.FileInfo, error) {
	mount := m.mountTable.Load().find(path)
	if mount == nil || mount.Path == path {
		return m.state.Stat(p, path, opts.XAttrs)
	}
	info, err := m.state.Stat(p, path, opts.XAttrs)
	if err != nil && !absent(err) || err == nil && settled(&info) {
		return info, err
	}
	asked, failed := m.ensure(ctx, mount, path, err == nil, opts.Freshness)
	if failed != nil {
		return sluice.FileInfo{}, failed
	}
	if !asked {
		return info, err
	}
	return m.state.Stat(p, path, opts.XAttrs)
}

// absent says that a path is not known here: it may be in the store.
func absent(err error) bool {
	return errors.Is(err, sluice.NotFound)
}

// settled says that the store has no say in what is shown: it was made here and is not
// in the store yet, or it is a mount point.
func settled(info *sluice.FileInfo) bool { return info.Local || info.IsMount }

// Open implements sluice.Reader.
func (m *Master) Open(ctx context.Context, c sluice.Call, path sluice.Path, opts sluice.OpenOptions, known uint64) (sluice.Opened, error) {
	o, err := m.open(ctx, c, path, opts)
	if err != nil {
		return sluice.Opened{}, sluice.Wrap("open", path, err)
	}
	o.View = m.fleet.Newer(known)
	return o, nil
}

// openFile is Open for a file wherever it is by now: who reads it follows it when it is
// renamed. Kind NotFound: it is gone, or something else has its place.
func (m *Master) openFile(ctx context.Context, c sluice.Call, id sluice.FileID, opts sluice.OpenOptions, known uint64) (sluice.Opened, error) {
	for tries := 0; ; tries++ {
		if err := m.barrier(ctx); err != nil {
			return sluice.Opened{}, sluice.Wrap("open", "", err)
		}
		info, ok := m.state.FileByID(id)
		if !ok {
			return sluice.Opened{}, &sluice.Error{Op: "open", Kind: sluice.NotFound, Err: errors.New("the file is gone")}
		}
		o, err := m.Open(ctx, c, info.Path, opts, known)
		switch {
		case err == nil && o.Info.ID == id:
			return o, nil
		case err != nil && !errors.Is(err, sluice.NotFound):
			return sluice.Opened{}, err
		case tries == 2:
			return sluice.Opened{}, &sluice.Error{Op: "open", Path: info.Path, Kind: sluice.NotFound, Err: errors.New("the file was replaced or renamed again and again")}
		}
		// It was renamed or replaced between the two looks.
	}
}

func (m *Master) open(ctx context.Context, c sluice.Call, path sluice.Path, opts sluice.OpenOptions) (sluice.Opened, error) {
	if err := m.barrier(ctx); err != nil {
		return sluice.Opened{}, err
	}
	info, err := m.statFresh(ctx, c.Principal, path, sluice.StatOptions{Freshness: opts.Freshness})
	if err != nil {
		return sluice.Opened{}, err
	}
	var lease time.Duration
	if id := c.Request.Session; id != 0 {
		if lease = m.notices.hold(id, info.ID); lease > 0 {
			// What was read before the hold may have changed since, unnoticed.
			again, err := m.state.Stat(c.Principal, path, false)
			if err != nil {
				return sluice.Opened{}, err
			}
			if again.ID != info.ID {
				lease = 0
			}
			info = again
		}
	}
	if err := m.readable(c.Principal, path, &info); err != nil {
		return sluice.Opened{}, err
	}
	o := sluice.Opened{Info: info, Expires: m.cfg.GrantLife, Lease: lease}
	if len(info.Extents) == 0 {
		return o, nil
	}
	o.Grant = m.readGrant(c, &info)
	o.Holders = m.holders(&info)
	return o, nil
}

// readable says whether the file may be read as a whole by p.
func (m *Master) readable(p sluice.Principal, path sluice.Path, info *sluice.FileInfo) error {
	switch {
	case info.Type == sluice.Directory:
		return &sluice.Error{Kind: sluice.IsDirectory}
	case info.Type == sluice.Symlink:
		return &sluice.Error{Kind: sluice.Invalid, Err: errors.New("it is a symbolic link; open what it points to")}
	case !info.Complete:
		return &sluice.Error{Kind: sluice.Busy, Err: errors.New("its writer has not closed it yet")}
	}
	return m.state.Access(p, path, namespace.MayRead)
}

// holders returns where bytes of the file lie besides the hash order.
func (m *Master) holders(info *sluice.FileInfo) []sluice.Holder {
	var out []sluice.Holder
	seen := make(map[sluice.Holder]bool)
	for _, e := range info.Extents {
		kept := m.state.Holders(e.Content)
		for _, h := range append(kept, m.fleet.Holders(e.Content, maxHolders)...) {
			if !seen[h] && len(out) < maxHolders {
				seen[h] = true
				out = append(out, h)
			}
		}
	}
	return out
}

// maxHolders is how many places one answer names; the rest is found by the hash order.
const maxHolders = 256

// readGrant signs the capability for reading a file.
func (m *Master) readGrant(c sluice.Call, info *sluice.FileInfo) sluice.Grant {
	claims := &wire.Claims{
		Content: wire.FromContentID(info.Content()), File: uint64(info.ID), Length: info.Length, BlockSize: info.BlockSize(),
		Unpersisted: info.Persistence != sluice.Persisted, Pinned: info.Pinned,
		Session: uint64(c.Request.Session), User: c.Principal.User,
	}
	if info.Mount != 0 && info.Key != "" {
		claims.Mount, claims.Key, claims.Version = uint64(info.Mount), info.Key, string(info.Store)
		claims.MountEpoch = m.mountTable.Load().epoch(info.Mount)
	}
	return m.sign(claims)
}

func (m *Master) sign(claims *wire.Claims) sluice.Grant {
	b, err := claims.MarshalVT()
	if err != nil {
		panic(fmt.Sprintf("master: encode claims: %v", err))
	}
	return m.cfg.Keys.SignGrant(b, m.cfg.Wall().Add(m.cfg.GrantLife))
}

// List implements sluice.Reader.
func (m *Master) List(ctx context.Context, c sluice.Call, path sluice.Path, opts sluice.ListOptions, limit int) (sluice.ListPage, error) {
	page, err := m.list(ctx, c, path, opts, limit)
	return page, sluice.Wrap("list", path, err)
}

func (m *Master) list(ctx context.Context, c sluice.Call, path sluice.Path, opts sluice.ListOptions, limit int) (sluice.ListPage, error) {
	if limit <= 0 || limit > maxListPage {
		limit = maxListPage
	}
	if err := m.barrier(ctx); err != nil {
		return sluice.ListPage{}, err
	}
	mount := m.mountTable.Load().find(path)
	if mount == nil {
		return m.state.List(c.Principal, path, opts.After, limit)
	}
	// A directory that is known is asked about by listing it.
	info, err := m.state.Stat(c.Principal, path, false)
	if absent(err) || err == nil && !info.IsDir() {
		info, err = m.statFresh(ctx, c.Principal, path, sluice.StatOptions{Freshness: opts.Freshness})
	}
	if err != nil {
		return sluice.ListPage{}, err
	}
	if !info.IsDir() {
		return m.state.List(c.Principal, path, opts.After, limit)
	}
	for {
		upto, done, err := m.ensureListed(ctx, mount, path, opts.After, opts.Freshness)
		if err != nil {
			return sluice.ListPage{}, err
		}
		page, err := m.state.List(c.Principal, path, opts.After, limit)
		if err != nil || done {
			return page, err
		}
		if cut(&page, upto) || ctx.Err() != nil {
			return page, ctx.Err()
		}
		opts.After = upto // nothing of that page is shown: a page is never empty but the last
	}
}

// cut drops what lies behind upto, where the store has not been asked yet, and says
// whether something is left.
func cut(page *sluice.ListPage, upto string) bool {
	for i, e := range page.Entries {
		if e.Path.Name() > upto {
			page.Entries = page.Entries[:i]
			break
		}
	}
	page.More = true
	return len(page.Entries) > 0
}

package master

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// patience is how long a change waits for one in its way where the caller set no
// deadline.
const patience = 60 * time.Second

// propose hands a command to the journal and returns the answer, or its error.
func (m *Master) propose(ctx context.Context, c *wire.Command) (*wire.Answer, error) {
	a, err := m.batcher.propose(ctx, c)
	if err != nil {
		return nil, err
	}
	return a, a.Error.Sluice()
}

// mutate carries a user's change through: it proposes the command, waits for what is in
// its way, for its intent, and for those who may have cached what changed.
func (m *Master) mutate(ctx context.Context, c *wire.Command) (*wire.Answer, error) {
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		a, err := m.batcher.propose(ctx, c)
		if err != nil {
			return nil, err
		}
		if a.BusyWith != 0 {
			err = a.Error.Sluice()
			if m.intents.waitEnd(waiting, a.BusyWith) {
				continue
			}
			return nil, err
		}
		return m.finish(ctx, a)
	}
}

// finish waits for what an answer stands for, before it is given.
func (m *Master) finish(ctx context.Context, a *wire.Answer) (*wire.Answer, error) {
	if a.Intent != 0 {
		done, err := m.intents.result(ctx, a.Intent)
		if err != nil {
			return nil, err
		}
		a = done
	}
	if a.Detached != 0 {
		m.reaper.kick()
	}
	if err := m.notices.publish(ctx, a.Changed); err != nil {
		return nil, err
	}
	return a, a.Error.Sluice()
}

// change makes the command of a user's change.
func change(c sluice.Call) *wire.Command {
	return &wire.Command{Request: wire.FromRequestID(c.Request), By: wire.FromPrincipal(c.Principal)}
}

// learn makes sure that what lies under the paths is known, before a change of them is
// judged. It returns the mount of the first path, nil outside mounts.
func (m *Master) learn(ctx context.Context, paths ...sluice.Path) (*mountEntry, error) {
	if err := m.barrier(ctx); err != nil {
		return nil, err
	}
	var first *mountEntry
	for i, p := range paths {
		mount := m.mountTable.Load().find(p)
		if i == 0 {
			first = mount
		}
		if mount == nil || mount.Path == p {
			continue
		}
		if _, err := m.statFresh(ctx, sluice.Principal{Super: true}, p, sluice.StatOptions{}); err != nil && !absent(err) && !errors.Is(err, sluice.NotDirectory) {
			return nil, err
		}
	}
	return first, nil
}

// Mkdir implements sluice.Mutator.
func (m *Master) Mkdir(ctx context.Context, c sluice.Call, path sluice.Path, opts sluice.MkdirOptions) (sluice.FileInfo, error) {
	mount, err := m.learn(ctx, path)
	if err != nil {
		return sluice.FileInfo{}, sluice.Wrap("mkdir", path, err)
	}
	cmd := change(c)
	cmd.Op = &wire.Command_Mkdir{Mkdir: &wire.Mkdir{
		Path: string(path), Mode: uint32(opts.Mode), Parents: opts.Parents, Native: m.makesDirs(mount),
	}}
	a, err := m.mutate(ctx, cmd)
	if err != nil {
		return sluice.FileInfo{}, sluice.Wrap("mkdir", path, err)
	}
	return a.Info.Sluice(), nil
}

// Create implements sluice.Mutator.
func (m *Master) Create(ctx context.Context, c sluice.Call, path sluice.Path, opts sluice.CreateOptions, known uint64) (sluice.Created, error) {
	created, err := m.create(ctx, c, path, opts)
	if err != nil {
		return sluice.Created{}, sluice.Wrap("create", path, err)
	}
	created.View = m.fleet.Newer(known)
	return created, nil
}

func (m *Master) create(ctx context.Context, c sluice.Call, path sluice.Path, opts sluice.CreateOptions) (sluice.Created, error) {
	if bs := opts.BlockSize; bs < 0 || bs%sluice.PageSize != 0 || bs > sluice.MaxBlockSize {
		return sluice.Created{}, &sluice.Error{Kind: sluice.Invalid, Err: fmt.Errorf("a block size of %d; give a multiple of %d up to %d", bs, sluice.PageSize, int64(sluice.MaxBlockSize))}
	}
	if opts.Write == sluice.AsyncThrough {
		return sluice.Created{}, &sluice.Error{Kind: sluice.Unsupported, Err: errors.New("ASYNC_THROUGH is not there yet; use CACHE_THROUGH")}
	}
	if _, err := m.learn(ctx, path); err != nil {
		return sluice.Created{}, err
	}
	cmd := change(c)
	cmd.Op = &wire.Command_CreateFile{CreateFile: &wire.CreateFile{
		Path: string(path), Options: wire.FromCreateOptions(opts), DefaultBlockSize: sluice.DefaultBlockSize,
	}}
	a, err := m.mutate(ctx, cmd)
	if err != nil {
		return sluice.Created{}, err
	}
	created := sluice.Created{Info: a.Info.Sluice(), Content: a.Content.Sluice(), Write: sluice.WriteType(a.Write)}
	if created.Content.IsZero() {
		return created, nil
	}
	created.BlockSize = m.blockSize(&created.Info, opts)
	created.Grant = m.writeGrant(c, path, &created)
	return created, nil
}

// blockSize is that of a new content: as asked, as the mount says, or the default.
func (m *Master) blockSize(info *sluice.FileInfo, opts sluice.CreateOptions) int64 {
	if opts.BlockSize > 0 {
		return opts.BlockSize
	}
	if e := m.mountTable.Load().byID(info.Mount); e != nil && e.Options.BlockSize > 0 {
		return e.Options.BlockSize
	}
	return sluice.DefaultBlockSize
}

// writeGrant signs the capability for writing a content.
func (m *Master) writeGrant(c sluice.Call, path sluice.Path, n *sluice.Created) sluice.Grant {
	claims := &wire.Claims{
		Content: wire.FromContentID(n.Content), Write: true, File: uint64(n.Info.ID), BlockSize: n.BlockSize,
		WriteType: uint32(n.Write), Unpersisted: n.Write == sluice.MustCache,
		Session: uint64(c.Request.Session), User: c.Principal.User,
	}
	if e := m.mountTable.Load().byID(n.Info.Mount); e != nil && n.Write != sluice.MustCache {
		claims.Mount, claims.Key, claims.MountEpoch = uint64(e.ID), string(e.key(path)), e.epoch
	}
	return m.sign(claims)
}

// Commit implements sluice.Mutator.
func (m *Master) Commit(ctx context.Context, c sluice.Call, file sluice.FileID, sealed sluice.Sealed) (sluice.FileInfo, error) {
	cmd := change(c)
	cmd.Op = &wire.Command_CommitContent{CommitContent: &wire.CommitContent{File: uint64(file), Sealed: wire.FromSealed(sealed)}}
	a, err := m.mutate(ctx, cmd)
	if err != nil {
		return sluice.FileInfo{}, sluice.Wrap("commit", "", err)
	}
	return a.Info.Sluice(), nil
}

// Abandon implements sluice.Mutator.
func (m *Master) Abandon(ctx context.Context, c sluice.Call, file sluice.FileID, content sluice.ContentID) error {
	cmd := change(c)
	cmd.Op = &wire.Command_Abandon{Abandon: &wire.Abandon{File: uint64(file), Content: wire.FromContentID(content)}}
	_, err := m.mutate(ctx, cmd)
	return sluice.Wrap("abandon", "", err)
}

// Rename implements sluice.Mutator.
func (m *Master) Rename(ctx context.Context, c sluice.Call, from, to sluice.Path, opts sluice.RenameOptions) error {
	mount, err := m.learn(ctx, from, to)
	if err != nil {
		return sluice.Wrap("rename", from, err)
	}
	if mount != nil && !m.renamesWhole(mount) {
		if err := m.learnBelow(ctx, mount, from, true); err != nil {
			return sluice.Wrap("rename", from, err)
		}
	}
	cmd := change(c)
	cmd.Op = &wire.Command_Rename{Rename: &wire.Rename{
		From: string(from), To: string(to), NoReplace: opts.NoReplace, Atomic: m.renamesWhole(mount),
	}}
	_, err = m.mutate(ctx, cmd)
	if mount != nil && !m.renamesWhole(mount) {
		m.intents.resume() // a directory's objects follow by an intent that nobody waits for
	}
	return sluice.Wrap("rename", from, err)
}

// Remove implements sluice.Mutator.
func (m *Master) Remove(ctx context.Context, c sluice.Call, path sluice.Path, opts sluice.RemoveOptions) error {
	mount, err := m.learn(ctx, path)
	if err != nil {
		return sluice.Wrap("remove", path, err)
	}
	if mount != nil && !opts.CacheOnly {
		if err := m.learnBelow(ctx, mount, path, opts.Recursive); err != nil {
			return sluice.Wrap("remove", path, err)
		}
	}
	if opts.Recursive && !c.Principal.Super {
		if err := m.state.MayEmpty(c.Principal, path); err != nil && !absent(err) { // a repeated one has its answer
			return sluice.Wrap("remove", path, err)
		}
	}
	cmd := change(c)
	cmd.Op = &wire.Command_Remove{Remove: &wire.Remove{
		Path: string(path), Recursive: opts.Recursive, CacheOnly: opts.CacheOnly, Native: m.makesDirs(mount),
	}}
	_, err = m.mutate(ctx, cmd)
	if mount != nil && opts.CacheOnly {
		m.asked.forgetAll() // what was forgotten is to be found in the store again
	}
	return sluice.Wrap("remove", path, err)
}

// SetAttr implements sluice.Mutator. The attributes are those that Sluice shows: they
// are kept here, and a store that has its own is not changed (docs/decisions).
func (m *Master) SetAttr(ctx context.Context, c sluice.Call, path sluice.Path, ch sluice.AttrChange) (sluice.FileInfo, error) {
	if _, err := m.learn(ctx, path); err != nil {
		return sluice.FileInfo{}, sluice.Wrap("set attributes", path, err)
	}
	ch.Recursive = false
	cmd := change(c)
	cmd.Op = &wire.Command_SetAttr{SetAttr: &wire.SetAttr{Path: string(path), Change: wire.FromAttrChange(ch)}}
	a, err := m.mutate(ctx, cmd)
	if err != nil {
		return sluice.FileInfo{}, sluice.Wrap("set attributes", path, err)
	}
	return a.Info.Sluice(), nil
}

// Symlink implements sluice.Mutator.
func (m *Master) Symlink(ctx context.Context, c sluice.Call, target string, path sluice.Path) (sluice.FileInfo, error) {
	if _, err := m.learn(ctx, path); err != nil {
		return sluice.FileInfo{}, sluice.Wrap("symlink", path, err)
	}
	cmd := change(c)
	cmd.Op = &wire.Command_Symlink{Symlink: &wire.Symlink{Target: target, Path: string(path)}}
	a, err := m.mutate(ctx, cmd)
	if err != nil {
		return sluice.FileInfo{}, sluice.Wrap("symlink", path, err)
	}
	return a.Info.Sluice(), nil
}

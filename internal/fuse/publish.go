package fuse

import (
	"context"
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/sluicefs/sluice"
)

// farewell bounds what the end of a handle waits for a master that does not answer.
const farewell = 5 * time.Second

// publishTries is how often an upload begins again where it came to nothing by no fault
// of the file: the session or a worker was lost, or a directory above was renamed. The
// condition on the base makes that safe.
const publishTries = 3

// publish makes the staged bytes of a node the file's content. It costs nothing where
// nothing changed. The context of the call is the mount's own: a caller that is killed
// in close has written what it has written.
func (m *Mount) publish(ctx context.Context, n *node, fs sluice.FS) error {
	s := n.staged.Load()
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.opts.Limit)
	defer cancel()
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	if m.isGone(n) {
		return m.discard(ctx, s)
	}
	if s.lost != nil {
		return s.lost
	}
	if !s.ahead() {
		return nil
	}
	info, err := m.upload(ctx, n, s, fs)
	if err != nil {
		switch kind := sluice.KindOf(err); {
		case kind == sluice.Stale || kind == sluice.NotFound || kind == sluice.Exists && s.fresh:
			m.lose(n, s)
			return s.lost
		}
		return err
	}
	m.published(ctx, n, s, info)
	return nil
}

// discard ends the writer of a file whose name is gone: nothing is to be published.
func (m *Mount) discard(ctx context.Context, s *staged) error {
	if w := s.writer; w != nil {
		s.writer = nil
		_ = w.Abort(ctx) // its entry is gone; what is left ends with the session
	}
	return nil
}

// lose notes that a staged file can never be published: what it was based on was replaced
// or removed elsewhere. Its bytes wait in the staging directory.
func (m *Mount) lose(n *node, s *staged) {
	s.lost = syscall.ESTALE
	if err := m.note(n, s); err != nil {
		m.opts.Log.Error("a file that lost against another writer could not be kept for recovery", "file", uint64(n.file), "err", err)
	}
	m.mu.Lock()
	m.outdateLocked(n)
	m.mu.Unlock()
}

// upload writes the staged file as a new content of the node's path.
func (m *Mount) upload(ctx context.Context, n *node, s *staged, fs sluice.FS) (info sluice.FileInfo, err error) {
	for range publishTries {
		if info, err = m.uploadOnce(ctx, n, s, fs); err == nil {
			return info, nil
		}
		kind := sluice.KindOf(err)
		switch {
		case kind == sluice.UnknownOutcome:
			return m.resolve(ctx, n, s, err)
		case kind == sluice.Permission && m.opts.Speak && !s.fresh && fs != m.opts.FS:
			// It was opened rightfully; the mode may forbid by now what POSIX allows.
			fs = m.opts.FS
		case kind == sluice.Changed || kind == sluice.NotFound || kind == sluice.Unavailable || kind == sluice.Lost:
		default:
			return info, err
		}
	}
	return info, err
}

func (m *Mount) uploadOnce(ctx context.Context, n *node, s *staged, fs sluice.FS) (sluice.FileInfo, error) {
	w := s.writer
	s.writer = nil
	if w == nil {
		m.mu.Lock()
		path, err := m.pathLocked(n)
		m.mu.Unlock()
		if err != nil {
			return sluice.FileInfo{}, err
		}
		opts := sluice.CreateOptions{Base: s.on, Write: m.opts.Write}
		if s.fresh {
			opts.Exclusive, opts.Mode = true, s.freshAs
		}
		if w, err = fs.Create(ctx, path, opts); err != nil {
			return sluice.FileInfo{}, err
		}
	}
	defer w.Abort(context.WithoutCancel(ctx)) // nothing after Close
	buf := m.buffers.get()
	defer m.buffers.Put(buf)
	for off := int64(0); ; {
		k, err := s.readAt(ctx, buf[:], off)
		if k > 0 {
			if _, e := w.Write(ctx, buf[:k]); e != nil {
				return sluice.FileInfo{}, e
			}
			off += int64(k)
		}
		if err == io.EOF {
			return w.Close(ctx)
		}
		if err != nil {
			return sluice.FileInfo{}, err
		}
	}
}

// resolve looks whether a file of unknown outcome was published.
func (m *Mount) resolve(ctx context.Context, n *node, s *staged, unknown error) (sluice.FileInfo, error) {
	m.mu.Lock()
	path, err := m.pathLocked(n)
	m.mu.Unlock()
	if err != nil {
		return sluice.FileInfo{}, err
	}
	info, err := m.opts.FS.Stat(context.WithoutCancel(ctx), path, sluice.StatOptions{})
	s.mu.Lock()
	size := s.size
	s.mu.Unlock()
	if err == nil && info.Complete && info.ID == n.file && info.Length == size && info.Content() != s.on && (s.fresh || size > 0) {
		return info, nil
	}
	return sluice.FileInfo{}, unknown
}

// published takes note that the staged file is the file's content.
func (m *Mount) published(ctx context.Context, n *node, s *staged, info sluice.FileInfo) {
	s.on, s.fresh = info.Content(), false
	s.mu.Lock()
	touched, seen, atime, based := s.touched, s.seen, s.atime, s.base != nil
	s.mu.Unlock()
	m.mu.Lock()
	path, err := m.pathLocked(n)
	before := n.info
	m.mu.Unlock()
	change := kept(&before, &info)
	if seen {
		change.Mtime = &touched
	}
	if !atime.IsZero() {
		change.Atime = &atime
	}
	if err == nil && (change.Mode != nil || change.Owner != nil || change.Mtime != nil || change.Atime != nil) {
		if after, err := m.opts.FS.SetAttr(ctx, path, change); err == nil {
			info = after
		} else {
			m.opts.Log.Debug("times or mode of a published file were not kept", "path", string(path), "err", err)
		}
	}
	m.mu.Lock()
	if n.file != info.ID { // its first entry was lost, and this is another one
		if m.nodes.byFile[n.file] == n {
			delete(m.nodes.byFile, n.file)
		}
		n.file = info.ID
		m.nodes.byFile[n.file] = n
	}
	n.info = info
	m.touchLocked(n)
	m.mu.Unlock()
	s.mu.Lock()
	s.dirty, s.atime = false, time.Time{}
	s.mu.Unlock()
	m.unnote(s)
	if based && err == nil {
		m.rebase(ctx, s, path)
	}
}

// kept is what of a file's attributes has to be put back after its publication. A new
// content takes setuid and setgid away, for it may be somebody else's; the kernel has
// found them right to stay. And an entry that was lost before it was published, and made
// again, has lost what was set meanwhile.
func kept(before, after *sluice.FileInfo) (c sluice.AttrChange) {
	again := before.ID != after.ID
	if before.Mode != after.Mode && (again || before.Mode&^0o6000 == after.Mode) {
		c.Mode = &before.Mode
	}
	if again && (before.Owner != after.Owner || before.Group != after.Group) {
		c.Owner, c.Group = &before.Owner, &before.Group
		c.Mode = &before.Mode
	}
	return c
}

// rebase reads what was not touched from the version just published: the old one may
// go. Where another one is there already, the old one has to do.
func (m *Mount) rebase(ctx context.Context, s *staged, path sluice.Path) {
	f, err := m.opts.FS.Open(ctx, path, sluice.OpenOptions{})
	if err != nil {
		return
	}
	if info := f.Info(); info.Content() != s.on {
		f.Close()
		return
	}
	s.rebase(f)
}

// PublishAll publishes what is staged, also of descriptors that are not closed yet.
func (m *Mount) PublishAll(ctx context.Context) error {
	type open struct {
		node *node
		fs   sluice.FS
	}
	var all []open
	m.mu.Lock()
	for _, h := range m.handles {
		if h.write && h.node.staged.Load() != nil {
			all = append(all, open{h.node, h.fs})
		}
	}
	m.mu.Unlock()
	var failed error
	for _, o := range all {
		if err := m.publish(ctx, o.node, o.fs); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// retire ends a staged file that nobody has open any more. What could not be published
// stays for recovery.
func (m *Mount) retire(s *staged, n *node) {
	keep := s.ahead() && !m.isGone(n)
	if keep && !s.noted {
		if err := m.note(n, s); err != nil {
			m.opts.Log.Error("an unpublished file could not be kept for recovery", "file", uint64(n.file), "err", err)
			keep = false
		}
	}
	if keep {
		m.opts.Log.Error("a file was not published; sluice mount recover shows it", "file", uint64(n.file), "staged", s.name)
	}
	if w := s.writer; w != nil {
		s.writer = nil
		ctx, cancel := context.WithTimeout(context.WithoutCancel(m.life), farewell)
		defer cancel()
		_ = w.Abort(ctx) // what does not reach the master ends with the session
	}
	s.close(keep)
}

// abandonAll lets go of what the kernel had open when it let go of the mount.
func (m *Mount) abandonAll() {
	m.mu.Lock()
	all := m.handles
	m.handles = map[uint64]*handle{}
	m.mu.Unlock()
	for _, h := range all {
		m.letGo(h)
	}
	if m.staging != nil {
		m.staging.close()
	}
}

package underfstest

import (
	"context"
	"strings"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// Create implements underfs.Store.
func (s *memStore) Create(ctx context.Context, key underfs.Key, opts underfs.CreateOptions) (underfs.Upload, error) {
	return call(ctx, s, underfs.OpCreate, key, func() (underfs.Upload, error) {
		if key == "" || s.m.opts.Local && (strings.HasSuffix(string(key), "/") || !underfs.ValidKey(key)) {
			return nil, underfs.Failf("create", key, sluice.Invalid, "no file can be called so")
		}
		return &memUpload{s: s, key: key, opts: opts}, nil
	})
}

// memUpload is an upload in memory.
type memUpload struct {
	s        *memStore
	key      underfs.Key
	opts     underfs.CreateOptions
	data     []byte
	prepared *sluice.Prepared
	done     *underfs.Object
	aborted  bool
}

// Write implements underfs.Upload.
func (u *memUpload) Write(ctx context.Context, p []byte) error {
	_, err := call(ctx, u.s, underfs.OpWrite, u.key, func() (struct{}, error) {
		switch {
		case u.prepared != nil || u.aborted:
			return struct{}{}, underfs.Fail("write", u.key, sluice.Invalid, errGone)
		case u.opts.Length >= 0 && int64(len(u.data)+len(p)) > u.opts.Length:
			return struct{}{}, underfs.Failf("write", u.key, sluice.Invalid, "more than the %d bytes that were announced", u.opts.Length)
		}
		u.data = append(u.data, p...)
		return struct{}{}, nil
	})
	return err
}

// Prepare implements underfs.Upload.
func (u *memUpload) Prepare(ctx context.Context) (sluice.Prepared, error) {
	return call(ctx, u.s, underfs.OpPrepare, u.key, func() (sluice.Prepared, error) {
		switch {
		case u.prepared != nil:
			return *u.prepared, nil
		case u.aborted:
			return sluice.Prepared{}, underfs.Fail("prepare", u.key, sluice.Invalid, errGone)
		case u.opts.Length >= 0 && int64(len(u.data)) != u.opts.Length:
			return sluice.Prepared{}, underfs.Failf("prepare", u.key, sluice.Invalid, "%d bytes were announced and %d written", u.opts.Length, len(u.data))
		}
		p := sluice.Prepared{Tag: u.opts.Tag}
		if small := u.s.Features().SmallUpload; small > 0 && int64(len(u.data)) <= small {
			p.Inline = true
		} else {
			m := u.s.m
			m.mu.Lock()
			m.serial++
			p.Upload, p.Parts = "upload-"+number(m.serial), []string{string(u.key)}
			m.pending[p.Upload] = &blob{data: u.data, obj: underfs.Object{Key: u.key, Tag: u.opts.Tag, Mode: u.opts.Mode, Owner: u.opts.Owner, Group: u.opts.Group, Mtime: time.Now()}}
			m.mu.Unlock()
		}
		u.prepared = &p
		return p, nil
	})
}

// Commit implements underfs.Upload.
func (u *memUpload) Commit(ctx context.Context, cond underfs.Condition) (underfs.Object, error) {
	return call(ctx, u.s, underfs.OpCommit, u.key, func() (underfs.Object, error) {
		switch {
		case u.done != nil:
			return *u.done, nil
		case u.prepared == nil:
			return underfs.Object{}, underfs.Failf("commit", u.key, sluice.Invalid, "it was not prepared")
		case u.aborted:
			return underfs.Object{}, underfs.Fail("commit", u.key, sluice.NotFound, errGone)
		}
		m := u.s.m
		m.mu.Lock()
		defer m.mu.Unlock()
		var o underfs.Object
		var err error
		if u.prepared.Inline {
			if err = m.checkLocked("commit", u.key, cond); err == nil {
				o = m.putLocked(u.key, u.data, u.opts).obj
			}
		} else {
			o, err = m.completeLocked(u.key, *u.prepared, cond)
		}
		if err == nil {
			u.done = &o
		}
		return o, err
	})
}

// completeLocked makes a prepared upload visible.
func (m *Memory) completeLocked(key underfs.Key, p sluice.Prepared, cond underfs.Condition) (underfs.Object, error) {
	b := m.pending[p.Upload]
	if b == nil || b.obj.Key != key {
		if now := m.objects[key]; now != nil && p.Tag != "" && now.obj.Tag == p.Tag {
			return now.obj, nil
		}
		return underfs.Object{}, underfs.Fail("commit", key, sluice.NotFound, errGone)
	}
	if err := m.checkLocked("commit", key, cond); err != nil {
		return underfs.Object{}, err
	}
	delete(m.pending, p.Upload)
	return m.putLocked(key, b.data, underfs.CreateOptions{Tag: b.obj.Tag, Mode: b.obj.Mode, Owner: b.obj.Owner, Group: b.obj.Group}).obj, nil
}

// Abort implements underfs.Upload.
func (u *memUpload) Abort(ctx context.Context) error {
	_, err := call(ctx, u.s, underfs.OpAbort, u.key, func() (struct{}, error) {
		if u.done == nil && !u.aborted {
			u.aborted, u.data = true, nil
			if u.prepared != nil {
				u.s.m.forget(u.prepared.Upload)
			}
		}
		return struct{}{}, nil
	})
	return err
}

// forget drops a prepared upload.
func (m *Memory) forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pending, id)
}

// Complete implements underfs.Completer.
func (s *memStore) Complete(ctx context.Context, key underfs.Key, p sluice.Prepared, cond underfs.Condition) (underfs.Object, error) {
	return call(ctx, s, underfs.OpComplete, key, func() (underfs.Object, error) {
		s.m.mu.Lock()
		defer s.m.mu.Unlock()
		return s.m.completeLocked(key, p, cond)
	})
}

// AbortPrepared implements underfs.Completer.
func (s *memStore) AbortPrepared(ctx context.Context, key underfs.Key, p sluice.Prepared) error {
	_, err := call(ctx, s, underfs.OpAbortPrepared, key, func() (struct{}, error) {
		s.m.forget(p.Upload)
		return struct{}{}, nil
	})
	return err
}

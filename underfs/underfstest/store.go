package underfstest

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// memStore is one view of a Memory with the capabilities of S3.
type memStore struct {
	m      *Memory
	closed atomic.Bool
}

// Features implements underfs.Store.
func (s *memStore) Features() underfs.Features {
	o := s.m.opts
	f := underfs.Features{Conditional: true, SmallUpload: cmp.Or(o.SmallUpload, 8<<20), PartSize: 1 << 20}
	if o.Local {
		f = underfs.Features{NativeDirs: true, AtomicRename: true, Settle: true, PartSize: 1 << 20}
	}
	f.SmallUpload = max(f.SmallUpload, 0)
	f.CreateIfAbsent, f.ReplaceIf = !o.NoConditions, !o.NoConditions
	f.LateListings = o.LateListings
	return f
}

// Close implements underfs.Store.
func (s *memStore) Close() error {
	s.closed.Store(true)
	return nil
}

// Stat implements underfs.Store.
func (s *memStore) Stat(ctx context.Context, key underfs.Key) (underfs.Object, error) {
	return call(ctx, s, underfs.OpStat, key, func() (underfs.Object, error) {
		m := s.m
		m.mu.Lock()
		defer m.mu.Unlock()
		if key == "" {
			return underfs.Object{Dir: true, Native: m.opts.Local, Mode: 0o755, Owner: "owner", Group: "group"}, nil
		}
		if b := m.objects[key]; b != nil {
			return b.obj, nil
		}
		dir := underfs.Key(strings.TrimSuffix(string(key), "/") + "/")
		if b := m.objects[dir]; b != nil && b.obj.Dir {
			return b.obj, nil
		}
		if m.belowLocked(dir) {
			return underfs.Object{Key: dir, Dir: true}, nil
		}
		return underfs.Object{}, underfs.Failf("stat", key, sluice.NotFound, "nothing lies there")
	})
}

// List implements underfs.Store.
func (s *memStore) List(ctx context.Context, req underfs.ListRequest) (underfs.ListPage, error) {
	return call(ctx, s, underfs.OpList, req.Prefix, func() (underfs.ListPage, error) {
		if req.Prefix != "" && !strings.HasSuffix(string(req.Prefix), "/") {
			return underfs.ListPage{}, underfs.Failf("list", req.Prefix, sluice.Invalid, "a prefix ends in a slash")
		}
		s.m.mu.Lock()
		defer s.m.mu.Unlock()
		if s.m.opts.Local && req.Prefix != "" && s.m.objects[req.Prefix] == nil {
			return underfs.ListPage{}, underfs.Failf("list", req.Prefix, sluice.NotFound, "no such directory")
		}
		return s.m.listLocked(req), nil
	})
}

// listLocked makes a page.
func (m *Memory) listLocked(req underfs.ListRequest) underfs.ListPage {
	var page underfs.ListPage
	limit := req.Limit
	if limit <= 0 {
		limit = 1000
	}
	keys := m.sortedLocked()
	after := max(req.After, req.Prefix)
	i, found := slices.BinarySearch(keys, after)
	if found && (req.After == after || m.opts.Local) {
		i++
	}
	for i < len(keys) && strings.HasPrefix(string(keys[i]), string(req.Prefix)) {
		o := m.objects[keys[i]].obj
		i++
		if m.hidden[o.Key] {
			continue
		}
		if dir, _, deep := strings.Cut(string(o.Key[len(req.Prefix):]), "/"); deep && !req.Recursive && o.Key != req.Prefix {
			key := req.Prefix + underfs.Key(dir) + "/"
			if o.Key != key { // a common prefix
				o = underfs.Object{Key: key, Dir: true}
			}
			end, _ := slices.BinarySearch(keys, key[:len(key)-1]+"0") // "0" follows "/"
			i = max(i, end)
			if key <= req.After {
				continue
			}
		}
		if len(page.Objects) == limit {
			page.More = true
			break
		}
		if !underfs.ValidKey(o.Key) {
			page.Skipped++
		}
		o.Tag = "" // listings do not tell
		page.Objects = append(page.Objects, o)
	}
	return page
}

// Read implements underfs.Store.
func (s *memStore) Read(ctx context.Context, req underfs.ReadRequest) (io.ReadCloser, error) {
	fault, err := s.begin(ctx, underfs.OpRead, req.Key)
	if err != nil {
		return nil, err
	}
	if fault.Kind != 0 {
		return nil, underfs.Fail("read", req.Key, fault.Kind, errInjected)
	}
	s.m.mu.Lock()
	b := s.m.objects[req.Key]
	s.m.mu.Unlock()
	switch {
	case req.Length <= 0 || req.Offset < 0:
		return nil, underfs.Failf("read", req.Key, sluice.Invalid, "the range %d+%d is none", req.Offset, req.Length)
	case b == nil:
		return nil, underfs.Failf("read", req.Key, sluice.NotFound, "nothing lies there")
	case b.obj.Archived:
		return nil, underfs.Failf("read", req.Key, sluice.Archived, "it must be restored first")
	case req.Version != "" && b.obj.Version != req.Version:
		return nil, underfs.Failf("read", req.Key, sluice.Changed, "another version lies there")
	case req.Length > b.obj.Length-req.Offset:
		return nil, underfs.Failf("read", req.Key, sluice.Changed, "it has %d bytes", b.obj.Length)
	}
	return &memBody{ctx: ctx, s: s, req: req, b: b, fault: fault}, nil
}

// memBody is the body of a read.
type memBody struct {
	ctx   context.Context
	s     *memStore
	req   underfs.ReadRequest
	b     *blob
	fault Fault
	done  int64 // bytes returned
}

// Read implements io.Reader.
func (r *memBody) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, underfs.Fail("read", r.req.Key, sluice.Unavailable, err)
	}
	if r.fault.Flip && r.done > 0 {
		r.fault.Flip = false
		r.s.m.flip(r.req.Key)
	}
	live := r.b
	if r.s.m.opts.Local { // bytes are of whatever is in the file by now
		r.s.m.mu.Lock()
		live = r.s.m.objects[r.req.Key]
		r.s.m.mu.Unlock()
	}
	if r.done == r.req.Length {
		if live != r.b {
			return 0, underfs.Failf("read", r.req.Key, sluice.Changed, "it was replaced while it was read")
		}
		return 0, io.EOF
	}
	n := int64(len(p))
	if r.fault.Short {
		n = min(n, 1000)
	}
	n = min(n, r.req.Length-r.done)
	if r.fault.Torn > 0 {
		if n = min(n, r.fault.Torn-r.done); n <= 0 {
			return 0, underfs.Fail("read", r.req.Key, sluice.Unavailable, errInjected)
		}
	}
	off := r.req.Offset + r.done
	if live == nil || off+n > int64(len(live.data)) {
		return 0, underfs.Failf("read", r.req.Key, sluice.Changed, "it became shorter")
	}
	copy(p[:n], live.data[off:])
	r.done += n
	return int(n), nil
}

// Close implements io.Closer.
func (r *memBody) Close() error { return nil }

// flip replaces the content of key by another of the same length.
func (m *Memory) flip(key underfs.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.objects[key]
	if b == nil {
		return
	}
	data := slices.Clone(b.data)
	for i := range data {
		data[i] ^= 0xff
	}
	m.putLocked(key, data, underfs.CreateOptions{})
}

// Delete implements underfs.Store.
func (s *memStore) Delete(ctx context.Context, key underfs.Key, cond underfs.Condition) error {
	_, err := call(ctx, s, underfs.OpDelete, key, func() (struct{}, error) {
		m := s.m
		m.mu.Lock()
		defer m.mu.Unlock()
		b := m.objects[key]
		switch {
		case b == nil && m.opts.Local && m.objects[key+"/"] != nil:
			return struct{}{}, underfs.Failf("delete", key, sluice.IsDirectory, "a directory's key ends in a slash")
		case b == nil:
			return struct{}{}, underfs.Failf("delete", key, sluice.NotFound, "nothing lies there")
		case cond.Version != "" && cond.Version != b.obj.Version:
			return struct{}{}, underfs.Failf("delete", key, sluice.Changed, "another version lies there")
		case m.opts.Local && b.obj.Dir && m.belowLocked(key):
			return struct{}{}, underfs.Failf("delete", key, sluice.NotEmpty, "it has entries")
		}
		m.dropLocked(key)
		return struct{}{}, nil
	})
	return err
}

// Copy implements underfs.Copier.
func (s *memStore) Copy(ctx context.Context, from underfs.Key, v sluice.Version, to underfs.Key, cond underfs.Condition) (underfs.Object, error) {
	return call(ctx, s, underfs.OpCopy, from, func() (underfs.Object, error) {
		m := s.m
		m.mu.Lock()
		defer m.mu.Unlock()
		b := m.objects[from]
		if b == nil {
			return underfs.Object{}, underfs.Failf("copy", from, sluice.NotFound, "nothing lies there")
		}
		if v != "" && v != b.obj.Version {
			return underfs.Object{}, underfs.Failf("copy", from, sluice.Changed, "another version lies there")
		}
		if err := m.checkLocked("copy", to, cond); err != nil {
			return underfs.Object{}, err
		}
		return m.putLocked(to, b.data, underfs.CreateOptions{Tag: b.obj.Tag, Mode: b.obj.Mode, Owner: b.obj.Owner, Group: b.obj.Group}).obj, nil
	})
}

// Sweep implements underfs.Sweeper.
func (s *memStore) Sweep(ctx context.Context, age time.Duration, keep func(string) bool) (int, error) {
	return call(ctx, s, underfs.OpSweep, "", func() (int, error) {
		s.m.mu.Lock()
		pending := make([]string, 0, len(s.m.pending))
		for id, b := range s.m.pending {
			if time.Since(b.obj.Mtime) >= age {
				pending = append(pending, id)
			}
		}
		s.m.mu.Unlock()
		slices.Sort(pending)
		n := 0
		for _, id := range pending { // keep is the caller's: not under our lock
			s.m.mu.Lock()
			b := s.m.pending[id]
			s.m.mu.Unlock()
			if b == nil || keep != nil && (keep(id) || b.obj.Tag != "" && keep(b.obj.Tag)) {
				continue
			}
			s.m.mu.Lock()
			delete(s.m.pending, id)
			s.m.mu.Unlock()
			n++
		}
		return n, nil
	})
}

// errGone says that an upload is not there.
var errGone = errors.New("the upload is gone: completed, aborted or swept")

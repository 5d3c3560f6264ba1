package fuse

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/sluicefs/sluice"
)

// dir is an open directory. The kernel asks for one part of it at a time; a mutex of its
// own keeps programs apart that share a descriptor.
//
// A position is the number of entries given out before it. What was given out is
// remembered as packed names, so that a position stays behind the same name however many
// entries come and go before it.
type dir struct {
	node *node
	fs   sluice.FS

	turn  chan struct{} // holds one element while somebody reads
	names names
	next  uint64            // position of the next entry of pages
	rest  []sluice.FileInfo // entries fetched and not given out
	pages chan batch        // nil: not listing
	tick  uint64            // when the listing began
	stop  context.CancelFunc
	done  chan struct{} // closed when the listing's goroutine has ended
}

// batch is a part of a listing, or why there is none.
type batch struct {
	infos []sluice.FileInfo
	err   error
}

// batchSize is how many entries of a directory go around at once.
const batchSize = 500

// firstEntry is the position behind "." and "..".
const firstEntry = 2

// OpenDir implements fuse.RawFileSystem.
func (m *Mount) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, _, err := m.path(in.NodeId)
	if err != nil {
		return status(err)
	}
	d := &dir{node: n, fs: m.as(&in.InHeader), turn: make(chan struct{}, 1), next: firstEntry}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.handles)+len(m.dirs) >= m.opts.Handles {
		return fuse.Status(syscall.ENFILE)
	}
	m.lastFh++
	n.opens++
	m.dirs[m.lastFh] = d
	out.Fh = m.lastFh
	return fuse.OK
}

// ReleaseDir implements fuse.RawFileSystem.
func (m *Mount) ReleaseDir(in *fuse.ReleaseIn) {
	m.mu.Lock()
	d := m.dirs[in.Fh]
	delete(m.dirs, in.Fh)
	if d != nil {
		d.node.opens--
		m.dropLocked(d.node)
	}
	m.mu.Unlock()
	if d != nil {
		d.halt()
	}
}

// FsyncDir implements fuse.RawFileSystem: every change was kept when it was answered.
func (m *Mount) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.OK }

// ReadDir implements fuse.RawFileSystem.
func (m *Mount) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return m.readDir(cancel, in, func(e fuse.DirEntry, _ *dir, _ *sluice.FileInfo, _ uint64) bool {
		return out.AddDirEntry(e)
	})
}

// ReadDirPlus implements fuse.RawFileSystem.
func (m *Mount) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return m.readDir(cancel, in, func(e fuse.DirEntry, d *dir, info *sluice.FileInfo, tick uint64) bool {
		to := out.AddDirLookupEntry(e)
		if to == nil {
			return false
		}
		if info != nil && m.plus(d.node, tick) {
			m.enter(d.node, e.Name, *info, tick, to)
		} // else no node: the kernel looks it up when somebody asks
		return true
	})
}

// plus says whether entries of a directory listed at a tick may be given as nodes: not
// where this mount changed it since, which would bring removed names back, and not where
// listings have made nodes enough.
func (m *Mount) plus(dir *node, tick uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return dir.touched <= tick && len(m.nodes.byID) < plusMost
}

// readDir hands entries from a position on to add until it has no more room.
func (m *Mount) readDir(cancel <-chan struct{}, in *fuse.ReadIn, add func(fuse.DirEntry, *dir, *sluice.FileInfo, uint64) bool) fuse.Status {
	m.mu.Lock()
	d := m.dirs[in.Fh]
	m.mu.Unlock()
	if d == nil {
		return fuse.EBADF
	}
	ctx, end := m.request(cancel, &in.InHeader)
	defer end()
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return fuse.EINTR
	}
	defer func() { <-d.turn }()
	at := in.Offset
	for ; at < firstEntry; at++ {
		e := fuse.DirEntry{Name: [firstEntry]string{".", ".."}[at], Mode: syscall.S_IFDIR, Ino: uint64(d.node.file), Off: at + 1}
		if !add(e, d, nil, 0) {
			return fuse.OK
		}
	}
	if err := m.seek(d, at); err != nil {
		return status(err)
	}
	for added := false; ; added = true {
		info, tick, err := m.peek(ctx, d, !added)
		if err != nil {
			return status(err)
		}
		if info == nil {
			return fuse.OK
		}
		name := info.Path.Name()
		e := fuse.DirEntry{Name: name, Mode: typeBits(info.Type), Ino: uint64(info.ID), Off: d.next + 1}
		if !add(e, d, info, tick) {
			return fuse.OK
		}
		d.rest = d.rest[1:]
		d.names.add(name)
		d.next++
	}
}

// seek makes at the position of the next entry.
func (m *Mount) seek(d *dir, at uint64) error {
	if at == d.next && (at > firstEntry || d.pages == nil) {
		return nil
	}
	if at-firstEntry > uint64(d.names.count) {
		return syscall.EINVAL
	}
	d.halt()
	d.next = at
	d.names.cut(int(at - firstEntry)) // what follows may be other names than last time
	return nil
}

// peek returns the next entry, nil at the end. It waits for one only if it must.
func (m *Mount) peek(ctx context.Context, d *dir, wait bool) (*sluice.FileInfo, uint64, error) {
	if d.pages == nil {
		if err := m.list(d); err != nil {
			return nil, 0, err
		}
	}
	for len(d.rest) == 0 {
		var b batch
		var ok bool
		select {
		case b, ok = <-d.pages:
		default:
			if !wait {
				return nil, 0, nil // what there is is an answer; the next one goes on
			}
			select {
			case b, ok = <-d.pages:
			case <-ctx.Done():
				return nil, 0, ctx.Err()
			}
		}
		if !ok {
			return nil, 0, nil
		}
		if b.err != nil {
			d.halt()
			return nil, 0, b.err
		}
		d.rest = b.infos
	}
	return &d.rest[0], d.tick, nil
}

// list starts listing behind the last name given out.
func (m *Mount) list(d *dir) error {
	m.mu.Lock()
	path, err := m.pathLocked(d.node)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	after := d.names.last()
	ctx, stop := context.WithCancel(m.life)
	pages, done := make(chan batch, 1), make(chan struct{})
	d.pages, d.stop, d.done = pages, stop, done
	fs := d.fs
	d.tick = m.now()
	m.work.Go(func() {
		defer close(done)
		defer close(pages)
		send := func(b batch) bool {
			select {
			case pages <- b:
				return true
			case <-ctx.Done():
				return false
			}
		}
		var b batch
		for info, err := range fs.List(ctx, path, sluice.ListOptions{After: after}) {
			if err != nil {
				send(batch{err: err})
				return
			}
			b.infos = append(b.infos, info)
			if len(b.infos) == batchSize {
				if !send(b) {
					return
				}
				b = batch{}
			}
		}
		if len(b.infos) > 0 {
			send(b)
		}
	})
	return nil
}

// halt ends the listing.
func (d *dir) halt() {
	if d.pages == nil {
		return
	}
	d.stop()
	<-d.done
	d.pages, d.rest = nil, nil
}

// names are those given out of one directory, packed: each is kept as what it shares
// with the one before and the rest, and every 16th in full.
type names struct {
	packed []byte
	starts []uint32 // of every 16th
	count  int
	recent string
}

const namesFull = 16

// namesMost bounds the packed names of one directory, in bytes; a position in a longer
// one is refused, reading on is not.
const namesMost = 256 << 20

func (n *names) add(name string) {
	if len(n.packed) > namesMost {
		n.recent = name
		return
	}
	shared := 0
	if n.count%namesFull == 0 {
		n.starts = append(n.starts, uint32(len(n.packed)))
	} else {
		for shared < len(name) && shared < len(n.recent) && name[shared] == n.recent[shared] {
			shared++
		}
	}
	n.packed = append(n.packed, byte(shared), byte(len(name)-shared))
	n.packed = append(n.packed, name[shared:]...)
	n.recent = name
	n.count++
}

// last returns the name given out last, "" for none.
func (n *names) last() string { return n.recent }

// cut forgets all but the first so many.
func (n *names) cut(count int) {
	if count >= n.count {
		return
	}
	full := count / namesFull
	if count == 0 {
		*n = names{packed: n.packed[:0], starts: n.starts[:0]}
		return
	}
	at := n.starts[full]
	name := ""
	if count%namesFull == 0 { // the last one kept ends the group before
		full--
		at = n.starts[full]
	}
	for range count - full*namesFull {
		shared, rest := int(n.packed[at]), int(n.packed[at+1])
		name = name[:shared] + string(n.packed[at+2:int(at)+2+rest])
		at += uint32(2 + rest)
	}
	n.packed, n.starts, n.count, n.recent = n.packed[:at], n.starts[:full+1], count, name
}

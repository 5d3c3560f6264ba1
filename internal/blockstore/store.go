package blockstore

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/policy"
)

// Store is the blocks of one worker. All methods may be called at once by many
// goroutines.
type Store struct {
	cfg    Config
	log    *slog.Logger
	worker sluice.WorkerID
	dirs   []*dir
	shards [shardCount]shard
	counts counts
	live   atomic.Pointer[map[sluice.Incarnation]struct{}] // nil: everything is served
	chunks sync.Pool                                       // *[sluice.ChunkSize]byte
	files  openFiles

	stop context.CancelFunc
	work sync.WaitGroup
}

const shardCount = 64

// shard holds the blocks of the contents that hash to it.
type shard struct {
	mu      sync.Mutex
	blocks  map[sluice.BlockID]*block
	more    map[sluice.ContentID][]uint32 // indices above 0 of a content
	pins    map[sluice.ContentID]struct{} // contents whose blocks are pinned as they come
	writing map[sluice.BlockID]struct{}   // blocks that a BlockWriter fills
	// passed holds the descriptors that others hold, of live blocks and of dead ones.
	// Invariant: a block has flagPassed exactly while it is in here.
	passed map[*block][]*Passed
}

// counts are [Counters] being counted.
type counts struct {
	evicted, evictedBytes atomic.Int64
	filled, filledBytes   atomic.Int64
	written, writtenBytes atomic.Int64
	readBytes             atomic.Int64
	corrupt               atomic.Int64
	orphans, missing      atomic.Int64
	damaged, lost         atomic.Int64
	failedDirs            atomic.Int64
}

// Worker is the id that the directories carry, or that of the configuration.
func (s *Store) Worker() sluice.WorkerID { return s.worker }

func (s *Store) shard(c sluice.ContentID) *shard {
	return &s.shards[policy.Hash(sluice.BlockID{Content: c})%shardCount]
}

// insertLocked puts a block into its shard.
func (h *shard) insertLocked(b *block) {
	h.blocks[b.id] = b
	if b.id.Index > 0 {
		h.more[b.id.Content] = append(h.more[b.id.Content], b.id.Index)
	}
}

// removeLocked takes a block out of its shard.
func (h *shard) removeLocked(b *block) {
	delete(h.blocks, b.id)
	if b.id.Index == 0 {
		return
	}
	indices := h.more[b.id.Content]
	for i, index := range indices {
		if index == b.id.Index {
			indices[i] = indices[len(indices)-1]
			indices = indices[:len(indices)-1]
			break
		}
	}
	if len(indices) == 0 {
		delete(h.more, b.id.Content)
	} else {
		h.more[b.id.Content] = indices
	}
}

// contentLocked returns the blocks of c.
func (h *shard) contentLocked(c sluice.ContentID) (blocks []*block) {
	if b := h.blocks[sluice.BlockID{Content: c}]; b != nil {
		blocks = append(blocks, b)
	}
	for _, index := range h.more[c] {
		blocks = append(blocks, h.blocks[sluice.BlockID{Content: c, Index: index}])
	}
	return blocks
}

// Close stops the background work and closes every file. Handles stay usable; other
// methods must not be running or called any more.
func (s *Store) Close() error {
	s.stop()
	s.work.Wait()
	s.files.closeAll(s)
	return s.closeDirs()
}

func (s *Store) closeDirs() error {
	var errs []error
	for _, d := range s.dirs {
		if d.log != nil && d.log.file != nil {
			errs = append(errs, d.log.close())
		}
		if d.lock != nil {
			errs = append(errs, d.lock.Close())
		}
	}
	return errors.Join(errs...)
}

// Quarantine says which incarnations live. Blocks of others are neither served nor
// filled from then on; those that are unpersisted are kept until they are deleted.
// Before the first call all incarnations count as live.
func (s *Store) Quarantine(live []sluice.Incarnation) {
	set := make(map[sluice.Incarnation]struct{}, len(live))
	for _, i := range live {
		set[i] = struct{}{}
	}
	s.live.Store(&set)
}

func (s *Store) quarantined(c sluice.ContentID) bool {
	set := s.live.Load()
	if set == nil {
		return false
	}
	_, ok := (*set)[c.Incarnation]
	return !ok
}

func fail(op string, kind sluice.Kind, err error) error {
	return &sluice.Error{Op: op, Kind: kind, Err: err}
}

// acquire returns the block with its file open and a reference taken, or nil where
// the block is not here. check, under the shard's lock, may refuse it beforehand.
func (s *Store) acquire(ctx context.Context, id sluice.BlockID, check func(b *block) error) (*block, error) {
	if s.quarantined(id.Content) {
		return nil, nil
	}
	h := s.shard(id.Content)
	for {
		h.mu.Lock()
		b := h.blocks[id]
		if b == nil {
			h.mu.Unlock()
			return nil, nil
		}
		if err := check(b); err != nil {
			h.mu.Unlock()
			return nil, err
		}
		b.refs.Add(1)
		if b.live != nil && b.live.opening == nil {
			h.mu.Unlock()
			return b, nil
		}
		err := s.openLocked(ctx, h, b) // unlocks
		if err == nil {
			return b, nil
		}
		s.release(b)
		if ctx.Err() != nil {
			return nil, fail("open block", sluice.KindOf(ctx.Err()), ctx.Err())
		}
		if err := s.trouble(b.home, b, err); sluice.KindOf(err) != sluice.NotFound && !b.home.out() {
			return nil, err
		} // else the block is gone by now
	}
}

// openLocked opens b's file, or waits for who does, and unlocks the shard.
func (s *Store) openLocked(ctx context.Context, h *shard, b *block) error {
	if l := b.live; l != nil {
		opening := l.opening
		h.mu.Unlock()
		select {
		case <-opening:
			return l.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	l := &live{opening: make(chan struct{})}
	b.live = l
	h.mu.Unlock()
	f, err := s.openFile(b)
	s.opened(h, b, l, f, err)
	return err
}

// openFile opens the file of a block that was here before and looks at its length.
func (s *Store) openFile(b *block) (File, error) {
	f, err := s.cfg.Disk.Open(b.path(), ReadWrite)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err == nil && size != b.length {
		err = errLength
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// errLength says that a block file has not the length it was given.
var errLength = errors.New("block file has another length than its index says")

// opened ends an opening.
func (s *Store) opened(h *shard, b *block, l *live, f File, err error) {
	h.mu.Lock()
	l.file, l.err = f, err
	if err != nil {
		b.live = nil
	}
	close(l.opening)
	l.opening = nil
	h.mu.Unlock()
	if err == nil {
		s.files.add(s, b)
	}
}

// release lets go of a reference.
func (s *Store) release(b *block) {
	h := s.shard(b.id.Content)
	h.mu.Lock()
	if b.refs.Load() > 1 || !b.has(flagDead) {
		b.refs.Add(-1)
		h.mu.Unlock()
		return
	}
	l := b.live
	b.live = nil
	h.mu.Unlock()
	if l != nil && l.file != nil {
		s.files.remove(b)
		l.file.Close()
	}
	h.mu.Lock()
	b.refs.Add(-1) // only now: the last of those with a descriptor frees the space
	n, passed := b.charge(), b.has(flagPassed)
	h.mu.Unlock()
	if !passed {
		b.home.unhold(n)
	}
}

// kill takes b out of service if ok, asked under the shard's lock, agrees: its index
// entry and file are removed and its space is free once nobody uses it. Who holds a
// passed descriptor is asked to let go.
func (s *Store) kill(b *block, ok func() bool) bool {
	h := s.shard(b.id.Content)
	h.mu.Lock()
	if b.has(flagDead) || !ok() {
		h.mu.Unlock()
		return false
	}
	s.buryLocked(h, b)
	h.mu.Unlock()
	if !b.home.out() {
		s.unlink(b)
	}
	s.askBack(b)
	s.release(b)
	return true
}

// buryLocked marks b dead and takes a reference for the caller.
func (s *Store) buryLocked(h *shard, b *block) {
	b.refs.Add(1)
	b.set(flagDead)
	h.removeLocked(b)
	b.home.bury(b)
}

// unlink removes what the disk knows of a dead block. The index goes first: a file
// that no index knows is removed at the next start.
func (s *Store) unlink(b *block) {
	if b.has(flagIndexed) {
		if err := b.home.log.append(appendRecord(nil, &record{kind: recDrop, gen: b.gen}), false); err != nil {
			s.trouble(b.home, nil, err)
		}
	}
	if err := s.cfg.Disk.Remove(b.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.trouble(b.home, nil, err)
	}
}

func always() bool { return true }

// trouble judges an error of a directory's disk and returns what to tell the caller:
// a file that is gone or cut costs the block, a full disk lowers the quota, anything
// else takes the directory out of service.
func (s *Store) trouble(d *dir, b *block, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		s.shrink(d, err)
		return fail("write block", sluice.NoSpace, err)
	case b != nil && (errors.Is(err, errLength) || errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) && s.there(d)):
		if s.kill(b, always) {
			s.counts.missing.Add(1)
			s.lose(b)
			s.log.Warn("block file does not fit its index: dropped", "block", b.id.String(), "directory", d.path, "error", err)
		}
		return fail("read block", sluice.NotFound, err)
	case errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM) || errors.Is(err, fs.ErrClosed):
		return fail("use block", sluice.Unavailable, err)
	default:
		s.takeOut(d, err)
		return fail("use block", sluice.Unavailable, err)
	}
}

// there says whether the directory of blocks still exists.
func (s *Store) there(d *dir) bool {
	_, err := s.cfg.Disk.Usage(d.path + "/" + blocksDir)
	return err == nil
}

// lose counts a dead block that existed only here.
func (s *Store) lose(b *block) {
	if b.has(flagUnpersisted) {
		s.counts.lost.Add(1)
	}
}

// shrink lowers the quota of a directory whose disk is full before the quota is.
func (s *Store) shrink(d *dir, cause error) {
	d.mu.Lock()
	before := d.quota
	if d.failed == nil {
		// The books count what just did not fit, at most a page.
		d.quota = max(min(d.quota, d.used+d.held-sluice.PageSize), 0)
	}
	after := d.quota
	d.mu.Unlock()
	d.wake()
	if after < before {
		s.log.Error("the disk is full although the quota is not: quota lowered; free space for it or configure less",
			"directory", d.path, "quota", before, "lowered", after, "error", cause)
	}
}

// takeOut puts a directory out of service: its blocks are gone from here on. What is
// persisted can be fetched again.
func (s *Store) takeOut(d *dir, cause error) {
	d.mu.Lock()
	if d.failed != nil {
		d.mu.Unlock()
		return
	}
	d.failed = cause
	d.quota, d.used, d.held, d.index = 0, 0, 0, 0
	d.mu.Unlock()
	s.counts.failedDirs.Add(1)
	lost := int64(0)
	for i := range s.shards {
		h := &s.shards[i]
		h.mu.Lock()
		var here []*block
		for _, b := range h.blocks {
			if b.home == d {
				here = append(here, b)
			}
		}
		for _, b := range here {
			s.buryLocked(h, b)
		}
		h.mu.Unlock()
		for _, b := range here {
			if b.has(flagUnpersisted) {
				lost++
			}
			s.askBack(b)
			s.release(b)
		}
	}
	s.counts.lost.Add(lost)
	s.log.Error("directory taken out of service: its blocks are gone until it is repaired and the worker started again",
		"directory", d.path, "unpersisted_blocks_lost", lost, "error", cause)
}

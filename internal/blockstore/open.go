package blockstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/policy"
)

// Open takes the directories into use and rebuilds the store from their indexes, with
// one listing and without opening a block file. What no index knows is removed, what
// has no file is forgotten, both are counted. A block file's length is looked at when
// it is first opened and its bytes when they are first read.
//
// Kind Invalid: the configuration, or directories of different workers. Busy: another
// process uses a directory. Unsupported: a later version wrote its index. A directory
// whose disk fails is left out of service with a message, unless it is the only one.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fail("open block store", sluice.Invalid, err)
	}
	cfg = cfg.withDefaults()
	s := &Store{cfg: cfg, log: cfg.Log, worker: cfg.Worker}
	s.chunks.New = func() any { return new([sluice.ChunkSize]byte) }
	for i := range s.shards {
		h := &s.shards[i]
		h.blocks = map[sluice.BlockID]*block{}
		h.more = map[sluice.ContentID][]uint32{}
		h.pins = map[sluice.ContentID]struct{}{}
		h.writing = map[sluice.BlockID]struct{}{}
		h.passed = map[*block][]*Passed{}
	}
	if err := s.openDirs(ctx); err != nil {
		s.closeDirs()
		return nil, sluice.Wrap("open block store", "", err)
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	for _, d := range s.dirs {
		d.wake() // the quota may have become smaller
		s.work.Go(func() { s.evictor(ctx, d) })
	}
	return s, nil
}

// manyBlocks is from how many blocks on it pays to give memory back after opening.
const manyBlocks = 20_000

// openDirs opens all directories, each in a goroutine of its own.
func (s *Store) openDirs(ctx context.Context) error {
	for t, tier := range s.cfg.Tiers {
		for _, c := range tier.Dirs {
			s.dirs = append(s.dirs, &dir{
				tier: t, path: filepath.Clean(c.Path), quota: c.Quota, low: s.cfg.Low, high: s.cfg.High,
				order: s.cfg.Order(), kick: make(chan struct{}, 1), nextGen: 1,
			})
		}
	}
	var (
		work  sync.WaitGroup
		errs  = make([]error, len(s.dirs))
		found = make([][]*block, len(s.dirs))
	)
	for i, d := range s.dirs {
		work.Go(func() { found[i], errs[i] = s.openDir(d) })
	}
	work.Wait()
	if err := s.agree(errs); err != nil {
		return err
	}
	var twice []*block
	for _, blocks := range found {
		for _, b := range blocks {
			twice = append(twice, s.adopt(b)...)
		}
	}
	for _, b := range twice {
		s.unlink(b)
	}
	if n := s.Stats().Blocks; n >= manyBlocks {
		found = nil
		debug.FreeOSMemory() // reading took as much again as the store keeps
	}
	return ctx.Err()
}

// agree decides what the failures of some directories mean for the store, and sees
// to it that all carry one worker's id.
func (s *Store) agree(errs []error) error {
	broken := 0
	for i, err := range errs {
		if err == nil {
			continue
		}
		if k := sluice.KindOf(err); k == sluice.Busy || k == sluice.Unsupported || k == sluice.Permission {
			return err
		}
		if broken++; broken == len(s.dirs) {
			return err
		}
		s.dirs[i].quota, s.dirs[i].failed = 0, err
		s.counts.failedDirs.Add(1)
		s.log.Error("directory taken out of service", "directory", s.dirs[i].path, "error", err)
	}
	var owner *dir
	for _, d := range s.dirs {
		if d.failed != nil || d.log.worker == 0 {
			continue
		}
		if s.worker != 0 && d.log.worker != s.worker {
			other := "the configuration"
			if owner != nil {
				other = owner.path
			}
			return fail("", sluice.Invalid, fmt.Errorf("%s belongs to worker %v, %s says %v: give each worker its own directories",
				d.path, d.log.worker, other, s.worker))
		}
		owner, s.worker = d, d.log.worker
	}
	return s.sign()
}

// sign writes the worker's id into directories that carry none.
func (s *Store) sign() error {
	for _, d := range s.dirs {
		if d.failed != nil || d.log.worker == s.worker {
			continue
		}
		d.log.worker = s.worker
		if err := d.log.compact(); err != nil {
			return fmt.Errorf("sign %s: %w", d.path, err)
		}
	}
	return nil
}

// openDir locks a directory and returns the blocks it holds, in the order in which
// they came.
func (s *Store) openDir(d *dir) ([]*block, error) {
	disk := s.cfg.Disk
	if err := disk.MakeDir(d.path + "/" + blocksDir); err != nil {
		return nil, err
	}
	lock, err := disk.Lock(d.path + "/" + lockFile)
	if err != nil {
		return nil, err
	}
	d.lock = lock
	usage, err := disk.Usage(d.path)
	if err != nil {
		return nil, err
	}
	d.unit, d.huge, d.volatile = max(usage.Unit, 1), usage.Huge, usage.Volatile
	if d.quota > usage.Total {
		s.log.Warn("the quota is larger than the disk: lowered to its size", "directory", d.path, "quota", d.quota, "size", usage.Total)
		d.quota = usage.Total
	}
	known, order, err := s.openIndex(d)
	if err != nil {
		return nil, err
	}
	if err := s.matchFiles(d, known); err != nil {
		return nil, err
	}
	var gone []byte
	blocks := order[:0]
	for _, b := range order {
		switch {
		case b.has(flagSeen):
			b.unset(flagSeen)
			blocks = append(blocks, b)
			continue
		case !b.has(flagDead):
			s.counts.missing.Add(1)
			s.lose(b)
			gone = appendRecord(gone, &record{kind: recDrop, gen: b.gen})
		}
	}
	if gone != nil {
		return blocks, d.log.append(gone, false)
	}
	return blocks, nil
}

// openIndex reads or makes the index of a directory.
func (s *Store) openIndex(d *dir) (known map[uint64]*block, order []*block, err error) {
	disk := s.cfg.Disk
	l := &indexLog{disk: disk, dir: d.path, volatile: d.volatile, grown: d.grown, room: d.room, slack: compactSlack}
	d.log = l
	if err := disk.Remove(d.path + "/" + indexFresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	l.file, err = disk.Open(d.path+"/"+indexFile, ReadWrite)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, s.newIndex(l)
	}
	if err != nil {
		return nil, nil, err
	}
	var start [headerSize]byte
	n, _ := l.file.ReadAt(start[:], 0)
	head, err := parseHeader(start[:n])
	switch {
	case errors.Is(err, errVersion):
		return nil, nil, fail("open index of "+d.path, sluice.Unsupported,
			fmt.Errorf("%w; use that version, or empty the directory", err))
	case err != nil && n > 0:
		s.counts.damaged.Add(1)
		s.log.Error("the head of the index is damaged: reading what follows it", "directory", d.path)
	}
	l.worker, d.nextGen = head.worker, max(d.nextGen, head.nextGen)
	known, order, err = s.replay(d, l)
	if err == nil && n < headerSize {
		l.end = headerSize
	}
	if err == nil && head == (header{}) {
		err = l.compact() // writes a fresh head
	}
	return known, order, err
}

// newIndex makes an empty index, signed by the configuration.
func (s *Store) newIndex(l *indexLog) (err error) {
	if l.file, err = l.disk.Open(l.dir+"/"+indexFile, CreateNew); err != nil {
		return err
	}
	l.worker, l.nextGen = s.cfg.Worker, 1
	if _, err = l.file.WriteAt(appendHeader(nil, header{worker: l.worker, nextGen: 1}), 0); err != nil {
		return err
	}
	l.end, l.base = headerSize, headerSize
	l.grown(l.end)
	if l.volatile {
		return nil
	}
	if err = l.file.Sync(); err == nil {
		err = l.disk.SyncDir(l.dir)
	}
	return err
}

// replay reads the records of an index.
func (s *Store) replay(d *dir, l *indexLog) (map[uint64]*block, []*block, error) {
	known, order := map[uint64]*block{}, []*block(nil)
	found, err := scanRecords(l.file, headerSize, func(_ int64, r *record) error {
		d.nextGen = max(d.nextGen, r.gen+1)
		b := known[r.gen]
		switch {
		case b == nil && r.kind == recBlock:
			b = newBlock(r.id, r.length, r.gen, d)
			b.set(flagIndexed)
			b.keep(r.flags)
			known[r.gen] = b
			order = append(order, b)
		case b != nil:
			b.replay(r)
		}
		if r.kind == recDrop {
			delete(known, r.gen)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if found.damaged > 0 {
		s.counts.damaged.Add(int64(found.damaged))
		s.log.Error("the index is damaged: what it lost is fetched again where a store has it",
			"directory", d.path, "places", found.damaged)
	}
	l.end, l.nextGen = found.end, d.nextGen
	l.base = l.end / 2 // compacts soon enough if most of it is dead
	l.grown(l.end)
	return known, order, l.file.Truncate(l.end)
}

// keep sets flags as the index has them.
func (b *block) keep(flags uint8) {
	b.unset(flagPinned | flagUnpersisted)
	if flags&keptPinned != 0 {
		b.set(flagPinned)
	}
	if flags&keptUnpersisted != 0 {
		b.set(flagUnpersisted)
	}
}

// replay applies a record of this block.
func (b *block) replay(r *record) {
	switch r.kind {
	case recPage:
		if r.page < b.pages() && int64(len(r.sums)) == (b.pageLen(r.page)+sluice.ChunkSize-1)/sluice.ChunkSize {
			b.setSums(r.page, r.sums)
			b.put(bitPresent(), r.page, true)
			b.put(bitCharged(), r.page, true)
		}
	case recAbsent:
		if r.page < b.pages() {
			b.put(bitPresent(), r.page, false)
			b.put(bitCharged(), r.page, true)
		}
	case recFlags:
		b.keep(r.flags)
	case recDrop:
		b.set(flagDead)
	}
}

// matchFiles marks the blocks whose file is there and removes files of no block.
func (s *Store) matchFiles(d *dir, known map[uint64]*block) error {
	var orphans []string
	var name []byte
	under := d.path + "/" + blocksDir
	err := s.cfg.Disk.List(under, func(file string) error {
		_, suffix, _ := strings.Cut(file, "~")
		gen, err := strconv.ParseUint(suffix, 16, 64)
		if b := known[gen]; err == nil && b != nil {
			if name = b.appendName(name[:0]); string(name) == file {
				b.set(flagSeen)
				return nil
			}
		}
		if err == nil {
			d.nextGen = max(d.nextGen, gen+1)
		}
		orphans = append(orphans, file)
		return nil
	})
	if err != nil {
		return err
	}
	for _, file := range orphans {
		if err := s.cfg.Disk.Remove(under + "/" + file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if len(orphans) > 0 {
		s.counts.orphans.Add(int64(len(orphans)))
		s.log.Warn("removed files that no index knows", "directory", d.path, "files", len(orphans))
	}
	return nil
}

// adopt puts a block into the store; of two files of one block it returns the one
// with less in it, to be removed.
func (s *Store) adopt(b *block) []*block {
	h := s.shard(b.id.Content)
	h.mu.Lock()
	defer h.mu.Unlock()
	var worse []*block
	if a := h.blocks[b.id]; a != nil {
		if a.present() >= b.present() {
			return []*block{b}
		}
		a.set(flagDead)
		h.removeLocked(a)
		n := a.charge()
		a.home.bury(a)
		a.home.unhold(n)
		worse = append(worse, a)
	}
	h.insertLocked(b)
	if b.has(flagPinned) {
		h.pins[b.id.Content] = struct{}{}
	}
	n := b.charge()
	b.home.mu.Lock()
	b.home.used += n
	b.home.mu.Unlock()
	b.home.admit(b, n, policy.Hash(b.id))
	return worse
}

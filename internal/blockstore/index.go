package blockstore

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
)

// Names within a directory.
const (
	indexFile  = "index"
	indexFresh = "index.new"
	lockFile   = "lock"
	blocksDir  = "blocks"
)

// indexLog appends to the index of one directory. Callers that arrive while one
// writes are written together by it, so that a sync is shared.
type indexLog struct {
	disk     Disk
	dir      string
	worker   sluice.WorkerID
	volatile bool // nothing to sync to
	// grown is told the size of the index on disk, room asked for n bytes more during
	// a compaction, which is put off where it answers false. Neither may block.
	grown func(size int64)
	room  func(n int64) bool

	mu      sync.Mutex
	batch   *batch // guarded by mu; what waits to be written, nil for nothing
	writing bool   // guarded by mu; somebody writes and will take batch
	err     error  // guarded by mu; the log can no longer be written

	// Owned by whoever set writing.
	file    File
	end     int64  // where the next record goes
	base    int64  // the size after the last compaction
	nextGen uint64 // above every generation in the log
	slack   int64  // bytes the log may grow beyond twice base
}

type batch struct {
	data []byte
	sync bool
	done chan struct{}
	err  error
}

// compactSlack is the usual slack.
const compactSlack = 1 << 20

// append writes encoded records and, where sync is set, makes them durable. It
// returns when they are. Records of one call are written in order and together.
func (l *indexLog) append(data []byte, sync bool) error {
	l.mu.Lock()
	if l.err != nil {
		defer l.mu.Unlock()
		return l.err
	}
	if l.batch == nil {
		l.batch = &batch{done: make(chan struct{})}
	}
	mine := l.batch
	mine.data = append(mine.data, data...)
	mine.sync = mine.sync || sync
	if l.writing {
		l.mu.Unlock()
		<-mine.done
		return mine.err
	}
	l.writing = true
	for l.batch != nil {
		b := l.batch
		l.batch = nil
		l.mu.Unlock()
		b.err = l.write(b)
		close(b.done)
		l.mu.Lock()
	}
	l.writing = false
	l.mu.Unlock()
	return mine.err
}

// write is called by the one who set writing. After an error the next write starts
// at the same place, over what a torn one left.
func (l *indexLog) write(b *batch) error {
	if _, err := l.file.WriteAt(b.data, l.end); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	if b.sync && !l.volatile {
		if err := l.file.Sync(); err != nil {
			return fmt.Errorf("sync index: %w", err)
		}
	}
	l.end += int64(len(b.data))
	l.grown(l.end)
	if n := l.end; n > 2*l.base+l.slack && l.room(n) {
		err := l.compact()
		l.room(-n)
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			l.base = l.end // the log itself is whole: try again when it has doubled
		} else if err != nil {
			return fmt.Errorf("compact index: %w", err)
		}
	}
	return nil
}

// compact writes what still matters into a fresh file and puts it in the place of the
// log. It works on the file alone, so that no lock of the store is needed; appending
// waits meanwhile.
func (l *indexLog) compact() error {
	fresh := l.dir + "/" + indexFresh
	if err := l.disk.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := l.disk.Open(fresh, CreateNew)
	if err != nil {
		return err
	}
	end, err := l.rewrite(f)
	if err == nil && !l.volatile {
		err = f.Sync()
	}
	if err == nil {
		err = l.disk.Rename(fresh, l.dir+"/"+indexFile)
	}
	if err != nil {
		f.Close()
		l.disk.Remove(fresh)
		return err
	}
	l.file.Close()
	l.file, l.end, l.base = f, end, end
	l.grown(end)
	if l.volatile {
		return nil
	}
	return l.disk.SyncDir(l.dir)
}

// rewrite copies the live records of the log to f, which is empty, and returns its size.
func (l *indexLog) rewrite(f File) (int64, error) {
	dead := map[uint64]bool{}      // dropped generations
	flags := map[uint64]uint8{}    // the last flags of those that changed
	absent := map[[2]int64]int64{} // (generation, page) -> offset of the last absent record
	_, err := scanRecords(l.file, headerSize, func(off int64, r *record) error {
		l.nextGen = max(l.nextGen, r.gen+1)
		switch r.kind {
		case recDrop:
			dead[r.gen] = true
		case recFlags:
			flags[r.gen] = r.flags
		case recAbsent:
			absent[[2]int64{int64(r.gen), r.page}] = off
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	buf, end := appendHeader(nil, header{worker: l.worker, nextGen: l.nextGen}), int64(0)
	flush := func() error {
		_, err := f.WriteAt(buf, end)
		end += int64(len(buf))
		buf = buf[:0]
		return err
	}
	_, err = scanRecords(l.file, headerSize, func(off int64, r *record) error {
		gone, ok := absent[[2]int64{int64(r.gen), r.page}]
		switch {
		case dead[r.gen], r.kind == recDrop, r.kind == recFlags:
			return nil
		case r.kind == recPage && ok && off < gone, r.kind == recAbsent && off != gone:
			return nil
		case r.kind == recBlock:
			if f, ok := flags[r.gen]; ok {
				r.flags = f
			}
		}
		if buf = appendRecord(buf, r); len(buf) > 256<<10 {
			return flush()
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return end + int64(len(buf)), flush()
}

// close waits for nobody: the store calls it when nothing appends any more.
func (l *indexLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = &sluice.Error{Op: "write index", Kind: sluice.Unavailable, Err: fs.ErrClosed}
	}
	return l.file.Close()
}

package fuse

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
)

// stagedPage is the unit in which bytes of the old version are copied up before a part of
// it is overwritten.
const stagedPage = sluice.ChunkSize

// maxLength bounds a file, in bytes; the kernel's own bound is about the same.
const maxLength = 1<<63 - 1 - stagedPage

// staged is the new version of a file while it is written: a sparse file of the pages
// that were touched, over the version it was based on. It is shared by all handles of
// its node and lives until the last of them is closed.
type staged struct {
	dir  *staging
	log  func(msg string, args ...any)
	turn chan struct{} // holds one element while somebody changes or publishes it

	mu      sync.Mutex
	file    *os.File         // guarded by mu; nil until something is kept
	name    string           // guarded by mu: of file, without ending
	pages   map[int64]uint64 // guarded by mu: bitmap of the pages in file, 64 a word
	held    int64            // guarded by mu: bytes reserved
	base    sluice.Handle    // guarded by mu: what the other pages are read from; may be nil
	baseLen int64            // guarded by mu: bytes of base that still count
	size    int64            // guarded by mu
	dirty   bool             // guarded by mu: differs from what is published
	touched time.Time        // guarded by mu: the last change
	seen    bool             // guarded by mu: somebody was told of touched, so that it must stay
	atime   time.Time        // guarded by mu: set by the user and not sent; zero: none

	// The rest belongs to whoever holds turn.

	on      sluice.ContentID // publish only over this one; zero: over whatever there is
	writer  sluice.Writer    // of a file that was created and not published
	fresh   bool             // there is no published version
	freshAs sluice.Mode      // its mode
	lost    error            // another version was published elsewhere: this one never will be
	noted   bool             // there is a note for recovery
}

// newStaged makes a staged file over base, which it takes over; nil: over nothing.
func (m *Mount) newStaged(base sluice.Handle) *staged {
	s := &staged{dir: m.staging, log: m.opts.Log.Warn, turn: make(chan struct{}, 1), pages: map[int64]uint64{}, base: base, touched: time.Now()}
	if base != nil {
		info := base.Info()
		s.baseLen, s.size, s.on = info.Length, info.Length, info.Content()
	}
	return s
}

// enter waits for the turn to change the file.
func (s *staged) enter(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *staged) leave() { <-s.turn }

// ahead says whether there is something here that is not published.
func (s *staged) ahead() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dirty
}

// observe notes that somebody is told the time of the last change.
func (s *staged) observe() {
	s.mu.Lock()
	s.seen = true
	s.mu.Unlock()
}

// fill puts what is known better here into attributes.
func (s *staged) fill(a *fuse.Attr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.Size, a.Blocks = uint64(s.size), uint64(s.size+511)/512
	if !s.dirty {
		return
	}
	atime := s.atime
	if atime.IsZero() {
		atime = a.AccessTime()
	}
	a.SetTimes(&atime, &s.touched, &s.touched)
}

func (s *staged) hasLocked(page int64) bool { return s.pages[page/64]&(1<<(page%64)) != 0 }

// spanLocked returns where the bytes from off on come from, and how many do.
func (s *staged) spanLocked(off, most int64) (n int64, here bool, base sluice.Handle) {
	here = s.hasLocked(off / stagedPage)
	for n < most && s.hasLocked((off+n)/stagedPage) == here {
		n = min(most, ((off+n)/stagedPage+1)*stagedPage-off)
	}
	if !here && off < s.baseLen {
		return min(n, s.baseLen-off), false, s.base
	}
	return n, here, nil
}

// readAt reads as [sluice.Handle] does.
func (s *staged) readAt(ctx context.Context, p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		at := off + int64(n)
		s.mu.Lock()
		if at >= s.size {
			s.mu.Unlock()
			return n, io.EOF
		}
		count, here, base := s.spanLocked(at, min(int64(len(p)-n), s.size-at))
		file := s.file
		s.mu.Unlock()
		part := p[n : n+int(count)]
		switch {
		case here:
			m, err := file.ReadAt(part, at)
			if err != nil && err != io.EOF {
				return n, err
			}
			clear(part[m:])
		case base != nil:
			m, err := base.ReadAt(ctx, part, at)
			if err != nil && !(err == io.EOF && m == len(part)) {
				if s.other(base) {
					continue // it was closed under us, having been replaced
				}
				return n, cutShort(err)
			}
		default:
			clear(part)
		}
		n += int(count)
	}
	return n, nil
}

// other says whether the old version is read from another handle by now.
func (s *staged) other(base sluice.Handle) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base != base
}

// cutShort is what an early end of the old version means.
func cutShort(err error) error {
	if err == io.EOF {
		return &sluice.Error{Kind: sluice.Changed, Err: errors.New("the old version is shorter than it was")}
	}
	return err
}

// keep makes room for pages in the file. Whoever calls it holds turn, and copies up or
// overwrites the pages before it marks them.
func (s *staged) keep(first, last int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		f, name, err := s.dir.create()
		if err != nil {
			return err
		}
		s.file, s.name = f, name
	}
	fresh := int64(0)
	for p := first; p <= last; p++ {
		if !s.hasLocked(p) {
			fresh++
		}
	}
	if err := s.dir.take(fresh * stagedPage); err != nil {
		return err
	}
	s.held += fresh * stagedPage
	return nil
}

// mark notes that pages are in the file.
func (s *staged) mark(first, last int64) {
	s.mu.Lock()
	for p := first; p <= last; p++ {
		s.pages[p/64] |= 1 << (p % 64)
	}
	s.mu.Unlock()
}

// copyUp brings one page of the old version into the file. keep was called for it.
func (s *staged) copyUp(ctx context.Context, page int64) error {
	s.mu.Lock()
	start := page * stagedPage
	if s.hasLocked(page) || start >= s.baseLen {
		s.mu.Unlock()
		return nil
	}
	base, file, n := s.base, s.file, min(stagedPage, s.baseLen-start)
	s.mu.Unlock()
	buf := make([]byte, n)
	if m, err := base.ReadAt(ctx, buf, start); err != nil && !(err == io.EOF && int64(m) == n) {
		return cutShort(err)
	}
	if _, err := file.WriteAt(buf, start); err != nil {
		return err
	}
	s.mark(page, page)
	return nil
}

// write changes bytes. Whoever calls it holds turn.
func (s *staged) write(ctx context.Context, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	end := off + int64(len(p))
	if off < 0 || end > maxLength {
		return syscall.EFBIG
	}
	first, last := off/stagedPage, (end-1)/stagedPage
	if err := s.keep(first, last); err != nil {
		return err
	}
	if err := s.copyEdges(ctx, off, end); err != nil {
		return err
	}
	if _, err := s.file.WriteAt(p, off); err != nil {
		return err
	}
	s.mark(first, last)
	s.changed(end)
	return nil
}

// copyEdges copies up the first and last page of a range where the range covers only a
// part of them.
func (s *staged) copyEdges(ctx context.Context, off, end int64) error {
	if off%stagedPage != 0 {
		if err := s.copyUp(ctx, off/stagedPage); err != nil {
			return err
		}
	}
	if end%stagedPage != 0 {
		return s.copyUp(ctx, (end-1)/stagedPage)
	}
	return nil
}

// changed notes a change that reaches to end.
func (s *staged) changed(end int64) {
	s.mu.Lock()
	s.size = max(s.size, end)
	s.dirty, s.touched, s.seen = true, time.Now(), false
	s.mu.Unlock()
}

// truncate sets the length. Whoever calls it holds turn.
func (s *staged) truncate(size int64) error {
	if size < 0 || size > maxLength {
		return syscall.EFBIG
	}
	s.mu.Lock()
	if size < s.size && s.file != nil {
		if err := s.file.Truncate(size); err != nil {
			s.mu.Unlock()
			return err
		}
		freed := s.cutLocked((size + stagedPage - 1) / stagedPage)
		s.held -= freed
		s.dir.give(freed)
	}
	s.baseLen = min(s.baseLen, size)
	s.size = size
	s.mu.Unlock()
	s.changed(size)
	return nil
}

// cutLocked forgets the pages from first on and returns how many bytes they were.
func (s *staged) cutLocked(first int64) (freed int64) {
	for word, bits := range s.pages {
		for i := range int64(64) {
			if bits&(1<<i) != 0 && word*64+i >= first {
				bits &^= 1 << i
				freed += stagedPage
			}
		}
		if bits == 0 {
			delete(s.pages, word)
		} else {
			s.pages[word] = bits
		}
	}
	return freed
}

// zero makes a range read as zeros without changing the length. Whoever calls it holds
// turn.
func (s *staged) zero(ctx context.Context, off, end int64) error {
	s.mu.Lock()
	end = min(end, s.size)
	s.mu.Unlock()
	if off >= end {
		return nil
	}
	first, last := off/stagedPage, (end-1)/stagedPage
	if err := s.keep(first, last); err != nil {
		return err
	}
	if err := s.copyEdges(ctx, off, end); err != nil {
		return err
	}
	if err := unix.Fallocate(int(s.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, end-off); err != nil {
		return err
	}
	s.mark(first, last)
	s.changed(end)
	return nil
}

// settle copies up all that is left of the old version, which is not needed afterwards.
// Whoever calls it holds turn.
func (s *staged) settle(ctx context.Context) error {
	s.mu.Lock()
	end := min(s.baseLen, s.size)
	base := s.base
	s.mu.Unlock()
	if base == nil {
		return nil
	}
	for off := int64(0); off < end; off += stagedPage {
		page := off / stagedPage
		if err := s.keep(page, page); err != nil {
			return err
		}
		if err := s.copyUp(ctx, page); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.base, s.baseLen = nil, 0
	s.mu.Unlock()
	base.Close()
	return nil
}

// rebase takes another handle of the same bytes for the old version.
func (s *staged) rebase(base sluice.Handle) {
	s.mu.Lock()
	old := s.base
	s.base, s.baseLen = base, base.Info().Length
	s.mu.Unlock()
	if old != nil {
		old.Close()
	}
}

// close lets go of everything; the file stays on disk only where a note says what it is.
func (s *staged) close(keep bool) {
	s.mu.Lock()
	file, name, base, held := s.file, s.name, s.base, s.held
	s.file, s.base, s.held = nil, nil, 0
	s.mu.Unlock()
	if base != nil {
		base.Close()
	}
	if file == nil {
		return
	}
	file.Close()
	if keep {
		return // its room stays taken
	}
	s.dir.give(held)
	for _, ending := range []string{stagedNote, stagedData} {
		if err := os.Remove(name + ending); err != nil && !errors.Is(err, os.ErrNotExist) {
			s.log("a staged file was not removed", "err", err)
		}
	}
}

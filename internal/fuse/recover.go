package fuse

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluicefs/sluice"
)

// noteVersion is that of the note's format, docs/format/staging.md.
const noteVersion = 1

// note is what recovery must know of a staged file.
type note struct {
	Version int           `json:"version"`
	Path    sluice.Path   `json:"path"`
	File    sluice.FileID `json:"file"`
	Base    string        `json:"base,omitempty"`  // content id; empty: replace whatever there is
	Fresh   bool          `json:"fresh,omitempty"` // created, never published
	Mode    sluice.Mode   `json:"mode,omitempty"`  // of a fresh file
	Write   string        `json:"write,omitempty"`
	Length  int64         `json:"length"`
	BaseLen int64         `json:"baseLength"`     // bytes of the base that still count
	Pages   [][2]int64    `json:"pages"`          // runs of pages in the file: first and number
	Lost    bool          `json:"lost,omitempty"` // another version was published elsewhere
	Time    time.Time     `json:"time"`
}

// note makes a staged file durable together with what recovery needs. Whoever calls it
// holds the file's turn.
func (m *Mount) note(n *node, s *staged) error {
	if err := s.keep(0, -1); err != nil { // a file even where it is empty
		return err
	}
	m.mu.Lock()
	path, err := m.pathLocked(n)
	file := n.file
	m.mu.Unlock()
	if err != nil {
		return err
	}
	t := note{Version: noteVersion, Path: path, File: file, Fresh: s.fresh, Mode: s.freshAs, Lost: s.lost != nil, Time: time.Now().UTC()}
	if !s.on.IsZero() {
		t.Base = s.on.String()
	}
	if m.opts.Write != sluice.WriteDefault {
		t.Write = m.opts.Write.String()
	}
	s.mu.Lock()
	t.Length, t.BaseLen, t.Pages = s.size, s.baseLen, s.runsLocked()
	data, name := s.file, s.name
	s.mu.Unlock()
	if err := data.Sync(); err != nil {
		return err
	}
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := writeWhole(name+stagedNote, b); err != nil {
		return err
	}
	s.noted = true
	return nil
}

// unnote removes the note of a file that was published.
func (m *Mount) unnote(s *staged) {
	if !s.noted {
		return
	}
	s.noted = false
	if err := os.Remove(s.name + stagedNote); err != nil {
		m.opts.Log.Warn("the note of a published file was not removed; recovery will report a conflict", "err", err)
	}
}

// runsLocked lists the pages in the file.
func (s *staged) runsLocked() [][2]int64 {
	var all []int64
	for word, bits := range s.pages {
		for i := range int64(64) {
			if bits&(1<<i) != 0 {
				all = append(all, word*64+i)
			}
		}
	}
	slices.Sort(all)
	runs := [][2]int64{}
	for _, p := range all {
		if k := len(runs) - 1; k >= 0 && runs[k][0]+runs[k][1] == p {
			runs[k][1]++
			continue
		}
		runs = append(runs, [2]int64{p, 1})
	}
	return runs
}

// writeWhole puts a file in place in one durable step.
func writeWhole(name string, b []byte) error {
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Leftover is a file that was written through a mount that died, or that lost against
// another writer, and is not published.
type Leftover struct {
	Name   string // of the staged file, without ending
	Path   sluice.Path
	Length int64 // bytes
	Time   time.Time
	Lost   bool // another version was published before
	note   note
}

// Leftovers lists what waits in a staging directory, oldest first. Files of mounts that
// live are not among them.
func Leftovers(dir string) ([]Leftover, error) {
	if _, err := os.Stat(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var all []Leftover
	for _, d := range leftovers(dir) {
		notes, err := filepath.Glob(filepath.Join(d, "*"+stagedNote))
		if err != nil {
			return nil, err
		}
		for _, name := range notes {
			l, err := readNote(name)
			if err != nil {
				return nil, err
			}
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(a, b Leftover) int { return cmp.Or(a.Time.Compare(b.Time), strings.Compare(a.Name, b.Name)) })
	return all, nil
}

func readNote(name string) (Leftover, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return Leftover{}, err
	}
	var n note
	if err := json.Unmarshal(b, &n); err != nil {
		return Leftover{}, &sluice.Error{Op: "read note", Kind: sluice.Corrupt, Err: fmt.Errorf("%s: %w", name, err)}
	}
	if n.Version != noteVersion {
		return Leftover{}, &sluice.Error{Op: "read note", Kind: sluice.Unsupported, Err: fmt.Errorf("%s is of version %d; this program reads %d", name, n.Version, noteVersion)}
	}
	return Leftover{Name: strings.TrimSuffix(name, stagedNote), Path: n.Path, Length: n.Length, Time: n.Time, Lost: n.Lost, note: n}, nil
}

// Publish completes a leftover: it becomes the content of its path, if that still has the
// content it was based on, and is removed from the staging directory. Kind Stale or
// Exists: it has other content; nothing is changed then.
func (l Leftover) Publish(ctx context.Context, fs sluice.FS) error {
	opts := sluice.CreateOptions{}
	var err error
	if l.note.Write != "" {
		if opts.Write, err = sluice.ParseWriteType(l.note.Write); err != nil {
			return err
		}
	}
	if l.note.Fresh {
		if opts.Mode, err = l.vacant(ctx, fs); err != nil {
			return err
		}
		opts.Exclusive = opts.Mode != 0
	}
	if l.note.Base != "" {
		if opts.Base, err = sluice.ParseContentID(l.note.Base); err != nil {
			return err
		}
	}
	r, err := l.open(ctx, fs, opts.Base)
	if err != nil {
		return err
	}
	defer r.close(true)
	w, err := fs.Create(ctx, l.Path, opts)
	if err != nil {
		return err
	}
	defer w.Abort(context.WithoutCancel(ctx)) // nothing after Close
	if err := r.copy(ctx, w); err != nil {
		return err
	}
	if _, err := w.Close(ctx); err != nil {
		return err
	}
	return l.Drop()
}

// vacant says whether the name of a file that was never published is free, or still has
// the entry that was made for it. It returns the mode to create it with, 0 where the
// entry is there.
func (l Leftover) vacant(ctx context.Context, fs sluice.FS) (sluice.Mode, error) {
	info, err := fs.Stat(ctx, l.Path, sluice.StatOptions{})
	switch {
	case errors.Is(err, sluice.NotFound):
		return cmp.Or(l.note.Mode, 0o600), nil
	case err != nil:
		return 0, err
	case info.ID == l.note.File && !info.Complete:
		return 0, nil
	default:
		return 0, &sluice.Error{Op: "recover", Path: l.Path, Kind: sluice.Exists, Err: errors.New("another file has the name by now; copy the staged one out or drop it")}
	}
}

// open puts the bytes together again.
func (l Leftover) open(ctx context.Context, fs sluice.FS, base sluice.ContentID) (*staged, error) {
	f, err := os.Open(l.Name + stagedData)
	if err != nil {
		return nil, err
	}
	s := &staged{file: f, name: l.Name, pages: map[int64]uint64{}, size: l.Length}
	for _, run := range l.note.Pages {
		for p := run[0]; p < run[0]+run[1]; p++ {
			s.pages[p/64] |= 1 << (p % 64)
		}
	}
	if l.note.BaseLen == 0 || base.IsZero() {
		return s, nil
	}
	h, err := fs.Open(ctx, l.Path, sluice.OpenOptions{})
	if err != nil {
		s.close(true)
		return nil, err
	}
	if info := h.Info(); info.Content() != base {
		h.Close()
		s.close(true)
		return nil, &sluice.Error{Op: "recover", Path: l.Path, Kind: sluice.Stale, Err: errors.New("the file has other content than this change was based on")}
	}
	s.base, s.baseLen = h, l.note.BaseLen
	return s, nil
}

// copy writes all bytes of a staged file.
func (s *staged) copy(ctx context.Context, w sluice.Writer) error {
	buf := make([]byte, requestMost)
	for off := int64(0); ; {
		n, err := s.readAt(ctx, buf, off)
		if n > 0 {
			if _, e := w.Write(ctx, buf[:n]); e != nil {
				return e
			}
			off += int64(n)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Drop removes a leftover for good.
func (l Leftover) Drop() error {
	return errors.Join(os.Remove(l.Name+stagedNote), os.Remove(l.Name+stagedData))
}

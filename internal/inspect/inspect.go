// Package inspect reads the files of a stopped master: it prints the journal's commands
// and verifies that the files are whole. It refuses to change anything, and to print
// secrets.
package inspect

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/journal"
	"github.com/sluicefs/sluice/internal/wire"
)

// Options say what to read.
type Options struct {
	FS   vfs.FS       // nil is the disk
	From sluice.Index // the first entry to print; 0 is the first there is
	To   sluice.Index // the last one; 0 is the last there is
}

// line is one command as Dump prints it.
type line struct {
	Index   sluice.Index    `json:"index"`
	Term    sluice.Term     `json:"term"`
	N       int             `json:"n"` // within its entry, from 0
	Version uint32          `json:"version,omitempty"`
	Wall    string          `json:"wall,omitempty"` // RFC 3339
	Tick    string          `json:"tick,omitempty"` // journal time since the cluster's format
	Op      string          `json:"op"`
	By      json.RawMessage `json:"by,omitempty"`
	Request json.RawMessage `json:"request,omitempty"`
	Args    json.RawMessage `json:"args,omitempty"`
}

// Dump prints the commands in the journal of the master's directory dir (or of a
// journal's own directory), one JSON object a line, in order. Secrets are shown as
// "(sealed)", references to files and the environment as they are. An entry of the
// journal's own has the op "none". Errors: Busy while the master runs; NotFound;
// Corrupt, after what lies before the damage has been printed; Unsupported for entries
// of a later version; an error of w.
func Dump(w io.Writer, dir string, o Options) error {
	fs := o.fs()
	out := bufio.NewWriter(w)
	_, err := journal.ReadLog(fs, journalDir(fs, dir), func(e journal.Entry) error {
		if e.Index < o.From || o.To != 0 && e.Index > o.To {
			return nil
		}
		lines, err := render(e)
		for _, l := range lines {
			b, err := json.Marshal(l)
			if err != nil {
				return err
			}
			if _, err := out.Write(append(b, '\n')); err != nil {
				return err
			}
		}
		return err
	})
	if err2 := out.Flush(); err == nil {
		err = err2
	}
	return sluice.Wrap("dump journal", "", err)
}

// render turns an entry into lines.
func render(e journal.Entry) ([]line, error) {
	if len(e.Data) == 0 {
		return []line{{Index: e.Index, Term: e.Term, Op: "none"}}, nil
	}
	entry, err := decode(e)
	if err != nil {
		return nil, err
	}
	lines := make([]line, 0, len(entry.Commands))
	for i, c := range entry.Commands {
		l := line{Index: e.Index, Term: e.Term, N: i, Version: entry.Version}
		if t := wire.Time(entry.Wall); !t.IsZero() {
			l.Wall = t.Format("2006-01-02T15:04:05.000000000Z07:00")
		}
		l.Tick = duration(entry.Tick)
		if err := l.fill(c); err != nil {
			return nil, fmt.Errorf("entry %d, command %d: %w", e.Index, i, err)
		}
		lines = append(lines, l)
	}
	return lines, nil
}

// decode reads what the primary gathered into an entry.
func decode(e journal.Entry) (*wire.Entry, error) {
	var entry wire.Entry
	if err := entry.UnmarshalVT(e.Data); err != nil {
		return nil, &sluice.Error{Kind: sluice.Corrupt, Err: fmt.Errorf("entry %d has a right checksum, but does not hold commands: %w", e.Index, err)}
	}
	if entry.Format > wire.EntryFormat || entry.Version > wire.ClusterVersion {
		return nil, &sluice.Error{Kind: sluice.Unsupported, Err: fmt.Errorf(
			"entry %d is of format %d for cluster version %d; this program knows %d and %d: use a later one",
			e.Index, entry.Format, entry.Version, wire.EntryFormat, wire.ClusterVersion)}
	}
	return &entry, nil
}

func (o Options) fs() vfs.FS {
	if o.FS == nil {
		return vfs.Default
	}
	return o.FS
}

// journalDir returns the journal's directory in a master's, or dir if it is one itself.
func journalDir(fs vfs.FS, dir string) string {
	sub := fs.PathJoin(dir, "journal")
	if st, err := fs.Stat(sub); err == nil && st.IsDir() {
		return sub
	}
	return filepath.Clean(dir)
}

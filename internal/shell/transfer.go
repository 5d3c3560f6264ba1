package shell

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice"
)

// place is one side of a copy: the local file system or Sluice. Names are relative to
// what is copied, "" being itself, with slashes.
type place interface {
	// walk calls do for everything, directories before their children.
	walk(ctx context.Context, do func(name string, dir bool, length int64) error) error
	// length returns that of a file there; kind NotFound where there is none.
	length(ctx context.Context, name string) (int64, error)
	open(ctx context.Context, name string) (io.ReadCloser, error)
	// create writes a whole file, visible only when fill returned nil.
	create(ctx context.Context, name string, replace bool, fill func(io.Writer) error) error
	mkdir(ctx context.Context, name string) error
	show(name string) string
}

// copyOptions are the flags of get, put and cp.
type copyOptions struct {
	recursive, force, resume bool
	parallel                 int
	write                    writeFlag
}

func (o *copyOptions) flags(cmd *cobra.Command, writes bool) {
	cmd.Flags().BoolVarP(&o.recursive, "recursive", "r", false, "directories with everything below")
	cmd.Flags().BoolVarP(&o.force, "force", "f", false, "replace existing files")
	cmd.Flags().BoolVar(&o.resume, "resume", false, "go on with a copy: skip files that are identical already, replace those that differ; the target of a directory is then exactly the name given, unless it ends in /")
	cmd.Flags().IntVar(&o.parallel, "parallel", 16, "so many files at once")
	if writes {
		cmd.Flags().Var(&o.write, "write", "CACHE_THROUGH, THROUGH or MUST_CACHE (default by the mount)")
	}
}

// writeFlag is the value of --write.
type writeFlag struct{ sluice.WriteType }

func (w *writeFlag) Type() string { return "type" }

func (w *writeFlag) String() string {
	if w.WriteType == sluice.WriteDefault {
		return ""
	}
	return w.WriteType.String()
}

func (w *writeFlag) Set(s string) (err error) {
	w.WriteType, err = sluice.ParseWriteType(s)
	return err
}

func (c *command) put() *cobra.Command {
	var o copyOptions
	cmd := &cobra.Command{
		Use: "put LOCAL PATH", Short: "Copy local files into Sluice (- reads standard input)", Args: args(2, 2),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			if names[0] == "-" {
				p, err := path(names[1])
				if err != nil {
					return err
				}
				return inSluice{sys, p, o.write.WriteType}.create(ctx, "", o.force, func(w io.Writer) error {
					_, err := io.CopyBuffer(struct{ io.Writer }{w}, c.In, make([]byte, copyBuffer))
					return err
				})
			}
			to, err := o.target(ctx, sys, names[1], filepath.Base(filepath.Clean(names[0])), func() (bool, error) {
				st, err := os.Stat(string(c.local(names[0])))
				return err == nil && st.IsDir(), err
			})
			if err != nil {
				return err
			}
			return c.copy(ctx, c.local(names[0]), inSluice{sys, to, o.write.WriteType}, o)
		}),
	}
	o.flags(cmd, true)
	return cmd
}

func (c *command) get() *cobra.Command {
	var o copyOptions
	cmd := &cobra.Command{
		Use: "get PATH LOCAL", Short: "Copy files out of Sluice", Args: args(2, 2),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			from, err := path(names[0])
			if err != nil {
				return err
			}
			to := c.local(names[1])
			st, err := os.Stat(string(to))
			into := err == nil && st.IsDir()
			if into && o.resume && !strings.HasSuffix(names[1], "/") {
				f, err := sys.Stat(ctx, from, sluice.StatOptions{})
				if err != nil {
					return err
				}
				into = !f.IsDir()
			}
			if into {
				to = onDisk(to.show(from.Name()))
			}
			return c.copy(ctx, inSluice{sys, from, 0}, to, o)
		}),
	}
	o.flags(cmd, false)
	return cmd
}

func (c *command) cp() *cobra.Command {
	var o copyOptions
	cmd := &cobra.Command{
		Use: "cp SOURCE TARGET", Short: "Copy within Sluice, also between mounts", Args: args(2, 2),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			from, err := path(names[0])
			if err != nil {
				return err
			}
			to, err := o.target(ctx, sys, names[1], from.Name(), func() (bool, error) {
				f, err := sys.Stat(ctx, from, sluice.StatOptions{})
				return f.IsDir(), err
			})
			if err != nil {
				return err
			}
			if from.Contains(to) {
				return &Usage{fmt.Errorf("cannot copy %s into itself", from)}
			}
			return c.copy(ctx, inSluice{sys, from, 0}, inSluice{sys, to, o.write.WriteType}, o)
		}),
	}
	o.flags(cmd, true)
	return cmd
}

// target is [target], but a copy of a directory that is resumed goes on where it began:
// the directory that is there by now is the one the first run made, and is not copied into.
func (o *copyOptions) target(ctx context.Context, sys System, s, name string, isDir func() (bool, error)) (sluice.Path, error) {
	if o.resume && (s == "/" || !strings.HasSuffix(s, "/")) {
		dir, err := isDir()
		if err != nil {
			return "", err
		}
		if dir {
			return path(s)
		}
	}
	return target(ctx, sys, s, name)
}

// copied counts what a copy did.
type copied struct{ files, bytes, identical atomic.Int64 }

// copiedReport says it: always as JSON, as text where many files were asked for.
func (c *command) copiedReport(n *copied, to string, o copyOptions) error {
	if c.json {
		return c.emit(map[string]any{"to": to, "files": n.files.Load(), "bytes": n.bytes.Load(), "identical": n.identical.Load()})
	}
	if !o.recursive {
		return nil
	}
	_, err := fmt.Fprintf(c.Out, "%s: copied %d files, %s; %d were identical already\n", to, n.files.Load(), size(n.bytes.Load(), true), n.identical.Load())
	return err
}

// copy copies a file or a tree, several files at once. It stops at the first failure;
// what was copied by then is whole, what was not is absent.
func (c *command) copy(ctx context.Context, from, to place, o copyOptions) error {
	bar := c.progress("copy")
	defer bar.done()
	var did copied
	var done, planned atomic.Int64
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(max(1, o.parallel))
	err := from.walk(gctx, func(name string, dir bool, length int64) error {
		if dir && !o.recursive {
			return &sluice.Error{Op: "copy", Path: sluice.Path(from.show(name)), Kind: sluice.IsDirectory}
		}
		if dir {
			return to.mkdir(gctx, name)
		}
		planned.Add(length)
		group.Go(func() error {
			err := copyOne(gctx, from, to, name, length, o, &did, func(n int64) { bar.set(done.Add(n), planned.Load()) })
			if err != nil {
				return fmt.Errorf("%s: %w", from.show(name), err)
			}
			return nil
		})
		return nil
	})
	if failed := group.Wait(); failed != nil {
		return failed
	}
	if err != nil {
		return err
	}
	bar.done()
	return c.copiedReport(&did, to.show(""), o)
}

// copyOne copies one file, unless it is asked to skip it and the target is identical.
func copyOne(ctx context.Context, from, to place, name string, length int64, o copyOptions, did *copied, moved func(int64)) error {
	if o.resume {
		same, err := identical(ctx, from, to, name, length)
		if err != nil {
			return err
		}
		if same {
			did.identical.Add(1)
			moved(length)
			return nil
		}
	}
	did.files.Add(1)
	return to.create(ctx, name, o.force || o.resume, func(w io.Writer) error {
		r, err := from.open(ctx, name)
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.CopyBuffer(counter{w, func(n int64) { did.bytes.Add(n); moved(n) }}, struct{ io.Reader }{r}, make([]byte, copyBuffer))
		return err
	})
}

// counter tells of what is written.
type counter struct {
	io.Writer
	wrote func(int64)
}

// Write implements io.Writer.
func (c counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.wrote(int64(n))
	return n, err
}

// identical compares lengths, then bytes.
func identical(ctx context.Context, from, to place, name string, length int64) (bool, error) {
	n, err := to.length(ctx, name)
	if kindOrNone(err) == sluice.NotFound || err == nil && n != length {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	a, err := from.open(ctx, name)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := to.open(ctx, name)
	if err != nil {
		return false, err
	}
	defer b.Close()
	x, y := make([]byte, copyBuffer), make([]byte, copyBuffer)
	for {
		n, err := io.ReadFull(a, x)
		if n > 0 {
			if _, berr := io.ReadFull(b, y[:n]); berr != nil || !bytes.Equal(x[:n], y[:n]) {
				return false, nil
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// onDisk is a file or tree of the local file system.
type onDisk string

func (c *command) local(name string) onDisk {
	if filepath.IsAbs(name) {
		return onDisk(name)
	}
	return onDisk(filepath.Join(c.Dir, name))
}

func (d onDisk) show(name string) string { return filepath.Join(string(d), filepath.FromSlash(name)) }

func (d onDisk) walk(ctx context.Context, do func(string, bool, int64) error) error {
	return filepath.WalkDir(string(d), func(full string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		name, err := filepath.Rel(string(d), full)
		if err != nil {
			return err
		}
		if name = filepath.ToSlash(name); name == "." {
			name = ""
		}
		st, err := os.Stat(full) // follows symlinks to files, as cp -L does
		switch {
		case err != nil:
			return err
		case e.IsDir():
			return do(name, true, 0)
		case st.Mode().IsRegular():
			return do(name, false, st.Size())
		default:
			return fmt.Errorf("%s is neither a file nor a directory; leave it out", full)
		}
	})
}

func (d onDisk) length(_ context.Context, name string) (int64, error) {
	st, err := os.Stat(d.show(name))
	if err != nil {
		return 0, err
	}
	if st.IsDir() {
		return -1, nil
	}
	return st.Size(), nil
}

func (d onDisk) open(_ context.Context, name string) (io.ReadCloser, error) {
	return os.Open(d.show(name))
}

func (d onDisk) mkdir(_ context.Context, name string) error { return os.MkdirAll(d.show(name), 0o755) }

func (d onDisk) create(_ context.Context, name string, replace bool, fill func(io.Writer) error) (err error) {
	final := d.show(name)
	if _, err := os.Lstat(final); err == nil && !replace {
		return &sluice.Error{Op: "write", Kind: sluice.Exists, Err: fmt.Errorf("%s is there", final)}
	}
	f, err := os.CreateTemp(filepath.Dir(final), ".sluice-get-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), final)
}

// inSluice is a file or tree of the one namespace.
type inSluice struct {
	sys   System
	top   sluice.Path
	write sluice.WriteType
}

func (s inSluice) path(name string) sluice.Path {
	if name == "" {
		return s.top
	}
	return s.top.Join(name)
}

func (s inSluice) show(name string) string { return string(s.path(name)) }

func (s inSluice) walk(ctx context.Context, do func(string, bool, int64) error) error {
	f, err := s.sys.Stat(ctx, s.top, sluice.StatOptions{})
	if err != nil {
		return err
	}
	if err := do("", f.IsDir(), f.Length); err != nil || !f.IsDir() {
		return err
	}
	for f, err := range s.sys.List(ctx, s.top, sluice.ListOptions{Recursive: true}) {
		if err != nil {
			return err
		}
		if f.Type == sluice.Symlink || !f.Complete && f.Type == sluice.File {
			continue
		}
		if err := do(s.top.Rel(f.Path), f.IsDir(), f.Length); err != nil {
			return err
		}
	}
	return nil
}

func (s inSluice) length(ctx context.Context, name string) (int64, error) {
	f, err := s.sys.Stat(ctx, s.path(name), sluice.StatOptions{})
	if f.IsDir() {
		return -1, err
	}
	return f.Length, err
}

func (s inSluice) open(ctx context.Context, name string) (io.ReadCloser, error) {
	h, err := s.sys.Open(ctx, s.path(name), sluice.OpenOptions{})
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{sluice.NewReader(ctx, h, 0), h}, nil
}

func (s inSluice) mkdir(ctx context.Context, name string) error {
	p, err := sluice.ParsePath(string(s.path(name)))
	if err != nil {
		return err
	}
	_, err = s.sys.Mkdir(ctx, p, sluice.MkdirOptions{Parents: true})
	return err
}

func (s inSluice) create(ctx context.Context, name string, replace bool, fill func(io.Writer) error) error {
	p, err := sluice.ParsePath(string(s.path(name)))
	if err != nil {
		return err
	}
	w, err := s.sys.Create(ctx, p, sluice.CreateOptions{Exclusive: !replace, Write: s.write})
	if err != nil {
		return err
	}
	defer w.Abort(context.WithoutCancel(ctx))
	if err := fill(&writer{ctx: ctx, w: w}); err != nil {
		return err
	}
	_, err = w.Close(ctx)
	return err
}

// writer gives a sluice.Writer the shape of io.Writer for the time of one copy.
type writer struct {
	ctx context.Context
	w   sluice.Writer
}

// Write implements io.Writer.
func (w *writer) Write(p []byte) (int, error) {
	return w.w.Write(w.ctx, p)
}

func (c *command) touch() *cobra.Command {
	return &cobra.Command{
		Use: "touch PATH...", Short: "Make an empty file, or set the time of an existing one", Args: args(1, -1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			return c.each(ctx, names, func(p sluice.Path) error { return touch(ctx, sys, p) })
		}),
	}
}

// touch makes an empty file; where one is, its time becomes that of the clock here.
func touch(ctx context.Context, sys System, p sluice.Path) error {
	w, err := sys.Create(ctx, p, sluice.CreateOptions{Exclusive: true, Empty: true})
	if kindOrNone(err) == sluice.Exists {
		_, err = sys.SetAttr(ctx, p, sluice.AttrChange{Mtime: new(time.Now())})
		return err
	}
	if err != nil {
		return err
	}
	_, err = w.Close(ctx)
	return err
}

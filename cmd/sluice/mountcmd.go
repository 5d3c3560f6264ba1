package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/internal/auth"
	"github.com/sluicefs/sluice/internal/fuse"
	"github.com/sluicefs/sluice/internal/shell"
)

// mountFlags are the flags of mount.
type mountFlags struct {
	options []string
	daemon  bool
	ready   int // descriptor that is told when the mount serves; negative: none
	opts    fuse.Options
	speak   bool
}

func (p *program) mount() *cobra.Command {
	var f mountFlags
	cmd := &cobra.Command{
		Use: "mount [/PATH] MOUNTPOINT", Short: "Show the tree, or a part of it, as a directory of this machine", Args: cobra.RangeArgs(1, 2),
		Long: `Show the tree, or a part of it, as a directory of this machine.

It serves until it gets SIGTERM or Ctrl-C, or somebody unmounts it; what is written is published first. With -d it
goes to the background, with its log in DATA/mount.log, and returns when the mount serves, or says why not. A mount point left by a killed mount is
cleaned. Where the cluster's key can be read, every request is made for the user who makes it; else all are made as
the one who mounts.

Options of -o, separated by commas:
  ro                read-only
  allow_other       other users of this machine may use it (needs the cluster's key, or speak)
  speak             the token of client.token was made with --speak-for
  entry=T, attr=T   how long the kernel may remember names and attributes (default 1s)
  write=TYPE        CACHE_THROUGH, THROUGH or MUST_CACHE for what is written here (default by the mount)
  staging=DIR       where written bytes wait for their publication (default DATA/mount)
  quota=SIZE        how much may wait there (default 10GiB)
  limit=T           how long publishing one file may take (default 10m)
  nopassthrough     never let the kernel read block files itself
  trace             print every request of the kernel
rw, defaults, auto, noauto, nofail, _netdev, user, users, nouser, nosuid, nodev and x-* are taken and ignored, for fstab.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.daemon && f.ready < 0 {
				return p.background(cmd.Context())
			}
			err := p.serveMount(cmd.Context(), &f, args)
			return f.tell(err)
		},
	}
	cmd.Flags().StringSliceVarP(&f.options, "option", "o", nil, "options, as above")
	cmd.Flags().BoolVarP(&f.daemon, "daemon", "d", false, "go to the background; return when the mount serves")
	cmd.Flags().IntVar(&f.ready, "ready-fd", -1, "descriptor to tell when the mount serves")
	if err := cmd.Flags().MarkHidden("ready-fd"); err != nil {
		panic(err) // the flag was defined just above
	}
	cmd.AddCommand(p.recover())
	return cmd
}

func (p *program) umount() *cobra.Command {
	var lazy bool
	cmd := &cobra.Command{
		Use: "umount MOUNTPOINT", Short: "End a mount of this machine, dead or alive", Args: cobra.ExactArgs(1),
		Long: `End a mount of this machine, dead or alive.

What was written was published when it was closed. A mount that is in use is busy; with --lazy its name is free at
once and it ends with its last user.`,
		RunE: func(_ *cobra.Command, args []string) error {
			at, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			return fuse.Unmount(at, lazy)
		},
	}
	cmd.Flags().BoolVarP(&lazy, "lazy", "l", false, "even where it is in use")
	return cmd
}

// parse reads the options of -o.
func (f *mountFlags) parse() error {
	for _, o := range f.options {
		name, value, _ := strings.Cut(o, "=")
		if err := f.option(name, value); err != nil {
			return &shell.Usage{Err: fmt.Errorf("-o %s: %w", o, err)}
		}
	}
	return nil
}

func (f *mountFlags) option(name, value string) (err error) {
	switch name {
	case "ro":
		f.opts.ReadOnly = true
	case "allow_other":
		f.opts.AllowOther = true
	case "speak":
		f.speak = true
	case "nopassthrough":
		f.opts.NoPass = true
	case "trace":
		f.opts.Trace = true
	case "staging":
		f.opts.Staging = value
	case "entry":
		f.opts.EntryFor, err = lifetime(value)
	case "attr":
		f.opts.AttrFor, err = lifetime(value)
	case "limit":
		f.opts.Limit, err = time.ParseDuration(value)
	case "write":
		f.opts.Write, err = sluice.ParseWriteType(value)
	case "quota":
		var s size
		err = s.UnmarshalText([]byte(value))
		f.opts.Quota = int64(s)
	default:
		ignored := []string{"rw", "defaults", "auto", "noauto", "nofail", "_netdev", "user", "users", "nouser", "nosuid", "nodev"}
		if !slices.Contains(ignored, name) && !strings.HasPrefix(name, "x-") {
			err = errors.New("unknown option; see sluice mount --help")
		}
	}
	return err
}

// lifetime reads a time; 0 is as short as can be.
func lifetime(value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err == nil && d < 0 {
		err = errors.New("it is negative")
	}
	return max(d, 1), err
}

// serveMount mounts and serves until the end.
func (p *program) serveMount(ctx context.Context, f *mountFlags, args []string) error {
	cfg, err := p.read()
	if err != nil {
		return err
	}
	if err := f.parse(); err != nil {
		return err
	}
	f.opts.Root = sluice.Root
	if len(args) == 2 {
		if f.opts.Root, err = sluice.ParsePath(args[0]); err != nil {
			return &shell.Usage{Err: err}
		}
	}
	f.opts.Mountpoint = args[len(args)-1]
	if f.opts.Staging == "" {
		f.opts.Staging = filepath.Join(cfg.Data, "mount")
	}
	f.opts.Log = logger(cfg.Log, p.err)
	c, err := f.connect(ctx, cfg)
	if err != nil {
		return err
	}
	f.opts.FS = c
	m, err := fuse.New(ctx, f.opts)
	if err == nil {
		err = f.serve(ctx, m)
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	return joined(err, c.Close(end))
}

// connect makes the client, with the cluster's key where it can be read.
func (f *mountFlags) connect(ctx context.Context, cfg config) (*client.Client, error) {
	cc, err := clientOf(ctx, cfg)
	if err != nil {
		return nil, err
	}
	cc.Log = f.opts.Log
	f.opts.Super, f.opts.Speak = uint32(os.Geteuid()), f.speak
	if cc.Token == "" {
		keys, err := auth.LoadKeyring(cfg.keyFile(), rand.Reader)
		switch {
		case err == nil:
			cc.Keys, f.opts.Speak = keys, true
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission):
			return nil, err
		}
	}
	return client.New(ctx, cc)
}

// serve waits for the end of a mount and ends it.
func (f *mountFlags) serve(ctx context.Context, m *fuse.Mount) error {
	if err := f.tell(nil); err != nil {
		return err
	}
	f.ready = -1
	select {
	case <-ctx.Done():
	case <-m.Done():
	}
	// What is written and not closed is published first, which takes what it takes; who
	// has files open after that gets little time to let go.
	err := m.PublishAll(context.WithoutCancel(ctx))
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	return joined(err, m.Close(end))
}

// tell says to the one who waits for it that the mount serves, or why not.
func (f *mountFlags) tell(err error) error {
	if f.ready < 0 {
		return err
	}
	pipe := os.NewFile(uintptr(f.ready), "ready")
	defer pipe.Close()
	text := "ok"
	if err != nil {
		text = err.Error()
	}
	_, e := io.WriteString(pipe, text)
	return joined(err, e)
}

// background starts this command again as a process of its own and waits until it
// serves.
func (p *program) background(ctx context.Context) error {
	cfg, err := p.read()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.Data, 0o755); err != nil {
		return err
	}
	// Not our standard error: whoever reads that waits for its end.
	log, err := os.OpenFile(filepath.Join(cfg.Data, "mount.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(self, append(slices.Clone(os.Args[1:]), "--ready-fd", "3")...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles, cmd.SysProcAttr = log, log, []*os.File{w}, &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	text, err := io.ReadAll(io.LimitReader(r, 64<<10))
	if string(text) == "ok" {
		return cmd.Process.Release()
	}
	state := cmd.Wait()
	if len(text) > 0 {
		return errors.New(string(text))
	}
	return joined(fmt.Errorf("the mount ended before it served: %w", state), err)
}

func (p *program) recover() *cobra.Command {
	var staging string
	var publish, drop bool
	cmd := &cobra.Command{
		Use: "recover", Short: "List what was written through mounts that died, and publish or drop it", Args: cobra.NoArgs,
		Long: `List what was written through mounts that died, and publish or drop it.

A file is here if fsync was called for it and it was not published, or if its close failed: because another version
was published first (lost), or the store did not take it. --publish makes each the content of its path where that
still has the content it was based on; the others stay, with the reason. --drop deletes all of them for good.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if publish && drop {
				return &shell.Usage{Err: errors.New("--publish and --drop exclude each other")}
			}
			return p.runRecover(cmd.Context(), staging, publish, drop)
		},
	}
	cmd.Flags().StringVar(&staging, "staging", "", "the staging directory (default DATA/mount)")
	cmd.Flags().BoolVar(&publish, "publish", false, "publish what can be")
	cmd.Flags().BoolVar(&drop, "drop", false, "delete all of it")
	return cmd
}

func (p *program) runRecover(ctx context.Context, staging string, publish, drop bool) error {
	cfg, err := p.read()
	if err != nil {
		return err
	}
	if staging == "" {
		staging = filepath.Join(cfg.Data, "mount")
	}
	left, err := fuse.Leftovers(staging)
	if err != nil || len(left) == 0 {
		return err
	}
	var c *client.Client
	if publish {
		if c, err = newClient(ctx, cfg); err != nil {
			return err
		}
		defer func() { _ = c.Close(context.WithoutCancel(ctx)) }() // the session ends by itself where this fails
	}
	var failed error
	for _, l := range left {
		done, err := "waits", error(nil)
		switch {
		case publish:
			done, err = "published", l.Publish(ctx, c)
		case drop:
			done, err = "dropped", l.Drop()
		case l.Lost:
			done = "lost against another version"
		}
		if err != nil {
			done = "stays: " + err.Error()
			failed = errors.Join(failed, fmt.Errorf("%s: %w", l.Path, err))
		}
		fmt.Fprintf(p.out, "%s  %8s  %s  %s  %s.data\n", l.Time.Format(time.RFC3339), humanize.IBytes(uint64(l.Length)), l.Path, done, l.Name)
	}
	return failed
}

package fuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice"
)

// Options say what is mounted where and how.
type Options struct {
	FS         sluice.FS
	Root       sluice.Path // the part of FS that is shown; default all
	Mountpoint string      // an existing directory
	// Speak: FS may act for others, so that every request is made for the user who
	// calls. Else all of them are made as the one whom FS stands for.
	Speak bool
	// Super is the uid whose requests pass every permission check, where FS may grant
	// that; it has a meaning with Speak only.
	Super uint32

	AllowOther bool // users other than the one who mounts may use it
	ReadOnly   bool
	NoPass     bool          // no passthrough, even where the kernel could
	EntryFor   time.Duration // how long the kernel may remember names; default 1s
	AttrFor    time.Duration // likewise attributes; default 1s
	Write      sluice.WriteType

	Staging string        // directory for what is being written; needed unless ReadOnly
	Quota   int64         // bytes that may lie there at once; default 10 GiB
	Limit   time.Duration // of publishing one file; default 10m
	Handles int           // open files at once; default 65,536

	Log *slog.Logger // nil means none
	// Trace prints every request and answer of the kernel to the standard error.
	Trace bool
}

const (
	defaultCacheFor = time.Second
	defaultQuota    = 10 << 30
	defaultLimit    = 10 * time.Minute
	defaultHandles  = 65536
	// requestMost is the largest read or write asked for at once, in bytes.
	requestMost = 1 << 20
	// plusMost bounds the nodes that listings alone may make.
	plusMost = 200_000
)

// Validate says what to change.
func (o Options) Validate() error {
	switch {
	case o.FS == nil:
		return errors.New("no file system given")
	case o.Mountpoint == "":
		return errors.New("no mount point given: name an existing directory")
	case o.Staging == "" && !o.ReadOnly:
		return errors.New("no staging directory given: what is written waits there; or mount read-only")
	case o.Quota < 0:
		return fmt.Errorf("the staging quota of %d bytes is negative", o.Quota)
	case o.AllowOther && !o.Speak:
		return errors.New("others can be allowed only where the mount may speak for them: give it the cluster key or a token made with --speak-for")
	}
	return nil
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&o.EntryFor, defaultCacheFor)
	set(&o.AttrFor, defaultCacheFor)
	set(&o.Limit, defaultLimit)
	if o.Root == "" {
		o.Root = sluice.Root
	}
	if o.Quota == 0 {
		o.Quota = defaultQuota
	}
	if o.Handles == 0 {
		o.Handles = defaultHandles
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Mount is a mounted file system. Close ends it.
type Mount struct {
	fuse.RawFileSystem // answers ENOSYS to what is not here

	opts    Options
	server  *fuse.Server
	people  people
	staging *staging
	life    context.Context // ends when the mount does; requests derive from it
	end     context.CancelFunc
	work    sync.WaitGroup // goroutines besides those of the server
	served  chan struct{}  // closed when the kernel let go
	pass    bool           // backing files can be given to the kernel
	buffers pool

	mu      sync.Mutex
	nodes   nodes                   // guarded by mu
	handles map[uint64]*handle      // guarded by mu
	dirs    map[uint64]*dir         // guarded by mu
	lastFh  uint64                  // guarded by mu
	space   space                   // guarded by mu
	retries map[place]chan struct{} // guarded by mu: names that are looked up again; closed when they were opened
}

// New mounts. When it returns the mount serves. ctx bounds the mounting, not the mount.
func New(ctx context.Context, opts Options) (*Mount, error) {
	m, err := newMount(ctx, opts)
	if err != nil {
		return nil, err
	}
	if err := m.serve(); err != nil {
		m.end()
		m.work.Wait()
		m.abandonAll()
		return nil, sluice.Wrap("mount", "", err)
	}
	return m, nil
}

func newMount(ctx context.Context, opts Options) (*Mount, error) {
	if err := opts.Validate(); err != nil {
		return nil, &sluice.Error{Op: "mount", Kind: sluice.Invalid, Err: err}
	}
	opts = opts.withDefaults()
	at, err := filepath.Abs(opts.Mountpoint)
	if err != nil {
		return nil, sluice.Wrap("mount", "", err)
	}
	opts.Mountpoint = at
	if err := clean(at); err != nil {
		return nil, sluice.Wrap("mount", "", err)
	}
	root, err := opts.FS.Stat(ctx, opts.Root, sluice.StatOptions{})
	if err != nil {
		return nil, err
	}
	if !root.IsDir() {
		return nil, &sluice.Error{Op: "mount", Path: opts.Root, Kind: sluice.NotDirectory}
	}
	m := &Mount{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), opts: opts, served: make(chan struct{}),
		people: people{super: opts.Super}, handles: map[uint64]*handle{}, dirs: map[uint64]*dir{}, retries: map[place]chan struct{}{},
		nodes: nodes{byID: map[uint64]*node{}, byFile: map[sluice.FileID]*node{}, byName: map[place]*node{}, next: rootNode},
	}
	if !opts.ReadOnly {
		if m.staging, err = openStaging(opts.Staging, opts.Quota); err != nil {
			return nil, sluice.Wrap("open staging directory", "", err)
		}
	}
	top := &node{id: rootNode, file: root.ID, kind: sluice.Directory, info: root, lookups: 1}
	m.nodes.byID[rootNode], m.nodes.byFile[root.ID] = top, top
	m.life, m.end = context.WithCancel(context.WithoutCancel(ctx))
	return m, nil
}

// serve asks the kernel to mount and answers it from then on.
func (m *Mount) serve() error {
	options := []string{"default_permissions"}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if m.opts.ReadOnly {
		flags |= unix.MS_RDONLY
		if os.Geteuid() != 0 {
			options = append(options, "ro") // for fusermount3
		}
	}
	server, err := fuse.NewServer(m, m.opts.Mountpoint, &fuse.MountOptions{
		AllowOther: m.opts.AllowOther, Options: options, DirectMount: true, DirectMountFlags: flags,
		MaxBackground: 64, MaxWrite: requestMost, MaxReadAhead: requestMost, MaxStackDepth: 1,
		FsName: "sluice:" + string(m.opts.Root), Name: "sluice",
		ExplicitDataCacheControl: true, Debug: m.opts.Trace, DisableSplice: true,
		ExtraCapabilities: fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_READDIRPLUS_AUTO |
			fuse.CAP_DIRECT_IO_ALLOW_MMAP | fuse.CAP_ASYNC_DIO,
	})
	if err != nil {
		return fmt.Errorf("mount at %s: %w", m.opts.Mountpoint, err)
	}
	m.server = server
	m.pass = !m.opts.NoPass && server.KernelSettings().Flags64()&fuse.CAP_PASSTHROUGH != 0 && os.Geteuid() == 0
	m.work.Go(func() {
		defer close(m.served)
		server.Serve()
		m.end()
	})
	if err := server.WaitMount(); err != nil {
		return errors.Join(err, unix.Unmount(m.opts.Mountpoint, unix.MNT_DETACH))
	}
	if w, ok := m.opts.FS.(sluice.Watcher); ok {
		m.work.Go(func() { m.watch(w) })
	}
	return nil
}

// Done is closed when the kernel has let go of the mount, by whatever way.
func (m *Mount) Done() <-chan struct{} { return m.served }

// Close publishes what is written and not published, as PublishAll does, unmounts, and waits
// for everything that the mount started. A mount in use is detached: its name is free at
// once, and Close returns when its last user has let go or ctx ends; kind Timeout then.
func (m *Mount) Close(ctx context.Context) error {
	err := m.PublishAll(ctx)
	select {
	case <-m.served:
	default:
		if e := unix.Unmount(m.opts.Mountpoint, unix.UMOUNT_NOFOLLOW); e != nil {
			if e := detach(m.opts.Mountpoint); e != nil {
				return errors.Join(err, fmt.Errorf("unmount %s: %w", m.opts.Mountpoint, e))
			}
		}
	}
	select {
	case <-m.served:
	case <-ctx.Done():
		return errors.Join(err, &sluice.Error{Op: "unmount", Kind: sluice.Timeout, Err: errors.New("programs still use the mount; it is detached and ends with them")})
	}
	m.end()
	m.work.Wait()
	m.abandonAll()
	return err
}

// Init implements fuse.RawFileSystem.
func (m *Mount) Init(s *fuse.Server) { m.server = s }

// String implements fuse.RawFileSystem.
func (m *Mount) String() string { return "sluice" }

// watch tells the kernel to ask again about what changed elsewhere.
func (m *Mount) watch(w sluice.Watcher) {
	for id := range w.Changes(m.life) {
		m.mu.Lock()
		n := m.nodes.byFile[id]
		var parent uint64
		var name string
		if n != nil && n.parent != nil && !n.busyLocked() {
			parent, name = n.parent.id, n.name
		}
		m.mu.Unlock()
		if name == "" {
			continue // unknown, or "anything may have changed": the lifetimes do it
		}
		m.server.EntryNotify(parent, name) // ENOENT where the kernel has forgotten it
		m.server.InodeNotify(n.id, -1, 0)  // attributes only: pages are of this version for ever
	}
}

// pool keeps buffers of the size of one request.
type pool struct{ sync.Pool }

func (p *pool) get() *[requestMost]byte {
	if b, ok := p.Get().(*[requestMost]byte); ok {
		return b
	}
	return new([requestMost]byte)
}

package master

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/namespace"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs"
)

// probeTimeout bounds the questions to a store before it is mounted.
const probeTimeout = 20 * time.Second

// Admin returns the operator's contract, on behalf of c.
func (m *Master) Admin(c sluice.Call) sluice.Admin { return admin{m, c} }

type admin struct {
	m *Master
	c sluice.Call
}

// Mount implements sluice.Mounter.
func (a admin) Mount(ctx context.Context, path sluice.Path, uri string, opts sluice.MountOptions, secrets sluice.Secrets) (sluice.MountInfo, error) {
	info, err := a.m.mount(ctx, a.c, path, uri, opts, secrets)
	return info, sluice.Wrap("mount", path, err)
}

func (m *Master) mount(ctx context.Context, c sluice.Call, path sluice.Path, uri string, opts sluice.MountOptions, secrets sluice.Secrets) (sluice.MountInfo, error) {
	if err := superuser("mount", c); err != nil {
		return sluice.MountInfo{}, err
	}
	if err := checkMount(path, uri, &opts); err != nil {
		return sluice.MountInfo{}, err
	}
	if opts.Owner == "" {
		opts.Owner = c.Principal.User
	}
	if opts.Group == "" && len(c.Principal.Groups) > 0 {
		opts.Group = c.Principal.Groups[0]
	}
	if err := m.probe(ctx, uri, &opts, secrets); err != nil {
		return sluice.MountInfo{}, err
	}
	sealed, err := m.seal(path, uri, secrets)
	if err != nil {
		return sluice.MountInfo{}, err
	}
	if _, err := m.learn(ctx, path); err != nil {
		return sluice.MountInfo{}, err
	}
	cmd := change(c)
	cmd.Op = &wire.Command_MountStore{MountStore: &wire.MountStore{
		Path: string(path), Uri: uri, Options: wire.FromMountOptions(opts), Secrets: sealed,
	}}
	if _, err := m.mutate(ctx, cmd); err != nil {
		return sluice.MountInfo{}, err
	}
	m.mountsChanged()
	e := m.mountTable.Load().find(path)
	if e == nil || e.Path != path {
		return sluice.MountInfo{}, &sluice.Error{Kind: sluice.Busy, Err: errors.New("it was unmounted at once by somebody else")}
	}
	return sluice.MountInfo{Mount: e.Mount, Health: m.health(e)}, nil
}

// mountsChanged takes over the mount table after a command changed it.
func (m *Master) mountsChanged() {
	m.refreshMounts()
	m.asked.forgetAll()
}

// checkMount says which setting is wrong in itself.
func checkMount(path sluice.Path, uri string, o *sluice.MountOptions) error {
	var err error
	switch {
	case path == sluice.Root:
		err = errors.New("the root cannot be a mount yet; mount at a directory of it")
	case uri == "":
		err = errors.New("the store's URI is empty; give one such as s3://bucket/prefix or /data")
	case o.BlockSize < 0 || o.BlockSize%sluice.PageSize != 0 || o.BlockSize > sluice.MaxBlockSize:
		err = fmt.Errorf("block size %d: give a multiple of %d bytes up to %d", o.BlockSize, sluice.PageSize, int64(sluice.MaxBlockSize))
	case o.Timeout < 0 || o.Settle < 0 || o.Concurrent < 0 || o.Bandwidth < 0:
		err = errors.New("timeout, settle, concurrent and bandwidth must not be negative")
	case o.WriteType == sluice.AsyncThrough:
		return &sluice.Error{Kind: sluice.Unsupported, Err: errors.New("write type ASYNC_THROUGH is not there yet; use CACHE_THROUGH")}
	case o.WriteType > sluice.AsyncThrough:
		err = errors.New("the write type is none of CACHE_THROUGH, THROUGH, MUST_CACHE")
	case o.FileMode&^sluice.ModeMask != 0 || o.DirMode&^sluice.ModeMask != 0:
		err = errors.New("file and directory modes have permission bits only, such as 0644")
	case o.Freshness.Every < 0:
		err = errors.New("freshness must not be negative")
	}
	if err != nil {
		return &sluice.Error{Kind: sluice.Invalid, Err: err}
	}
	return nil
}

// probe asks a store whether it is there, takes the credentials and can be listed, and
// adds the properties to opts that it turns out to need.
func (m *Master) probe(ctx context.Context, uri string, opts *sluice.MountOptions, secrets sluice.Secrets) error {
	s, err := m.cfg.Registry.Open(underfs.Config{URI: uri, Properties: opts.Properties, Secrets: secrets, Options: *opts})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, min(probeTimeout, max(opts.Timeout, time.Second)+probeTimeout))
	defer cancel()
	if err = probeStore(ctx, s); err == nil && !opts.ReadOnly {
		err = advise(ctx, s, opts)
	}
	return errors.Join(explainProbe(uri, err), s.Close())
}

// advise has a store find out what it can promise, and takes over what it says.
func advise(ctx context.Context, s underfs.Store, opts *sluice.MountOptions) error {
	a, ok := underfs.As[underfs.Adviser](s)
	if !ok {
		return nil
	}
	advice, err := a.Advise(ctx)
	if err == nil && len(advice) > 0 {
		all := make(map[string]string, len(opts.Properties)+len(advice))
		maps.Copy(all, opts.Properties)
		maps.Copy(all, advice)
		opts.Properties = all
	}
	return err
}

func probeStore(ctx context.Context, s underfs.Store) error {
	if p, ok := underfs.As[underfs.Prober](s); ok {
		if err := p.Probe(ctx); err != nil {
			return err
		}
	}
	_, err := s.List(ctx, underfs.ListRequest{Limit: 1})
	return err
}

// explainProbe says what to change when a store cannot be mounted.
func explainProbe(uri string, err error) error {
	if err == nil {
		return nil
	}
	kind := sluice.KindOf(err)
	advice := "see the cause"
	switch kind {
	case sluice.NotFound:
		advice = "the bucket or directory does not exist; check the URI"
	case sluice.NotDirectory:
		advice = "it is a file; name the directory"
	case sluice.Permission:
		advice = "the store does not let these credentials list it; check the keys and their rights"
	case sluice.Unauthenticated:
		advice = "the store does not know these credentials; check access key and secret"
	case sluice.Unavailable, sluice.Timeout:
		kind, advice = sluice.Unavailable, "the store does not answer; check the endpoint and the network"
	}
	return &sluice.Error{Kind: kind, Err: fmt.Errorf("%s: %s: %w", hidePassword(uri), advice, err)}
}

// hidePassword drops what stands before an @ in a URI's authority.
func hidePassword(uri string) string {
	scheme, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return uri
	}
	host, path, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		return scheme + "://...@" + host[i+1:] + "/" + path
	}
	return uri
}

// Unmount implements sluice.Mounter.
func (a admin) Unmount(ctx context.Context, path sluice.Path, force bool) error {
	if err := superuser("unmount", a.c); err != nil {
		return err
	}
	cmd := change(a.c)
	cmd.Op = &wire.Command_UnmountStore{UnmountStore: &wire.UnmountStore{Path: string(path), Force: force}}
	_, err := a.m.mutate(ctx, cmd)
	if err == nil {
		a.m.mountsChanged()
	}
	return sluice.Wrap("unmount", path, err)
}

// Mounts implements sluice.Mounter. Options of a mount that is not shared are shown to
// the superuser only.
func (a admin) Mounts(ctx context.Context) ([]sluice.MountInfo, error) {
	if err := a.m.barrier(ctx); err != nil {
		return nil, sluice.Wrap("mounts", "", err)
	}
	var out []sluice.MountInfo
	for _, e := range a.m.mountTable.Load().entries {
		info := sluice.MountInfo{Mount: e.Mount, Health: a.m.health(e)}
		info.URI = hidePassword(info.URI)
		if !a.c.Principal.Super && !e.Options.Shared && !e.Options.Direct {
			info.Options.Properties = nil
		}
		out = append(out, info)
	}
	return out, nil
}

// health is that of a mount's store, with what the desk knows of it.
func (m *Master) health(e *mountEntry) sluice.Health {
	h := m.stores.Health(e.ID)
	if e.broken != nil {
		h.Message = e.broken.Error()
	}
	h.Skipped = e.skipped.Load()
	h.Intents = m.intents.ofMount(e.ID)
	return h
}

// Intents implements sluice.Admin. Those about names that the caller may not look up are
// not shown to it.
func (a admin) Intents(ctx context.Context) ([]sluice.IntentInfo, error) {
	if err := a.m.barrier(ctx); err != nil {
		return nil, sluice.Wrap("intents", "", err)
	}
	all := a.m.intents.list()
	if a.c.Principal.Super {
		return all, nil
	}
	return slices.DeleteFunc(all, func(i sluice.IntentInfo) bool {
		for _, p := range []sluice.Path{i.Path, i.To} {
			if p != "" && a.m.state.Access(a.c.Principal, p.Parent(), namespace.MayExecute) != nil {
				return true
			}
		}
		return false
	}), nil
}

// Report implements sluice.Admin.
func (a admin) Report(ctx context.Context) (sluice.Report, error) {
	m := a.m
	mounts, err := a.Mounts(ctx)
	if err != nil {
		return sluice.Report{}, sluice.Wrap("report", "", err)
	}
	st := m.journal.Status()
	r := sluice.Report{
		Cluster: m.cfg.Cluster + " (" + m.cluster + ")", Version: m.cfg.Version, Incarnation: m.incarnation(),
		Masters: []sluice.MasterInfo{{
			Name: m.cfg.Name, Address: m.cfg.Address, Primary: st.Leading, Applied: st.Applied, Term: st.Term,
			Sessions: m.sessions.count(), Uptime: int64((m.cfg.Boot() - m.started) / time.Second), Resident: resident(),
		}},
		Workers: m.fleet.Reports(), Mounts: mounts, Files: m.state.Stats().Files, Warnings: m.cfg.Warnings(),
	}
	m.reportOthers(ctx, &r)
	if st.ReadOnly {
		r.Warnings = append(r.Warnings, "the master's disk is full: nothing can be changed until there is room")
	}
	if st.FlushErr != nil {
		r.Warnings = append(r.Warnings, "the state cannot be made durable, the journal grows: "+st.FlushErr.Error())
	}
	for _, i := range m.intents.list() {
		if i.State == stateDiverged {
			r.Warnings = append(r.Warnings, fmt.Sprintf("the store refused %s of %s for good: see intents", i.Op, i.Path))
		}
	}
	return r, nil
}

// stateDiverged is the state of an intent that a store refused for good.
const stateDiverged = "diverged"

// resident returns the memory of this process in bytes, 0 if it cannot be known.
func resident() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

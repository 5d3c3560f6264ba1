package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/internal/auth"
	"github.com/sluicefs/sluice/internal/bench"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs"
)

// benchFlags are the flags of bench.
type benchFlags struct {
	opts          bench.Options
	list          bool
	dir, memory   string
	bucket        string
	settings      []string
	linkRate      string
	linkRoundTrip time.Duration
}

func (p *program) bench() *cobra.Command {
	var f benchFlags
	var output string
	cmd := &cobra.Command{
		Use: "bench [CASE]", Short: "Measure this machine and Sluice on it, side by side", Args: cobra.MaximumNArgs(1),
		Long: `Measure this machine and Sluice on it, side by side.

A master and a worker of the benchmark's own are started as separate processes below --dir and removed
afterwards. Each case runs several times, interleaved with its limit: the plain system call, or the store's
own client. Figures are medians. CASE is a pattern such as 'read/local/*' or meta/create.
Cases that read an object store need --bucket; its keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.list {
				_, err := fmt.Fprintln(p.out, strings.Join(bench.Names(), "\n"))
				return err
			}
			f.opts.Out, f.opts.JSON = p.out, output == "json"
			if len(args) == 1 {
				f.opts.Match = args[0]
			}
			return f.run(cmd.Context())
		},
	}
	cmd.Flags().IntVar(&f.opts.Runs, "runs", 5, "repetitions of each case")
	cmd.Flags().Float64Var(&f.opts.Scale, "scale", 1, "size of the cases: 0.1 is a tenth")
	cmd.Flags().BoolVar(&f.list, "list", false, "print the names of the cases")
	cmd.Flags().StringVar(&output, "output", "text", "text or json (one object a line)")
	cmd.Flags().StringVar(&f.dir, "dir", "", "where the local store and the journal lie (default a temporary directory)")
	cmd.Flags().StringVar(&f.memory, "mem-size", "6GiB", "size of the MEM tier")
	cmd.Flags().StringVar(&f.bucket, "bucket", "", "an object store to read cold, such as s3://bucket/prefix")
	cmd.Flags().StringArrayVarP(&f.settings, "option", "o", nil, "a setting of its driver, NAME=VALUE")
	cmd.Flags().StringVar(&f.linkRate, "link-rate", "200MB", "bytes per second of the slow link")
	cmd.Flags().DurationVar(&f.linkRoundTrip, "link-delay", 5*time.Millisecond, "its round trip")
	return cmd
}

// run starts the cluster, runs the cases and takes everything away again.
func (f *benchFlags) run(ctx context.Context) (err error) {
	base, err := os.MkdirTemp(f.dir, "sluice-bench-")
	if err != nil {
		return err
	}
	lab := &lab{flags: f, dir: base, data: filepath.Join(base, "data")}
	defer func() { err = joined(err, lab.close()) }()
	cluster, err := lab.start(ctx)
	if err != nil {
		return err
	}
	_, err = bench.Run(ctx, cluster, f.opts)
	return err
}

// lab is the benchmark's own cluster.
type lab struct {
	flags     *benchFlags
	dir, data string
	procs     []*exec.Cmd
	closers   []func() error
}

// start starts the servers, connects and mounts.
func (l *lab) start(ctx context.Context) (*bench.Cluster, error) {
	store := filepath.Join(l.dir, "store")
	if err := os.MkdirAll(store, 0o755); err != nil {
		return nil, err
	}
	addresses, err := freeAddresses(2)
	if err != nil {
		return nil, err
	}
	if err := l.server("master", "--set", "master.listen="+addresses[0]); err != nil {
		return nil, err
	}
	if err := l.server("worker", "--set", "worker.listen="+addresses[1], "--set", "worker.mem_size="+l.flags.memory); err != nil {
		return nil, err
	}
	cfg := defaults()
	cfg.Data = l.data
	c := &bench.Cluster{Through: "/store", StoreDir: store, MemDir: filepath.Join(l.data, "worker", "mem")}
	c.Connect = func(ctx context.Context) (*client.Client, error) {
		return client.New(ctx, client.Config{Masters: client.Static("unix:" + cfg.socket("master"))})
	}
	if c.Local, err = c.Connect(ctx); err != nil {
		return nil, err
	}
	l.onClose(func() error { return c.Local.Close(context.WithoutCancel(ctx)) })
	if err := l.ready(ctx, c.Local); err != nil {
		return nil, err
	}
	for _, server := range l.procs {
		c.Servers = append(c.Servers, server.Process.Pid)
	}
	if err := l.remote(ctx, c, addresses[0], &cfg); err != nil {
		return nil, err
	}
	if _, err := c.Local.Mount(ctx, c.Through, "file://"+store, sluice.MountOptions{}, nil); err != nil {
		return nil, err
	}
	return c, l.mountBucket(ctx, c)
}

// remote connects as a client of another host would: over TCP, with the cluster key.
func (l *lab) remote(ctx context.Context, c *bench.Cluster, address string, cfg *config) (err error) {
	keys, err := auth.LoadKeyring(cfg.keyFile(), rand.Reader)
	if err != nil {
		return err
	}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if network == "unix" {
			return nil, errors.New("another host")
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	if c.Remote, err = client.New(ctx, client.Config{Masters: client.Static(address), Dial: dial, Keys: keys}); err != nil {
		return err
	}
	l.onClose(func() error { return c.Remote.Close(context.WithoutCancel(ctx)) })
	echo := rpc.NewClient(rpc.ClientConfig{Credential: rpc.Credential{Keys: keys}}, rpc.Target{Address: address})
	l.onClose(echo.Close)
	c.Echo = func(ctx context.Context) error {
		return echo.Call(ctx, wire.MethodPing, &wire.Empty{}, &wire.Empty{})
	}
	return nil
}

// mountBucket mounts the object store twice, directly and behind a slow link.
func (l *lab) mountBucket(ctx context.Context, c *bench.Cluster) error {
	if l.flags.bucket == "" {
		return nil
	}
	secrets := sluice.Secrets{"access_key": os.Getenv("AWS_ACCESS_KEY_ID"), "secret_key": os.Getenv("AWS_SECRET_ACCESS_KEY")}
	settings := map[string]string{}
	for _, s := range l.flags.settings {
		name, value, _ := strings.Cut(s, "=")
		settings[name] = value
	}
	open := func(at sluice.Path, settings map[string]string) (underfs.Baseline, error) {
		if _, err := c.Local.Mount(ctx, at, l.flags.bucket, sluice.MountOptions{Properties: settings}, secrets); err != nil {
			return nil, err
		}
		return stores().Baseline(underfs.Config{URI: l.flags.bucket, Properties: settings, Secrets: secrets})
	}
	var err error
	if c.BucketStore, err = open("/bucket", settings); err != nil {
		return err
	}
	l.onClose(c.BucketStore.Close)
	c.Bucket = "/bucket"
	target, isPlain := strings.CutPrefix(settings["endpoint"], "http://")
	if !isPlain {
		return nil // a link carries plain HTTP only
	}
	var bytes size
	if err := bytes.UnmarshalText([]byte(l.flags.linkRate)); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	link := &bench.Link{Target: target, Rate: int64(bytes), Delay: l.flags.linkRoundTrip}
	go func() { done <- link.Serve(ctx, listener) }()
	l.onClose(func() error { cancel(); listener.Close(); return <-done })
	slow := map[string]string{}
	maps.Copy(slow, settings)
	slow["endpoint"] = "http://" + listener.Addr().String()
	if c.LinkStore, err = open("/link", slow); err != nil {
		return err
	}
	l.onClose(c.LinkStore.Close)
	c.Link = "/link"
	return nil
}

// server starts one server process of the benchmark's own.
func (l *lab) server(role string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(l.dir, role+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(self, append([]string{role, "--set", "master.http=", "--set", "worker.http=", "--set", "data=" + l.data}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	l.procs = append(l.procs, cmd)
	if role == "master" { // the worker needs the key that the master makes
		return l.waitFor(filepath.Join(l.data, "run", "master.sock"))
	}
	return nil
}

func (l *lab) waitFor(file string) error {
	for range 200 {
		if _, err := os.Stat(file); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("%s did not appear; see the logs in %s", file, l.dir)
}

// ready waits for a live worker.
func (l *lab) ready(ctx context.Context, c *client.Client) error {
	for range 200 {
		r, err := c.Report(ctx)
		if err == nil && len(r.Workers) > 0 && r.Workers[0].Live {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("no worker got ready; see the logs in %s", l.dir)
}

func (l *lab) onClose(do func() error) { l.closers = append(l.closers, do) }

// close ends what was started, last first, and removes it.
func (l *lab) close() error {
	var all []error
	for i := len(l.closers) - 1; i >= 0; i-- {
		all = append(all, l.closers[i]())
	}
	for i := len(l.procs) - 1; i >= 0; i-- {
		_ = l.procs[i].Process.Signal(syscall.SIGTERM) // it may have ended by itself
		_ = l.procs[i].Wait()
	}
	p := &program{surroundings: surroundings{out: io.Discard, err: os.Stderr}, set: []string{"data=" + l.data}}
	all = append(all, p.clear(context.Background(), true))
	return joined(append(all, os.RemoveAll(l.dir))...)
}

// freeAddresses finds ports on loopback that nobody listens on.
func freeAddresses(n int) ([]string, error) {
	var all []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		all = append(all, l.Addr().String())
	}
	return all, nil
}

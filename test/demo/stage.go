package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/internal/bench"
	"github.com/sluicefs/sluice/test/s3server"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/s3"
)

// secret is the demo's secret key; nothing Sluice prints or keeps in the clear has it.
const secret = s3server.SecretKey

// bucketName is the bucket that holds the demo's data.
const bucketName = "demo"

// stage is what the demo runs on.
type stage struct {
	binary, dir string
	started     time.Time
	store       *s3server.Server
	bucket      underfs.Baseline // the store's own client
	far         net.Listener     // the store behind a link
	carrying    sync.WaitGroup   // the link
	client      *client.Client
	procs       map[string]*exec.Cmd
	objects     []object // what the bucket holds
	rows        [][4]string
}

// object is one object of the bucket and its origin.
type object struct {
	key    string
	length int64
	sum    [32]byte
}

func (s *stage) data() string  { return filepath.Join(s.dir, "sluice") }
func (s *stage) local() string { return filepath.Join(s.dir, "local") }

// baseline opens the store's own client, at the store or at what leads to it.
func (s *stage) baseline(endpoint string) (underfs.Baseline, error) {
	properties := maps.Clone(s.store.Properties())
	properties["endpoint"] = endpoint
	return s3.Driver{}.Baseline(underfs.Config{URI: "s3://" + bucketName, Properties: properties, Secrets: s.store.Secrets()})
}

// The link that stands for a network: as benchmarks have it.
const (
	linkRate  = 200_000_000 // bytes per second
	linkDelay = 5 * time.Millisecond
)

// link puts a network of realistic speed before the store and returns the endpoint there.
func (s *stage) link(ctx context.Context) (endpoint string, err error) {
	if s.far, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return "", err
	}
	link := &bench.Link{Target: s.store.Address, Rate: linkRate, Delay: linkDelay}
	s.carrying.Go(func() { _ = link.Serve(ctx, s.far) }) // a failure shows as one of the reads
	return "http://" + s.far.Addr().String(), nil
}

// sluice runs the command line and returns what it printed.
func (s *stage) sluice(ctx context.Context, stdin string, args ...string) (string, error) {
	fmt.Printf("$ sluice %s\n", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, s.binary, args...)
	cmd.Env = append(os.Environ(), "SLUICE_DATA="+s.data())
	cmd.Stdin = strings.NewReader(stdin)
	var out, fail bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &fail
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("sluice %s: %w: %s", strings.Join(args, " "), err, fail.String())
	}
	return out.String(), nil
}

// show runs the command line and prints what it printed.
func (s *stage) show(ctx context.Context, args ...string) error {
	out, err := s.sluice(ctx, "", args...)
	fmt.Print(out)
	return err
}

// start starts a server process and waits until it is ready.
func (s *stage) start(ctx context.Context, role string) error {
	log, err := os.OpenFile(filepath.Join(s.dir, role+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.binary, role, "--set", "master.http=", "--set", "worker.http=", "--set", "worker.mem_size=2GiB")
	cmd.Env = append(os.Environ(), "SLUICE_DATA="+s.data())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	if s.procs == nil {
		s.procs = map[string]*exec.Cmd{}
	}
	s.procs[role] = cmd
	fmt.Printf("$ sluice %s &   # pid %d\n", role, cmd.Process.Pid)
	if role != "master" {
		return nil
	}
	// The first start of a master makes the key that a worker starts with.
	return s.until(ctx, "the master makes the cluster's key", func() error {
		_, err := os.Stat(filepath.Join(s.data(), "cluster.key"))
		return err
	})
}

// ready waits until the cluster has a primary and a live worker.
func (s *stage) ready(ctx context.Context) error {
	return s.until(ctx, "the cluster gets ready", func() error {
		r, err := s.client.Report(ctx)
		if err == nil && (len(r.Workers) == 0 || !r.Workers[0].Live) {
			err = errors.New("no live worker")
		}
		return err
	})
}

// until asks until there is no error, for 30 s.
func (s *stage) until(ctx context.Context, what string, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s: %w", what, err), s.logs())
		case <-tick.C:
		}
	}
}

// logs returns the end of the servers' logs as an error.
func (s *stage) logs() error {
	var all []error
	for role := range s.procs {
		b, err := os.ReadFile(filepath.Join(s.dir, role+".log"))
		if err == nil {
			all = append(all, fmt.Errorf("%s's log ends: %s", role, b[max(0, len(b)-2000):]))
		}
	}
	return errors.Join(all...)
}

// end ends a server by a signal and waits for it.
func (s *stage) end(role string, sig syscall.Signal) error {
	cmd := s.procs[role]
	if cmd == nil {
		return nil
	}
	delete(s.procs, role)
	if err := cmd.Process.Signal(sig); err != nil {
		return err
	}
	_ = cmd.Wait() // its exit status after a signal says nothing
	return nil
}

// strike takes everything down again.
func (s *stage) strike() error {
	var all []error
	if s.client != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		all = append(all, s.client.Close(ctx))
		cancel()
	}
	if s.bucket != nil {
		all = append(all, s.bucket.Close())
	}
	for _, role := range []string{"worker", "master"} {
		all = append(all, s.end(role, syscall.SIGTERM))
	}
	clear := exec.Command(s.binary, "up", "--clear", "--yes")
	clear.Env = append(os.Environ(), "SLUICE_DATA="+s.data())
	if out, err := clear.CombinedOutput(); err != nil && s.client != nil {
		all = append(all, fmt.Errorf("up --clear: %w: %s", err, out))
	}
	if s.store != nil {
		all = append(all, s.store.Stop())
	}
	if s.far != nil {
		all = append(all, s.far.Close())
		s.carrying.Wait()
	}
	return errors.Join(append(all, os.RemoveAll(s.dir))...)
}

// row adds a line to the table.
func (s *stage) row(what, direct, through, ratio string) {
	s.rows = append(s.rows, [4]string{what, direct, through, ratio})
	fmt.Printf("%-44s %16s %16s %10s\n", what, direct, through, ratio)
}

// summary prints the table once more and what to try next.
func (s *stage) summary() {
	fmt.Printf("\n== Done in %.0f s\n%-44s %16s %16s %10s\n", time.Since(s.started).Seconds(), "", "store directly", "through Sluice", "ratio")
	for _, r := range s.rows {
		fmt.Printf("%-44s %16s %16s %10s\n", r[0], r[1], r[2], r[3])
	}
	fmt.Print(`
What limits the cold rows: this store is the page cache of the same machine, over an unthrottled loopback, for next to no CPU.
Through Sluice the same two cores also receive every byte, checksum it and write it into fresh memory. Behind a link of 200 MB/s
and 5 ms, the last row, the link sets the pace of both.

Next: bin/sluice up                                   # a cluster of your own on this machine
      bin/sluice fs mount /data file:///some/dir      # or s3://bucket -o endpoint=... --secrets-stdin
      bin/sluice fs ls -l /data && bin/sluice admin report
`)
}

// discard is io.Discard without its ReaderFrom, which would hide our buffer sizes.
type discard struct{}

// Write implements io.Writer.
func (discard) Write(p []byte) (int, error) { return len(p), nil }

var _ io.Writer = discard{}

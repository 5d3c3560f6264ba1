// Command bench runs the product's benchmark with a real S3 server of its own, so that
// the cold reads are measured too: bench path/to/sluice [argument of sluice bench ...].
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/sluicefs/sluice/test/s3server"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: bench path/to/sluice [argument of sluice bench ...]")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bucket is the one that is read cold.
const bucket = "bench"

// run starts the server, runs the benchmark and takes the server away again.
func run(ctx context.Context, binary string, args []string) (err error) {
	dir, err := os.MkdirTemp("", "sluice-bench-s3-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := s3server.Start(ctx, filepath.Join(dir, "s3"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	if err := s.Bucket(bucket); err != nil {
		return err
	}
	args = append([]string{"bench", "--bucket", "s3://" + bucket}, args...)
	for name, value := range s.Properties() {
		args = append(args, "-o", name+"="+value)
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it takes its own servers away
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+s3server.AccessKey, "AWS_SECRET_ACCESS_KEY="+s3server.SecretKey)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

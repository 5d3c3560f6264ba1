// Command demo shows the main job of Sluice on real input: a real S3 server with real
// data and a directory under one tree, read cold and warm beside the store itself,
// written through, and still right after kill -9. It fails loudly when any comparison
// fails, and cleans up after itself.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo path/to/sluice")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "\nDEMO FAILED:", err)
		os.Exit(1)
	}
}

// run plays the acts in order.
func run(ctx context.Context, binary string) (err error) {
	binary, err = filepath.Abs(binary)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sluice-demo-")
	if err != nil {
		return err
	}
	s := &stage{binary: binary, dir: dir, started: time.Now()}
	defer func() { err = errors.Join(err, s.strike()) }()
	for _, act := range []struct {
		title string
		play  func(context.Context) error
	}{
		{"A real S3 server, filled with the Go source tree and one large archive through its API", s.fill},
		{"Sluice: a master and a worker, the bucket at /s3, a directory at /local", s.raise},
		{"One tree", s.list},
		{"Reading everything: directly from the store, cold through Sluice, warm through Sluice", s.read},
		{"Writing a tree through, and reading it back from the bucket with another client", s.write},
		{"kill -9 of master and worker: everything is still there and still right", s.kill},
	} {
		fmt.Printf("\n== %s\n", act.title)
		if err := act.play(ctx); err != nil {
			return fmt.Errorf("%s: %w", act.title, err)
		}
	}
	s.summary()
	return nil
}

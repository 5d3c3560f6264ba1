package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets scripts run this test binary as sluice.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sluice": main})
}

// TestScripts runs testdata/*.txtar with the real program: they read like a manual.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("SLUICE_DATA", filepath.Join(e.WorkDir, "d"))
			e.Setenv("SLUICE_MASTER_HTTP", "")
			e.Setenv("SLUICE_WORKER_HTTP", "")
			e.Setenv("SLUICE_WORKER_MEM_SIZE", "64MiB")
			e.Setenv("HOME", e.WorkDir)
			e.Defer(func() {
				if err := unmountBelow(filepath.Join(e.WorkDir, "d")); err != nil {
					t.Errorf("clear: %v", err)
				}
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"ready": ready},
	})
}

// unmountBelow takes away the tmpfs that a script's worker mounted.
func unmountBelow(data string) error {
	p := &program{surroundings: surroundings{out: os.Stderr, err: os.Stderr}, set: []string{"data=" + data}}
	return p.clear(context.Background(), true)
}

// ready waits until a master and a live worker answer.
func ready(ts *testscript.TestScript, _ bool, _ []string) {
	data := ts.Getenv("SLUICE_DATA")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		p := &program{surroundings: surroundings{environ: []string{"SLUICE_DATA=" + data}}}
		sys, release, err := p.connect(ctx)
		if err == nil {
			r, err := sys.Report(ctx)
			release()
			if err == nil && len(r.Workers) > 0 && r.Workers[0].Live {
				return
			}
		}
		if ctx.Err() != nil {
			ts.Fatalf("the cluster did not get ready: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestPagesAreCurrent: the generated pages are what the code says.
func TestPagesAreCurrent(t *testing.T) {
	p := &program{}
	for name, want := range map[string]string{"cli.md": cliPage(p.root()), "configuration.md": configurationPage(), "metrics.md": metricsPage()} {
		got, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(got)) != strings.TrimSpace(want) {
			t.Errorf("docs/%s is stale: run make docs", name)
		}
	}
}

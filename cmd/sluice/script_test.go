package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sluicefs/sluice/test/s3server"
)

// TestMain lets scripts run this test binary as sluice.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sluice": main})
}

// TestScripts runs testdata/*.txtar with the real program: they read like a manual.
func TestScripts(t *testing.T) {
	docs, err := filepath.Abs(filepath.Join("..", "..", "docs"))
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Condition: func(name string) (bool, error) {
			switch name {
			case "s3":
				return os.Getenv("SLUICE_SKIP_S3") != "1", nil
			case "root": // who may mount a tmpfs
				return os.Getuid() == 0, nil
			}
			return false, fmt.Errorf("no condition %q", name)
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("SLUICE_DATA", filepath.Join(e.WorkDir, "d"))
			e.Setenv("SLUICE_MASTER_HTTP", "")
			e.Setenv("SLUICE_WORKER_HTTP", "")
			e.Setenv("SLUICE_WORKER_MEM_SIZE", "64MiB")
			e.Setenv("HOME", e.WorkDir)
			address, err := freeAddresses(2)
			if err != nil {
				return err
			}
			e.Setenv("HTTP", address[0])
			e.Setenv("FREE", address[1])
			e.Setenv("DOCS", docs)
			e.Defer(func() {
				for _, dir := range []string{"d", "w", ".sluice"} { // as the scripts name them
					if err := unmountBelow(filepath.Join(e.WorkDir, dir)); err != nil {
						t.Errorf("clear: %v", err)
					}
				}
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready": ready, "until": until, "fetch": fetch, "documented": documented, "s3": startS3, "nowhere": nowhere, "tour": tour, "certs": certs,
		},
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

// until runs a command again and again until its output matches: until REGEXP COMMAND...
func until(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile(args[0])
	deadline := time.Now().Add(30 * time.Second)
	for {
		cmd := exec.Command(args[1], args[2:]...)
		cmd.Env, cmd.Dir = scriptEnviron(ts), ts.Getenv("WORK")
		out, err := cmd.CombinedOutput()
		if want.Match(out) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v does not print %q; last %v:\n%s", args[1:], args[0], err, out)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// scriptEnviron is the script's environment, as far as these commands need it.
func scriptEnviron(ts *testscript.TestScript) []string {
	var all []string
	for _, name := range []string{"PATH", "HOME", "SLUICE_DATA", "SLUICE_MASTER_HTTP", "SLUICE_WORKER_HTTP"} {
		all = append(all, name+"="+ts.Getenv(name))
	}
	return all
}

// fetch prints what a URL answers.
func fetch(ts *testscript.TestScript, neg bool, args []string) {
	resp, err := http.Get(args[0])
	ts.Check(err)
	defer resp.Body.Close()
	if _, err := io.Copy(ts.Stdout(), resp.Body); err != nil {
		ts.Fatalf("%s: %v", args[0], err)
	}
	if (resp.StatusCode != http.StatusOK) != neg {
		ts.Fatalf("%s: %s", args[0], resp.Status)
	}
}

// documented compares the metrics that were fetched with docs/metrics.md, both ways.
func documented(ts *testscript.TestScript, _ bool, _ []string) {
	page, err := os.ReadFile(filepath.Join(ts.Getenv("DOCS"), "metrics.md"))
	ts.Check(err)
	names := func(re, text string) []string {
		set := map[string]bool{}
		for _, m := range regexp.MustCompile(re).FindAllStringSubmatch(text, -1) {
			set[m[1]] = true
		}
		return slices.Sorted(maps.Keys(set))
	}
	shown := names(`(?m)^(sluice_\w+)`, ts.ReadFile("stdout"))
	told := names("(?m)^\\| `(sluice_\\w+)", string(page))
	if len(shown) < 20 || !slices.Equal(shown, told) {
		ts.Fatalf("/metrics and docs/metrics.md differ: %s", cmp.Diff(told, shown))
	}
}

// startS3 starts a real S3 server with a bucket: s3 BUCKET. It sets S3_ENDPOINT and
// S3_SECRET and writes the file keys for --secrets-stdin.
func startS3(ts *testscript.TestScript, _ bool, args []string) {
	s, err := s3server.Start(context.Background(), ts.MkAbs("s3"))
	ts.Check(err)
	ts.Defer(func() { _ = s.Stop() })
	ts.Check(s.Bucket(args[0]))
	ts.Setenv("S3_ENDPOINT", s.Endpoint)
	ts.Setenv("S3_SECRET", s3server.SecretKey)
	var keys strings.Builder
	for name, value := range s.Secrets() {
		keys.WriteString(name + "=" + value + "\n")
	}
	ts.Check(os.WriteFile(ts.MkAbs("keys"), []byte(keys.String()), 0o600))
}

// tour types the first block of the README's "Five minutes" into a shell, in the
// repository's root, but with the lake below the script's directory and without the build.
func tour(ts *testscript.TestScript, _ bool, _ []string) {
	root := filepath.Dir(ts.Getenv("DOCS"))
	page, err := os.ReadFile(filepath.Join(root, "README.md"))
	ts.Check(err)
	_, rest, _ := strings.Cut(string(page), "## Five minutes")
	_, rest, _ = strings.Cut(rest, "```sh\n")
	text, _, whole := strings.Cut(rest, "\n```")
	built := "make build\nexport PATH=$PWD/bin:$PATH\n"
	if !whole || !strings.HasPrefix(text, built) {
		ts.Fatalf("the README has no tour that begins with %q", built)
	}
	text = strings.ReplaceAll(strings.TrimPrefix(text, built), "/tmp/lake", ts.MkAbs("lake"))
	cmd := exec.Command("bash", "-e", "-o", "pipefail", "-c", text)
	cmd.Dir = root
	cmd.Env = append(scriptEnviron(ts), "SLUICE_WORKER_MEM_SIZE=64MiB")
	cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second // what it left running holds the output
	if err := cmd.Run(); err != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left running, if anything
		ts.Fatalf("the tour: %v", err)
	}
}

// nowhere looks for a text in every file below a directory: nowhere TEXT DIR.
func nowhere(ts *testscript.TestScript, _ bool, args []string) {
	files := 0
	ts.Check(filepath.WalkDir(ts.MkAbs(args[1]), func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		b, err := os.ReadFile(name)
		if err == nil && bytes.Contains(b, []byte(args[0])) {
			err = fmt.Errorf("%s contains %.4s...", name, args[0])
		}
		return err
	}))
	if files == 0 {
		ts.Fatalf("%s holds no files: nothing was looked at", args[1])
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

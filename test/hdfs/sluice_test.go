//go:build e2e

package hdfs

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// binary is Sluice running from the command line.
type binary struct {
	t         *testing.T
	path, dir string
}

// up builds Sluice and starts it.
func up(t *testing.T) *binary {
	t.Helper()
	dir := t.TempDir()
	b := &binary{t: t, path: filepath.Join(dir, "sluice"), dir: filepath.Join(dir, "data")}
	if out, err := exec.Command("go", "build", "-o", b.path, "../../cmd/sluice").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	cmd := exec.Command(b.path, "up", "--set", "master.http=", "--set", "worker.http=", "--set", "worker.mem_size=256MiB", "--set", "data="+b.dir)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // fails where it has ended, which Wait says
		if err := cmd.Wait(); err != nil {
			text, _ := os.ReadFile(log.Name())
			t.Errorf("sluice up ended with %v\n%s", err, text)
		}
		if out, err := exec.Command(b.path, "up", "--clear", "--yes", "--set", "data="+b.dir).CombinedOutput(); err != nil {
			t.Errorf("sluice up --clear: %v\n%s", err, out)
		}
	})
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 300 {
		if out, err := b.run("", "admin", "report"); err == nil && strings.Contains(out, "live") {
			return b
		}
		<-tick.C
	}
	text, _ := os.ReadFile(log.Name())
	t.Fatalf("sluice does not get ready:\n%s", text)
	return nil
}

// run runs a command.
func (b *binary) run(stdin string, args ...string) (string, error) {
	cmd := exec.Command(b.path, append(args, "--set", "data="+b.dir)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// do runs a command that has to succeed.
func (b *binary) do(args ...string) string {
	b.t.Helper()
	out, err := b.run("", args...)
	if err != nil {
		b.t.Fatalf("sluice %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// From the command line to the name node and back, by both drivers: what Sluice did is what
// the name node says.
func TestCommandLine(t *testing.T) {
	b := up(t)
	for _, scheme := range schemes() {
		t.Run(scheme, func(t *testing.T) {
			parent := b.t
			b.t = t
			defer func() { b.t = parent }()
			top := "/cli-" + scheme
			seed := open(t, "hdfs", top, nil)
			data := content(12, 20<<20) // three blocks
			put(t, seed, "in/big", data)
			put(t, seed, "in/ä b", []byte("hello\n"))
			m := "/m-" + scheme
			b.do("fs", "mount", m, uri(t, scheme, top), "-o", "user="+me(t), "--freshness", "always")

			if out := b.do("fs", "ls", "-l", m+"/in"); !strings.Contains(out, "ä b") || !strings.Contains(out, "supergroup") {
				t.Errorf("ls -l shows neither the file nor its group in HDFS:\n%s", out)
			}
			if out := b.do("fs", "cat", m+"/in/ä b"); out != "hello\n" {
				t.Errorf("cat: %q", out)
			}
			sum := sha256.Sum256(data)
			for range 2 { // cold, then from the cache
				if out := b.do("fs", "checksum", m+"/in/big"); !strings.Contains(out, hex.EncodeToString(sum[:])) {
					t.Errorf("checksum: %s, want %x", out, sum)
				}
			}

			local := filepath.Join(t.TempDir(), "local")
			if err := os.WriteFile(local, data, 0o644); err != nil {
				t.Fatal(err)
			}
			b.do("fs", "mkdir", "-p", m+"/out/deep")
			b.do("fs", "put", local, m+"/out/deep/new")
			if got := ask(t, http.MethodGet, top+"/out/deep/new", "GETFILESTATUS"); !strings.Contains(got, `"length":20971520`) {
				t.Errorf("the name node says of what was put: %s", got)
			}
			o, err := seed.Stat(t.Context(), "out/deep/new")
			if err != nil {
				t.Fatal(err)
			}
			same(t, seed, o, data)

			b.do("fs", "mv", m+"/out/deep/new", m+"/out/moved")
			if got := ask(t, http.MethodGet, top+"/out", "LISTSTATUS"); !strings.Contains(got, `"pathSuffix":"moved"`) {
				t.Errorf("the name node says after mv: %s", got)
			}
			b.do("fs", "mv", m+"/in", m+"/was")
			if got := ask(t, http.MethodGet, top+"/was/big", "GETFILESTATUS"); !strings.Contains(got, `"length":20971520`) {
				t.Errorf("the name node says after mv of a directory: %s", got)
			}
			b.do("fs", "rm", "-r", m+"/out")
			if got := ask(t, http.MethodGet, top+"/out", "GETFILESTATUS"); !strings.Contains(got, "FileNotFoundException") {
				t.Errorf("the name node says after rm -r: %s", got)
			}
			left := ask(t, http.MethodGet, top, "LISTSTATUS")
			if n := strings.Count(left, "pathSuffix"); n > 2 { // was, and the hidden directory of uploads
				t.Errorf("what is left: %s", left)
			}
			if got := ask(t, http.MethodGet, top+"/.sluice-tmp", "LISTSTATUS"); strings.Contains(got, "pathSuffix") {
				t.Errorf("uploads are left: %s", got)
			}
			b.do("fs", "unmount", m)
			if got := ask(t, http.MethodGet, top+"/was/big", "GETFILESTATUS"); !strings.Contains(got, `"length":20971520`) {
				t.Errorf("unmounting touched the store: %s", got)
			}
		})
	}
}

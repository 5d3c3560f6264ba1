// Package s3server starts a real S3 server for tests, the demo and benchmarks: versitygw
// over a directory, on a free port of the loopback interface. The program is built once,
// from the version pinned in tools/go.mod, into the user's cache directory; the
// environment variable SLUICE_VERSITYGW names another one.
package s3server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Version is the version of versitygw, as tools/go.mod pins it.
const Version = "v1.8.0"

// Credentials of a server's root account.
const (
	AccessKey = "sluice-test"
	SecretKey = "sluice-test-secret"
)

// Server is a running S3 server.
type Server struct {
	Endpoint string // http://127.0.0.1:port
	Address  string // 127.0.0.1:port
	Data     string // the directory whose sub-directories are buckets and whose files are objects
	Log      string // file of the server's output

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// New starts a server for a test and stops it at the test's end; flags are Start's. With SLUICE_SKIP_S3=1 in
// the environment the test is skipped; without, a server that does not start fails it.
func New(t testing.TB, flags ...string) *Server {
	t.Helper()
	if os.Getenv("SLUICE_SKIP_S3") == "1" {
		t.Skip("SLUICE_SKIP_S3=1: no test against a real S3 server")
	}
	s, err := Start(t.Context(), t.TempDir(), flags...)
	if err != nil {
		t.Fatalf("start an S3 server: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("stop the S3 server: %v", err)
		}
	})
	return s
}

// Start starts a server whose files lie in dir: data, log and, where the file system has
// no extended attributes, metadata. flags are further ones of versitygw's posix backend, such
// as --versioning-dir. It is the caller's to Stop; ctx bounds the start only.
func Start(ctx context.Context, dir string, flags ...string) (*Server, error) {
	bin, err := Binary(ctx)
	if err != nil {
		return nil, err
	}
	s := &Server{Data: filepath.Join(dir, "data"), Log: filepath.Join(dir, "versitygw.log")}
	if err := os.MkdirAll(s.Data, 0o755); err != nil {
		return nil, err
	}
	args := append([]string{"posix"}, flags...)
	if syscall.Setxattr(s.Data, "user.sluice", []byte("1"), 0) != nil {
		meta := filepath.Join(dir, "meta")
		if err := os.MkdirAll(meta, 0o755); err != nil {
			return nil, err
		}
		args = append(args, "--sidecar", meta)
	}
	for range 5 { // another process may take the port first
		if err = s.start(ctx, bin, append(args, s.Data)); err == nil {
			return s, nil
		}
	}
	return nil, err
}

// start starts the process on a free port and waits until it answers.
func (s *Server) start(ctx context.Context, bin string, args []string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.Address = l.Addr().String()
	s.Endpoint = "http://" + s.Address
	l.Close()
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	// Keep-alive is off by default: every request would cost a connection.
	s.cmd = exec.Command(bin, append([]string{"--port", s.Address, "--keep-alive", "--health", "/healthz", "--quiet"}, args...)...)
	s.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+AccessKey, "ROOT_SECRET_KEY="+SecretKey)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.done = make(chan struct{})
	started := make(chan error, 1)
	go func() {
		defer close(s.done)
		runtime.LockOSThread() // Pdeathsig is sent when this thread ends
		defer runtime.UnlockOSThread()
		err := s.cmd.Start()
		started <- err
		if err == nil {
			_ = s.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	if err := s.ready(ctx); err != nil {
		_ = s.Stop()
		return err
	}
	return nil
}

// ready waits until the server answers.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+"/healthz", nil)
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-s.done:
			text, _ := os.ReadFile(s.Log)
			return fmt.Errorf("versitygw ended at its start: %s", strings.TrimSpace(string(text)))
		case <-ctx.Done():
			return fmt.Errorf("versitygw does not answer at %s: %w", s.Endpoint, ctx.Err())
		}
	}
}

// Bucket makes a bucket, which is a directory, if it is not there.
func (s *Server) Bucket(name string) error { return os.MkdirAll(filepath.Join(s.Data, name), 0o755) }

// Properties returns what a mount of a bucket here needs; Secrets the rest.
func (s *Server) Properties() map[string]string {
	return map[string]string{"endpoint": s.Endpoint, "region": "us-east-1", "path_style": "true"}
}

// Secrets returns the keys of the root account.
func (s *Server) Secrets() map[string]string {
	return map[string]string{"access_key": AccessKey, "secret_key": SecretKey}
}

// PID returns the process, for tests that stop or kill it.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Stop ends the server and waits for it. It is idempotent.
func (s *Server) Stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	return nil
}

// Binary returns the path of versitygw, building it first if it is not there. That takes
// minutes on a small machine, once.
func Binary(ctx context.Context) (string, error) {
	if bin := os.Getenv("SLUICE_VERSITYGW"); bin != "" {
		return bin, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "sluice-tools", Version)
	bin := filepath.Join(dir, "versitygw")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(bin); err == nil {
		return bin, nil // another process built it meanwhile
	}
	return bin, build(ctx, bin)
}

// build builds versitygw with the tools module.
func build(ctx context.Context, bin string) error {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	tools := filepath.Join(filepath.Dir(strings.TrimSpace(string(out))), "tools")
	fmt.Fprintln(os.Stderr, "building versitygw", Version, "(once; this takes minutes)")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin+".new", "github.com/versity/versitygw/cmd/versitygw")
	cmd.Dir = tools
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build versitygw in %s: %w\n%s", tools, err, out)
	}
	return os.Rename(bin+".new", bin)
}

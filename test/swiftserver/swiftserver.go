// Package swiftserver starts a real OpenStack Swift for tests: proxy, account, container
// and object server with one replica, on free ports of the loopback interface, by
// test/servers/swift-up.sh, which installs Debian's packages where they are missing.
package swiftserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Server is a running Swift.
type Server struct {
	Env map[string]string // what the script exported: SWIFT_* with tempauth, OS_* with Keystone

	scripts, dir string
}

// ErrNotInstalled says that the packages of the server are not there and cannot be had.
var ErrNotInstalled = errors.New("OpenStack Swift is not installed and cannot be")

// New starts a server for a test and stops it at the test's end. Where it cannot be
// installed the test is skipped and says so; a server that is installed and does not start
// fails it. options are variables of the script, such as SWIFT_MAX_FILE_SIZE=6291456.
func New(t testing.TB, options ...string) *Server {
	t.Helper()
	s, err := Start(t.Context(), t.TempDir(), options...)
	if errors.Is(err, ErrNotInstalled) {
		t.Skipf("SKIPPED, not tested against a real Swift: %v", err)
	}
	if err != nil {
		t.Fatalf("start Swift: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("stop Swift: %v", err)
		}
	})
	return s
}

// Start starts a server whose files lie in dir. It is the caller's to Stop.
func Start(ctx context.Context, dir string, options ...string) (*Server, error) {
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return nil, fmt.Errorf("find the module: %w", err)
	}
	s := &Server{Env: map[string]string{}, dir: dir}
	s.scripts = filepath.Join(filepath.Dir(strings.TrimSpace(string(mod))), "test", "servers")
	cmd := exec.CommandContext(ctx, filepath.Join(s.scripts, "swift-up.sh"), dir, "0")
	cmd.Env = append(os.Environ(), options...)
	out, err := cmd.Output()
	if err != nil {
		exit, _ := errors.AsType[*exec.ExitError](err)
		text := ""
		if exit != nil {
			text = strings.TrimSpace(string(exit.Stderr))
		}
		if strings.Contains(text, "apt-get install") && strings.Contains(text, "failed") || strings.Contains(text, "missing Debian packages") {
			err = ErrNotInstalled
		}
		return nil, fmt.Errorf("%w: %s", err, text)
	}
	for line := range strings.Lines(string(out)) {
		if name, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "="); ok {
			s.Env[name] = value
		}
	}
	return s, nil
}

// Stop ends the server and waits for it. It is idempotent.
func (s *Server) Stop() error {
	if out, err := exec.Command(filepath.Join(s.scripts, "swift-down.sh"), s.dir).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// Properties returns what a mount needs, and Secrets the rest.
func (s *Server) Properties() map[string]string {
	if v3 := s.Env["OS_AUTH_URL"]; v3 != "" {
		return map[string]string{
			"auth_url": v3, "user": s.Env["OS_USERNAME"], "user_domain_id": s.Env["OS_USER_DOMAIN_ID"], "project": s.Env["OS_PROJECT_NAME"],
			// The catalog of this Keystone has no object store: its address is given.
			"storage_url": s.Env["SWIFT_STORAGE_URL"],
		}
	}
	return map[string]string{"auth_url": s.Env["SWIFT_AUTH_URL"], "user": s.Env["SWIFT_USER"]}
}

// Secrets returns the key of the user.
func (s *Server) Secrets() map[string]string {
	if p := s.Env["OS_PASSWORD"]; p != "" {
		return map[string]string{"key": p}
	}
	return map[string]string{"key": s.Env["SWIFT_KEY"]}
}

// Address returns host and port of the proxy server.
func (s *Server) Address() string {
	u, err := url.Parse(s.Env["SWIFT_STORAGE_URL"])
	if err != nil {
		return ""
	}
	return u.Host
}

// Raw is a client that knows nothing of Sluice: requests of the Swift API as they stand in
// its manual, for what a test wants to see or to do behind our back. With tempauth only.
type Raw struct {
	s      *Server
	token  string
	client *http.Client
}

// Raw signs in.
func (s *Server) Raw(ctx context.Context) (*Raw, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Env["SWIFT_AUTH_URL"], nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Auth-User", s.Env["SWIFT_USER"])
	req.Header.Set("X-Auth-Key", s.Env["SWIFT_KEY"])
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("sign in: %s", resp.Status)
	}
	return &Raw{s, resp.Header.Get("X-Auth-Token"), client}, nil
}

// Do sends a request for a path below the account, "container/object?query", with headers
// of pairs, and returns status, header and body of the answer.
func (r *Raw) Do(ctx context.Context, method, path, body string, headers ...string) (int, http.Header, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.s.Env["SWIFT_STORAGE_URL"]+"/"+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, "", err
	}
	req.Header.Set("X-Auth-Token", r.token)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(b), err
}

// Package hdfsserver starts a real HDFS for tests: a name node and a data node of Hadoop, on
// free ports of the loopback interface, by test/servers/hdfs-up.sh. Java must be there; the
// 66 MB of jars come from Maven once. It ends with the process that started it.
package hdfsserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Server is a running HDFS.
type Server struct {
	NameNode string // host:port of its RPC
	HTTP     string // host:port of WebHDFS at the name node
	DataNode string // host:port of data transfer
	DataHTTP string // host:port of WebHDFS at the data node
	Conf     string // directory with a client's core-site.xml and hdfs-site.xml
	Dir      string // where its logs and files lie

	scripts string
}

// ErrMissing says that Java or Hadoop's jars cannot be had here: tests are to be skipped,
// loudly.
var ErrMissing = errors.New("no HDFS to test against: Java and Maven, or a network for the jars, are missing")

// unavailable is the exit status by which the script says so.
const unavailable = 77

// Start starts a server whose files lie in dir; it takes some ten seconds. extra are
// <property> elements for hdfs-site.xml. It is the caller's to Stop; ctx bounds the start
// only.
func Start(ctx context.Context, dir, extra string) (*Server, error) {
	if _, err := exec.LookPath("java"); err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrMissing, err)
	}
	scripts, err := scripts(ctx)
	if err != nil {
		return nil, err
	}
	for range 3 { // another process may take a port first
		var s *Server
		if s, err = start(ctx, scripts, dir, extra); err == nil || errors.Is(err, ErrMissing) {
			return s, err
		}
	}
	return nil, err
}

// scripts returns the folder test/servers of this module.
func scripts(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return filepath.Join(filepath.Dir(strings.TrimSpace(string(out))), "test", "servers"), nil
}

// start makes one try.
func start(ctx context.Context, scripts, dir, extra string) (*Server, error) {
	rpc, err := free(1)
	if err != nil {
		return nil, err
	}
	web, err := free(4)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(scripts, "hdfs-up.sh"), dir, strconv.Itoa(rpc), strconv.Itoa(web))
	cmd.Env = append(os.Environ(), "HDFS_EXTRA="+extra, "HDFS_PARENT="+strconv.Itoa(os.Getpid()))
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == unavailable {
			return nil, fmt.Errorf("%w:\n%s", ErrMissing, text.String())
		}
		_ = exec.Command(filepath.Join(scripts, "hdfs-down.sh"), dir, "--wipe").Run() // whatever of it runs
		return nil, fmt.Errorf("start HDFS: %w\n%s", err, text.String())
	}
	at := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
	return &Server{
		NameNode: at(rpc), HTTP: at(web), DataHTTP: at(web + 1), DataNode: at(web + 2),
		Conf: filepath.Join(dir, "client-conf"), Dir: dir, scripts: scripts,
	}, nil
}

// free returns the first of n ports in a row that nobody has.
func free(n int) (int, error) {
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if port+n < 65536 && row(port, n) {
			return port, nil
		}
	}
	return 0, errors.New("there are no free ports in a row")
}

// row says whether n ports from port on are free.
func row(port, n int) bool {
	for i := range n {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port+i)))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

// Stop ends the server and waits for it. It is idempotent.
func (s *Server) Stop() error {
	out, err := exec.Command(filepath.Join(s.scripts, "hdfs-down.sh"), s.Dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("stop HDFS: %w: %s", err, out)
	}
	return nil
}

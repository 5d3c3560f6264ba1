package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// config is everything that can be set, in YAML, the environment or by flags. The
// tags are the documentation: docs/configuration.md is generated from them.
type config struct {
	Data   string       `koanf:"data" help:"Where this machine keeps its state: keys, sockets, the master's journal and metadata, the worker's blocks."`
	Log    logConfig    `koanf:"log"`
	Auth   authConfig   `koanf:"auth"`
	Master masterConfig `koanf:"master"`
	Worker workerConfig `koanf:"worker"`
	Client clientConfig `koanf:"client"`
}

type logConfig struct {
	Level  string `koanf:"level" help:"debug, info, warn or error."`
	Format string `koanf:"format" help:"text or json."`
}

type authConfig struct {
	KeyFile   string   `koanf:"key_file" help:"The cluster's key. Servers prove that they have it; it seals secrets and signs tokens and grants. Made at the first start of a master where it is missing. Default: DATA/cluster.key."`
	Cert      string   `koanf:"cert" help:"TLS certificate of this server (PEM). Required with listeners beyond loopback, unless plaintext is set."`
	Key       string   `koanf:"key" help:"Private key of the certificate (PEM)."`
	CA        string   `koanf:"ca" help:"Certificates that servers must chain to (PEM), for clients and workers. Without it addresses beyond loopback are checked against the system's, and loopback ones are called without TLS."`
	Plaintext bool     `koanf:"plaintext" help:"Allow listeners beyond loopback without TLS, for the networks in trusted."`
	Trusted   []string `koanf:"trusted" help:"Networks (CIDR) that plaintext listeners and those of metrics accept connections from. No wildcard default."`
}

type masterConfig struct {
	Listen        string        `koanf:"listen" help:"host:port for clients and workers on other machines. Empty: only the unix socket DATA/run/master.sock."`
	HTTP          string        `koanf:"http" help:"host:port of metrics, health and pprof. Beyond loopback only the networks in auth.trusted are answered, and pprof is not. Empty: none."`
	Dir           string        `koanf:"dir" help:"Journal and metadata. Default: DATA/master."`
	CacheSize     size          `koanf:"cache_size" help:"Memory for cached metadata blocks on top of hot rows."`
	ID            uint64        `koanf:"id" help:"Which of the peers this master is. Default: the one whose address is master.listen or the unix socket."`
	Peers         []string      `koanf:"peers" help:"All masters of the cluster as ID=ADDRESS, this one included, the same on every one: 1=a:7400,2=b:7400,3=c:7400. Empty: this master is alone. See docs/ha.md."`
	Join          bool          `koanf:"join" help:"Come into a cluster that is there, after sluice admin masters add; peers then names masters to ask. Of no matter once it has come in."`
	SessionLease  time.Duration `koanf:"session_lease" help:"A client not heard of for so long loses its incomplete files. Set at the first start."`
	WorkerTimeout time.Duration `koanf:"worker_timeout" help:"A worker not heard of for so long is counted as lost."`
}

type workerConfig struct {
	Listen  string        `koanf:"listen" help:"host:port for clients on other machines. Empty: only the unix socket DATA/run/worker.sock."`
	HTTP    string        `koanf:"http" help:"host:port of metrics, health and pprof. Beyond loopback only the networks in auth.trusted are answered, and pprof is not. Empty: none."`
	Host    string        `koanf:"host" help:"The name clients see and schedulers compare. Default: the machine's host name."`
	Masters []string      `koanf:"masters" help:"Addresses of the masters, host:port or unix:/path. Default: the socket below DATA."`
	Memory  size          `koanf:"memory" help:"Ceiling of buffers for fetching, writing and uploading."`
	Tiers   []tierConfig  `koanf:"tiers" help:"Ordered tiers of the cache, fastest first. Default: one tier MEM of mem_size."`
	MemSize size          `koanf:"mem_size" help:"Size of the default MEM tier: a tmpfs with huge pages the worker mounts itself where it may, else a directory. Default: a quarter of the memory of the machine or cgroup."`
	Beat    time.Duration `koanf:"heartbeat" help:"How often the worker reports to the master."`
}

type tierConfig struct {
	Name string      `koanf:"name" help:"MEM, SSD, HDD, or a name of your own."`
	Dirs []dirConfig `koanf:"dirs" help:"Directories of the tier."`
}

type dirConfig struct {
	Path  string `koanf:"path" help:"A directory that belongs to this worker alone."`
	Quota size   `koanf:"quota" help:"Bytes the worker may use there."`
	Tmpfs bool   `koanf:"tmpfs" help:"Mount a tmpfs of the quota's size with huge pages there, if permitted."`
}

type clientConfig struct {
	Masters []string      `koanf:"masters" help:"Addresses of the masters, host:port or unix:/path. Default: the socket below DATA."`
	Token   string        `koanf:"token" help:"A token issued by sluice admin token. On the unix socket the user is known without."`
	Memory  size          `koanf:"memory" help:"Ceiling of read-ahead and write buffers."`
	Retry   time.Duration `koanf:"retry" help:"How long requests are repeated while masters or workers do not answer."`
	Timeout time.Duration `koanf:"timeout" help:"A whole command ends after so long; 0 is never."`
}

// defaults are the values before files, environment and flags.
func defaults() config {
	home, err := os.UserHomeDir()
	if err != nil {
		home = os.TempDir()
	}
	return config{
		Data: filepath.Join(home, ".sluice"),
		Log:  logConfig{Level: "info", Format: "text"},
		Master: masterConfig{
			HTTP: "127.0.0.1:7480", CacheSize: 64 << 20, SessionLease: 30 * time.Second, WorkerTimeout: 10 * time.Second,
		},
		Worker: workerConfig{HTTP: "127.0.0.1:7481", Memory: 256 << 20, Beat: time.Second},
		Client: clientConfig{Memory: 48 << 20, Retry: 30 * time.Second},
	}
}

// The files below the data directory.
func (c *config) keyFile() string {
	if c.Auth.KeyFile != "" {
		return c.Auth.KeyFile
	}
	return filepath.Join(c.Data, "cluster.key")
}

func (c *config) masterDir() string {
	if c.Master.Dir != "" {
		return c.Master.Dir
	}
	return filepath.Join(c.Data, "master")
}

func (c *config) socket(role string) string { return filepath.Join(c.Data, "run", role+".sock") }

func (c *config) masters(given []string) []string {
	if len(given) > 0 {
		return given
	}
	// sluice up may have started several.
	sockets, err := filepath.Glob(filepath.Join(c.Data, "run", "master*.sock"))
	if err != nil || len(sockets) == 0 {
		sockets = []string{c.socket("master")}
	}
	for i, s := range sockets {
		sockets[i] = "unix:" + s
	}
	return sockets
}

// validate checks what the types cannot, and says what to change.
func (c *config) validate() error {
	switch {
	case c.Data == "":
		return fmt.Errorf("data: must name a directory")
	case len(c.socket("master")) > 100:
		return fmt.Errorf("data: %s is too long for a unix socket; choose a directory with at most %d bytes", c.Data, 100-len("/run/master.sock"))
	case !isOneOf(c.Log.Level, "debug", "info", "warn", "error"):
		return fmt.Errorf("log.level: %q is none of debug, info, warn, error", c.Log.Level)
	case !isOneOf(c.Log.Format, "text", "json"):
		return fmt.Errorf("log.format: %q is neither text nor json", c.Log.Format)
	case c.Master.SessionLease < time.Second:
		return fmt.Errorf("master.session_lease: %v is shorter than 1s", c.Master.SessionLease)
	case c.Worker.Memory < 16<<20:
		return fmt.Errorf("worker.memory: %v is less than 16 MiB", c.Worker.Memory)
	case c.Client.Memory < 8<<20:
		return fmt.Errorf("client.memory: %v is less than 8 MiB", c.Client.Memory)
	}
	for i, t := range c.Worker.Tiers {
		if t.Name == "" || len(t.Dirs) == 0 {
			return fmt.Errorf("worker.tiers[%d]: needs a name and at least one directory", i)
		}
		for j, d := range t.Dirs {
			if !filepath.IsAbs(d.Path) {
				return fmt.Errorf("worker.tiers[%d].dirs[%d].path: %q is not absolute", i, j, d.Path)
			}
			if d.Quota < 1<<20 {
				return fmt.Errorf("worker.tiers[%d].dirs[%d].quota: %v is less than 1 MiB", i, j, d.Quota)
			}
		}
	}
	return nil
}

func isOneOf(s string, all ...string) bool {
	return slices.Contains(all, s)
}

// size is a number of bytes, written with a unit: 64MiB, 2GB.
type size int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *size) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	if err != nil || n > 1<<62 || !strings.ContainsAny(string(text), "bBkKmMgGtTpP") {
		return fmt.Errorf("%q is not a number of bytes with a unit such as 64MiB", text)
	}
	*s = size(n)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (s size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String returns the size with the largest unit that divides it.
func (s size) String() string {
	units := []struct {
		name  string
		bytes size
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}
	for _, u := range units {
		if s != 0 && s%u.bytes == 0 {
			return fmt.Sprintf("%d%s", s/u.bytes, u.name)
		}
	}
	return fmt.Sprintf("%dB", int64(s))
}

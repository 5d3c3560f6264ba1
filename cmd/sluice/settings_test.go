package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/internal/shell"
)

func TestConfigurationOrder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sluice.yaml")
	if err := os.WriteFile(file, []byte(`
log: {level: warn}
master: {listen: "127.0.0.1:1", session_lease: 30s}
worker:
  memory: 512MiB
  tiers:
    - {name: MEM, dirs: [{path: /mnt/mem, quota: 1GiB, tmpfs: true}]}
    - {name: SSD, dirs: [{path: /mnt/a, quota: 10GB}, {path: /mnt/b, quota: 10GB}]}
client: {masters: ["10.0.0.1:7470", "10.0.0.2:7470"]}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := read(file, []string{"SLUICE_MASTER_LISTEN=127.0.0.1:2", "SLUICE_LOG_LEVEL=error", "HOME=/x"}, []string{"log.level=debug", "worker.masters=a:1,b:2"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Log.Level != "debug" || c.Master.Listen != "127.0.0.1:2" || c.Master.SessionLease != 30*time.Second || c.Worker.Memory != 512<<20 {
		t.Errorf("defaults < file < environment < flags does not hold: %+v", c)
	}
	if len(c.Worker.Masters) != 2 || len(c.Client.Masters) != 2 || c.Worker.Masters[1] != "b:2" {
		t.Errorf("lists: %q %q", c.Worker.Masters, c.Client.Masters)
	}
	if len(c.Worker.Tiers) != 2 || c.Worker.Tiers[1].Dirs[1].Quota != 10_000_000_000 || !c.Worker.Tiers[0].Dirs[0].Tmpfs {
		t.Errorf("tiers: %+v", c.Worker.Tiers)
	}
	if c.Master.WorkerTimeout != 10*time.Second {
		t.Errorf("a default is gone: %+v", c.Master)
	}
}

func TestConfigurationRefuses(t *testing.T) {
	for _, x := range []struct {
		file, env, set, says string
	}{
		{file: "master: {lisen: x}", says: `did you mean "master.listen"`},
		{file: "wroker: {memory: 1GiB}", says: `did you mean "worker.memory"`},
		{env: "SLUICE_MASTER_LISEN=x", says: "did you mean SLUICE_MASTER_LISTEN"},
		{set: "worker.memmory=1GiB", says: `did you mean "worker.memory"`},
		{set: "worker.memory", says: "key=value"},
		{set: "worker.memory=lots", says: "64MiB"},
		{set: "worker.memory=1KiB", says: "less than 16 MiB"},
		{file: "master: {session_lease: 30}", says: "needs a unit"},
		{set: "master.session_lease=30 parsecs", says: "such as 30s"},
		{set: "log.level=loud", says: "none of debug"},
		{set: "data=" + strings.Repeat("/long", 30), says: "too long for a unix socket"},
		{file: "worker: {tiers: [{name: MEM, dirs: [{path: mem, quota: 1GiB}]}]}", says: "not absolute"},
		{file: "worker: {tiers: [{name: MEM, dirs: [{path: /mem, qota: 1GiB}]}]}", says: `unknown key "worker.tiers[0].dirs[0].qota"; did you mean "quota"?`},
		{file: "worker: {tiers: [{nam: MEM}]}", says: `unknown key "worker.tiers[0].nam"; did you mean "name"?`},
		{file: "worker: {memory: 1000000000}", says: "'worker.memory' 1000000000 needs a unit"},
		{set: "worker.memory=1000000000", says: "'worker.memory' \"1000000000\" is not a number of bytes with a unit"},
		{file: "worker: {tiers: [{name: MEM, dirs: [{path: /mem, quota: 1Gallon}]}]}", says: "'worker.tiers[0].dirs[0].quota' \"1Gallon\""},
		{env: "SLUICE_CLIENT_RETRY=soon", says: "'client.retry' \"soon\" is not a time"},
		{file: ": :", says: "yaml"},
	} {
		file := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(file, []byte(x.file), 0o600); err != nil {
			t.Fatal(err)
		}
		var set, env []string
		if x.set != "" {
			set = []string{x.set}
		}
		if x.env != "" {
			env = []string{x.env}
		}
		_, err := read(file, env, set)
		if err == nil || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%+v: got %v, want an error that says %q", x, err, x.says)
			continue
		}
		if strings.Contains(err.Error(), "\n\n") || strings.Contains(err.Error(), "following error") {
			t.Errorf("%+v: not made for one line: %q", x, err)
		}
		if _, usage := errors.AsType[*shell.Usage](err); !usage {
			t.Errorf("%+v: %v is no error of usage", x, err)
		}
	}
}

// Clients in any directory are told of the sockets below data.
func TestDataIsAbsolute(t *testing.T) {
	t.Setenv("HOME", "/home/ann")
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for given, want := range map[string]string{"/x": "/x", "some/dir": filepath.Join(here, "some/dir"), "~/lake": "/home/ann/lake"} {
		if c, err := read("", nil, []string{"data=" + given}); err != nil || c.Data != want {
			t.Errorf("data=%s: %q, %v; want %q", given, c.Data, err, want)
		}
	}
}

func TestSizeText(t *testing.T) {
	for text, want := range map[string]size{"64MiB": 64 << 20, "2GiB": 2 << 30, "1000B": 1000, "10GB": 10_000_000_000} {
		var s size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%s: %d, %v", text, s, err)
		}
		var back size
		if err := back.UnmarshalText([]byte(s.String())); err != nil || back != s {
			t.Errorf("%s does not round-trip: %s", text, s)
		}
	}
}

func TestEverySettingIsDescribed(t *testing.T) {
	for _, s := range settings() {
		if s.help == "" || !strings.HasSuffix(s.help, ".") {
			t.Errorf("%s: no help, or not a sentence: %q", s.key, s.help)
		}
	}
}

//go:build e2e

package mount

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestPrograms: what people do all day works on a mount, in the cache and through to a
// store.
func TestPrograms(t *testing.T) {
	s := start(t)
	s.mount()
	for _, where := range []string{"/", "/s"} {
		dir := filepath.Join(s.at, where, "work")
		must(t, os.Mkdir(dir, 0o755))
		t.Run("git"+where, func(t *testing.T) { s.git(t, dir) })
		t.Run("sqlite"+where, func(t *testing.T) { s.sqlite(t, dir) })
		t.Run("tar and cp"+where, func(t *testing.T) { s.copies(t, dir) })
		t.Run("go build"+where, func(t *testing.T) { s.build(t, dir) })
		t.Run("save by rename"+where, func(t *testing.T) { s.save(t, dir) })
	}
	s.sluice("umount", s.at)
	s.mount() // what was done is there after a remount
	for _, where := range []string{"/", "/s"} {
		repo := filepath.Join(s.at, where, "work/clone")
		s.run(repo, "git", "fsck", "--full")
		if out := s.run(repo, "git", "status", "--porcelain"); out != "" {
			t.Errorf("after the remount git says: %s", out)
		}
	}
	s.sluice("umount", s.at)
}

func (s *site) git(t *testing.T, dir string) {
	needs(t, "git")
	origin := t.TempDir()
	s.run(origin, "git", "init", "-q", "-b", "main")
	plant(t, origin)
	for i := range 3 {
		must(t, os.WriteFile(filepath.Join(origin, "history"), []byte(strings.Repeat("line\n", i+1)), 0o644))
		s.run(origin, "git", "add", "-A")
		s.run(origin, "git", "commit", "-q", "-m", "commit")
	}
	clone := filepath.Join(dir, "clone")
	s.run(dir, "git", "clone", "-q", "--no-local", origin, clone)
	s.run(clone, "git", "fsck", "--full")
	must(t, os.WriteFile(filepath.Join(clone, "history"), []byte("changed\n"), 0o644))
	s.run(clone, "git", "commit", "-q", "-am", "changed on the mount")
	s.run(clone, "git", "gc", "-q")
	s.run(clone, "git", "fsck", "--full")
	if out := s.run(clone, "git", "status", "--porcelain"); out != "" {
		t.Errorf("git status: %s", out)
	}
}

func (s *site) sqlite(t *testing.T, dir string) {
	needs(t, "sqlite3")
	for _, mode := range []string{"delete", "wal"} {
		db := filepath.Join(dir, mode+".db")
		s.run(dir, "sqlite3", db, "pragma journal_mode="+mode+"; create table t(a integer primary key, b text);")
		done := make(chan error)
		const writers, rows = 3, 20
		for range writers {
			go func() {
				var failed error
				for range rows {
					if out, err := s.try(dir, "sqlite3", "-cmd", ".timeout 30000", db, "insert into t(b) values(hex(randomblob(2000)))"); err != nil {
						t.Logf("sqlite3: %s", out)
						failed = err
					}
				}
				done <- failed
			}()
		}
		for range writers {
			if err := <-done; err != nil {
				t.Errorf("journal_mode=%s: %v", mode, err)
			}
		}
		if out := s.run(dir, "sqlite3", db, "pragma integrity_check; select count(*) from t;"); out != "ok\n60\n" {
			t.Errorf("journal_mode=%s: %q", mode, out)
		}
	}
}

func (s *site) copies(t *testing.T, dir string) {
	from := filepath.Join(dir, "from")
	must(t, os.Mkdir(from, 0o755))
	want := plant(t, from)
	s.run(dir, "tar", "cf", "tree.tar", "from")
	must(t, os.Mkdir(filepath.Join(dir, "untar"), 0o755))
	s.run(filepath.Join(dir, "untar"), "tar", "xf", "../tree.tar")
	s.run(dir, "cp", "-a", "from", "copied")
	for _, d := range []string{"untar/from", "copied"} {
		if got := seen(t, filepath.Join(dir, d)); !maps.Equal(got, want) {
			t.Errorf("%s differs from what was copied", d)
		}
	}
	s.run(dir, "rm", "-r", "from", "copied", "untar")
}

func (s *site) build(t *testing.T, dir string) {
	src := filepath.Join(dir, "prog")
	must(t, os.Mkdir(src, 0o755))
	must(t, os.WriteFile(filepath.Join(src, "go.mod"), []byte("module prog\n\ngo 1.26\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(src, "main.go"), []byte("package main\n\nfunc main() { println(\"it runs\") }\n"), 0o644))
	s.run(src, "go", "build", "-o", "prog", ".")
	if out := s.run(src, "./prog"); out != "it runs\n" {
		t.Errorf("the program built on the mount says %q", out)
	}
}

// save writes a file as editors do: a new one, synced, over the old one.
func (s *site) save(t *testing.T, dir string) {
	name := filepath.Join(dir, "text")
	must(t, os.WriteFile(name, []byte("old"), 0o644))
	f, err := os.Create(name + "~")
	must(t, err)
	_, err = f.WriteString("new")
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
	must(t, os.Rename(name+"~", name))
	if b, err := os.ReadFile(name); err != nil || string(b) != "new" {
		t.Errorf("read %q, %v", b, err)
	}
}

// TestKilledMount: the mount process is killed with a file open. What was synced is
// recovered, the dead mount point is cleaned by the next mount.
func TestKilledMount(t *testing.T) {
	s := start(t)
	cmd := s.served()
	must(t, os.WriteFile(s.at+"/s/closed", []byte("closed"), 0o644))
	must(t, os.WriteFile(s.at+"/s/edited", []byte("before"), 0o644))
	f, err := os.Create(s.at + "/s/synced")
	must(t, err)
	_, err = f.WriteString("synced")
	must(t, err)
	must(t, f.Sync())
	g, err := os.OpenFile(s.at+"/s/edited", os.O_RDWR, 0)
	must(t, err)
	_, err = g.WriteAt([]byte("AFTER"), 1)
	must(t, err)
	must(t, g.Sync())
	h, err := os.Create(s.at + "/s/unsynced")
	must(t, err)
	_, err = h.WriteString("nobody was promised anything")
	must(t, err)
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	f.Close()
	g.Close()
	h.Close()
	if _, err := os.Stat(s.at + "/unknown"); !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("the dead mount point says %v", err)
	}
	out := s.sluice("mount", "recover")
	if strings.Count(out, "waits") != 2 || !strings.Contains(out, "/s/synced") || !strings.Contains(out, "/s/edited") {
		t.Errorf("waiting: %s", out)
	}
	s.until("the dead client's incomplete file is given up", func() bool {
		out, err := s.try("/", s.binary, "--set", "data="+s.data, "mount", "recover", "--publish")
		t.Log(out)
		return err == nil
	})
	s.mount()
	for name, want := range map[string]string{"closed": "closed", "synced": "synced", "edited": "bAFTER"} {
		if b, err := os.ReadFile(s.at + "/s/" + name); err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v; want %q", name, b, err, want)
		}
	}
	if out := s.sluice("mount", "recover"); out != "" {
		t.Errorf("left: %s", out)
	}
	s.sluice("umount", s.at)
}

// TestTerminated: a mount that is told to stop publishes what is open first.
func TestTerminated(t *testing.T) {
	s := start(t)
	cmd := s.served()
	f, err := os.Create(s.at + "/open")
	must(t, err)
	_, err = f.WriteString("not closed")
	must(t, err)
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	_ = cmd.Wait() // it says that somebody still had a file open
	f.Close()
	s.mount()
	if b, err := os.ReadFile(s.at + "/open"); err != nil || string(b) != "not closed" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	s.sluice("umount", s.at)
}

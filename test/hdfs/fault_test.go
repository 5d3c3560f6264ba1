//go:build e2e

package hdfs

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/guard"
)

// during reads all of o, lets fault happen behind the first megabyte, and returns the rest
// and how it ended.
func during(ctx context.Context, t *testing.T, s underfs.Store, o underfs.Object, fault func() error) ([]byte, error) {
	t.Helper()
	r, err := s.Read(ctx, underfs.ReadRequest{Key: o.Key, Version: o.Version, Length: o.Length})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	fell := make(chan error, 1)
	go func() { fell <- fault() }()
	rest, err := io.ReadAll(r)
	if err := <-fell; err != nil {
		t.Fatal(err)
	}
	return rest, err
}

// ends returns the addresses at which a driver meets its data.
func ends(t *testing.T, scheme string) (names, data string) {
	if scheme == "hdfs" {
		return server(t).NameNode, server(t).DataNode
	}
	return server(t).HTTP, server(t).DataHTTP
}

// A data node that goes or hangs in the middle of a read ends the read, with the right
// kind, at the deadline; what was returned is never confirmed; afterwards all is well.
func TestReadFaults(t *testing.T) {
	for _, scheme := range schemes() {
		t.Run(scheme, func(t *testing.T) {
			names, node := ends(t, scheme)
			p := proxied(t, names, node)
			s := open(t, scheme, "/faults-"+scheme, p.dial)
			data := content(6, 40<<20)
			o := put(t, s, "big", data)

			cut := func() error { p.cut(node); return nil }
			hang := func() error { return p.hang(node) }
			p.slow(t, node, 8<<10)
			if _, err := during(t.Context(), t, s, o, cut); !errors.Is(err, sluice.Unavailable) {
				t.Errorf("a read whose connection was cut: %v, want kind unavailable", err)
			}
			p.heal(t, node)
			same(t, s, o, data)

			p.slow(t, node, 8<<10)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if _, err := during(ctx, t, s, o, hang); !errors.Is(err, sluice.Timeout) {
				t.Errorf("a read that hangs, at its caller's deadline: %v, want kind timeout", err)
			}
			if _, err := s.Stat(t.Context(), "big"); err != nil {
				t.Errorf("stat while a data node hangs: %v", err)
			}
			p.heal(t, node)
			p.slow(t, node, 8<<10)
			g := guard.New(s, guard.Config{Mount: "/sick", Options: sluice.MountOptions{Timeout: time.Second}}).Store()
			if _, err := during(t.Context(), t, g, o, hang); !errors.Is(err, sluice.Unavailable) || !strings.Contains(err.Error(), "/sick") {
				t.Errorf("a read that hangs, at the mount's deadline: %v, want kind unavailable and the mount's name", err)
			}
			p.heal(t, node)
			same(t, s, o, data)
		})
	}
}

// A data node that goes or hangs in the middle of a write ends the upload; nothing of it is
// seen, and what is left can be removed.
func TestWriteFaults(t *testing.T) {
	for _, scheme := range schemes() {
		for _, fault := range []string{"cut", "hang"} {
			t.Run(scheme+" "+fault, func(t *testing.T) {
				names, node := ends(t, scheme)
				p := proxied(t, names, node)
				s := open(t, scheme, "/writes-"+scheme+"-"+fault, p.dial)
				u := write(t, s, "f", content(7, 2<<20))
				want := sluice.Unavailable
				if fault == "cut" {
					p.cut(node)
				} else {
					if err := p.hang(node); err != nil {
						t.Fatal(err)
					}
					want = sluice.Timeout
				}
				ctx := within(t)
				var err error
				for range 64 { // what fits buffers is taken
					if err = u.Write(ctx, content(8, 1<<20)); err != nil {
						break
					}
				}
				if err == nil {
					_, err = u.Prepare(ctx)
				}
				if !errors.Is(err, want) {
					t.Errorf("a write: %v, want kind %q", err, want)
				}
				p.heal(t, node)
				if err := u.Abort(t.Context()); err != nil {
					t.Errorf("abort: %v", err)
				}
				page, err := s.List(t.Context(), underfs.ListRequest{Recursive: true})
				if err != nil || len(page.Objects) != 0 {
					t.Errorf("a failed upload left %+v, %v", page.Objects, err)
				}
				o := put(t, s, "f", content(9, 1<<20))
				same(t, s, o, content(9, 1<<20))
			})
		}
	}
}

// A commit that hangs is of unknown outcome, and looking finds out.
func TestCommitFaults(t *testing.T) {
	for _, scheme := range schemes() {
		t.Run(scheme, func(t *testing.T) {
			names, node := ends(t, scheme)
			p := proxied(t, names, node)
			s := open(t, scheme, "/commits-"+scheme, p.dial)
			u := write(t, s, "f", content(10, 1000))
			prepared, err := u.Prepare(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := p.hang(names); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Stat(within(t), "f"); !errors.Is(err, sluice.Timeout) {
				t.Errorf("stat of a name node that hangs: %v, want kind timeout", err)
			}
			if _, err := u.Commit(within(t), underfs.Condition{Absent: true}); !errors.Is(err, sluice.UnknownOutcome) {
				t.Errorf("a commit that hangs: %v, want kind unknown outcome", err)
			}
			p.heal(t, names)
			o, err := s.(underfs.Completer).Complete(t.Context(), "f", prepared, underfs.Condition{Absent: true})
			if err != nil {
				t.Fatalf("the same commit afterwards: %v", err)
			}
			same(t, s, o, content(10, 1000))
		})
	}
}

// With two name nodes, the end of one in the middle of a read, a write and a change is
// nothing that callers notice.
func TestFailover(t *testing.T) {
	for _, scheme := range schemes() {
		t.Run(scheme, func(t *testing.T) {
			names, _ := ends(t, scheme)
			one, two := proxied(t, names), proxied(t, names)
			open(t, scheme, "/failover-"+scheme, nil)
			s, err := registry(nil).Open(underfs.Config{URI: scheme + "://" + one[names].Listen + "," + two[names].Listen + "/failover-" + scheme})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			data := content(11, 40<<20) // five blocks
			o := put(t, s, "before", data)

			u := write(t, s, "during", data[:20<<20])
			rest, err := during(t.Context(), t, s, o, func() error { one.cut(names); return nil })
			if err != nil || string(rest) != string(data[1<<20:]) {
				t.Errorf("a read goes on with %d bytes, %v", len(rest), err)
			}
			for i := 20 << 20; i < len(data); i += 1 << 20 {
				if err := u.Write(t.Context(), data[i:i+1<<20]); err != nil {
					t.Fatalf("a write goes on: %v", err)
				}
			}
			if _, err := u.Prepare(t.Context()); err != nil {
				t.Fatalf("prepare: %v", err)
			}
			if o, err = u.Commit(t.Context(), underfs.Condition{Absent: true}); err != nil {
				t.Fatalf("commit: %v", err)
			}
			same(t, s, o, data)
			one.heal(t, names)
			two.cut(names)
			if err := s.Delete(t.Context(), "before", underfs.Condition{}); err != nil {
				t.Errorf("delete after another failover: %v", err)
			}
		})
	}
}

package namenode

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// open makes a store of m.
func open(m *memory) *Store { return New(Config{Top: "/", Node: m, Data: m, Advice: "do this"}) }

func TestConformance(t *testing.T) {
	underfstest.Run(t, func() underfs.Store { return open(newMemory()) })
}

// Whatever the names and the sizes of pages, a listing has every entry once, in order, and
// the pages after the first do not read the directory again.
func TestListOrder(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		m := newMemory()
		m.page = 1 + rng.IntN(5)
		pieces := []string{"a", "b", "-", ".", "0", "ä", "é", "z", "€", " "}
		if seed%2 == 0 {
			pieces = []string{"a", "b", "-", ".", "0", "~"}
		}
		var want, flat []underfs.Key
		for range 3 + rng.IntN(40) {
			var b strings.Builder
			for range 1 + rng.IntN(4) {
				b.WriteString(pieces[rng.IntN(len(pieces))])
			}
			name := b.String()
			if name == "." || name == ".." || m.files["/"+name] != nil {
				continue
			}
			if key := underfs.Key(name); rng.IntN(2) == 0 {
				m.add("/"+name, Status{Dir: true})
				want, flat = append(want, key+"/"), append(flat, key+"/")
				for i := range rng.IntN(3) {
					m.add(fmt.Sprintf("/%s/%d", name, i), Status{})
					flat = append(flat, underfs.Key(fmt.Sprintf("%s/%d", name, i)))
				}
			} else {
				m.add("/"+name, Status{})
				want, flat = append(want, key), append(flat, key)
			}
		}
		slices.Sort(want)
		slices.Sort(flat)
		s := open(m)
		for _, limit := range []int{1, 2, 5, 1000} {
			if got := listAll(t, s, underfs.ListRequest{Limit: limit}); !slices.Equal(got, want) {
				t.Fatalf("seed %d, pages of %d: got %q, want %q", seed, limit, got, want)
			}
			if got := listAll(t, s, underfs.ListRequest{Limit: limit, Recursive: true}); !slices.Equal(got, flat) {
				t.Fatalf("seed %d, recursive pages of %d: got %q, want %q", seed, limit, got, flat)
			}
		}
		after := flat[rng.IntN(len(flat))]
		i, _ := slices.BinarySearch(flat, after)
		if got := listAll(t, s, underfs.ListRequest{Limit: 3, Recursive: true, After: after}); !slices.Equal(got, flat[i+1:]) {
			t.Fatalf("seed %d, recursive after %q: got %q, want %q", seed, after, got, flat[i+1:])
		}
	}
}

// listAll returns the keys of all pages, the way a master asks for them: without tokens.
func listAll(t *testing.T, s *Store, req underfs.ListRequest) []underfs.Key {
	t.Helper()
	var all []underfs.Key
	for {
		page, err := s.List(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Objects {
			all = append(all, o.Key)
		}
		if !page.More {
			return all
		}
		req.After = page.Objects[len(page.Objects)-1].Key
	}
}

// A page of a large directory is found without reading it from its start, unless the
// directory has changed meanwhile: a new name may sort before for the name node and behind
// for us.
func TestListResumes(t *testing.T) {
	m := newMemory()
	m.page = 10
	for i := range 1000 {
		m.add(fmt.Sprintf("/a-%04d", i), Status{})
	}
	s := open(m)
	page, err := s.List(t.Context(), underfs.ListRequest{Limit: 500})
	if err != nil {
		t.Fatal(err)
	}
	s.cursors.all[0].asked = time.Time{}
	m.lists = 0
	if page, err = s.List(t.Context(), underfs.ListRequest{Limit: 5, After: page.Objects[499].Key}); err != nil || page.Objects[0].Key != "a-0500" {
		t.Fatalf("the second page: %+v, %v", page, err)
	}
	if m.lists > 2 {
		t.Errorf("the second page cost %d listings, want 1 or 2", m.lists)
	}
	m.add("/a", Status{Dir: true}) // before "a-0499" for the name node, behind all of them as "a/"
	got := listAll(t, s, underfs.ListRequest{After: "a-0499"})
	if len(got) != 501 || got[0] != "a-0500" || got[500] != "a/" {
		t.Errorf("after a change the rest has %d keys, %q to %q; want 501 with the new directory at the end", len(got), got[0], got[len(got)-1])
	}
}

// A file that somebody is writing has no version, so that nobody keeps what was read.
func TestOpenFile(t *testing.T) {
	m := newMemory()
	m.add("/f", Status{Open: true})
	s := open(m)
	o, err := s.Stat(t.Context(), "f")
	if err != nil || o.Version != "" || o.Length != 0 {
		t.Errorf("stat of an open file: %+v, %v; want no version and no length", o, err)
	}
	page, err := s.List(t.Context(), underfs.ListRequest{})
	if err != nil || len(page.Objects) != 1 || page.Objects[0].Version != "" {
		t.Errorf("list of an open file: %+v, %v; want no version", page.Objects, err)
	}
}

// Files that the protocol cannot decode are refused with advice, or read by what can.
func TestOpaque(t *testing.T) {
	m := newMemory()
	m.add("/enc", Status{Encrypted: true, Length: 3}).data = []byte("abc")
	m.add("/ec", Status{Coded: true, Length: 3}).data = []byte("abc")
	plain := newMemory()
	for name, n := range m.files {
		plain.files[name] = &inode{st: n.st, data: []byte("xyz")}
	}
	for _, key := range []underfs.Key{"enc", "ec"} {
		_, err := open(m).Read(t.Context(), underfs.ReadRequest{Key: key, Length: 3})
		if !errors.Is(err, sluice.Unsupported) || !strings.Contains(err.Error(), "do this") {
			t.Errorf("read of %s: %v, want kind unsupported with advice", key, err)
		}
		s := New(Config{Top: "/", Node: m, Data: m, Plain: plain})
		r, err := s.Read(t.Context(), underfs.ReadRequest{Key: key, Length: 3})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); err != nil || string(b) != "xyz" {
			t.Errorf("read of %s by the other protocol: %q, %v", key, b, err)
		}
		r.Close()
	}
	m.files["/"].st.Coded = true
	m.add("/"+tempDir, Status{Dir: true, Coded: true})
	if _, err := open(m).Create(t.Context(), "f", underfs.CreateOptions{Length: -1}); !errors.Is(err, sluice.Unsupported) {
		t.Errorf("create below an erasure-coded directory: %v, want kind unsupported", err)
	}
}

// A rename whose answer was lost is found to have happened when it is completed again.
func TestCommitAgain(t *testing.T) {
	m := newMemory()
	s := open(m)
	u, err := s.Create(t.Context(), "d/f", underfs.CreateOptions{Length: -1, Tag: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Write(t.Context(), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	p, err := u.Prepare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	committed := false
	m.fault = func(op, name string) error {
		if op == "stat" && name == "/d/f" && m.files[name] != nil && !committed {
			committed = true
			return kind(sluice.Unavailable)
		}
		return nil
	}
	_, err = u.Commit(t.Context(), underfs.Condition{Absent: true})
	if !errors.Is(err, sluice.UnknownOutcome) || errors.Is(err, sluice.Unavailable) {
		t.Fatalf("a commit whose result cannot be looked at: %v, want kind unknown outcome", err)
	}
	o, err := s.Complete(t.Context(), "d/f", p, underfs.Condition{Absent: true})
	if err != nil || o.Length != 5 {
		t.Errorf("the same commit again: %+v, %v", o, err)
	}
}

// A rename into an encryption zone is refused for good, and not tried for ever.
func TestEncryptionZone(t *testing.T) {
	m := newMemory()
	s := open(m)
	m.add("/zone", Status{Dir: true, Encrypted: true})
	m.add("/f", Status{})
	u, err := s.Create(t.Context(), "zone/f", underfs.CreateOptions{Length: 0})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.fault = func(op, _ string) error {
		if op == "rename" {
			return kind(sluice.Unavailable) // an IOException
		}
		return nil
	}
	if _, err := u.Commit(t.Context(), underfs.Condition{}); !errors.Is(err, sluice.Unsupported) || errors.Is(err, sluice.Unavailable) {
		t.Errorf("commit into an encryption zone: %v, want kind unsupported", err)
	}
	if _, err := s.Rename(t.Context(), "f", "zone/g", underfs.Condition{}); !errors.Is(err, sluice.Unsupported) {
		t.Errorf("rename into an encryption zone: %v, want kind unsupported", err)
	}
	if _, err := s.Rename(t.Context(), "f", "g", underfs.Condition{}); !errors.Is(err, sluice.Unavailable) {
		t.Errorf("another rename: %v, want kind unavailable", err)
	}
}

// Sweeping leaves alone what is open, young, wanted or foreign.
func TestSweep(t *testing.T) {
	m := newMemory()
	s := open(m)
	m.add("/"+tempDir, Status{Dir: true})
	for name, st := range map[string]Status{
		"u-dead-1": {}, "u-open-1": {Open: true}, "u-kept-1": {}, "foreign": {}, "u-young-1": {},
	} {
		m.add("/"+tempDir+"/"+name, st)
	}
	for name, n := range m.files {
		if !strings.Contains(name, "young") {
			n.st.Mtime -= 7_200_000
		}
	}
	n, err := s.Sweep(t.Context(), time.Hour, func(tag string) bool { return tag == "kept" })
	if err != nil || n != 1 || m.files["/"+tempDir+"/u-dead-1"] != nil {
		t.Errorf("swept %d, %v; want the dead one only", n, err)
	}
}

// Bytes that changed while they were read are not confirmed.
func TestReadChecks(t *testing.T) {
	m := newMemory()
	m.add("/f", Status{Length: 5}).data = []byte("hello")
	s := open(m)
	o, err := s.Stat(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Read(t.Context(), underfs.ReadRequest{Key: "f", Version: o.Version, Length: 5})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b bytes.Buffer
	if _, err := io.CopyN(&b, r, 5); err != nil {
		t.Fatal(err)
	}
	m.touch(&m.files["/f"].st)
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, sluice.Changed) {
		t.Errorf("the end of a read of what was changed meanwhile: %v, want kind changed", err)
	}
}

func TestExceptionKinds(t *testing.T) {
	for class, want := range map[string]sluice.Kind{
		"java.io.FileNotFoundException":                                     sluice.NotFound,
		"org.apache.hadoop.fs.FileAlreadyExistsException":                   sluice.Exists,
		"org.apache.hadoop.fs.PathIsNotEmptyDirectoryException":             sluice.NotEmpty,
		"org.apache.hadoop.fs.ParentNotDirectoryException":                  sluice.NotDirectory,
		"org.apache.hadoop.security.AccessControlException":                 sluice.Permission,
		"org.apache.hadoop.hdfs.protocol.DSQuotaExceededException":          sluice.NoSpace,
		"org.apache.hadoop.HadoopIllegalArgumentException":                  sluice.Invalid,
		"org.apache.hadoop.fs.InvalidPathException":                         sluice.Invalid,
		"org.apache.hadoop.hdfs.server.namenode.SafeModeException":          sluice.Unavailable,
		"org.apache.hadoop.ipc.RetriableException":                          sluice.Unavailable,
		"org.apache.hadoop.hdfs.protocol.SnapshotAccessControlException":    sluice.ReadOnly,
		"org.apache.hadoop.security.authentication.AuthenticationException": sluice.Unauthenticated,
		"java.io.IOException":                                               sluice.Unavailable,
		"RpcNoSuchMethodException":                                          sluice.Unsupported,
	} {
		e := &Exception{Class: class, Message: "what\n\tat java"}
		if e.Kind() != want || strings.Contains(e.Error(), "\n") {
			t.Errorf("%s: kind %q (%v), want %q in one line", class, e.Kind(), e, want)
		}
	}
	if e := (&Exception{Class: "org.apache.hadoop.ipc.StandbyException"}); !e.Standby() {
		t.Error("a standby is not recognised")
	}
}

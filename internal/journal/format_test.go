package journal

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/sluicefs/sluice"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// sample is a segment with one record of every kind.
func sample() []byte {
	h := header{seq: 7, node: 3, salt: 0x0123456789abcdef, cluster: "golden"}
	salt := saltSum(h.salt)
	g := ground{index: 41, term: 2, hard: raftpb.HardState{Term: 2, Vote: 3, Commit: 40},
		confs: []members{{index: 12, conf: raftpb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{300}}}}}
	b := appendHeader(nil, h)
	b = appendRecord(b, salt, record{kind: kindState, index: g.index, term: g.term, data: appendGround(nil, g)})
	n := uint32(len(b))
	b = appendRecord(b, salt, hardRecord(raftpb.HardState{Term: 3, Vote: 1, Commit: 40}))
	for _, r := range []record{
		{kind: kindEntry, term: 3, index: 42},
		{kind: kindEntry, term: 3, index: 43, data: []byte("a command")},
		{kind: kindConf, term: 3, index: 44, data: []byte("conf change")},
		{kind: kindConfV2, term: 3, index: 45, data: []byte("conf change v2")},
	} {
		r.durable = n
		b = appendRecord(b, salt, r)
	}
	r := record{kind: kindMembers, index: 44, durable: n}
	r.data = appendConf(nil, raftpb.ConfState{Voters: []uint64{1}, VotersOutgoing: []uint64{1, 2}, LearnersNext: []uint64{2}, AutoLeave: true})
	b = appendRecord(b, salt, r)
	b = appendRecord(b, salt, hardRecord(raftpb.HardState{Term: 3, Vote: 1, Commit: 45}))
	return append(b, make([]byte, 512)...)
}

// describe prints a segment for people.
func describe(b []byte) (string, error) {
	var out bytes.Buffer
	s, err := scanSegment(b, "segment", func(off int64, r record) error {
		fmt.Fprintf(&out, "%d: kind %d term %d index %d durable %d data %q\n", off, r.kind, r.term, r.index, r.durable, r.data)
		return nil
	})
	fmt.Fprintf(&out, "segment %d of node %d of %q after entry %d, records to %d of %d, torn %v, err %v\n",
		s.seq, s.node, s.cluster, s.prev, s.end, s.size, s.torn, err)
	return out.String(), err
}

// TestGolden reads the file that version 1 wrote, and writes the same.
func TestGolden(t *testing.T) {
	file, text := filepath.Join("testdata", "segment-v1.log"), filepath.Join("testdata", "segment-v1.txt")
	if *rewrite {
		must(t, os.MkdirAll("testdata", 0o755))
		got, _ := describe(sample())
		must(t, os.WriteFile(file, sample(), 0o644))
		must(t, os.WriteFile(text, []byte(got), 0o644))
	}
	b, err := os.ReadFile(file)
	must(t, err)
	want, err := os.ReadFile(text)
	must(t, err)
	if !bytes.Equal(b, sample()) {
		t.Error("the encoder no longer writes what is in testdata/segment-v1.log: a change of the format needs a version")
	}
	if got, _ := describe(b); got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func FuzzSegment(f *testing.F) {
	f.Add(sample())
	f.Add(sample()[:200])
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := scanSegment(b, "fuzz", func(_ int64, r record) error {
			var err error
			switch r.kind {
			case kindState:
				_, err = parseGround(r)
			case kindMembers:
				_, err = parseConf(r)
			case kindHard:
				_, err = parseHard(r)
			}
			return err
		})
		if s.end > max(int64(len(b)), segmentHeader) {
			t.Errorf("records to %d of %d bytes, %v", s.end, len(b), err)
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add(appendRecord(nil, 1, record{kind: kindEntry, term: 1, index: 2, data: []byte("x")}), uint32(1))
	f.Fuzz(func(t *testing.T, b []byte, salt uint32) {
		r, n, err := decodeRecord(b, salt)
		if err != nil {
			return
		}
		again := appendRecord(nil, salt, r)
		if n > len(b) || len(again) != n || !bytes.Equal(again[:recordHeader+len(r.data)], b[:recordHeader+len(r.data)]) {
			t.Errorf("decoded %+v from %d bytes, encoded again differs", r, n)
		}
	})
}

// TestTornOrDamaged: what was written since the last sync may be lost in any part; a
// record that was synced may not.
func TestTornOrDamaged(t *testing.T) {
	h := header{seq: 1, node: 1, salt: 5, cluster: "c"}
	salt := saltSum(h.salt)
	b := appendHeader(nil, h)
	b = appendRecord(b, salt, record{kind: kindState, data: appendGround(nil, ground{confs: []members{{conf: raftpb.ConfState{Voters: []uint64{1}}}}})})
	synced := uint32(len(b))
	var at []int
	put := func(index uint64) {
		at = append(at, len(b))
		b = appendRecord(b, salt, record{kind: kindEntry, index: index, term: 1, durable: synced, data: bytes.Repeat([]byte{byte(index)}, 100)})
	}
	for i := range uint64(4) { // one batch
		put(i + 1)
	}
	synced = uint32(len(b))
	put(5) // the next one
	b = append(b, make([]byte, 5000)...)
	end := len(b)
	for _, c := range []struct {
		name       string
		size       int
		zero, flip []int // records
		records    int
		torn, bad  bool
	}{
		{name: "whole", size: end, records: 6},
		{name: "last record flipped", size: end, flip: []int{4}, records: 5, torn: true},
		{name: "last record zero", size: end, zero: []int{4}, records: 5},
		{name: "synced record flipped", size: end, flip: []int{3}, bad: true},
		{name: "synced record zero", size: end, zero: []int{1}, bad: true},
		{name: "two zero", size: end, zero: []int{3, 4}, records: 4},
		{name: "hole in the last batch", size: at[4], zero: []int{1}, records: 2, torn: true},
		{name: "flip in the last batch", size: at[4], flip: []int{0, 2}, records: 1, torn: true},
		{name: "file cut in a record", size: at[3] + 50, records: 4, torn: true},
		{name: "file cut between records", size: at[3], records: 4},
	} {
		x := slices.Clone(b[:c.size])
		for _, i := range c.zero {
			clear(x[at[i]:min(at[i]+recordSize(100), len(x))])
		}
		for _, i := range c.flip {
			x[at[i]+60] ^= 4
		}
		n := 0
		s, err := scanSegment(x, "file", func(int64, record) error { n++; return nil })
		if c.bad {
			if !errors.Is(err, sluice.Corrupt) {
				t.Errorf("%s: got %v, want corrupt", c.name, err)
			}
			continue
		}
		if err != nil || n != c.records || s.torn != c.torn {
			t.Errorf("%s: got %d records, torn %v, %v; want %d, %v", c.name, n, s.torn, err, c.records, c.torn)
		}
	}
}

// TestReadLog reads a stopped master's log, whole and with a file missing.
func TestReadLog(t *testing.T) {
	fs := vfs.NewMem()
	cfg := config(fs, &tape{})
	cfg.KeepEntries = 1000
	j := mustOpen(t, cfg)
	var want []string
	for i := range 60 {
		want = append(want, fmt.Sprintf("%0900d", i))
		propose(t, j, want[i])
	}
	if _, err := ReadLog(fs, cfg.Dir, func(Entry) error { return nil }); !errors.Is(err, sluice.Busy) {
		t.Errorf("the log of a running master: got %v, want busy", err)
	}
	must(t, j.Close())
	var got []string
	next := sluice.Index(1)
	each := func(e Entry) error {
		if e.Index != next {
			t.Errorf("got entry %d, want %d", e.Index, next)
		}
		next++
		if len(e.Data) > 0 {
			got = append(got, string(e.Data))
		}
		return nil
	}
	rep, err := ReadLog(fs, cfg.Dir, each)
	must(t, err)
	if !slices.Equal(got, want) || rep.Last != next-1 || rep.First != 1 || rep.Cluster != "test" || rep.Node != 1 || rep.Segments < 3 || rep.Commit > rep.Last || rep.Torn != 0 {
		t.Errorf("got %d entries, want %d; report %+v", len(got), len(want), rep)
	}
	must(t, fs.Remove(fs.PathJoin(cfg.Dir, segmentName(2))))
	got, next = nil, 1
	if _, err := ReadLog(fs, cfg.Dir, each); !errors.Is(err, sluice.Corrupt) {
		t.Errorf("a missing file: got %v, want corrupt", err)
	}
	if !slices.Equal(got, want[:len(got)]) || len(got) == 0 {
		t.Errorf("a missing file: got %d entries, want those before it", len(got))
	}
	if _, err := Open(context.Background(), config(fs, &tape{})); !errors.Is(err, sluice.Corrupt) {
		t.Errorf("Open with a missing file: got %v, want corrupt", err)
	}
	if _, err := ReadLog(vfs.NewMem(), "", each); !errors.Is(err, sluice.NotFound) {
		t.Errorf("no journal: got %v, want not found", err)
	}
}

// TestOverwrittenEntries: entries of a deposed primary are replaced by those of the
// next one, also across files and restarts.
func TestOverwrittenEntries(t *testing.T) {
	cfg := config(vfs.NewMem(), &tape{}).filled()
	must(t, cfg.FS.MkdirAll(cfg.Dir, 0o700))
	s, err := openStore(cfg, 0)
	must(t, err)
	rng := rand.New(rand.NewPCG(3, 4))
	var model []raftpb.Entry
	for term := uint64(1); term < 40; term++ {
		from := len(model) - min(len(model), rng.IntN(4))
		model = model[:from]
		var m raftpb.Message
		m.Type, m.Term, m.Responses = raftpb.MsgStorageAppend, term, []raftpb.Message{{}}
		for range 1 + rng.IntN(6) {
			e := raftpb.Entry{Index: uint64(len(model) + 1), Term: term, Data: bytes.Repeat([]byte{byte(term)}, rng.IntN(3000))}
			model, m.Entries = append(model, e), append(m.Entries, e)
		}
		must(t, s.append(batch{messages: []raftpb.Message{m}}))
		if term%10 == 0 {
			s.close()
			s, err = openStore(cfg, 0)
			must(t, err)
		}
		for _, lo := range []uint64{1, uint64(len(model))} {
			got, err := s.Entries(lo, uint64(len(model))+1, 1<<40)
			must(t, err)
			for i, e := range got {
				if w := model[lo-1+uint64(i)]; e.Term != w.Term || e.Index != w.Index || !bytes.Equal(e.Data, w.Data) {
					t.Fatalf("term %d: entry %d of term %d, want %d of term %d", term, e.Index, e.Term, w.Index, w.Term)
				}
			}
			if len(got) != len(model)-int(lo)+1 {
				t.Fatalf("got %d entries from %d, want %d", len(got), lo, len(model)-int(lo)+1)
			}
		}
	}
	if len(s.img.segments) < 3 {
		t.Errorf("want several files, got %d", len(s.img.segments))
	}
	s.close()
}

// TestTornEndStaysDead: a good record behind a bad one in a torn end must not come to
// life when a new record of the same size takes the bad one's place.
func TestTornEndStaysDead(t *testing.T) {
	cfg := config(vfs.NewMem(), &tape{}).filled()
	must(t, cfg.FS.MkdirAll(cfg.Dir, 0o700))
	reopen := func() *store {
		s, err := openStore(cfg, 0)
		must(t, err)
		return s
	}
	add := func(s *store, from uint64, data ...string) {
		m := raftpb.Message{Type: raftpb.MsgStorageAppend, Term: 1, Responses: []raftpb.Message{{}}}
		for i, d := range data {
			m.Entries = append(m.Entries, raftpb.Entry{Index: from + uint64(i), Term: 1, Data: []byte(d)})
		}
		must(t, s.append(batch{messages: []raftpb.Message{m}}))
	}
	s := reopen()
	add(s, 1, "first")
	bad := s.off + recordHeader
	add(s, 2, "torn", "dead")
	file := s.file
	_, err := file.WriteAt([]byte("x"), bad)
	must(t, err)
	s.close()
	s = reopen()
	if last := s.img.last(); last != 1 {
		t.Fatalf("the log ends with entry %d, want 1", last)
	}
	add(s, 2, "live")
	s.close()
	s = reopen()
	if last := s.img.last(); last != 2 {
		t.Errorf("the log ends with entry %d, want 2: a torn record came back", last)
	}
	s.close()
}

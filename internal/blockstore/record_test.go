package blockstore

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicefs/sluice"
)

var update = flag.Bool("update", false, "rewrite the golden files of the current version")

// goldenRecords are one record of each kind.
func goldenRecords() []record {
	id := sluice.BlockID{Content: sluice.ContentID{Incarnation: 0x1122334455667788, Counter: 300}, Index: 2}
	return []record{
		{kind: recBlock, gen: 1, id: id, length: sluice.PageSize + 5, flags: keptPinned},
		{kind: recPage, gen: 1, page: 1, sums: []uint32{0xdeadbeef}},
		{kind: recPage, gen: 1, page: 0, sums: Sums(make([]byte, sluice.PageSize))},
		{kind: recFlags, gen: 1, flags: keptUnpersisted},
		{kind: recAbsent, gen: 1, page: 1},
		{kind: recBlock, gen: 1 << 40, id: sluice.BlockID{Content: id.Content, Index: 1<<32 - 1}, length: sluice.MaxBlockSize},
		{kind: recDrop, gen: 1 << 40},
	}
}

// The index of version 1 is read for ever, byte by byte as it was written.
func TestGoldenIndex(t *testing.T) {
	path := filepath.Join("testdata", "index-v1.hex")
	var log []byte
	log = appendHeader(log, header{worker: 0xfeed, nextGen: 1<<40 + 1})
	for _, r := range goldenRecords() {
		log = appendRecord(log, &r)
	}
	if *update {
		if err := os.WriteFile(path, []byte(wrapHex(log)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	golden, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(golden, log) {
		t.Errorf("the index is written differently:\n got %x\nwant %x", log, golden)
	}
	h, err := parseHeader(golden)
	if err != nil || h != (header{worker: 0xfeed, nextGen: 1<<40 + 1}) {
		t.Errorf("header %+v, %v", h, err)
	}
	want := goldenRecords()
	found, err := scanRecords(bytes.NewReader(golden), headerSize, func(_ int64, r *record) error {
		if len(want) == 0 || fmt.Sprint(*r) != fmt.Sprint(want[0]) {
			t.Errorf("record %+v, want %+v", *r, want)
		}
		want = want[1:]
		return nil
	})
	if err != nil || found.damaged != 0 || found.end != int64(len(golden)) || len(want) != 0 {
		t.Errorf("scan: %+v, %v, %d records missing", found, err, len(want))
	}
}

func wrapHex(p []byte) string {
	var b strings.Builder
	for ; len(p) > 0; p = p[min(32, len(p)):] {
		fmt.Fprintf(&b, "%x\n", p[:min(32, len(p))])
	}
	return b.String()
}

func TestHeaderOfLaterVersion(t *testing.T) {
	p := appendHeader(nil, header{worker: 1, nextGen: 1})
	p[8] = indexVersion + 1
	clear(p[12:16])
	sum := Sum(p)
	p[12], p[13], p[14], p[15] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
	if _, err := parseHeader(p); !errors.Is(err, errVersion) {
		t.Errorf("%v, want a later version to be recognised", err)
	}
	m := NewMemDisk(MemDiskConfig{})
	openMem(t, m, 64<<20).Close()
	m = m.Clone(nil)
	m.dirs["/d"].names[indexFile].pages[0] = (*[memPage]byte)(append(p, make([]byte, memPage-len(p))...))
	if _, err := Open(t.Context(), memConfig(m, 64<<20)); !errors.Is(err, sluice.Unsupported) {
		t.Errorf("open: %v, want kind Unsupported", err)
	}
}

// Whatever bytes follow the header, scanning ends, never panics, and yields only
// records that are encoded again as they were.
func FuzzScanRecords(f *testing.F) {
	var log []byte
	for _, r := range goldenRecords() {
		log = appendRecord(log, &r)
	}
	f.Add(log)
	f.Add(append([]byte{1, 2, 3}, log[:len(log)-3]...))
	f.Add(make([]byte, 300))
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := scanRecords(bytes.NewReader(data), 0, func(off int64, r *record) error {
			var again record
			n, err := parseRecord(appendRecord(nil, r), &again)
			if err != nil || n > frameSize+maxBody || fmt.Sprint(again) != fmt.Sprint(*r) {
				t.Fatalf("record %+v at %d does not survive being written again: %+v, %v", *r, off, again, err)
			}
			return nil
		})
		if err != nil || found.end > int64(len(data)) {
			t.Fatalf("scan: %+v, %v", found, err)
		}
		parseHeader(data)
	})
}

// Churn keeps the index small, and what lives survives its compaction.
func TestCompaction(t *testing.T) {
	m := NewMemDisk(MemDiskConfig{})
	s := openMem(t, m, 64<<20)
	keep := pattern(1, 2*sluice.PageSize)
	fillAll(t, s, blockID(1, 0), keep)
	s.Pin(t.Context(), blockID(1, 0).Content)
	small := pattern(2, 10)
	for i := uint64(100); i < 100+25_000; i++ {
		fillAll(t, s, blockID(i, 0), small)
		if err := s.Delete(t.Context(), blockID(i, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if size := m.dirs["/d"].names[indexFile].size; size > 2*compactSlack {
		t.Errorf("the index has %d bytes for one block", size)
	}
	wantBooks(t, s, m)
	s.Close()
	s = openMem(t, m.Clone(nil), 64<<20)
	wantRead(t, s, blockID(1, 0), keep)
	if i, _ := s.Info(blockID(1, 0)); !i.Pinned || s.Stats().Blocks != 1 {
		t.Errorf("after compaction and restart: %+v, %d blocks", i, s.Stats().Blocks)
	}
}

func TestCombine(t *testing.T) {
	p := pattern(1, 200_000)
	for _, cut := range []int{0, 1, 7, 4096, 65536, 65537, 134_464, 199_999, 200_000} {
		if got := Combine(Sum(p[:cut]), Sum(p[cut:]), int64(len(p)-cut)); got != Sum(p) {
			t.Errorf("cut at %d: %08x, want %08x", cut, got, Sum(p))
		}
		if got := CombineChunks(Sums(p[cut:]), int64(len(p)-cut)); got != Sum(p[cut:]) {
			t.Errorf("chunks from %d: %08x, want %08x", cut, got, Sum(p[cut:]))
		}
	}
}

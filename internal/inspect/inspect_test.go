package inspect

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/journal"
	"github.com/sluicefs/sluice/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// counter is a machine that only counts.
type counter struct{ at sluice.Index }

func (c *counter) Apply(e journal.Entry) any    { c.at = e.Index; return nil }
func (c *counter) Applied() sluice.Index        { return c.at }
func (c *counter) Flush() (sluice.Index, error) { return c.at, nil }

// write makes a master's directory whose journal holds entries.
func write(t *testing.T, entries ...*wire.Entry) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewMem()
	j, err := journal.Open(context.Background(), journal.Config{
		FS: fs, Dir: "master/journal", Cluster: "test", Node: 1, Machine: &counter{}, SegmentBytes: journal.MinSegmentBytes, MinFree: -1,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := e.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := j.Propose(context.Background(), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := Dump(&bytes.Buffer{}, "master", Options{FS: fs}); !errors.Is(err, sluice.Busy) {
		t.Errorf("a dump of a running master: got %v, want busy", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return fs
}

func sample() []*wire.Entry {
	return []*wire.Entry{
		{Format: 1, Term: 1, Version: 1, Wall: 1_790_000_000_000_000_000, Commands: []*wire.Command{
			{Op: &wire.Command_Format{Format: &wire.Format{Cluster: "c", Owner: "ada", Mode: 0o755}}},
		}},
		{Format: 1, Term: 1, Version: 1, Wall: 1_790_000_001_000_000_000, Tick: 1_500_000_000, Commands: []*wire.Command{
			{
				Request: &wire.RequestID{Session: 7, Seq: 1, Lowest: 1}, By: &wire.Principal{User: "ada"},
				Op: &wire.Command_Mkdir{Mkdir: &wire.Mkdir{Path: "/a", Mode: 0o755}},
			},
			{Op: &wire.Command_MountStore{MountStore: &wire.MountStore{
				Path: "/s3", Uri: "s3://key:HUNTER2@bucket/x",
				Options: &wire.MountOptions{Properties: map[string]string{"region": "eu", "session_token": "HUNTER2"}},
				Secrets: map[string][]byte{"access_key": []byte("env:KEY"), "secret_key": []byte("\x01HUNTER2")},
			}}},
		}},
	}
}

func TestDump(t *testing.T) {
	fs := write(t, sample()...)
	var out strings.Builder
	if err := Dump(&out, "master", Options{FS: fs}); err != nil {
		t.Fatal(err)
	}
	want := `{"index":1,"term":1,"n":0,"op":"none"}
{"index":2,"term":1,"n":0,"version":1,"wall":"2026-09-21T14:13:20.000000000Z","tick":"0s","op":"Format","args":{"cluster":"c","mode":493,"owner":"ada"}}
{"index":3,"term":1,"n":0,"version":1,"wall":"2026-09-21T14:13:21.000000000Z","tick":"1.5s","op":"Mkdir","by":{"user":"ada"},"request":{"lowest":"1","seq":"1","session":"7"},"args":{"mode":493,"path":"/a"}}
{"index":3,"term":1,"n":1,"version":1,"wall":"2026-09-21T14:13:21.000000000Z","tick":"1.5s","op":"MountStore","args":{"options":{"properties":{"region":"eu","session_token":"(sealed)"}},"path":"/s3","secrets":{"access_key":"env:KEY","secret_key":"(sealed)"},"uri":"s3://%28sealed%29@bucket/x"}}
`
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
	out.Reset()
	if err := Dump(&out, "master/journal", Options{FS: fs, From: 2, To: 2}); err != nil || strings.Count(out.String(), "\n") != 1 || !strings.Contains(out.String(), "Format") {
		t.Errorf("entry 2 alone: got %q, %v", out.String(), err)
	}
	if err := Dump(&out, "nowhere", Options{FS: fs}); !errors.Is(err, sluice.NotFound) {
		t.Errorf("no master: got %v, want not found", err)
	}
}

func TestVerify(t *testing.T) {
	fs := write(t, sample()...)
	rep, err := Verify("master", Options{FS: fs})
	if err != nil || rep.Entries != 2 || rep.Commands["Mkdir"] != 1 || len(rep.Problems) != 0 || rep.Journal.Last != 3 {
		t.Errorf("got %+v, %v", rep, err)
	}

	overtaken := sample()
	overtaken[0].Tick = overtaken[1].Tick + 1
	if rep, err := Verify("master", Options{FS: write(t, overtaken...)}); err != nil {
		t.Errorf("an entry that was overtaken: %v and %q, want none", err, rep.Problems)
	}

	back := sample()
	back[0].Tick = 1 << 40
	back = append(back, &wire.Entry{Format: 1, Term: 9, Version: 1, Tick: 1 << 41, Commands: []*wire.Command{{}}})
	rep, err = Verify("master", Options{FS: write(t, back...)})
	if !errors.Is(err, sluice.Corrupt) || len(rep.Problems) != 3 {
		t.Errorf("got %v and %q, want corrupt and 3 problems", err, rep.Problems)
	}

	fs = write(t, append(sample(), sample()...)...)
	f, err := fs.OpenReadWrite("master/journal/0000000001.log", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff}, 400); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify("master", Options{FS: fs}); !errors.Is(err, sluice.Corrupt) || !strings.Contains(err.Error(), "0000000001.log") {
		t.Errorf("a flipped byte: got %v, want corrupt and the file's name", err)
	}
}

package wire

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

var rewrite = flag.Bool("rewrite", false, "write docs/format/messages.md anew")

// pageHead begins the page of the messages.
const pageHead = `# Messages, version 1

Generated from the descriptors of ` + "`internal/wire`" + ` (run its tests with -rewrite); what the fields mean stands in its ` + "`.proto`" + ` files. Everything here is
protobuf: unknown fields are skipped, zero fields are left out, a number that was used is never used for something else.

An entry of the journal is an ` + "`Entry`" + `; its field ` + "`format`" + ` is the version of this page, and a reader refuses a higher one, a cluster version above its
own, and a command that it does not know. Entries hold no maps but those of a mount and of extended attributes, which nobody compares byte by byte.
Entries of version 1 are kept in ` + "`internal/namespace/testdata/golden/entries-1.txt`" + `. Requests and answers between processes travel as
[rpc.md](rpc.md) says.
`

// page describes every message of the package.
func page() string {
	var b strings.Builder
	b.WriteString(pageHead)
	for _, f := range []protoreflect.FileDescriptor{File_command_proto, File_words_proto, File_rpc_proto} {
		fmt.Fprintf(&b, "\n## %s\n", f.Path())
		for i := range f.Messages().Len() {
			m := f.Messages().Get(i)
			fmt.Fprintf(&b, "\n**%s**", m.Name())
			for j := range m.Fields().Len() {
				d := m.Fields().Get(j)
				sep := ", "
				if j == 0 {
					sep = ": "
				}
				fmt.Fprintf(&b, "%s%d %s `%s`", sep, d.Number(), d.Name(), kind(d))
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// kind is the type of a field.
func kind(d protoreflect.FieldDescriptor) string {
	switch {
	case d.IsMap():
		return "map " + kind(d.MapKey()) + " " + kind(d.MapValue())
	case d.IsList() && d.Message() != nil:
		return "list " + string(d.Message().Name())
	case d.IsList():
		return "list " + d.Kind().String()
	case d.Message() != nil:
		return string(d.Message().Name())
	default:
		return d.Kind().String()
	}
}

// TestThePageIsCurrent: a field that is added, moved or dropped is seen in a diff.
func TestThePageIsCurrent(t *testing.T) {
	const file = "../../docs/format/messages.md"
	want := page()
	if *rewrite {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/format/messages.md is not what the messages are; run this test with -rewrite and look at the diff")
	}
}

// FuzzEntry: bytes from a disk or a peer are an error or an entry, never a panic, and
// what was read is written again to something that reads the same.
func FuzzEntry(f *testing.F) {
	e := &Entry{Format: EntryFormat, Term: 1, Version: ClusterVersion, Wall: 2, Tick: 3, Commands: []*Command{
		{Request: &RequestID{Session: 4, Seq: 5, Lowest: 1}, By: &Principal{User: "u", Groups: []string{"g"}}, Op: &Command_Mkdir{Mkdir: &Mkdir{Path: "/a", Mode: 0o755}}},
		{Op: &Command_CommitContent{CommitContent: &CommitContent{File: 6, Sealed: &Sealed{Content: &ContentID{Incarnation: 7, Counter: 8}, Length: 9}}}},
		{Op: &Command_MountStore{MountStore: &MountStore{Path: "/m", Uri: "s3://b", Secrets: map[string][]byte{"k": {1}}}}},
	}}
	b, err := e.MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add([]byte{0x32, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		var e, again Entry
		if e.UnmarshalVT(b) != nil {
			return
		}
		out, err := e.MarshalVT()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if len(out) != e.SizeVT() {
			t.Errorf("%d bytes written, %d said", len(out), e.SizeVT())
		}
		if err := again.UnmarshalVT(out); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		second, err := again.MarshalVT()
		if err != nil || len(second) != len(out) || !proto.Equal(&e, &again) && !bytes.Equal(second, out) {
			t.Errorf("read again it is another entry (%v)", err)
		}
	})
}

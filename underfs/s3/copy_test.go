package s3

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/test/s3server"
	"github.com/sluicefs/sluice/underfs"
)

// An object above what one CopyObject takes is copied in parts, by the service, with its
// tag; and of the version that was asked for only.
func TestCopyInParts(t *testing.T) {
	srv := s3server.New(t)
	if err := srv.Bucket("test"); err != nil {
		t.Fatal(err)
	}
	opened, err := Driver{}.Open(underfs.Config{URI: "s3://test/p", Properties: srv.Properties(), Secrets: srv.Secrets()})
	if err != nil {
		t.Fatal(err)
	}
	s := opened.(*Store)
	defer s.Close()
	s.maxCopy, s.copyStep = 6<<20, 5<<20
	data := make([]byte, 17<<20+5)
	for i := range data {
		data[i] = byte(i >> 12)
	}
	put := func(data []byte) underfs.Object {
		t.Helper()
		u, err := s.Create(t.Context(), "from", underfs.CreateOptions{Length: int64(len(data)), Tag: "the tag"})
		if err == nil {
			err = u.Write(t.Context(), data)
		}
		if err == nil {
			_, err = u.Prepare(t.Context())
		}
		var o underfs.Object
		if err == nil {
			o, err = u.Commit(t.Context(), underfs.Condition{})
		}
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := put(data)
	n, err := s.Copy(t.Context(), "from", o.Version, "to", underfs.Condition{Absent: true})
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.Stat(t.Context(), "to")
	if err != nil || st.Version != n.Version || st.Length != o.Length || st.Tag != "the tag" {
		t.Errorf("the copy said %+v, stat says %+v, %v", n, st, err)
	}
	r, err := s.Read(t.Context(), underfs.ReadRequest{Key: "to", Version: n.Version, Length: n.Length})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the copy has %d bytes that differ, %v", len(got), err)
	}
	put(data[1:])
	if _, err := s.Copy(t.Context(), "from", o.Version, "to2", underfs.Condition{}); !errors.Is(err, sluice.Changed) {
		t.Errorf("copy of a version that was replaced: %v, want kind changed", err)
	}
	if _, err := s.Copy(t.Context(), "from", "", "to", underfs.Condition{Absent: true}); !errors.Is(err, sluice.Exists) {
		t.Errorf("copy over something: %v, want kind exists", err)
	}
	left, err := s.core.ListMultipartUploads(t.Context(), "test", "", "", "", "", 10)
	if err != nil || len(left.Uploads) > 0 {
		t.Errorf("uploads left behind: %+v, %v", left.Uploads, err)
	}
}

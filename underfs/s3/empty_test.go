package s3_test

import (
	"bytes"
	"log"
	"os"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/test/s3server"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/s3"
)

// An empty object is written with nothing after its header: a server takes what follows
// for the next request, answers it with an error and closes the connection.
func TestEmptyObject(t *testing.T) {
	srv := s3server.New(t)
	if err := srv.Bucket("empty"); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	log.SetOutput(&said) // net/http tells of such answers there and nowhere else
	defer log.SetOutput(os.Stderr)
	b, err := s3.Driver{}.Baseline(underfs.Config{URI: "s3://empty", Properties: srv.Properties(), Secrets: srv.Secrets()})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := b.Put(t.Context(), "nothing", strings.NewReader(""), 0); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, srv, "s3://empty")
	for range 3 {
		w, err := s.Create(t.Context(), "nothing-either", underfs.CreateOptions{Length: -1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(t.Context(), underfs.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if strings.Contains(said.String(), "Unsolicited") {
		t.Errorf("the server was sent more than a request: %.300s", said.String())
	}
}

package underfs_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/test/s3server"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/local"
	"github.com/sluicefs/sluice/underfs/s3"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// What a baseline writes the driver reads, byte for byte: bench compares like with like.
func TestBaselines(t *testing.T) {
	srv := s3server.New(t)
	if err := srv.Bucket("bucket"); err != nil {
		t.Fatal(err)
	}
	r := underfs.NewRegistry(local.Driver{}, s3.Driver{}, &underfstest.Driver{})
	for _, cfg := range []underfs.Config{
		{URI: t.TempDir()},
		{URI: "s3://bucket/p", Properties: srv.Properties(), Secrets: srv.Secrets()},
		{URI: "mem://x"},
	} {
		b, err := r.Baseline(cfg)
		if err != nil {
			t.Fatal(err)
		}
		s, err := r.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		data := bytes.Repeat([]byte("0123456789"), 1_000_000)
		if err := b.Put(t.Context(), "o", bytes.NewReader(data), int64(len(data))); err != nil {
			t.Fatalf("%s: put: %v", cfg.URI, err)
		}
		o, err := s.Stat(t.Context(), "o")
		if err != nil || o.Length != int64(len(data)) {
			t.Errorf("%s: the driver sees %+v, %v", cfg.URI, o, err)
		}
		var got bytes.Buffer
		if n, err := b.Get(t.Context(), "o", &got); err != nil || n != int64(len(data)) || !bytes.Equal(got.Bytes(), data) {
			t.Errorf("%s: get: %d bytes, %v", cfg.URI, n, err)
		}
		if _, err := b.Get(t.Context(), "nothing", &got); !errors.Is(err, sluice.NotFound) {
			t.Errorf("%s: get of nothing: %v, want kind not found", cfg.URI, err)
		}
		if err := errors.Join(b.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	}
}

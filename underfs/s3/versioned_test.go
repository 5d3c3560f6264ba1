package s3_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/sluicefs/sluice/test/s3server"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// In a bucket that keeps every version the newest one is what is there: a deleted object
// is gone although its versions are not, and none of them is taken away.
func TestVersionedBucket(t *testing.T) {
	srv := s3server.New(t, "--versioning-dir", t.TempDir())
	if err := srv.Bucket("test"); err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	c, err := minio.New(srv.Address, &minio.Options{
		Creds: credentials.NewStaticV4(s3server.AccessKey, s3server.SecretKey, ""), Region: "us-east-1", BucketLookup: minio.BucketLookupPath, Transport: tr,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.EnableVersioning(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	// This server lets If-Match through over what was deleted, which the advice finds out.
	a := advice(t, open(t, srv, "s3://test/probe"))
	if a["conditional_writes"] != "false" {
		t.Errorf("advised %v", a)
	}
	n := 0
	underfstest.Run(t, func() underfs.Store {
		n++
		return open(t, srv, fmt.Sprintf("s3://test/run-%d", n), "part_size", "5242880", "sweep_uploads", "true", "conditional_writes", a["conditional_writes"])
	})
	s := open(t, srv, "s3://test/kept")
	for i := range 3 {
		if _, err := write(t, s, "o", []byte{byte(i)}, underfs.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(t.Context(), "o", underfs.Condition{}); err != nil {
		t.Fatal(err)
	}
	versions, markers := 0, 0
	for o := range c.ListObjects(t.Context(), "test", minio.ListObjectsOptions{Prefix: "kept/", Recursive: true, WithVersions: true}) {
		if o.IsDeleteMarker {
			markers++
		} else {
			versions++
		}
	}
	if versions != 3 || markers != 1 {
		t.Errorf("three writes and a delete left %d versions and %d delete markers, want 3 and 1", versions, markers)
	}
}

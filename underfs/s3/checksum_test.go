package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/test/s3server"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// flipping is a body in which one bit arrives otherwise.
type flipping struct {
	io.ReadCloser
	done bool
}

// Read implements io.Reader.
func (f *flipping) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if n > 0 && !f.done {
		f.done = true
		p[n/2] ^= 1
	}
	return n, err
}

// With CRC-32C the server refuses what was damaged on its way there, and the driver what
// was damaged on its way back.
func TestChecksumCRC32C(t *testing.T) {
	srv := start(t)
	n := 0
	for _, check := range []string{"sizes", "complete elsewhere", "ranges", "conditions of a commit", "copy"} {
		underfstest.Check(t, check, func() underfs.Store {
			n++
			return open(t, srv, fmt.Sprintf("s3://test/crc-%d", n), "part_size", "5242880", "checksum", "crc32c")
		})
	}
	target, err := url.Parse(srv.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	damage := "" // the method whose bodies are damaged
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
			if r.In.Method == damage && r.In.ContentLength > 0 {
				r.Out.Body = &flipping{ReadCloser: r.Out.Body}
			}
		},
		ModifyResponse: func(r *http.Response) error {
			if damage == http.MethodGet && r.Request.Method == damage {
				r.Body = &flipping{ReadCloser: r.Body}
			}
			return nil
		},
	})
	t.Cleanup(proxy.Close)
	s := openWith(t, &s3server.Server{Endpoint: proxy.URL}, "s3://test/damaged", srv.Secrets(), "checksum", "crc32c", "part_size", "5242880")
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	o, err := write(t, s, "o", data, underfs.Condition{Absent: true})
	if err != nil {
		t.Fatal(err)
	}
	read := func() ([]byte, error) {
		r, err := s.Read(t.Context(), underfs.ReadRequest{Key: "o", Version: o.Version, Length: o.Length})
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return io.ReadAll(r)
	}
	if got, err := read(); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read: %d bytes, %v", len(got), err)
	}
	damage = http.MethodGet
	if _, err := read(); !errors.Is(err, sluice.Corrupt) {
		t.Errorf("a damaged read: %v, want kind corrupt", err)
	}
	damage = http.MethodPut
	if _, err := write(t, s, "p", data, underfs.Condition{Absent: true}); !errors.Is(err, sluice.Unavailable) {
		t.Errorf("a damaged write: %v, want kind unavailable", err)
	}
	if _, err := write(t, s, "p", bytes.Repeat(data, 7), underfs.Condition{Absent: true}); err == nil {
		t.Error("a damaged part was taken")
	}
	damage = ""
	if _, err := s.Stat(t.Context(), "p"); !errors.Is(err, sluice.NotFound) {
		t.Errorf("after damaged writes: %v, want kind not found", err)
	}
}

package s3_test

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/test/s3server"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/s3"
)

// synthetic is an S3 endpoint that makes up its listings: keys as given, or n keys
// "many/00000000" and on. It answers nothing else.
type synthetic struct {
	keys     []string
	n        int
	requests atomic.Int64
}

// open starts the endpoint and opens a store on it.
func (h *synthetic) open(t *testing.T) underfs.Store {
	t.Helper()
	ts := httptest.NewServer(h)
	t.Cleanup(ts.Close)
	return openWith(t, &s3server.Server{Endpoint: ts.URL}, "s3://bucket", sluice.Secrets{"access_key": "a", "secret_key": "b"})
}

// openWith opens a store with secrets of its own.
func openWith(t *testing.T, srv *s3server.Server, uri string, secrets sluice.Secrets, properties ...string) underfs.Store {
	t.Helper()
	cfg := underfs.Config{URI: uri, Properties: srv.Properties(), Secrets: secrets}
	for i := 0; i+1 < len(properties); i += 2 {
		cfg.Properties[properties[i]] = properties[i+1]
	}
	s, err := s3.Driver{}.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// listing is the part of a ListBucketResult that clients read.
type listing struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	IsTruncated           bool
	NextContinuationToken string `xml:",omitempty"`
	EncodingType          string
	Contents              []entry
}

// entry is an object of a listing.
type entry struct {
	Key, LastModified, ETag, StorageClass string
	Size                                  int
}

// key returns the i-th key.
func (h *synthetic) key(i int) string {
	if h.n == 0 {
		return h.keys[i]
	}
	return fmt.Sprintf("many/%08d", i)
}

// ServeHTTP implements http.Handler.
func (h *synthetic) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.requests.Add(1)
	q := r.URL.Query()
	if q.Get("list-type") != "2" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	n := max(h.n, len(h.keys))
	first := 0
	if token := q.Get("continuation-token"); token != "" {
		first, _ = strconv.Atoi(token)
	} else if after := q.Get("start-after"); h.n > 0 && after != "" {
		i, _ := strconv.Atoi(strings.TrimPrefix(after, "many/"))
		first = i + 1
	} else if after != "" {
		i, found := slices.BinarySearch(h.keys, after)
		if first = i; found {
			first++
		}
	}
	limit, _ := strconv.Atoi(q.Get("max-keys"))
	l := listing{EncodingType: "url"}
	end := min(first+limit, n)
	for i := first; i < end; i++ {
		size := 1
		if strings.HasSuffix(h.key(i), "/") {
			size = 0
		}
		l.Contents = append(l.Contents, entry{
			Key: url.QueryEscape(h.key(i)), Size: size, ETag: `"` + strconv.Itoa(i) + `"`, StorageClass: "STANDARD",
			LastModified: time.Unix(int64(1_700_000_000+i), 0).UTC().Format(time.RFC3339),
		})
	}
	if end < n {
		l.IsTruncated, l.NextContinuationToken = true, strconv.Itoa(end)
	}
	_ = xml.NewEncoder(w).Encode(l)
}

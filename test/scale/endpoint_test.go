//go:build e2e

package scale

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// endpoint is an S3 endpoint whose bucket holds n empty objects "f00000000" and on. It
// makes up its listings and answers nothing else.
type endpoint struct{ n int }

// serve starts it and returns its address.
func (e endpoint) serve(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(e)
	t.Cleanup(s.Close)
	return s.URL
}

// listing is the part of a ListBucketResult that clients read.
type listing struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	IsTruncated           bool
	NextContinuationToken string `xml:",omitempty"`
	Contents              []object
}

// object is one of a listing.
type object struct {
	Key, LastModified, ETag, StorageClass string
	Size                                  int
}

func key(i int) string { return fmt.Sprintf("f%08d", i) }

// ServeHTTP implements http.Handler.
func (e endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	switch {
	case q.Has("location"):
		fmt.Fprint(w, `<LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>`)
		return
	case q.Get("list-type") != "2":
		w.WriteHeader(http.StatusNotFound)
		return
	}
	first := 0
	if token := q.Get("continuation-token"); token != "" {
		first, _ = strconv.Atoi(token)
	} else if after := q.Get("start-after"); after != "" {
		i, _ := strconv.Atoi(strings.TrimPrefix(after, "f"))
		first = i + 1
	}
	limit := 1000
	if n, err := strconv.Atoi(q.Get("max-keys")); err == nil && n > 0 {
		limit = min(n, 1000)
	}
	var l listing
	end := min(first+limit, e.n)
	for i := first; i < end; i++ {
		if !strings.HasPrefix(key(i), q.Get("prefix")) {
			continue
		}
		l.Contents = append(l.Contents, object{
			Key: key(i), Size: 1000, ETag: fmt.Sprintf(`"%032x"`, i), StorageClass: "STANDARD",
			LastModified: time.Unix(int64(1_700_000_000+i), 0).UTC().Format(time.RFC3339),
		})
	}
	if end < e.n && len(l.Contents) > 0 {
		l.IsTruncated, l.NextContinuationToken = true, strconv.Itoa(end)
	}
	_ = xml.NewEncoder(w).Encode(l)
}

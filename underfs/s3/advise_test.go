package s3_test

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/test/s3server"
	"github.com/sluicefs/sluice/underfs"
)

// dishonest is an endpoint with one object and a flaw.
type dishonest struct {
	flaw string // "", or what it does wrong

	mu    sync.Mutex
	there bool       // guarded by mu
	ready *sync.Cond // guarded by mu: of creates that wait for each other
	wait  int        // guarded by mu
}

// ServeHTTP implements http.Handler.
func (d *dishonest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	d.mu.Lock()
	defer d.mu.Unlock()
	conditional := r.Header.Get("If-None-Match")+r.Header.Get("If-Match") != ""
	w.Header().Set("ETag", `"e"`)
	switch {
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		w.Header().Set("Last-Modified", time.Unix(1_700_000_000, 0).UTC().Format(http.TimeFormat))
		if !d.there {
			w.WriteHeader(http.StatusNotFound)
		}
		return
	case r.URL.Query().Has("uploads"):
		fmt.Fprint(w, `<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>`)
		return
	case r.URL.Query().Has("partNumber"):
		return
	case r.Method == http.MethodDelete && r.URL.Query().Has("uploadId"):
		w.WriteHeader(http.StatusNoContent)
		return
	case d.flaw == "denied":
		fail(w, http.StatusForbidden, "AccessDenied")
		return
	case conditional && d.flaw == "knows none":
		fail(w, http.StatusNotImplemented, "NotImplemented")
		return
	}
	what := r.Method
	if r.URL.Query().Has("uploadId") {
		what = "complete"
	}
	absent := r.Header.Get("If-None-Match") == "*" && !d.there
	if d.flaw == "checks, then writes" && what == http.MethodPut && absent {
		d.wait++
		d.ready.Broadcast()
		for d.wait < 2 { // two looked before the first wrote
			d.ready.Wait()
		}
	}
	revives := d.flaw == "revives" && !d.there && r.Header.Get("If-Match") != ""
	if conditional && !absent && !revives && d.flaw != "ignores "+what {
		fail(w, http.StatusPreconditionFailed, "PreconditionFailed")
		return
	}
	switch what {
	case http.MethodDelete:
		d.there = false
		w.WriteHeader(http.StatusNoContent)
		return
	case "complete":
		fmt.Fprint(w, `<CompleteMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><ETag>"e"</ETag></CompleteMultipartUploadResult>`)
	}
	d.there = true
}

func fail(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	_ = xml.NewEncoder(w).Encode(struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
	}{Code: code})
}

// An endpoint that lets a change through whose condition does not hold, even if only when
// two come at once, is not trusted.
func TestAdvise(t *testing.T) {
	for flaw, want := range map[string]string{
		"": "", "denied": "",
		"ignores PUT": "false", "ignores complete": "false", "ignores DELETE": "false", "knows none": "false", "revives": "false", "checks, then writes": "false",
	} {
		t.Run(flaw, func(t *testing.T) {
			d := &dishonest{flaw: flaw}
			d.ready = sync.NewCond(&d.mu)
			ts := httptest.NewServer(d)
			t.Cleanup(ts.Close)
			srv, secrets := &s3server.Server{Endpoint: ts.URL}, sluice.Secrets{"access_key": "a", "secret_key": "b"}
			if got := advice(t, openWith(t, srv, "s3://bucket", secrets))["conditional_writes"]; got != want {
				t.Errorf("advised conditional_writes=%q, want %q", got, want)
			}
			if d.there {
				t.Error("the probe object was left behind")
			}
			for _, given := range []string{"true", "false"} {
				if a := advice(t, openWith(t, srv, "s3://bucket", secrets, "conditional_writes", given)); a != nil {
					t.Errorf("advised %v although the property was given", a)
				}
			}
		})
	}
}

// A good server is trusted, and keeps nothing of it.
func TestAdviseOfServer(t *testing.T) {
	srv := start(t)
	s := open(t, srv, "s3://test/p")
	if a := advice(t, s); len(a) > 0 {
		t.Errorf("advised %v", a)
	}
	page, err := s.List(t.Context(), underfs.ListRequest{Recursive: true})
	if err != nil || len(page.Objects) > 0 {
		t.Errorf("afterwards the bucket holds %+v, %v", page.Objects, err)
	}
}

func advice(t *testing.T, s underfs.Store) map[string]string {
	t.Helper()
	a, ok := underfs.As[underfs.Adviser](s)
	if !ok {
		t.Fatal("the driver advises nothing")
	}
	got, err := a.Advise(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

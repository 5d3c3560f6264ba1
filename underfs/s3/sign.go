package s3

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/signer"
)

// amended is what requests need beyond what minio-go signed: they are signed again.
type amended struct {
	creds   *credentials.Credentials
	region  string                 // that minio-go signs for
	pays    bool                   // the requester pays
	learned atomic.Pointer[string] // region in which a service said the bucket lies
	skew    atomic.Int64           // nanoseconds this machine's clock is ahead of the service's
}

// amend returns the request as the bucket wants it.
func (a *amended) amend(req *http.Request) (*http.Request, error) {
	region := a.learned.Load()
	if !a.pays && region == nil {
		return req, nil
	}
	signed := req.Clone(req.Context())
	if a.pays {
		signed.Header.Set("X-Amz-Request-Payer", "requester")
	}
	if region == nil {
		region = &a.region
	}
	if host := regional(signed.URL.Host, a.region, *region); host != signed.URL.Host {
		signed.URL.Host, signed.Host = host, host
	}
	if signed.Header.Get("Authorization") == "" || strings.HasPrefix(signed.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
		return signed, nil // anonymous; or signed chunk by chunk, from the first signature on
	}
	v, err := a.creds.GetWithContext(&credentials.CredContext{Client: http.DefaultClient})
	if err != nil {
		return nil, err
	}
	signed.Header.Del("Authorization")
	return signer.SignV4(*signed, v.AccessKeyID, v.SecretAccessKey, v.SessionToken, *region), nil
}

// regional returns the name of a host of Amazon's in another region, and any other name as
// it is.
func regional(host, from, to string) string {
	if from == to || !strings.HasSuffix(host, ".amazonaws.com") {
		return host
	}
	if strings.Contains(host, "."+from+".") {
		return strings.Replace(host, "."+from+".", "."+to+".", 1)
	}
	return strings.TrimSuffix(host, "s3.amazonaws.com") + "s3." + to + ".amazonaws.com"
}

// note learns from an answer, and says whether the same request is worth another try
// because the bucket lies in another region than was thought.
func (a *amended) note(resp *http.Response) bool {
	if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		a.skew.Store(int64(time.Since(t)))
	}
	region := resp.Header.Get("X-Amz-Bucket-Region")
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusBadRequest:
	default:
		return false
	}
	known := a.region
	if p := a.learned.Load(); p != nil {
		known = *p
	}
	if region == "" || region == known {
		return false
	}
	a.learned.Store(&region)
	return true
}

// drift says how far this machine's clock is from the service's.
func (a *amended) drift() string {
	d := time.Duration(a.skew.Load()).Round(time.Second)
	switch {
	case d > 0:
		return "this machine's clock is " + d.String() + " ahead of the service's; set it"
	case d < 0:
		return "this machine's clock is " + (-d).String() + " behind the service's; set it"
	}
	return "set this machine's clock"
}

// drain reads a little of an answer that is of no interest, to keep the connection.
func drain(r io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, r, 64<<10)
	r.Close()
}

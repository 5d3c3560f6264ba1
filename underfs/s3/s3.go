// Package s3 is the driver of S3 and of what speaks its protocol, over minio-go's Core.
// It sends no request that is not needed: a read is one GET, a stat one HEAD (and one LIST
// where the key could be a directory), a small write one PUT and the HEAD that learns the
// time the store gave it.
//
// A version is ETag, length and Last-Modified to the second: what a listing and a HEAD both
// tell (version ids do not appear in listings, so they are not part of it). Every read
// names the ETag (If-Match), and every change that expects something names it
// (If-Match, If-None-Match: *, x-amz-copy-source-if-match). Two equal contents written
// within one second have one version: there is nothing to tell apart.
//
// It retries nothing except the parts of an upload, keeps no cache, and never touches an
// object it was not asked to.
package s3

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// Driver makes stores of the scheme "s3".
type Driver struct{}

// Schemes returns "s3".
func (Driver) Schemes() []string { return []string{"s3"} }

// Settings describes the properties and secrets.
func (Driver) Settings() []underfs.Setting {
	return []underfs.Setting{
		{Name: "endpoint", Help: "URL or host:port of the service; Amazon's own where it is empty"},
		{Name: "region", Help: "region that requests are signed for; else AWS_REGION, else us-east-1"},
		{Name: "path_style", Default: "auto", Help: "true: the bucket stands in the path, false: in the host name, auto: in the host name for Amazon only"},
		{Name: "insecure", Default: "false", Help: "true: plain HTTP where the endpoint has no scheme"},
		{Name: "ca_file", Help: "file of PEM certificates to trust besides the system's"},
		{Name: "profile", Help: "profile of ~/.aws/config and ~/.aws/credentials, where no access_key is given; else AWS_PROFILE"},
		{Name: "instance_role", Default: "false", Help: "true: ask the cloud's metadata service for credentials where there are no others"},
		{Name: "anonymous", Default: "false", Help: "true: requests are not signed, whatever credentials the environment has"},
		{Name: "requester_pays", Default: "false", Help: "true: the bucket belongs to somebody else and you pay for requests and transfer"},
		{Name: "storage_class", Help: "class of objects written, such as STANDARD_IA; the bucket's default where it is empty"},
		{Name: "part_size", Default: "8388608", Help: "bytes of a part of a large upload, and the length up to which a content is one PUT; 5 MiB to 1 GiB"},
		{Name: "checksum", Default: "auto", Help: "sha256: every body sent is hashed, crc32c: sent with its CRC-32C (cheaper), and whole objects that have one are verified as they are read, none: never, auto: sha256 over plain HTTP only"},
		{Name: "conditional_writes", Default: "true", Help: "false: the endpoint ignores If-Match or If-None-Match on writes; the driver then looks first, and a window remains. Where it is not given, a mount that takes writes tries the endpoint and sets it"},
		{Name: "sweep_uploads", Default: "false", Help: "true: nobody but Sluice uploads below this prefix, so that abandoned multipart uploads there may be aborted; else give the bucket a lifecycle rule that does it"},
		{Name: "access_key", Help: "access key id; without one the environment and ~/.aws are asked", Secret: true},
		{Name: "secret_key", Help: "secret access key", Secret: true},
		{Name: "session_token", Help: "token of temporary credentials", Secret: true},
	}
}

// Limits of part_size, in bytes: S3's least part, and what memory allows.
const (
	minPart     = 5 << 20
	maxPart     = 1 << 30
	defaultPart = 8 << 20
)

// settings are a Config that was read and checked.
type settings struct {
	bucket, prefix string // prefix is "" or ends in "/"
	host           string
	secure         bool
	region         string
	lookup         minio.BucketLookupType
	caFile         string
	class          string
	pays           bool
	part           int64
	hash           bool // hash bodies
	crc            bool // send and verify CRC-32C
	conditional    bool // writes honour conditions
	told           bool // conditional is what the mount says
	sweep          bool
	creds          *credentials.Credentials
	concurrent     int
	timeout        time.Duration
}

// Store is a bucket or a prefix of one.
type Store struct {
	settings
	transport *transport
	core      *minio.Core // one try for each call
	parts     *minio.Core // several tries: a part is in memory and replaces itself
	closed    atomic.Bool

	maxCopy, copyStep int64 // as the constants say, but in tests

	mu   sync.Mutex
	open map[string]string // guarded by mu; upload id to object name, of uploads under way here
}

// Open makes a store of s3://bucket/prefix. Nothing is asked of the network.
func (Driver) Open(cfg underfs.Config) (underfs.Store, error) {
	set, err := read(cfg)
	if err != nil {
		return nil, err
	}
	return newStore(set)
}

// newStore makes the clients.
func newStore(set settings) (*Store, error) {
	tr, err := newTransport(set)
	if err != nil {
		return nil, err
	}
	s := &Store{settings: set, transport: tr, maxCopy: maxCopy, copyStep: copyStep, open: make(map[string]string)}
	if s.core, err = s.client(tr, 1); err != nil {
		return nil, err
	}
	if s.parts, err = s.client(tr, 4); err != nil {
		return nil, err
	}
	return s, nil
}

// client makes a minio client over tr that tries a request so many times.
func (s *settings) client(tr http.RoundTripper, tries int) (*minio.Core, error) {
	c, err := minio.NewCore(s.host, &minio.Options{
		Creds: s.creds, Secure: s.secure, Transport: tr, Region: s.region, BucketLookup: s.lookup, MaxRetries: tries,
	})
	if err != nil {
		return nil, invalid("endpoint %q: %w", s.host, err)
	}
	c.SetAppInfo("sluice", "1")
	return c, nil
}

// read checks cfg.
func read(cfg underfs.Config) (settings, error) {
	var set settings
	u, err := url.Parse(cfg.URI)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return set, invalid("%q is not s3://bucket/prefix (credentials are secrets of the mount, never part of the URI)", u.Redacted())
	}
	set.bucket, set.prefix = u.Host, strings.TrimPrefix(u.Path, "/")
	if set.prefix != "" && !strings.HasSuffix(set.prefix, "/") {
		set.prefix += "/"
	}
	if err := s3utils.CheckValidBucketName(set.bucket); err != nil {
		return set, invalid("bucket %q: %w", set.bucket, err)
	}
	p := properties(cfg.Properties)
	insecure := p.boolean("insecure", false, &err)
	if err != nil {
		return set, err
	}
	if set.host, set.secure, err = endpoint(p["endpoint"], insecure); err != nil {
		return set, err
	}
	set.region = cmp.Or(p["region"], os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"), "us-east-1")
	switch p["path_style"] {
	case "", "auto":
		set.lookup = minio.BucketLookupAuto
	case "true":
		set.lookup = minio.BucketLookupPath
	case "false":
		set.lookup = minio.BucketLookupDNS
	default:
		return set, invalid("property path_style is true, false or auto, not %q", p["path_style"])
	}
	switch p["checksum"] {
	case "", "auto":
		set.hash = !set.secure
	case "sha256":
		set.hash = true
	case "crc32c":
		set.crc = true
	case "none":
	default:
		return set, invalid("property checksum is auto, sha256, crc32c or none, not %q", p["checksum"])
	}
	set.part = defaultPart
	if v := p["part_size"]; v != "" {
		n, perr := strconv.ParseInt(v, 10, 64)
		if perr != nil || n < minPart || n > maxPart {
			return set, invalid("property part_size is a number of bytes from %d to %d, not %q", minPart, maxPart, v)
		}
		set.part = n
	}
	set.conditional, set.told = p.boolean("conditional_writes", true, &err), p["conditional_writes"] != ""
	set.sweep = p.boolean("sweep_uploads", false, &err)
	set.caFile, set.class = p["ca_file"], p["storage_class"]
	role, anonymous := p.boolean("instance_role", false, &err), p.boolean("anonymous", false, &err)
	set.pays = p.boolean("requester_pays", false, &err)
	if err != nil {
		return set, err
	}
	set.concurrent = cmp.Or(cfg.Options.Concurrent, 64)
	set.timeout = cmp.Or(cfg.Options.Timeout, 30*time.Second)
	if anonymous && (len(cfg.Secrets) > 0 || set.pays) {
		return set, invalid("property anonymous goes with no secrets, and not with requester_pays")
	}
	if anonymous {
		set.creds = credentials.NewStatic("", "", "", credentials.SignatureAnonymous)
		return set, nil
	}
	set.creds, err = chain(cfg.Secrets, p["profile"], role)
	return set, err
}

// properties reads a mount's settings.
type properties map[string]string

// boolean returns a property that is true or false, and keeps the first complaint in err.
func (p properties) boolean(name string, without bool, err *error) bool {
	switch v := p[name]; v {
	case "":
		return without
	case "true", "false":
		return v == "true"
	default:
		if *err == nil {
			*err = invalid("property %s is true or false, not %q", name, v)
		}
		return without
	}
}

// endpoint returns host and port of an endpoint, and whether TLS is spoken there.
func endpoint(s string, insecure bool) (host string, secure bool, err error) {
	if s == "" {
		return "s3.amazonaws.com", true, nil
	}
	if !strings.Contains(s, "://") {
		return strings.TrimSuffix(s, "/"), !insecure, nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return "", false, invalid("property endpoint is host:port or http(s)://host:port, which it is not")
	}
	return u.Host, u.Scheme == "https", nil
}

// chain returns the credentials: those given, else those of the environment, the files
// and, where it is asked for, the machine. Without any, requests are anonymous.
func chain(secrets sluice.Secrets, profile string, role bool) (*credentials.Credentials, error) {
	id, key := secrets["access_key"], secrets["secret_key"]
	if (id == "") != (key == "") {
		return nil, invalid("secrets access_key and secret_key are given together or not at all")
	}
	if id != "" {
		return credentials.NewStaticV4(id, key, secrets["session_token"]), nil
	}
	providers := []credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{Profile: profile}}
	if profile != "" { // named on purpose: it goes before the environment
		providers[0], providers[1] = providers[1], providers[0]
	}
	if role {
		providers = append(providers, &credentials.IAM{})
	}
	return credentials.NewChainCredentials(providers), nil
}

// invalid makes an error about settings.
func invalid(format string, args ...any) error {
	return underfs.Fail("open store", "", sluice.Invalid, fmt.Errorf(format, args...))
}

// Features implements underfs.Store.
func (s *Store) Features() underfs.Features {
	return underfs.Features{
		Conditional:    true,
		CreateIfAbsent: s.conditional,
		ReplaceIf:      s.conditional,
		SmallUpload:    s.part,
		PartSize:       s.part,
	}
}

// Close implements underfs.Store. Uploads that nobody ended are aborted, within a few
// seconds; connections are closed.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.mu.Lock()
	left := s.open
	s.open = nil
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for id, object := range left {
		_ = s.parts.AbortMultipartUpload(ctx, s.bucket, object, id)
	}
	s.transport.base.CloseIdleConnections()
	return nil
}

// begin refuses calls of a closed store, of a context that has ended, and of keys that are
// no paths.
func (s *Store) begin(ctx context.Context, op string, key underfs.Key) error {
	if s.closed.Load() {
		return underfs.Failf(op, key, sluice.Invalid, "the store is closed")
	}
	if !underfs.ValidKey(key) { // some services clean "a//b" to "a/b", another object
		return underfs.Failf(op, key, sluice.Invalid, "the key is no path")
	}
	if key != "" && s3utils.CheckValidObjectName(s.object(key)) != nil {
		return underfs.Failf(op, key, sluice.Invalid, "S3 takes no key of %d bytes", len(s.object(key)))
	}
	return underfs.Fail(op, key, sluice.Unavailable, ctx.Err())
}

// object returns the object name of key.
func (s *Store) object(key underfs.Key) string { return s.prefix + string(key) }

// The optional capabilities of S3.
var (
	_ underfs.Store       = (*Store)(nil)
	_ underfs.Completer   = (*Store)(nil)
	_ underfs.Copier      = (*Store)(nil)
	_ underfs.Directories = (*Store)(nil)
	_ underfs.Sweeper     = (*Store)(nil)
	_ underfs.Prober      = (*Store)(nil)
)

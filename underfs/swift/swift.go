// Package swift is the driver of OpenStack Swift. It signs in with the library
// ncw/swift (auth v1, v2, v3) and speaks plain HTTP from there on, so that a body has no
// goroutine between it and the connection, and nothing is repeated behind our back.
//
// A version is ETag, length and Last-Modified to the second. Listings tell all three for
// objects and static large objects; an empty object in a listing may be a dynamic large
// object, whose length only a HEAD tells, so that each is asked for. Every read names the
// ETag (If-Match, which Swift honours for all three sorts).
//
// Swift has no compare-and-swap: a PUT and a DELETE ignore If-Match, and If-None-Match: *
// is decided by each object server for itself. A change that expects a version therefore
// looks first (X-Newest, so that every replica is asked) and a window of one round trip
// remains, in which another writer's change is lost; so does a copy that expects nothing
// at its target. What one cluster of Sluice does is ordered by its journal, and a new
// primary waits out the attempts of the old one, so that the window concerns writers who
// go to the store directly. Features say so: neither CreateIfAbsent nor ReplaceIf.
//
// A copy may be behind others: what is not found, or found to be another version, is
// asked for again with X-Newest before the driver says so.
//
// Large contents are static large objects. Their segments lie in a companion container,
// and segments.go says when they may go. The driver deletes no segment it did not write:
// of somebody else's large object a delete removes the manifest alone.
package swift

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	api "github.com/ncw/swift/v2"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// Driver makes stores of the scheme "swift".
type Driver struct{}

// Schemes returns "swift".
func (Driver) Schemes() []string { return []string{"swift"} }

// Settings describes the properties and secrets.
func (Driver) Settings() []underfs.Setting {
	return []underfs.Setting{
		{Name: "auth_url", Help: "where tokens are given, such as https://keystone:5000/v3; where it is empty, OS_* and ST_* of the environment say everything about signing in"},
		{Name: "auth_version", Default: "auto", Help: "1, 2 or 3; auto: by the auth_url"},
		{Name: "user", Help: "user's name; for version 1 account:user"},
		{Name: "user_domain", Help: "domain of the user by its name (version 3)"},
		{Name: "user_domain_id", Help: "domain of the user by its id"},
		{Name: "project", Help: "project or tenant (versions 2 and 3)"},
		{Name: "project_id", Help: "the project by its id"},
		{Name: "project_domain", Help: "domain of the project by its name, where it is not the user's"},
		{Name: "project_domain_id", Help: "domain of the project by its id"},
		{Name: "application_credential", Help: "id of an application credential, instead of a user (version 3)"},
		{Name: "region", Help: "region of the catalog; then a dot in the URI belongs to the container's name"},
		{Name: "endpoint_type", Default: "public", Help: "public, internal or admin: which address of the catalog"},
		{Name: "storage_url", Help: "address of the account, in place of the one that comes with the token"},
		{Name: "ca_file", Help: "file of PEM certificates to trust besides the system's"},
		{Name: "segments", Help: "container of the segments of large objects; CONTAINER_segments where it is empty. It is made when it is needed"},
		{Name: "part_size", Default: "16777216", Help: "bytes of a segment, and the length up to which a content is one PUT; 1 MiB to 512 MiB, at most the cluster's max_file_size"},
		{Name: "checksum", Default: "md5", Help: "md5: every body sent is hashed and the cluster refuses a damaged one; none: not hashed"},
		{Name: "dynamic_large_objects", Default: "true", Help: "false: there are none, so that empty objects in a listing need no further look"},
		{Name: "key", Help: "password or key of the user", Secret: true},
		{Name: "application_credential_secret", Help: "secret of the application credential", Secret: true},
	}
}

// Limits of part_size in bytes, and of the segments of one object.
const (
	minPart     = 1 << 20
	maxPart     = 512 << 20
	defaultPart = 16 << 20
	maxSegments = 1000 // Swift's own bound, where an operator did not move it
)

// settings are a Config that was read and checked.
type settings struct {
	container, prefix string // prefix is "" or ends in "/"
	segments          string
	storage           *url.URL // nil: the token tells
	caFile            string
	part              int64
	hash              bool
	dynamic           bool
	readOnly          bool
	concurrent        int
	timeout           time.Duration
	sign              func(*api.Connection) // sets who signs in where
}

// Store is a container or a prefix of one.
type Store struct {
	settings
	session *session
	closed  atomic.Bool

	mu   sync.Mutex
	made bool // guarded by mu; the companion container is known to be there
}

// Open makes a store of swift://container[.region]/prefix. Nothing is asked of the network.
func (Driver) Open(cfg underfs.Config) (underfs.Store, error) {
	set, err := read(cfg)
	if err != nil {
		return nil, err
	}
	return newStore(set)
}

func newStore(set settings) (*Store, error) {
	session, err := newSession(set)
	if err != nil {
		return nil, err
	}
	return &Store{settings: set, session: session}, nil
}

// read checks cfg.
func read(cfg underfs.Config) (settings, error) {
	p := cfg.Properties
	set := settings{readOnly: cfg.Options.ReadOnly, caFile: p["ca_file"], hash: true, dynamic: true}
	region, err := set.place(cfg.URI, p["region"])
	if err != nil {
		return set, err
	}
	set.segments = cmp.Or(p["segments"], set.container+"_segments")
	if strings.Contains(set.segments, "/") || set.segments == set.container {
		return set, invalid("property segments is the name of another container, not %q", set.segments)
	}
	if v := p["storage_url"]; v != "" {
		u, err := url.Parse(v)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
			return set, invalid("property storage_url is http(s)://host:port/v1/account, which it is not")
		}
		u.Path, u.RawQuery = strings.TrimSuffix(u.Path, "/"), ""
		set.storage = u
	}
	set.part = defaultPart
	if v := p["part_size"]; v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < minPart || n > maxPart {
			return set, invalid("property part_size is a number of bytes from %d to %d, not %q", minPart, maxPart, v)
		}
		set.part = n
	}
	switch v := p["checksum"]; v {
	case "", "md5":
	case "none":
		set.hash = false
	default:
		return set, invalid("property checksum is md5 or none, not %q", v)
	}
	switch v := p["dynamic_large_objects"]; v {
	case "", "true":
	case "false":
		set.dynamic = false
	default:
		return set, invalid("property dynamic_large_objects is true or false, not %q", v)
	}
	set.concurrent = cmp.Or(cfg.Options.Concurrent, 64)
	set.timeout = cmp.Or(cfg.Options.Timeout, 30*time.Second)
	set.sign, err = signing(p, cfg.Secrets, region)
	return set, err
}

// place takes a URI apart. Of container.region the region stands behind the last dot,
// unless a property says it.
func (set *settings) place(uri, region string) (string, error) {
	rest, ok := strings.CutPrefix(uri, "swift://")
	host, path, _ := strings.Cut(rest, "/")
	if !ok || host == "" || strings.ContainsAny(host, "@?#") {
		return "", invalid("a store of Swift is swift://container[.region]/prefix (credentials are secrets of the mount, never part of the URI)")
	}
	set.container, set.prefix = host, path
	if i := strings.LastIndexByte(host, '.'); i > 0 && region == "" {
		set.container, region = host[:i], host[i+1:]
	}
	if len(set.container) > 256 {
		return "", invalid("a container's name has at most 256 bytes")
	}
	if set.prefix != "" && !strings.HasSuffix(set.prefix, "/") {
		set.prefix += "/"
	}
	return region, nil
}

// signing returns what sets the library up to sign in.
func signing(p map[string]string, secrets sluice.Secrets, region string) (func(*api.Connection), error) {
	version := 0
	switch v := p["auth_version"]; v {
	case "", "auto":
		if u := p["auth_url"]; u != "" && !strings.Contains(u, "v1") && !strings.Contains(u, "v2") && !strings.Contains(u, "v3") {
			return nil, invalid("property auth_version is 1, 2 or 3 where auth_url does not tell")
		}
	case "1", "2", "3":
		version = int(v[0] - '0')
	default:
		return nil, invalid("property auth_version is 1, 2, 3 or auto, not %q", v)
	}
	switch v := p["endpoint_type"]; v {
	case "", "public", "internal", "admin":
	default:
		return nil, invalid("property endpoint_type is public, internal or admin, not %q", v)
	}
	if p["auth_url"] == "" {
		if os.Getenv("OS_AUTH_URL") == "" && os.Getenv("ST_AUTH") == "" {
			return nil, invalid("property auth_url says where to sign in (or OS_AUTH_URL or ST_AUTH of the environment)")
		}
		if err := new(api.Connection).ApplyEnvironment(); err != nil {
			return nil, invalid("the environment: %w", err)
		}
	} else if u, err := url.Parse(p["auth_url"]); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, invalid("property auth_url is http(s)://host:port/version, which it is not")
	}
	application := p["application_credential"] != ""
	switch {
	case application != (secrets["application_credential_secret"] != ""):
		return nil, invalid("property application_credential and secret application_credential_secret are given together or not at all")
	case p["auth_url"] != "" && !application && (p["user"] == "" || secrets["key"] == ""):
		return nil, invalid("give property user and secret key, or an application credential")
	}
	return func(conn *api.Connection) {
		conn.AuthVersion, conn.Region, conn.EndpointType = version, region, api.EndpointType(p["endpoint_type"])
		conn.AuthUrl, conn.UserName, conn.ApiKey = p["auth_url"], p["user"], secrets["key"]
		conn.Domain, conn.TenantDomain = p["user_domain"], p["project_domain"]
		conn.DomainId, conn.TenantDomainId = p["user_domain_id"], p["project_domain_id"]
		conn.Tenant, conn.TenantId = p["project"], p["project_id"]
		conn.ApplicationCredentialId, conn.ApplicationCredentialSecret = p["application_credential"], secrets["application_credential_secret"]
		if conn.AuthUrl == "" {
			_ = conn.ApplyEnvironment() // was tried above
			conn.StorageUrl, conn.AuthToken = "", ""
		}
	}, nil
}

// invalid makes an error about settings.
func invalid(format string, args ...any) error {
	return underfs.Fail("open store", "", sluice.Invalid, fmt.Errorf(format, args...))
}

// Features implements underfs.Store.
func (s *Store) Features() underfs.Features {
	return underfs.Features{Conditional: true, LateListings: true, SmallUpload: s.part, PartSize: 8 << 20}
}

// Close implements underfs.Store. What uploads under way have sent stays for Sweep.
func (s *Store) Close() error {
	if !s.closed.Swap(true) {
		s.session.close()
	}
	return nil
}

// maxName is the longest name of an object, in bytes.
const maxName = 1024

// begin refuses calls of a closed store, of a context that has ended, and of keys that are
// no paths.
func (s *Store) begin(ctx context.Context, op string, key underfs.Key) error {
	switch {
	case s.closed.Load():
		return underfs.Failf(op, key, sluice.Invalid, "the store is closed")
	case !underfs.ValidKey(key):
		return underfs.Failf(op, key, sluice.Invalid, "the key is no path")
	case len(s.object(key)) > maxName:
		return underfs.Failf(op, key, sluice.Invalid, "Swift takes no name of %d bytes", len(s.object(key)))
	}
	return underfs.Fail(op, key, sluice.Unavailable, ctx.Err())
}

// object returns the object name of key.
func (s *Store) object(key underfs.Key) string { return s.prefix + string(key) }

// The optional capabilities of Swift.
var (
	_ underfs.Store       = (*Store)(nil)
	_ underfs.Completer   = (*Store)(nil)
	_ underfs.Copier      = (*Store)(nil)
	_ underfs.Directories = (*Store)(nil)
	_ underfs.Sweeper     = (*Store)(nil)
	_ underfs.Prober      = (*Store)(nil)
)

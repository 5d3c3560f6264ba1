package swift

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// Metadata of objects of ours.
const (
	tagHeader    = "X-Object-Meta-Sluice-Tag"
	uploadHeader = "X-Object-Meta-Sluice-Upload" // of a large object: whose segments it names
)

// versionOf builds a version; an empty ETag is none.
func versionOf(etag string, length int64, modified time.Time) sluice.Version {
	if etag == "" {
		return ""
	}
	return sluice.Version(etag + " " + strconv.FormatInt(length, 10) + " " + strconv.FormatInt(modified.Unix(), 10))
}

// parse takes a version apart.
func parse(v sluice.Version) (etag string, length, modified int64, ok bool) {
	parts := strings.Split(string(v), " ")
	if len(parts) != 3 {
		return "", 0, 0, false
	}
	length, err1 := strconv.ParseInt(parts[1], 10, 64)
	modified, err2 := strconv.ParseInt(parts[2], 10, 64)
	return parts[0], length, modified, err1 == nil && err2 == nil && parts[0] != ""
}

// errVersion is what is found in place of an expected version.
var errVersion = errors.New("another version lies there")

// unquote returns an ETag without the quotes that Swift gives to large objects' only.
func unquote(etag string) string { return strings.Trim(etag, `"`) }

// found is an object and how it is stored.
type found struct {
	underfs.Object
	static, dynamic bool
	upload          string // whose segments a manifest of ours names
	manifest        string // ETag of the manifest of a static large object
}

// head describes an object. newest asks every replica and takes the newest.
func (s *Store) head(ctx context.Context, op string, key underfs.Key, newest bool) (found, error) {
	h, err := s.headName(ctx, s.object(key), newest)
	if err != nil {
		return found{}, s.fail(op, key, err)
	}
	return s.describe(op, key, h)
}

// headName asks for the header of any object of the container.
func (s *Store) headName(ctx context.Context, name string, newest bool) (http.Header, error) {
	r := request{method: http.MethodHead, container: s.container, object: name}
	if newest {
		r.header = []string{"X-Newest", "true"}
	}
	return s.session.call(ctx, r)
}

// describe reads the header of an object.
func (s *Store) describe(op string, key underfs.Key, h http.Header) (found, error) {
	f := found{upload: h.Get(uploadHeader), manifest: h.Get("X-Manifest-Etag")}
	f.static, f.dynamic = strings.EqualFold(h.Get("X-Static-Large-Object"), "true"), h.Get("X-Object-Manifest") != ""
	length, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
	if err != nil && f.dynamic {
		return found{}, underfs.Failf(op, key, sluice.Unsupported, "a dynamic large object of so many segments has no length; store it as a static one")
	}
	modified, err2 := http.ParseTime(h.Get("Last-Modified"))
	if err != nil || err2 != nil {
		return found{}, underfs.Failf(op, key, sluice.Unavailable, "the store's answer has no length or time")
	}
	f.Object = underfs.Object{
		Key: key, Length: length, Mtime: modified, Tag: h.Get(tagHeader),
		Version: versionOf(unquote(h.Get("Etag")), length, modified),
	}
	if strings.HasSuffix(string(key), "/") {
		f.Marker, f.Dir = true, length == 0
	}
	return f, nil
}

// Stat implements underfs.Store: a HEAD, and where that finds nothing a listing of one
// name below, because the key could be a directory. Where there is nothing either, every
// replica is asked before it is said. A key that ends in "/" costs the listing only.
func (s *Store) Stat(ctx context.Context, key underfs.Key) (underfs.Object, error) {
	if err := s.begin(ctx, "stat", key); err != nil {
		return underfs.Object{}, err
	}
	if key == "" {
		return underfs.Object{Dir: true}, nil
	}
	file := !strings.HasSuffix(string(key), "/")
	if file {
		f, err := s.head(ctx, "stat", key, false)
		if err == nil || !errors.Is(err, sluice.NotFound) {
			return f.Object, err
		}
	}
	dir := underfs.Key(strings.TrimSuffix(string(key), "/") + "/")
	rows, err := s.rows(ctx, url.Values{"prefix": {s.object(dir)}, "limit": {"1"}})
	switch {
	case err != nil:
		return underfs.Object{}, s.fail("stat", key, err)
	case len(rows) > 0 && rows[0].Name == s.object(dir) && rows[0].Bytes == 0:
		return rows[0].object(dir), nil
	case len(rows) > 0:
		return underfs.Object{Key: dir, Dir: true}, nil
	case !file:
		return underfs.Object{}, underfs.Failf("stat", key[:len(key)-1], sluice.NotFound, "nothing lies below it")
	}
	f, err := s.head(ctx, "stat", key, true)
	return f.Object, err
}

// Read implements underfs.Store: one GET, and another with X-Newest where the first finds
// nothing or another version.
func (s *Store) Read(ctx context.Context, req underfs.ReadRequest) (io.ReadCloser, error) {
	if err := s.begin(ctx, "read", req.Key); err != nil {
		return nil, err
	}
	if req.Offset < 0 || req.Length <= 0 {
		return nil, underfs.Failf("read", req.Key, sluice.Invalid, "the range %d+%d is none", req.Offset, req.Length)
	}
	header := []string{"Range", fmt.Sprintf("bytes=%d-%d", req.Offset, req.Offset+req.Length-1)}
	var length, modified int64 = -1, -1
	if req.Version != "" {
		etag, l, m, ok := parse(req.Version)
		if !ok {
			return nil, underfs.Fail("read", req.Key, sluice.Changed, errVersion)
		}
		if req.Length > l-req.Offset {
			return nil, underfs.Failf("read", req.Key, sluice.Changed, "bytes %d+%d were asked of an object of %d", req.Offset, req.Length, l)
		}
		length, modified = l, m
		header = append(header, "If-Match", `"`+etag+`"`)
	}
	body, err := s.get(ctx, req, header, length, modified)
	if errors.Is(err, sluice.NotFound) || errors.Is(err, sluice.Changed) {
		body, err = s.get(ctx, req, append(header, "X-Newest", "true"), length, modified)
	}
	if err != nil {
		return nil, err
	}
	return body, nil
}

// get sends one GET and compares what is answered with what was asked for.
func (s *Store) get(ctx context.Context, req underfs.ReadRequest, header []string, length, modified int64) (*reader, error) {
	resp, err := s.session.do(ctx, request{method: http.MethodGet, container: s.container, object: s.object(req.Key), header: header})
	if e, ok := errors.AsType[*statusError](err); ok && e.status == http.StatusConflict {
		return nil, underfs.Failf("read", req.Key, sluice.Unavailable, "a segment of the large object is missing or does not fit its manifest: %w", err)
	}
	if err != nil {
		return nil, s.fail("read", req.Key, err)
	}
	total, ok := totalLength(resp.Header.Get("Content-Range"), resp.ContentLength)
	when, timeErr := http.ParseTime(resp.Header.Get("Last-Modified"))
	switch {
	case !ok || resp.ContentLength != min(req.Length, total-req.Offset):
		err = underfs.Failf("read", req.Key, sluice.Unavailable, "the store answered with another range (%q)", resp.Header.Get("Content-Range"))
	case resp.ContentLength != req.Length, length >= 0 && total != length, modified >= 0 && (timeErr != nil || when.Unix() != modified):
		err = underfs.Failf("read", req.Key, sluice.Changed, "the object was replaced: it has %d bytes", total)
	default:
		return &reader{s: s, key: req.Key, body: resp.Body, left: req.Length}, nil
	}
	resp.Body.Close()
	return nil, err
}

// totalLength returns the object's length from a Content-Range, or where the answer has
// none (it is the whole object) the content's.
func totalLength(contentRange string, size int64) (int64, bool) {
	if contentRange == "" {
		return size, true
	}
	_, t, ok := strings.Cut(contentRange, "/")
	n, err := strconv.ParseInt(t, 10, 64)
	return n, ok && err == nil
}

// reader counts a body: an early end is an error.
type reader struct {
	s    *Store
	key  underfs.Key
	body io.ReadCloser
	left int64
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	switch {
	case r.left == 0:
		return n, nil
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, r.s.fail("read", r.key, err)
}

// Close implements io.Closer.
func (r *reader) Close() error {
	if r.left == 0 {
		_, _ = r.body.Read(make([]byte, 1)) // the end, which gives the connection back
	}
	return r.body.Close()
}

// row is a line of a listing.
type row struct {
	Name, Hash   string
	Subdir       string
	Bytes        int64
	LastModified string `json:"last_modified"`
	ContentType  string `json:"content_type"`
	SLOEtag      string `json:"slo_etag"`
}

// modified is the time that a HEAD tells: to the second, rounded up.
func (r row) modified() time.Time {
	t, err := time.Parse("2006-01-02T15:04:05", r.LastModified) // takes fractions too
	if err != nil {
		return time.Time{}
	}
	if whole := t.Truncate(time.Second); !whole.Equal(t) {
		t = whole.Add(time.Second)
	}
	return t
}

// object describes the row's object.
func (r row) object(key underfs.Key) underfs.Object {
	o := underfs.Object{Key: key, Length: r.Bytes, Mtime: r.modified()}
	o.Version = versionOf(unquote(cmp.Or(r.SLOEtag, r.Hash)), r.Bytes, o.Mtime)
	if strings.HasSuffix(string(key), "/") {
		o.Marker, o.Dir = true, r.Bytes == 0
	}
	return o
}

// rows asks for a page of the container.
func (s *Store) rows(ctx context.Context, query url.Values) ([]row, error) {
	return s.rowsOf(ctx, s.container, query)
}

// pageBytes bounds the answer of a listing: 1,000 names of 1,024 bytes, and what belongs to
// them, with room for escapes.
const pageBytes = 32 << 20

func (s *Store) rowsOf(ctx context.Context, container string, query url.Values) ([]row, error) {
	query.Set("format", "json")
	b, err := s.session.fetch(ctx, request{method: http.MethodGet, container: container, query: query}, pageBytes)
	if err != nil || len(b) == 0 {
		return nil, err
	}
	var rows []row
	return rows, json.Unmarshal(b, &rows)
}

// List implements underfs.Store: one GET of the container for a page of up to 1,000, and a
// HEAD for each empty object, which may be a dynamic large one. One of those that has more
// segments than Swift counts has no length and is left out.
func (s *Store) List(ctx context.Context, req underfs.ListRequest) (underfs.ListPage, error) {
	if err := s.begin(ctx, "list", req.Prefix); err != nil {
		return underfs.ListPage{}, err
	}
	if req.Prefix != "" && !strings.HasSuffix(string(req.Prefix), "/") {
		return underfs.ListPage{}, underfs.Failf("list", req.Prefix, sluice.Invalid, "a prefix ends in a slash")
	}
	limit := 1000
	if req.Limit > 0 {
		limit = min(req.Limit, 1000)
	}
	query := url.Values{"prefix": {s.object(req.Prefix)}, "limit": {strconv.Itoa(limit)}}
	if !req.Recursive {
		query.Set("delimiter", "/")
	}
	if req.After != "" {
		marker := s.object(req.After)
		if !req.Recursive && strings.HasSuffix(marker, "/") {
			marker += "\U0010ffff" // behind everything below that directory
		}
		query.Set("marker", marker)
	}
	if req.Token != "" { // the last name of the page before, where that was left out
		query.Set("marker", req.Token)
	}
	rows, err := s.rows(ctx, query)
	if err != nil {
		return underfs.ListPage{}, s.fail("list", req.Prefix, err)
	}
	page := underfs.ListPage{More: len(rows) == limit, Objects: make([]underfs.Object, 0, len(rows))}
	var empty []int
	for _, r := range rows {
		key := underfs.Key(strings.TrimPrefix(cmp.Or(r.Subdir, r.Name), s.prefix))
		if key == "" || r.Subdir != "" && key == req.After { // the marker of the mount's top; the prefix that After lies in
			continue
		}
		if r.Subdir != "" {
			page.Objects = append(page.Objects, underfs.Object{Key: key, Dir: true})
			continue
		}
		o := r.object(key)
		if s.dynamic && r.Bytes == 0 && !o.Marker && r.ContentType != "application/directory" {
			empty = append(empty, len(page.Objects))
		}
		page.Objects = append(page.Objects, o)
	}
	if err := s.measure(ctx, page.Objects, empty); err != nil {
		return underfs.ListPage{}, err
	}
	page.Objects = slices.DeleteFunc(page.Objects, func(o underfs.Object) bool { return o.Length < 0 })
	for _, o := range page.Objects {
		if !underfs.ValidKey(o.Key) {
			page.Skipped++
		}
	}
	if n := len(page.Objects); page.More && (n == 0 || s.object(page.Objects[n-1].Key) != rows[len(rows)-1].Name) {
		last := rows[len(rows)-1]
		page.Token = last.Name
		if last.Subdir != "" {
			page.Token = last.Subdir + "\U0010ffff"
		}
	}
	return page, nil
}

// measuring is how many HEADs of one listing are under way at once.
const measuring = 8

// measure asks for the objects of those indexes, and gives those that have no length one
// of -1. One that vanished meanwhile stays as it was listed.
func (s *Store) measure(ctx context.Context, objects []underfs.Object, indexes []int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for worker := range min(measuring, len(indexes)) {
		wg.Go(func() {
			for i := worker; i < len(indexes) && ctx.Err() == nil; i += measuring {
				o := &objects[indexes[i]]
				f, err := s.head(ctx, "list", o.Key, false)
				switch {
				case err == nil && f.dynamic:
					*o = f.Object
				case errors.Is(err, sluice.Unsupported):
					o.Length = -1
				case err != nil && !errors.Is(err, sluice.NotFound):
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return s.fail("list", "", err)
	}
	return nil
}

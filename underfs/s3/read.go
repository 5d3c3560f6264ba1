package s3

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
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

// errVersion refuses versions that this driver did not make.
var errVersion = errors.New("another version lies there")

// describe turns what minio-go knows about an object into ours.
func (s *Store) describe(key underfs.Key, i minio.ObjectInfo) underfs.Object {
	etag := strings.Trim(i.ETag, `"`)
	o := underfs.Object{
		Key:     key,
		Length:  i.Size,
		Mtime:   i.LastModified,
		Version: versionOf(etag, i.Size, i.LastModified),
	}
	if strings.HasSuffix(string(key), "/") {
		o.Marker, o.Dir = true, i.Size == 0
	}
	switch cmp.Or(i.StorageClass, i.Metadata.Get("X-Amz-Storage-Class")) {
	case "GLACIER", "DEEP_ARCHIVE":
		o.Archived = i.Restore == nil || i.Restore.OngoingRestore
	}
	for k, v := range i.UserMetadata {
		if strings.EqualFold(k, tagName) {
			o.Tag = v
		}
	}
	return o
}

// Stat implements underfs.Store: a HEAD, and where that finds nothing a LIST of one key
// below, because the key could be a directory. A key that ends in "/" costs the LIST only.
func (s *Store) Stat(ctx context.Context, key underfs.Key) (underfs.Object, error) {
	if err := s.begin(ctx, "stat", key); err != nil {
		return underfs.Object{}, err
	}
	if key == "" {
		return underfs.Object{Dir: true}, nil
	}
	if !strings.HasSuffix(string(key), "/") {
		o, err := s.head(ctx, "stat", key)
		if err == nil || !errors.Is(err, sluice.NotFound) {
			return o, err
		}
		key += "/"
	}
	r, err := s.listV2(ctx, s.object(key), "", "", "", 1)
	if err != nil {
		return underfs.Object{}, s.fail("stat", key, err)
	}
	if len(r.Contents) == 0 {
		return underfs.Object{}, underfs.Failf("stat", key[:len(key)-1], sluice.NotFound, "neither an object nor anything below it")
	}
	if r.Contents[0].Key == s.object(key) && r.Contents[0].Size == 0 {
		return s.describe(key, r.Contents[0]), nil
	}
	return underfs.Object{Key: key, Dir: true}, nil
}

// head describes an object by one HEAD.
func (s *Store) head(ctx context.Context, op string, key underfs.Key) (underfs.Object, error) {
	i, err := s.core.StatObject(ctx, s.bucket, s.object(key), minio.StatObjectOptions{})
	if err != nil {
		return underfs.Object{}, s.fail(op, key, err)
	}
	return s.describe(key, i), nil
}

// Read implements underfs.Store: one GET.
func (s *Store) Read(ctx context.Context, req underfs.ReadRequest) (io.ReadCloser, error) {
	if err := s.begin(ctx, "read", req.Key); err != nil {
		return nil, err
	}
	if req.Offset < 0 || req.Length <= 0 {
		return nil, underfs.Failf("read", req.Key, sluice.Invalid, "the range %d+%d is none", req.Offset, req.Length)
	}
	var opts minio.GetObjectOptions
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
		_ = opts.SetMatchETag(etag) // fails for an empty ETag only
	}
	if err := opts.SetRange(req.Offset, req.Offset+req.Length-1); err != nil {
		return nil, underfs.Fail("read", req.Key, sluice.Invalid, err)
	}
	whole := s.crc && req.Offset == 0 && req.Length == length
	opts.Checksum = whole
	body, info, header, err := s.core.GetObject(ctx, s.bucket, s.object(req.Key), opts)
	if err != nil {
		return nil, s.fail("read", req.Key, err)
	}
	total, ok := totalLength(header.Get("Content-Range"), info.Size)
	switch {
	case !ok || info.Size != min(req.Length, total-req.Offset):
		err = underfs.Failf("read", req.Key, sluice.Unavailable, "the store answered with another range (%q)", header.Get("Content-Range"))
	case info.Size != req.Length, length >= 0 && total != length, modified >= 0 && info.LastModified.Unix() != modified:
		err = underfs.Failf("read", req.Key, sluice.Changed, "the object was replaced: it has %d bytes", total)
	default:
		// Of an object of several parts it is the checksum of checksums.
		if crc := header.Get(crcHeader); whole && crc != "" && !strings.Contains(crc, "-") {
			body = &verified{body: body, key: req.Key, want: crc, left: req.Length}
		}
		return &reader{s: s, key: req.Key, body: body, left: req.Length}, nil
	}
	body.Close()
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
	if errors.Is(err, sluice.Corrupt) {
		return 0, err
	}
	r.left -= int64(n)
	switch {
	case r.left == 0:
		return n, nil
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, r.s.fail("read", r.key, err)
}

// Close implements io.Closer. What is left of a small rest is read, to keep the
// connection.
func (r *reader) Close() error {
	if r.left == 0 {
		_, _ = r.body.Read(make([]byte, 1)) // the end, which gives the connection back
	}
	return r.body.Close()
}

// listV2 asks for a page. minio-go's Core takes no context here, so each call has a client
// of its own, bound to ctx, over the one connection pool.
func (s *Store) listV2(ctx context.Context, prefix, after, token, delimiter string, limit int) (minio.ListBucketV2Result, error) {
	c, err := s.client(&bound{ctx, s.transport}, 1)
	if err != nil {
		return minio.ListBucketV2Result{}, err
	}
	r, err := c.ListObjectsV2(s.bucket, prefix, after, token, delimiter, limit)
	if e := ctx.Err(); err != nil && e != nil {
		err = e
	}
	return r, err
}

// List implements underfs.Store: one LIST for a page of up to 1,000. A prefix under which
// nothing lies is an empty page: S3 has no directories that could be missing.
func (s *Store) List(ctx context.Context, req underfs.ListRequest) (underfs.ListPage, error) {
	if err := s.begin(ctx, "list", req.Prefix); err != nil {
		return underfs.ListPage{}, err
	}
	if req.Prefix != "" && !strings.HasSuffix(string(req.Prefix), "/") {
		return underfs.ListPage{}, underfs.Failf("list", req.Prefix, sluice.Invalid, "a prefix ends in a slash")
	}
	delimiter, after := "/", ""
	if req.Recursive {
		delimiter = ""
	}
	if req.After != "" {
		after = s.object(req.After)
		if !req.Recursive && strings.HasSuffix(after, "/") {
			after += "\U0010ffff" // behind everything below that directory
		}
	}
	if req.Token != "" {
		after = "" // the token says it already
	}
	limit := 1000
	if req.Limit > 0 {
		limit = min(req.Limit, 1000)
	}
	r, err := s.listV2(ctx, s.object(req.Prefix), after, req.Token, delimiter, limit)
	if err != nil {
		return underfs.ListPage{}, s.fail("list", req.Prefix, err)
	}
	page := underfs.ListPage{More: r.IsTruncated, Token: r.NextContinuationToken}
	page.Objects = make([]underfs.Object, 0, len(r.Contents)+len(r.CommonPrefixes))
	for _, i := range r.Contents {
		key := underfs.Key(strings.TrimPrefix(i.Key, s.prefix))
		if key != "" && (key > req.After || req.After == "") { // "" is the marker of the mount's top
			page.Objects = append(page.Objects, s.describe(key, i))
		}
	}
	for _, p := range r.CommonPrefixes {
		key := underfs.Key(strings.TrimPrefix(p.Prefix, s.prefix))
		if key > req.After { // some stores list again the prefix that After lies in
			page.Objects = append(page.Objects, underfs.Object{Key: key, Dir: true})
		}
	}
	slices.SortFunc(page.Objects, func(a, b underfs.Object) int { return cmp.Compare(a.Key, b.Key) })
	for _, o := range page.Objects {
		if !underfs.ValidKey(o.Key) {
			page.Skipped++
		}
	}
	return page, nil
}

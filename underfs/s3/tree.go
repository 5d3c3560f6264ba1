package s3

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// Delete implements underfs.Store. S3 answers the same whether there was something or
// not, so that without a version a HEAD asks first. With one, If-Match decides, and a
// missing key may count as deleted.
func (s *Store) Delete(ctx context.Context, key underfs.Key, cond underfs.Condition) error {
	if err := s.begin(ctx, "delete", key); err != nil {
		return err
	}
	if key == "" {
		return underfs.Failf("delete", key, sluice.Invalid, "the mount's top is not deleted")
	}
	if cond.Version == "" || !s.conditional {
		o, err := s.head(ctx, "delete", key)
		if err != nil {
			return err
		}
		if cond.Version != "" && o.Version != cond.Version {
			return underfs.Fail("delete", key, sluice.Changed, errVersion)
		}
		cond.Version = o.Version
	}
	var headers []string
	if etag, _, _, ok := parse(cond.Version); ok && s.conditional {
		headers = []string{"If-Match", `"` + etag + `"`}
	} else if !ok && cond.Version != "" {
		return underfs.Fail("delete", key, sluice.Changed, errVersion)
	}
	ctx, _ = with(ctx, headers...)
	return s.failChange("delete", key, s.core.RemoveObject(ctx, s.bucket, s.object(key), minio.RemoveObjectOptions{}))
}

// Mkdir implements underfs.Directories by an empty marker object.
func (s *Store) Mkdir(ctx context.Context, key underfs.Key, _ sluice.Mode) (underfs.Object, error) {
	if key == "" || key == "/" {
		return underfs.Object{}, underfs.Failf("mkdir", key, sluice.Invalid, "the mount's top is always there")
	}
	if !strings.HasSuffix(string(key), "/") {
		key += "/"
	}
	o, err := s.put(ctx, key, nil, "", underfs.Condition{Absent: true})
	if err != nil {
		return underfs.Object{}, sluice.Wrap("mkdir", "", err)
	}
	o.Marker, o.Dir = true, true
	return o, nil
}

// Copy implements underfs.Copier: CopyObject up to 5 GiB, UploadPartCopy above. The
// length comes from the version; without one a HEAD asks, as it does for a condition on
// the target: between the look and the copy a window remains.
func (s *Store) Copy(ctx context.Context, from underfs.Key, v sluice.Version, to underfs.Key, cond underfs.Condition) (underfs.Object, error) {
	if err := s.begin(ctx, "copy", from); err != nil {
		return underfs.Object{}, err
	}
	if v == "" {
		o, err := s.head(ctx, "copy", from)
		if err != nil {
			return underfs.Object{}, err
		}
		v = o.Version
	}
	etag, length, _, ok := parse(v)
	if !ok {
		return underfs.Object{}, underfs.Fail("copy", from, sluice.Changed, errVersion)
	}
	// Not every service that honours conditions of a PUT honours them on a copy.
	headers, err := s.condition(ctx, "copy", to, cond, false)
	if err != nil {
		return underfs.Object{}, err
	}
	match := map[string]string{"x-amz-copy-source-if-match": `"` + etag + `"`}
	if length > s.maxCopy {
		return s.copyParts(ctx, from, to, v, length, match, cond)
	}
	if s.class != "" {
		match["x-amz-storage-class"] = s.class
	}
	hctx, x := with(ctx, headers...)
	i, err := s.core.CopyObject(hctx, s.bucket, s.object(from), s.bucket, s.object(to), match, minio.CopySrcOptions{}, minio.PutObjectOptions{})
	if err != nil {
		err = s.copyFailed(ctx, from, to, v, cond, s.failChange("copy", from, err))
	}
	if errors.Is(err, errMisjudged) {
		delete(match, "x-amz-copy-source-if-match")
		hctx, x = with(ctx, headers...)
		i, err = s.core.CopyObject(hctx, s.bucket, s.object(from), s.bucket, s.object(to), match, minio.CopySrcOptions{}, minio.PutObjectOptions{})
		err = s.failChange("copy", from, err)
	}
	if err != nil {
		return underfs.Object{}, err
	}
	return s.committed(ctx, to, i.ETag, length, "", x.got)
}

// errMisjudged is a condition that was refused although it holds.
var errMisjudged = errors.New("the endpoint refuses a condition that holds")

// copyFailed says which of the two conditions of a copy failed: both answer 412. Where
// neither did (Swift's S3 interface compares the ETag of an object of several parts with
// something else), it is errMisjudged, and a window remains at the source too.
func (s *Store) copyFailed(ctx context.Context, from, to underfs.Key, v sluice.Version, cond underfs.Condition, failed error) error {
	if !errors.Is(failed, sluice.Changed) {
		return failed
	}
	if o, err := s.head(ctx, "copy", from); err != nil || o.Version != v {
		return failed
	}
	switch o, err := s.head(ctx, "copy", to); {
	case cond.Absent && err == nil:
		return underfs.Failf("copy", to, sluice.Exists, "something lies there")
	case err != nil && !errors.Is(err, sluice.NotFound), cond.Version != "" && o.Version != cond.Version:
		return failed
	}
	return errMisjudged
}

// Sweep implements underfs.Sweeper, where the property sweep_uploads says that every
// upload below the prefix is ours; else it does nothing, because a listing of uploads does
// not tell whose they are.
func (s *Store) Sweep(ctx context.Context, age time.Duration, keep func(string) bool) (int, error) {
	if err := s.begin(ctx, "sweep", ""); err != nil {
		return 0, err
	}
	if !s.sweep {
		return 0, nil
	}
	removed, keyMarker, idMarker, delimiter := 0, "", "", ""
	for {
		r, err := s.core.ListMultipartUploads(ctx, s.bucket, s.prefix, keyMarker, idMarker, delimiter, 1000)
		if err != nil {
			return removed, s.fail("sweep", "", err)
		}
		if len(r.CommonPrefixes) > 0 && delimiter == "" {
			// Swift takes the empty delimiter, which minio-go always sends, for one that
			// stands everywhere: name one that stands nowhere.
			delimiter = "\U0010ffff"
			continue
		}
		for _, u := range r.Uploads {
			if age > 0 && time.Since(u.Initiated) < age || keep != nil && keep(u.UploadID) {
				continue
			}
			key := underfs.Key(strings.TrimPrefix(u.Key, s.prefix))
			if err := s.abort(ctx, key, u.UploadID); err != nil {
				return removed, err
			}
			removed++
		}
		if !r.IsTruncated || r.NextKeyMarker == keyMarker && r.NextUploadIDMarker == idMarker {
			return removed, nil
		}
		keyMarker, idMarker = r.NextKeyMarker, r.NextUploadIDMarker
	}
}

// Probe implements underfs.Prober: one LIST of one key, whose answer tells wrong keys, a
// missing bucket and a dead endpoint apart; and if there is an object, one GET that must
// fail because it names another ETag: on an endpoint that ignores If-Match, reads of one
// version cannot be promised.
func (s *Store) Probe(ctx context.Context) error {
	if err := s.begin(ctx, "probe", ""); err != nil {
		return err
	}
	r, err := s.listV2(ctx, s.prefix, "", "", "", 1)
	if err != nil {
		return s.fail("probe", "", err)
	}
	if len(r.Contents) == 0 || r.Contents[0].Size == 0 {
		return nil
	}
	var opts minio.GetObjectOptions
	_ = opts.SetMatchETag("00000000000000000000000000000000")
	_ = opts.SetRange(0, 1)
	body, _, _, err := s.core.GetObject(ctx, s.bucket, r.Contents[0].Key, opts)
	if err == nil {
		body.Close()
		return underfs.Failf("probe", "", sluice.Unsupported, "%s ignores If-Match on GET, so that reads of one version cannot be promised", s.host)
	}
	switch err = s.fail("probe", "", err); sluice.KindOf(err) {
	case sluice.Changed, sluice.NotFound, sluice.Archived:
		return nil
	default:
		return err
	}
}

// Baseline opens plain GETs and PUTs by minio-go.
func (Driver) Baseline(cfg underfs.Config) (underfs.Baseline, error) {
	set, err := read(cfg)
	if err != nil {
		return nil, err
	}
	s, err := newStore(set)
	if err != nil {
		return nil, err
	}
	return baseline{s}, nil
}

// baseline is minio-go and its connections, and nothing else.
type baseline struct{ s *Store }

// Get implements underfs.Baseline.
func (b baseline) Get(ctx context.Context, key underfs.Key, w io.Writer) (int64, error) {
	body, _, _, err := b.s.core.GetObject(ctx, b.s.bucket, b.s.object(key), minio.GetObjectOptions{})
	if err != nil {
		return 0, b.s.fail("get", key, err)
	}
	defer body.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, body, make([]byte, 1<<20))
	return n, b.s.fail("get", key, err)
}

// Put implements underfs.Baseline.
func (b baseline) Put(ctx context.Context, key underfs.Key, r io.Reader, length int64) error {
	if length == 0 {
		// The library's streaming form sends a trailer even after no body at all, which the
		// server takes for the next request.
		_, err := b.s.core.PutObject(ctx, b.s.bucket, b.s.object(key), bytes.NewReader(nil), 0, "", b.s.sum(nil), b.s.putOptions(""))
		return b.s.fail("put", key, err)
	}
	_, err := b.s.core.Client.PutObject(ctx, b.s.bucket, b.s.object(key), r, length, minio.PutObjectOptions{PartSize: uint64(b.s.part), NumThreads: inFlight, DisableContentSha256: !b.s.hash})
	return b.s.fail("put", key, err)
}

// Close implements underfs.Baseline.
func (b baseline) Close() error { return b.s.Close() }

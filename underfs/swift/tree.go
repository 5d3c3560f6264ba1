package swift

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	api "github.com/ncw/swift/v2"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// Delete implements underfs.Store: a HEAD, since Swift ignores conditions here, and a
// DELETE. Of a large object that deletes the manifest; the segments go if they are ours
// and nothing else names them.
func (s *Store) Delete(ctx context.Context, key underfs.Key, cond underfs.Condition) error {
	if err := s.begin(ctx, "delete", key); err != nil {
		return err
	}
	if key == "" {
		return underfs.Failf("delete", key, sluice.Invalid, "the mount's top is not deleted")
	}
	f, err := s.head(ctx, "delete", key, true)
	old := &f
	switch {
	case errors.Is(err, sluice.Unsupported) && cond.Version == "": // a large object without a length
		old = nil
	case err != nil:
		return err
	case cond.Version != "" && f.Version != cond.Version:
		return underfs.Fail("delete", key, sluice.Changed, errVersion)
	}
	if err := s.leaving(ctx, key, old); err != nil {
		return s.fail("delete", key, err)
	}
	if _, err := s.session.call(ctx, request{method: http.MethodDelete, container: s.container, object: s.object(key)}); err != nil {
		err = s.failChange("delete", key, err)
		s.stays(ctx, key, old, err)
		return err
	}
	s.left(ctx, old)
	return nil
}

// Mkdir implements underfs.Directories by an empty pseudo-directory.
func (s *Store) Mkdir(ctx context.Context, key underfs.Key, _ sluice.Mode) (underfs.Object, error) {
	if key == "" || key == "/" {
		return underfs.Object{}, underfs.Failf("mkdir", key, sluice.Invalid, "the mount's top is always there")
	}
	if !strings.HasSuffix(string(key), "/") {
		key += "/"
	}
	o, err := s.put(ctx, key, nil, "application/directory", "", underfs.Condition{Absent: true})
	if err != nil {
		return underfs.Object{}, sluice.Wrap("mkdir", "", err)
	}
	o.Marker, o.Dir = true, true
	return o, nil
}

// Copy implements underfs.Copier within the cluster. Of a large object the manifest is
// copied, so that both name the same segments. The source's version is a condition of the
// copy; the target is looked at before, and a window remains.
func (s *Store) Copy(ctx context.Context, from underfs.Key, v sluice.Version, to underfs.Key, cond underfs.Condition) (underfs.Object, error) {
	if err := s.begin(ctx, "copy", from); err != nil {
		return underfs.Object{}, err
	}
	if err := s.begin(ctx, "copy", to); err != nil {
		return underfs.Object{}, err
	}
	src, err := s.head(ctx, "copy", from, true)
	if err != nil {
		return underfs.Object{}, err
	}
	if v != "" && src.Version != v {
		return underfs.Object{}, underfs.Fail("copy", from, sluice.Changed, errVersion)
	}
	old, err := s.target(ctx, to, cond)
	if err != nil {
		return underfs.Object{}, err
	}
	if err := s.sharing(ctx, to, src, old); err != nil {
		return underfs.Object{}, s.fail("copy", to, err)
	}
	r := request{method: http.MethodPut, container: s.container, object: s.object(to), body: []byte{}}
	etag, _, _, _ := parse(src.Version)
	if src.static || src.dynamic {
		r.query = url.Values{"multipart-manifest": {"get"}}
		etag = src.manifest
	}
	source := url.URL{Path: "/" + s.container + "/" + s.object(from)}
	r.header = []string{"X-Copy-From", source.EscapedPath()}
	if etag != "" {
		r.header = append(r.header, "If-Match", `"`+etag+`"`)
	}
	if _, err = s.session.call(ctx, r); err != nil {
		err = s.failChange("copy", from, err)
		s.stays(ctx, to, old, err)
		return underfs.Object{}, err
	}
	if old != nil && old.upload != src.upload {
		s.left(ctx, old)
	}
	now, err := s.head(ctx, "copy", to, true) // the answer to a copy of a manifest tells the manifest's ETag
	if err != nil {
		return underfs.Object{}, underfs.Fail("copy", to, sluice.UnknownOutcome, err)
	}
	return now.Object, nil
}

// target looks at what a copy replaces. If-None-Match would be a condition of the source.
func (s *Store) target(ctx context.Context, to underfs.Key, cond underfs.Condition) (*found, error) {
	old, _, err := s.expect(ctx, "copy", to, underfs.Condition{Version: cond.Version})
	if err == nil && old != nil && cond.Absent {
		return nil, underfs.Failf("copy", to, sluice.Exists, "something lies there")
	}
	return old, err
}

// sharing notes, before a manifest of ours is copied, that the copy names its segments too,
// and that what it replaces goes.
func (s *Store) sharing(ctx context.Context, to underfs.Key, src found, old *found) error {
	if !src.static || src.upload == "" {
		return s.leaving(ctx, to, old)
	}
	if err := s.putNote(ctx, s.note(src.upload, "ref", to), to); err != nil {
		return err
	}
	if err := s.putNote(ctx, root+src.upload+"/shared", to); err != nil {
		return err
	}
	if err := s.dropNote(ctx, s.note(src.upload, "gone", to)); err != nil { // of an earlier stay there
		return err
	}
	if old != nil && old.upload == src.upload {
		return nil
	}
	return s.leaving(ctx, to, old)
}

// Probe implements underfs.Prober: one listing, whose answer tells wrong keys, a missing
// container and a dead cluster apart; where writing is allowed, what the cluster says of
// large objects; and if there is an object, one GET that must fail because it names another
// ETag.
func (s *Store) Probe(ctx context.Context) error {
	if err := s.begin(ctx, "probe", ""); err != nil {
		return err
	}
	rows, err := s.rows(ctx, url.Values{"prefix": {s.prefix}, "limit": {"1"}})
	if is(err, http.StatusNotFound) {
		return underfs.Failf("probe", "", sluice.NotFound, "there is no container %q in this account and region", s.container)
	}
	if err != nil {
		return s.fail("probe", "", err)
	}
	if err := s.able(ctx); err != nil {
		return err
	}
	if len(rows) == 0 || rows[0].Bytes == 0 {
		return nil
	}
	resp, err := s.session.do(ctx, request{
		method: http.MethodGet, container: s.container, object: rows[0].Name,
		header: []string{"If-Match", `"00000000000000000000000000000000"`, "Range", "bytes=0-0"},
	})
	if err == nil {
		drain(resp.Body)
		return underfs.Failf("probe", "", sluice.Unsupported, "the cluster ignores If-Match on GET, so that reads of one version cannot be promised")
	}
	switch err = s.fail("probe", "", err); sluice.KindOf(err) {
	case sluice.Changed, sluice.NotFound:
		return nil
	default:
		return err
	}
}

// able reads /info of the cluster. One that does not tell is taken at its word later.
func (s *Store) able(ctx context.Context) error {
	u, token, err := s.session.access(ctx, "")
	if err != nil {
		return s.fail("probe", "", err)
	}
	info := *u
	info.Path = strings.TrimSuffix(info.Path, "/")
	for range 2 { // version and account
		info.Path = info.Path[:max(strings.LastIndexByte(info.Path, '/'), 0)]
	}
	info.Path += "/info"
	resp, err := s.session.send(ctx, &info, token, request{method: http.MethodGet})
	if err != nil {
		return s.fail("probe", "", err)
	}
	defer drain(resp.Body)
	var told struct {
		Swift struct {
			MaxFileSize int64 `json:"max_file_size"`
		} `json:"swift"`
		SLO *struct {
			MaxSegments int `json:"max_manifest_segments"`
		} `json:"slo"`
	}
	if resp.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&told) != nil || told.Swift.MaxFileSize == 0 || s.readOnly {
		return nil
	}
	switch {
	case told.SLO == nil:
		return underfs.Failf("probe", "", sluice.Unsupported, "the cluster has no static large objects; mount it read-only")
	case s.part > told.Swift.MaxFileSize:
		return underfs.Failf("probe", "", sluice.Invalid, "the cluster takes objects of %d bytes at most; set property part_size to that or less", told.Swift.MaxFileSize)
	case told.SLO.MaxSegments > 0 && told.SLO.MaxSegments < maxSegments:
		return underfs.Failf("probe", "", sluice.Unsupported, "the cluster takes %d segments an object, the driver counts on %d; mount it read-only", told.SLO.MaxSegments, maxSegments)
	}
	return nil
}

// Baseline opens plain GETs and PUTs by the library.
func (Driver) Baseline(cfg underfs.Config) (underfs.Baseline, error) {
	set, err := read(cfg)
	if err != nil {
		return nil, err
	}
	s, err := newStore(set)
	if err != nil {
		return nil, err
	}
	conn := &api.Connection{Transport: s.session.base}
	set.sign(conn)
	return &baseline{s, conn}, nil
}

// baseline is the library and its connections, and nothing else.
type baseline struct {
	s    *Store
	conn *api.Connection
}

// connect signs in once; the address may be one that the mount names.
func (b *baseline) connect(ctx context.Context) error {
	if b.conn.Authenticated() {
		return nil
	}
	if err := b.conn.Authenticate(ctx); err != nil {
		return &signInError{err}
	}
	if u := b.s.storage; u != nil {
		b.conn.StorageUrl = u.String()
	}
	return nil
}

// Get implements underfs.Baseline.
func (b *baseline) Get(ctx context.Context, key underfs.Key, w io.Writer) (int64, error) {
	if err := b.connect(ctx); err != nil {
		return 0, b.s.fail("get", key, err)
	}
	f, _, err := b.conn.ObjectOpen(ctx, b.s.container, b.s.object(key), false, nil)
	if err != nil {
		return 0, b.fail("get", key, err)
	}
	defer f.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{f}, make([]byte, 1<<20))
	return n, b.fail("get", key, err)
}

// Put implements underfs.Baseline: above part_size as a static large object, segment by
// segment, as the library does it.
func (b *baseline) Put(ctx context.Context, key underfs.Key, r io.Reader, length int64) error {
	if err := b.connect(ctx); err != nil {
		return b.s.fail("put", key, err)
	}
	name, kind := b.s.object(key), "application/octet-stream"
	if length <= b.s.part {
		h := api.Headers{"Content-Length": strconv.FormatInt(length, 10)}
		_, err := b.conn.ObjectPut(ctx, b.s.container, name, r, b.s.hash, "", kind, h)
		return b.fail("put", key, err)
	}
	if err := b.conn.ContainerCreate(ctx, b.s.segments, nil); err != nil {
		return b.fail("put", key, err)
	}
	f, err := b.conn.StaticLargeObjectCreateFile(ctx, &api.LargeObjectOpts{
		Container: b.s.container, ObjectName: name, ContentType: kind, CheckHash: b.s.hash,
		ChunkSize: b.s.part, SegmentContainer: b.s.segments,
	})
	if err != nil {
		return b.fail("put", key, err)
	}
	if _, err = io.CopyBuffer(struct{ io.Writer }{f}, r, make([]byte, b.s.part)); err == nil {
		err = f.CloseWithContext(ctx)
	}
	return b.fail("put", key, err)
}

// fail gives an error of the library the kind of its status.
func (b *baseline) fail(op string, key underfs.Key, err error) error {
	if e, ok := errors.AsType[*api.Error](err); ok && e.StatusCode != 0 {
		err = &statusError{e.StatusCode, e.Text}
	}
	return b.s.fail(op, key, err)
}

// Close implements underfs.Baseline.
func (b *baseline) Close() error { return b.s.Close() }

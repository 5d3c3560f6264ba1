package swift

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// expect looks whether what a change expects is there, and returns what it replaces and the
// headers that say the same to the store, where it honours them.
func (s *Store) expect(ctx context.Context, op string, key underfs.Key, cond underfs.Condition) (*found, []string, error) {
	if cond.Absent {
		return nil, []string{"If-None-Match", "*"}, nil
	}
	f, err := s.head(ctx, op, key, true)
	switch {
	case errors.Is(err, sluice.NotFound) && cond.Version == "":
		return nil, nil, nil
	case errors.Is(err, sluice.NotFound), err == nil && cond.Version != "" && f.Version != cond.Version:
		return nil, nil, underfs.Fail(op, key, sluice.Changed, errVersion)
	case errors.Is(err, sluice.Unsupported) && cond.Version == "": // a large object without a length
		return nil, nil, nil
	case err != nil:
		return nil, nil, err
	}
	return &f, nil, nil
}

// put sends a small object by one PUT.
func (s *Store) put(ctx context.Context, key underfs.Key, data []byte, contentType, tag string, cond underfs.Condition) (underfs.Object, error) {
	if err := s.begin(ctx, "commit", key); err != nil {
		return underfs.Object{}, err
	}
	old, header, err := s.expect(ctx, "commit", key, cond)
	if err != nil {
		return s.resolve(ctx, key, tag, cond, err)
	}
	if err := s.leaving(ctx, key, old); err != nil {
		return underfs.Object{}, s.fail("commit", key, err)
	}
	if data == nil {
		data = []byte{}
	}
	header = append(header, "Content-Type", contentType)
	if s.hash {
		header = append(header, "ETag", sum(data))
	}
	if tag != "" {
		header = append(header, tagHeader, tag)
	}
	h, err := s.session.call(ctx, request{method: http.MethodPut, container: s.container, object: s.object(key), body: data, header: header})
	if err != nil {
		err = s.failChange("commit", key, err)
		s.stays(ctx, key, old, err)
		return s.resolve(ctx, key, tag, cond, err)
	}
	s.left(ctx, old)
	return s.committed(ctx, key, h, int64(len(data)), tag)
}

// resolve looks whether a commit that failed had happened before: then the object has its
// tag. A refusal to create where there is nothing is of a replica that is behind.
func (s *Store) resolve(ctx context.Context, key underfs.Key, tag string, cond underfs.Condition, failed error) (underfs.Object, error) {
	kind := sluice.KindOf(failed)
	if kind != sluice.Changed && kind != sluice.NotFound {
		return underfs.Object{}, failed
	}
	if cond.Absent && kind == sluice.Changed {
		kind = sluice.Exists
	}
	f, err := s.head(ctx, "commit", key, true)
	switch {
	case err == nil && tag != "" && f.Tag == tag:
		return f.Object, nil
	case kind == sluice.Exists && errors.Is(err, sluice.NotFound):
		kind = sluice.Unavailable
	}
	if e, ok := errors.AsType[*sluice.Error](failed); ok && e.Kind != kind {
		c := *e
		c.Kind = kind
		failed = &c
	}
	return underfs.Object{}, failed
}

// committed describes what was written just now, by the answer, or where that does not
// tell the time by a HEAD.
func (s *Store) committed(ctx context.Context, key underfs.Key, answer http.Header, length int64, tag string) (underfs.Object, error) {
	etag := unquote(answer.Get("Etag"))
	t, err := http.ParseTime(answer.Get("Last-Modified"))
	if err == nil && etag != "" {
		return underfs.Object{Key: key, Length: length, Tag: tag, Mtime: t, Version: versionOf(etag, length, t)}, nil
	}
	f, err := s.head(ctx, "commit", key, true)
	if err != nil {
		return underfs.Object{}, underfs.Fail("commit", key, sluice.UnknownOutcome, err)
	}
	return f.Object, nil
}

// segment is a line of a manifest.
type segment struct {
	Path string `json:"path"`
	Etag string `json:"etag"`
	Size int64  `json:"size_bytes"`
}

// manifest builds the manifest of what was prepared, the ETag it gives and the length.
func (s *Store) manifest(p sluice.Prepared) (body []byte, etag string, length int64, err error) {
	lines := make([]segment, len(p.Parts))
	var etags bytes.Buffer
	for i, part := range p.Parts {
		e, n, ok := strings.Cut(part, " ")
		size, err := strconv.ParseInt(n, 10, 64)
		if !ok || err != nil {
			return nil, "", 0, errors.New("it is no upload of this driver")
		}
		lines[i] = segment{"/" + s.segments + "/" + segmentName(p.Upload, i+1), e, size}
		etags.WriteString(e)
		length += size
	}
	if p.Upload == "" || len(lines) == 0 {
		return nil, "", 0, errors.New("it is no upload of this driver")
	}
	body, err = json.Marshal(lines)
	return body, sum(etags.Bytes()), length, err
}

// Complete implements underfs.Completer.
func (s *Store) Complete(ctx context.Context, key underfs.Key, p sluice.Prepared, cond underfs.Condition) (underfs.Object, error) {
	if err := s.begin(ctx, "commit", key); err != nil {
		return underfs.Object{}, err
	}
	body, etag, length, err := s.manifest(p)
	if err != nil {
		return underfs.Object{}, underfs.Fail("commit", key, sluice.Invalid, err)
	}
	old, header, err := s.expect(ctx, "commit", key, cond)
	if err != nil {
		return s.resolve(ctx, key, p.Tag, cond, err)
	}
	ref := s.note(p.Upload, "ref", key)
	if err = s.putNote(ctx, ref, key); err == nil {
		err = s.leaving(ctx, key, old)
	}
	if err != nil {
		return underfs.Object{}, s.fail("commit", key, err)
	}
	header = append(header, "Content-Type", "application/octet-stream", "ETag", etag, uploadHeader, p.Upload)
	if p.Tag != "" {
		header = append(header, tagHeader, p.Tag)
	}
	h, err := s.session.call(ctx, request{
		method: http.MethodPut, container: s.container, object: s.object(key), query: url.Values{"multipart-manifest": {"put"}}, body: body, header: header,
	})
	if err != nil {
		err = s.failChange("commit", key, s.vanished(ctx, p, err))
		s.stays(ctx, key, old, err)
		return s.incomplete(ctx, key, p, cond, ref, err)
	}
	if old != nil && old.upload != p.Upload {
		s.left(ctx, old)
	}
	return s.committed(ctx, key, h, length, p.Tag)
}

// vanished turns the refusal of a manifest whose first segment is not there into what it
// means.
func (s *Store) vanished(ctx context.Context, p sluice.Prepared, err error) error {
	if !is(err, http.StatusBadRequest) {
		return err
	}
	first := request{method: http.MethodHead, container: s.segments, object: segmentName(p.Upload, 1), header: []string{"X-Newest", "true"}}
	if _, err2 := s.session.call(ctx, first); is(err2, http.StatusNotFound) {
		return &sluice.Error{Op: "commit", Kind: sluice.NotFound, Err: errGone}
	}
	return err
}

// incomplete ends a completion that failed: if it did not happen, before or with this call,
// nothing refers to the segments.
func (s *Store) incomplete(ctx context.Context, key underfs.Key, p sluice.Prepared, cond underfs.Condition, ref string, failed error) (underfs.Object, error) {
	o, err := s.resolve(ctx, key, p.Tag, cond, failed)
	if err != nil && !errors.Is(err, sluice.UnknownOutcome) {
		if f, herr := s.head(ctx, "commit", key, true); errors.Is(herr, sluice.NotFound) || herr == nil && f.upload != p.Upload {
			_ = s.dropNote(ctx, ref) // else Sweep keeps the segments too long
		}
	}
	return o, err
}

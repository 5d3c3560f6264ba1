package s3

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// tagName is the user metadata in which an object's tag is kept.
const tagName = "sluice-tag"

// Limits of a multipart upload.
const (
	maxParts  = 10000
	inFlight  = 4    // parts of one upload sent at once; with the one being filled, 5 are in memory
	growEvery = 1000 // an upload of unknown length doubles its part size after so many parts
)

// errGone says that an upload is not there.
var errGone = errors.New("the upload is gone: completed, aborted or swept")

// Create implements underfs.Store. Nothing is sent before the first part is full, and
// for a small content nothing before the commit. Mode, owner and group are not kept.
func (s *Store) Create(ctx context.Context, key underfs.Key, opts underfs.CreateOptions) (underfs.Upload, error) {
	if err := s.begin(ctx, "create", key); err != nil {
		return nil, err
	}
	if key == "" || strings.HasSuffix(string(key), "/") {
		return nil, underfs.Failf("create", key, sluice.Invalid, "a file's key is not empty and does not end in a slash")
	}
	part := s.part
	if least := (opts.Length + maxParts - 1) / maxParts; least > part {
		part = (least + 1<<20 - 1) >> 20 << 20
	}
	return &upload{s: s, key: key, opts: opts, part: part, first: part}, nil
}

// upload is one object being written.
type upload struct {
	s     *Store
	key   underfs.Key
	opts  underfs.CreateOptions
	first int64 // length of the first parts
	part  int64 // length of the part being filled
	buf   []byte
	off   int64 // bytes written

	multi    *multipart // nil as long as everything is in buf
	prepared *sluice.Prepared
	done     *underfs.Object
	aborted  bool
}

// multipart is the part of an upload that is sent while it is written.
type multipart struct {
	id     string
	ctx    context.Context // ends with Abort; parts outlive the Write that started them
	cancel context.CancelFunc
	slots  chan []byte // free buffers; as many as parts may be in flight
	wg     sync.WaitGroup

	mu    sync.Mutex
	err   error    // guarded by mu; the first failure
	parts []string // guarded by mu; what partOf takes
}

// Write implements underfs.Upload. At most inFlight+1 parts are in memory.
func (u *upload) Write(ctx context.Context, p []byte) error {
	if err := u.s.begin(ctx, "write", u.key); err != nil {
		return err
	}
	if u.prepared != nil || u.aborted {
		return underfs.Fail("write", u.key, sluice.Invalid, errGone)
	}
	if u.opts.Length >= 0 && int64(len(p)) > u.opts.Length-u.off {
		return underfs.Failf("write", u.key, sluice.Invalid, "more than the %d bytes that were announced", u.opts.Length)
	}
	for len(p) > 0 {
		if int64(len(u.buf)) == u.part {
			if err := u.send(ctx); err != nil {
				return err
			}
		}
		n := min(int64(len(p)), u.part-int64(len(u.buf)))
		u.grow(n)
		u.buf = append(u.buf, p[:n]...)
		p = p[n:]
		u.off += n
	}
	return nil
}

// grow makes room for n more bytes without ever exceeding a part: small contents take
// what they need.
func (u *upload) grow(n int64) {
	need := int64(len(u.buf)) + n
	if int64(cap(u.buf)) >= need {
		return
	}
	size := min(max(need, 2*int64(cap(u.buf)), 64<<10), u.part)
	if u.opts.Length >= 0 {
		size = min(max(need, u.opts.Length), u.part)
	}
	b := make([]byte, len(u.buf), size)
	copy(b, u.buf)
	u.buf = b
}

// send starts sending the full buffer as a part and takes another one, waiting for one to
// be free.
func (u *upload) send(ctx context.Context) error {
	if u.multi == nil {
		if err := u.start(ctx); err != nil {
			return err
		}
	}
	m := u.multi
	var next []byte
	select {
	case next = <-m.slots:
	case <-ctx.Done():
		return underfs.Fail("write", u.key, sluice.Unavailable, ctx.Err())
	}
	n, err := m.reserve()
	if err != nil {
		m.slots <- next
		return u.s.fail("write", u.key, err)
	}
	if n > maxParts {
		m.slots <- next
		return underfs.Failf("write", u.key, sluice.TooLarge, "an object has at most %d parts", maxParts)
	}
	part := u.buf
	m.wg.Go(func() {
		etag, err := u.sendPart(n, part)
		m.finish(n, etag, err)
		m.slots <- part[:0]
	})
	if u.opts.Length < 0 {
		u.part = u.first << min(n/growEvery, 20)
		u.part = min(u.part, maxPart)
	}
	u.buf = next[:0]
	return nil
}

// start opens the multipart upload.
func (u *upload) start(ctx context.Context) error {
	// Several tries: one too many leaves an upload without parts, which costs nothing.
	opts := u.s.putOptions(u.opts.Tag)
	if u.s.crc {
		opts.UserMetadata["X-Amz-Checksum-Algorithm"] = "CRC32C"
	}
	id, err := u.s.parts.NewMultipartUpload(ctx, u.s.bucket, u.s.object(u.key), opts)
	if err != nil {
		return u.s.fail("write", u.key, err)
	}
	u.s.track(id, u.s.object(u.key))
	m := &multipart{id: id, slots: make(chan []byte, inFlight+1)}
	m.ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for range inFlight {
		m.slots <- nil
	}
	u.multi = m
	return nil
}

// reserve returns the next part's number, from 1, or why there is none.
func (m *multipart) reserve() (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.parts = append(m.parts, "")
	return len(m.parts), m.err
}

// finish notes the end of a part.
func (m *multipart) finish(n int, etag string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		if m.err == nil {
			m.err = err
		}
		return
	}
	m.parts[n-1] = etag
}

// sendPart sends one part; minio-go tries it a few times.
func (u *upload) sendPart(n int, part []byte) (string, error) {
	m := u.multi
	ctx, cancel := context.WithTimeout(m.ctx, 4*u.s.timeout)
	defer cancel()
	opts := minio.PutObjectPartOptions{Sha256Hex: u.s.sum(part), DisableContentSha256: true}
	crc := u.s.crcOf(part)
	if crc != "" {
		opts.CustomHeader = http.Header{crcHeader: {crc}}
	}
	r, err := u.s.parts.PutObjectPart(ctx, u.s.bucket, u.s.object(u.key), m.id, n, bytes.NewReader(part), int64(len(part)), opts)
	return strings.TrimSuffix(r.ETag+" "+crc, " "), err
}

// putOptions are what every object of ours is written with.
func (s *Store) putOptions(tag string) minio.PutObjectOptions {
	o := minio.PutObjectOptions{ContentType: "application/octet-stream", StorageClass: s.class, DisableContentSha256: true, UserMetadata: make(map[string]string)}
	if tag != "" {
		o.UserMetadata[tagName] = tag
	}
	return o
}

// Prepare implements underfs.Upload: the last part is sent and all are waited for; what
// fits one PUT stays here.
func (u *upload) Prepare(ctx context.Context) (sluice.Prepared, error) {
	if u.prepared != nil {
		return *u.prepared, nil
	}
	if err := u.s.begin(ctx, "prepare", u.key); err != nil {
		return sluice.Prepared{}, err
	}
	if u.aborted {
		return sluice.Prepared{}, underfs.Fail("prepare", u.key, sluice.Invalid, errGone)
	}
	if u.opts.Length >= 0 && u.off != u.opts.Length {
		return sluice.Prepared{}, underfs.Failf("prepare", u.key, sluice.Invalid, "%d bytes were announced and %d written", u.opts.Length, u.off)
	}
	if u.multi == nil && u.off <= u.s.part {
		u.prepared = &sluice.Prepared{Inline: true, Tag: u.opts.Tag}
		return *u.prepared, nil
	}
	if len(u.buf) > 0 {
		if err := u.send(ctx); err != nil {
			return sluice.Prepared{}, err
		}
		u.buf = nil
	}
	parts, err := u.multi.wait(ctx)
	if err != nil {
		return sluice.Prepared{}, u.s.fail("prepare", u.key, err)
	}
	u.prepared = &sluice.Prepared{Upload: u.multi.id, Parts: parts, Tag: u.opts.Tag}
	return *u.prepared, nil
}

// wait waits for the parts in flight, by collecting every buffer, and drops the buffers.
func (m *multipart) wait(ctx context.Context) ([]string, error) {
	for n := range inFlight {
		select {
		case <-m.slots:
		case <-ctx.Done():
			for range n { // a later Prepare waits for all again
				m.slots <- nil
			}
			return nil, ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.parts), m.err
}

// Commit implements underfs.Upload.
func (u *upload) Commit(ctx context.Context, cond underfs.Condition) (underfs.Object, error) {
	switch {
	case u.done != nil:
		return *u.done, nil
	case u.aborted:
		return underfs.Object{}, underfs.Fail("commit", u.key, sluice.NotFound, errGone)
	case u.prepared == nil:
		return underfs.Object{}, underfs.Failf("commit", u.key, sluice.Invalid, "it was not prepared")
	}
	var o underfs.Object
	var err error
	if u.prepared.Inline {
		o, err = u.s.put(ctx, u.key, u.buf, u.opts.Tag, cond)
	} else {
		o, err = u.s.Complete(ctx, u.key, *u.prepared, cond)
	}
	if err == nil {
		u.done, u.buf = &o, nil
	}
	return o, err
}

// Abort implements underfs.Upload.
func (u *upload) Abort(ctx context.Context) error {
	if u.done != nil {
		return nil
	}
	u.aborted, u.buf = true, nil
	m := u.multi
	if m == nil {
		return nil
	}
	m.cancel()
	m.wg.Wait()
	if err := u.s.abort(ctx, u.key, m.id); err != nil {
		return err
	}
	u.multi = nil
	return nil
}

// put sends a small object by one PUT.
func (s *Store) put(ctx context.Context, key underfs.Key, data []byte, tag string, cond underfs.Condition) (underfs.Object, error) {
	if err := s.begin(ctx, "commit", key); err != nil {
		return underfs.Object{}, err
	}
	headers, err := s.condition(ctx, "commit", key, cond, s.conditional)
	if err != nil {
		return underfs.Object{}, err
	}
	opts := s.putOptions(tag)
	if crc := s.crcOf(data); crc != "" {
		opts.UserMetadata[crcHeader] = crc
	}
	hctx, x := with(ctx, headers...)
	i, err := s.core.PutObject(hctx, s.bucket, s.object(key), bytes.NewReader(data), int64(len(data)), "", s.sum(data), opts)
	if err != nil {
		return s.resolve(ctx, key, tag, cond, s.failChange("commit", key, err))
	}
	return s.committed(ctx, key, i.ETag, int64(len(data)), tag, x.got)
}

// condition returns the headers that say what a change expects. Where the endpoint cannot
// be trusted to honour them, it looks first.
func (s *Store) condition(ctx context.Context, op string, key underfs.Key, cond underfs.Condition, trusted bool) ([]string, error) {
	if cond.Absent {
		headers := []string{"If-None-Match", "*"}
		if trusted {
			return headers, nil
		}
		if _, err := s.head(ctx, op, key); err == nil {
			return nil, underfs.Failf(op, key, sluice.Exists, "something lies there")
		} else if !errors.Is(err, sluice.NotFound) {
			return nil, err
		}
		if s.conditional {
			return headers, nil
		}
		return nil, nil
	}
	if cond.Version == "" {
		return nil, nil
	}
	etag, _, _, ok := parse(cond.Version)
	if !ok {
		return nil, underfs.Fail(op, key, sluice.Changed, errVersion)
	}
	headers := []string{"If-Match", `"` + etag + `"`}
	if trusted {
		return headers, nil
	}
	o, err := s.head(ctx, op, key)
	switch {
	case err == nil && o.Version != cond.Version, errors.Is(err, sluice.NotFound):
		return nil, underfs.Fail(op, key, sluice.Changed, errVersion)
	case err != nil || !s.conditional:
		return nil, err
	}
	return headers, nil
}

// resolve looks whether a commit that failed had happened before: then the object has its
// tag. It costs a HEAD, in this case only.
func (s *Store) resolve(ctx context.Context, key underfs.Key, tag string, cond underfs.Condition, failed error) (underfs.Object, error) {
	kind := sluice.KindOf(failed)
	if kind == sluice.Changed && cond.Absent {
		kind = sluice.Exists
	}
	if tag != "" && (kind == sluice.Exists || kind == sluice.Changed || kind == sluice.NotFound) {
		if o, err := s.head(ctx, "commit", key); err == nil && o.Tag == tag {
			return o, nil
		}
	}
	if kind == sluice.NotFound && cond.Version != "" {
		kind = sluice.Changed // the object that was expected is gone
	}
	if e, ok := errors.AsType[*sluice.Error](failed); ok && e.Kind != kind {
		c := *e
		c.Kind = kind
		failed = &c
	}
	return underfs.Object{}, failed
}

// committed describes what was written just now. The store's time is part of the version
// and seldom in its answer, so that a HEAD has to ask for it.
func (s *Store) committed(ctx context.Context, key underfs.Key, etag string, length int64, tag string, answer http.Header) (underfs.Object, error) {
	etag = strings.Trim(etag, `"`)
	o := underfs.Object{Key: key, Length: length, Tag: tag}
	t, err := http.ParseTime(answer.Get("Last-Modified"))
	if err == nil && length >= 0 {
		o.Mtime, o.Version = t, versionOf(etag, length, t)
		return o, nil
	}
	now, err := s.head(ctx, "commit", key)
	if err == nil && strings.HasPrefix(string(now.Version), etag+" ") {
		return now, nil
	}
	if err != nil && !errors.Is(err, sluice.NotFound) {
		return underfs.Object{}, underfs.Fail("commit", key, sluice.UnknownOutcome, err)
	}
	// Replaced or deleted already: what was written had this ETag, at a time near the
	// answer's, which no later look will find.
	if t, err = http.ParseTime(answer.Get("Date")); err != nil {
		t = time.Time{}
	}
	o.Mtime, o.Version = t, versionOf(etag, max(length, 0), t)
	return o, nil
}

// Complete implements underfs.Completer.
func (s *Store) Complete(ctx context.Context, key underfs.Key, p sluice.Prepared, cond underfs.Condition) (underfs.Object, error) {
	if err := s.begin(ctx, "commit", key); err != nil {
		return underfs.Object{}, err
	}
	if p.Upload == "" || len(p.Parts) == 0 {
		return underfs.Object{}, underfs.Failf("commit", key, sluice.Invalid, "it is no upload of this driver")
	}
	headers, err := s.condition(ctx, "commit", key, cond, s.conditional)
	if err != nil {
		return s.resolve(ctx, key, p.Tag, cond, err)
	}
	parts := make([]minio.CompletePart, len(p.Parts))
	for i, etag := range p.Parts {
		parts[i] = partOf(i+1, etag)
	}
	hctx, x := with(ctx, headers...)
	i, err := s.core.CompleteMultipartUpload(hctx, s.bucket, s.object(key), p.Upload, parts, minio.PutObjectOptions{})
	if err != nil {
		o, err := s.resolve(ctx, key, p.Tag, cond, s.failChange("commit", key, err))
		if err == nil {
			s.untrack(p.Upload)
		}
		return o, err
	}
	s.untrack(p.Upload)
	return s.committed(ctx, key, i.ETag, -1, p.Tag, x.got)
}

// AbortPrepared implements underfs.Completer.
func (s *Store) AbortPrepared(ctx context.Context, key underfs.Key, p sluice.Prepared) error {
	if err := s.begin(ctx, "abort", key); err != nil {
		return err
	}
	if p.Upload == "" {
		return nil
	}
	return s.abort(ctx, key, p.Upload)
}

// abort aborts a multipart upload; one that is gone is fine. It is tried several times:
// services fail it while they still take a part that was cut off.
func (s *Store) abort(ctx context.Context, key underfs.Key, id string) error {
	err := s.fail("abort", key, s.parts.AbortMultipartUpload(ctx, s.bucket, s.object(key), id))
	if err != nil && !errors.Is(err, sluice.NotFound) {
		return err
	}
	s.untrack(id)
	return nil
}

// track remembers an upload for Close.
func (s *Store) track(id, object string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open != nil {
		s.open[id] = object
	}
}

// untrack forgets an upload that has ended.
func (s *Store) untrack(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, id)
}

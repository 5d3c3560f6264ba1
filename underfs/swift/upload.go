package swift

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

const (
	inFlight  = 4   // first segments of one upload sent at once; with the one being filled, 5 are in memory
	growEvery = 100 // an upload of unknown length doubles its segments after so many
	tries     = 4   // of sending a segment
)

// errGone says that an upload is not there.
var errGone = errors.New("the upload is gone: completed, aborted or swept")

// Create implements underfs.Store. Nothing is sent before the first segment is full, and
// for a small content nothing before the commit. Mode, owner and group are not kept.
func (s *Store) Create(ctx context.Context, key underfs.Key, opts underfs.CreateOptions) (underfs.Upload, error) {
	if err := s.begin(ctx, "create", key); err != nil {
		return nil, err
	}
	if key == "" || strings.HasSuffix(string(key), "/") {
		return nil, underfs.Failf("create", key, sluice.Invalid, "a file's key is not empty and does not end in a slash")
	}
	part := s.part
	if least := (opts.Length + maxSegments - 1) / maxSegments; least > part {
		part = (least + 1<<20 - 1) >> 20 << 20
	}
	return &upload{s: s, key: key, opts: opts, part: part, first: part}, nil
}

// upload is one object being written.
type upload struct {
	s     *Store
	key   underfs.Key
	opts  underfs.CreateOptions
	first int64 // length of the first segments
	part  int64 // length of the segment being filled
	buf   []byte
	off   int64 // bytes written

	multi    *multi // nil as long as everything is in buf
	prepared *sluice.Prepared
	done     *underfs.Object
	aborted  bool
}

// multi is the part of an upload that is sent while it is written.
type multi struct {
	id     string
	ctx    context.Context // ends with Abort; segments outlive the Write that started them
	cancel context.CancelFunc
	memory *semaphore.Weighted // bytes in flight
	bound  int64               // of memory
	free   chan []byte         // buffers to use again
	wg     sync.WaitGroup

	mu    sync.Mutex
	err   error    // guarded by mu; the first failure
	parts []string // guarded by mu; ETag and length
}

// Write implements underfs.Upload. At most inFlight first segments, or one of the largest,
// are in memory besides the one being filled.
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

// grow makes room for n more bytes without ever exceeding a segment: small contents take
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

// send starts sending the full buffer as a segment and takes another one.
func (u *upload) send(ctx context.Context) error {
	if u.multi == nil {
		if err := u.s.companion(ctx); err != nil {
			return u.s.fail("write", u.key, err)
		}
		m := &multi{id: newUpload(u.opts.Tag), bound: inFlight * u.first, free: make(chan []byte, inFlight)}
		m.memory = semaphore.NewWeighted(m.bound)
		m.ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
		u.multi = m
	}
	m := u.multi
	weight := min(int64(len(u.buf)), m.bound)
	if err := m.memory.Acquire(ctx, weight); err != nil {
		return underfs.Fail("write", u.key, sluice.Unavailable, err)
	}
	n, err := m.reserve()
	if err == nil && n > maxSegments {
		err = underfs.Failf("write", u.key, sluice.TooLarge, "a large object has at most %d segments; raise property part_size", maxSegments)
	}
	if err != nil {
		m.memory.Release(weight)
		return u.s.fail("write", u.key, err)
	}
	part := u.buf
	m.wg.Go(func() {
		defer m.memory.Release(weight)
		etag, err := u.s.sendSegment(m.ctx, segmentName(m.id, n), part)
		m.finish(n, etag+" "+strconv.Itoa(len(part)), err)
		select {
		case m.free <- part[:0]:
		default:
		}
	})
	if u.opts.Length < 0 {
		u.part = min(u.first<<min(n/growEvery, 20), maxPart)
	}
	select {
	case u.buf = <-m.free:
		if int64(cap(u.buf)) < u.part { // of before the segments grew
			u.buf = nil
		}
	default:
		u.buf = nil
	}
	return nil
}

// reserve returns the next segment's number, from 1, or why there is none.
func (m *multi) reserve() (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.parts = append(m.parts, "")
	return len(m.parts), m.err
}

// finish notes the end of a segment.
func (m *multi) finish(n int, part string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		m.parts[n-1] = part
	} else if m.err == nil {
		m.err = err
	}
}

// sendSegment sends one segment, again where it may help: it lies in memory and replaces
// itself.
func (s *Store) sendSegment(ctx context.Context, name string, part []byte) (string, error) {
	for n := 1; ; n++ {
		etag, err := s.sendOnce(ctx, name, part)
		if err == nil || ctx.Err() != nil || n == tries {
			return etag, err
		}
		if kind, _ := s.kind(err); kind == sluice.NotFound && n == 1 {
			// The companion container was removed meanwhile.
			if _, err := s.session.call(ctx, request{method: http.MethodPut, container: s.segments}); err != nil {
				return "", err
			}
		} else if kind != sluice.Unavailable && kind != sluice.Timeout {
			return "", err
		}
		s.session.close() // what broke one connection may have broken the idle ones
		t := time.NewTimer(time.Duration(rand.Int64N(int64(100*time.Millisecond))) + 50*time.Millisecond<<n)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return "", err
		}
	}
}

// sendOnce is one try of sendSegment.
func (s *Store) sendOnce(ctx context.Context, name string, part []byte) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*s.timeout)
	defer cancel()
	r := request{method: http.MethodPut, container: s.segments, object: name, body: part, header: []string{"Content-Type", "application/octet-stream"}}
	if s.hash {
		r.header = append(r.header, "ETag", sum(part))
	}
	h, err := s.session.call(ctx, r)
	if err != nil {
		return "", err
	}
	return unquote(h.Get("Etag")), nil
}

// sum is the ETag that Swift gives a body.
func sum(p []byte) string {
	h := md5.Sum(p)
	return hex.EncodeToString(h[:])
}

// Prepare implements underfs.Upload: the last segment is sent and all are waited for; what
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

// wait waits for the segments in flight and drops the buffers.
func (m *multi) wait(ctx context.Context) ([]string, error) {
	if err := m.memory.Acquire(ctx, m.bound); err != nil {
		return nil, err
	}
	m.memory.Release(m.bound)
	for len(m.free) > 0 {
		<-m.free
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
		o, err = u.s.put(ctx, u.key, u.buf, "application/octet-stream", u.opts.Tag, cond)
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
	if u.prepared != nil { // another process may have completed it
		return u.s.AbortPrepared(ctx, u.key, *u.prepared)
	}
	if err := u.s.drop(ctx, m.id, len(m.parts)); err != nil {
		return u.s.fail("abort", u.key, err)
	}
	u.multi = nil
	return nil
}

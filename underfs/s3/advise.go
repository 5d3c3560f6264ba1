package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"sync"

	"github.com/minio/minio-go/v7"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// rivals is how many create the probe object at once. One that checks and then writes is
// caught by that, where one caller after the other would find nothing wrong.
const rivals = 8

// Advise implements underfs.Adviser. It writes an object of its own below the prefix and
// deletes it again: at once by many who each expect nothing there, then over an ETag that
// is not there, by one PUT and by completing an upload, and a delete likewise. An endpoint
// that lets any of them through, or knows no conditions, gets conditional_writes=false: the
// driver then looks first, and the mount is treated as having a window. Nothing is advised
// where the property was given, or where writing is not permitted.
func (s *Store) Advise(ctx context.Context) (map[string]string, error) {
	if err := s.begin(ctx, "probe", ""); err != nil {
		return nil, err
	}
	if s.told {
		return nil, nil
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	p := &probe{Store: s, key: underfs.Key(".sluice-probe-" + hex.EncodeToString(b[:]))}
	defer func() {
		// What stays behind is one empty object, whose name says what it is.
		_ = s.core.RemoveObject(context.WithoutCancel(ctx), s.bucket, s.object(p.key), minio.RemoveObjectOptions{})
	}()
	honest, err := p.run(ctx)
	switch {
	case errors.Is(err, sluice.Permission), errors.Is(err, sluice.Unauthenticated):
		return nil, nil
	case err != nil:
		return nil, err
	case honest:
		return nil, nil
	}
	return map[string]string{"conditional_writes": "false"}, nil
}

// probe is one object that nobody else knows.
type probe struct {
	*Store
	key underfs.Key
}

// noETag is one that no object has.
const noETag = `"00000000000000000000000000000000"`

// run says whether the endpoint honours every condition that the driver relies on.
func (p *probe) run(ctx context.Context) (bool, error) {
	var wg sync.WaitGroup
	won, errs := make([]bool, rivals), make([]error, rivals)
	for i := range rivals {
		wg.Go(func() { won[i], errs[i] = p.put(ctx, byte(i), "If-None-Match", "*") })
	}
	wg.Wait()
	winners := 0
	for i := range rivals {
		if errs[i] != nil {
			return unable(errs[i])
		}
		if won[i] {
			winners++
		}
	}
	if winners > 1 {
		return false, nil
	}
	if winners == 0 { // each met another's attempt
		if _, err := p.put(ctx, 'w'); err != nil {
			return unable(err)
		}
	}
	if ok, err := p.put(ctx, 'x', "If-Match", noETag); ok || err != nil {
		return unable(err)
	}
	if ok, err := p.complete(ctx, "If-None-Match", "*"); ok || err != nil {
		return unable(err)
	}
	if ok, err := p.complete(ctx, "If-Match", noETag); ok || err != nil {
		return unable(err)
	}
	hctx, _ := with(ctx, "If-Match", noETag)
	ok, err := p.refused(p.core.RemoveObject(hctx, p.bucket, p.object(p.key), minio.RemoveObjectOptions{}))
	if ok || err != nil {
		return unable(err)
	}
	return p.buried(ctx)
}

// buried says whether a condition on what was deleted is refused.
func (p *probe) buried(ctx context.Context) (bool, error) {
	o, err := p.head(ctx, "probe", p.key)
	if err != nil {
		return false, err
	}
	if _, err := p.refused(p.core.RemoveObject(ctx, p.bucket, p.object(p.key), minio.RemoveObjectOptions{})); err != nil {
		return false, err
	}
	etag, _, _, _ := parse(o.Version)
	if ok, err := p.put(ctx, 'y', "If-Match", `"`+etag+`"`); ok || err != nil {
		return unable(err)
	}
	return true, nil
}

// unable says that an endpoint which knows no conditions honours none; other errors are
// the caller's.
func unable(err error) (bool, error) {
	if errors.Is(err, sluice.Unsupported) || errors.Is(err, sluice.Invalid) {
		err = nil
	}
	return false, err
}

// put writes the object under a condition and says whether it was let through.
func (p *probe) put(ctx context.Context, content byte, header ...string) (bool, error) {
	hctx, _ := with(ctx, header...)
	body := []byte{content}
	_, err := p.core.PutObject(hctx, p.bucket, p.object(p.key), bytes.NewReader(body), 1, "", p.sum(body), p.putOptions(""))
	return p.refused(err)
}

// complete is put by an upload of one part.
func (p *probe) complete(ctx context.Context, header ...string) (bool, error) {
	object := p.object(p.key)
	id, err := p.core.NewMultipartUpload(ctx, p.bucket, object, p.putOptions(""))
	if err != nil {
		return false, p.fail("probe", "", err)
	}
	body := []byte{'m'}
	part, err := p.core.PutObjectPart(ctx, p.bucket, object, id, 1, bytes.NewReader(body), 1, minio.PutObjectPartOptions{Sha256Hex: p.sum(body), DisableContentSha256: true})
	passed := false
	if err == nil {
		hctx, _ := with(ctx, header...)
		_, err = p.core.CompleteMultipartUpload(hctx, p.bucket, object, id, []minio.CompletePart{{PartNumber: 1, ETag: strings.Trim(part.ETag, `"`)}}, minio.PutObjectOptions{})
	}
	if passed, err = p.refused(err); passed {
		return true, err
	}
	return false, errors.Join(err, p.abort(context.WithoutCancel(ctx), p.key, id))
}

// refused says whether a change was let through: a failed condition, a conflict of two
// changes, and a condition on what is not there, are none.
func (p *probe) refused(err error) (bool, error) {
	if err == nil {
		return true, nil
	}
	if r, ok := errors.AsType[minio.ErrorResponse](err); ok {
		switch r.StatusCode {
		case http.StatusPreconditionFailed, http.StatusConflict, http.StatusNotFound:
			return false, nil
		}
	}
	return false, p.fail("probe", "", err)
}

var _ underfs.Adviser = (*Store)(nil)

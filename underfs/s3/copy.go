package s3

import (
	"context"
	"errors"
	"maps"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

const (
	maxCopy  = 5 << 30   // the largest object that one CopyObject copies, in bytes
	copyStep = 512 << 20 // least length of a part where the service copies parts
	copying  = 8         // parts of one object that the service copies at once
)

// partRange returns the part size for copying length bytes, at most maxParts of them.
func (s *Store) partRange(length int64) int64 {
	return max(s.copyStep, (length+maxParts-1)/maxParts)
}

// copyParts copies a large object in parts, with the metadata that CopyObject would take
// along. The service moves the bytes; each part names the version it is of.
func (s *Store) copyParts(ctx context.Context, from, to underfs.Key, v sluice.Version, length int64, match map[string]string, cond underfs.Condition) (underfs.Object, error) {
	source, err := s.core.StatObject(ctx, s.bucket, s.object(from), minio.StatObjectOptions{})
	if err != nil {
		return underfs.Object{}, s.fail("copy", from, err)
	}
	described := s.describe(from, source)
	if described.Version != v {
		return underfs.Object{}, underfs.Fail("copy", from, sluice.Changed, errVersion)
	}
	opts := s.putOptions(described.Tag)
	opts.ContentType = source.ContentType
	opts.UserMetadata = maps.Clone(map[string]string(source.UserMetadata))
	id, err := s.core.NewMultipartUpload(ctx, s.bucket, s.object(to), opts)
	if err != nil {
		return underfs.Object{}, s.fail("copy", to, err)
	}
	s.track(id, s.object(to))
	p := sluice.Prepared{Upload: id, Tag: described.Tag}
	step := s.partRange(length)
	p.Parts = make([]string, (length+step-1)/step)
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(copying)
	for i := range p.Parts {
		group.Go(func() error {
			off := int64(i) * step
			part, err := s.parts.CopyObjectPart(gctx, s.bucket, s.object(from), s.bucket, s.object(to), id, i+1, off, min(step, length-off), match)
			p.Parts[i] = part.ETag
			return err
		})
	}
	var o underfs.Object
	if err = s.fail("copy", from, group.Wait()); err == nil {
		o, err = s.Complete(ctx, to, p, cond)
	}
	if err != nil && !errors.Is(err, sluice.UnknownOutcome) {
		_ = s.abort(context.WithoutCancel(ctx), to, id) // else Sweep or the bucket's lifecycle rule does
	}
	return o, err
}

package worker

import (
	"errors"
	"fmt"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// claims are what a verified grant says.
type claims struct {
	content   sluice.ContentID
	write     bool
	mount     sluice.MountID
	epoch     uint64
	key       string
	version   sluice.Version
	length    int64
	blockSize int64
	only      bool // bytes exist only in workers
	pinned    bool
	writeType sluice.WriteType
}

// verify checks a grant and returns what it says. Kinds Unauthenticated and Stale as
// [auth.Keyring.VerifyGrant]; Permission where it is for the other purpose.
func (w *Worker) verify(grant []byte, write bool) (claims, error) {
	b, err := w.cfg.Keys.VerifyGrant(grant, w.cfg.Wall())
	if err != nil {
		return claims{}, err
	}
	var x wire.Claims
	if err := x.UnmarshalVT(b); err != nil {
		return claims{}, &sluice.Error{Kind: sluice.Unauthenticated, Err: fmt.Errorf("decode grant: %w", err)}
	}
	c := claims{
		content: x.Content.Sluice(), write: x.Write, mount: sluice.MountID(x.Mount), epoch: x.MountEpoch, key: x.Key,
		version: sluice.Version(x.Version), length: x.Length, blockSize: x.BlockSize, only: x.Unpersisted, pinned: x.Pinned,
		writeType: sluice.WriteType(x.WriteType),
	}
	switch {
	case c.content.IsZero():
		return claims{}, &sluice.Error{Kind: sluice.Invalid, Err: errors.New("the grant names no content")}
	case c.write != write:
		return claims{}, &sluice.Error{Kind: sluice.Permission, Err: fmt.Errorf("the grant is for writing: %v", c.write)}
	case c.blockSize <= 0 || c.blockSize > sluice.MaxBlockSize:
		return claims{}, &sluice.Error{Kind: sluice.Invalid, Err: fmt.Errorf("a block size of %d", c.blockSize)}
	}
	return c, nil
}

// blockLength returns how many bytes a block of the file has, 0 for one behind its end.
func (c *claims) blockLength(index uint32) int64 {
	return max(0, min(c.blockSize, c.length-int64(index)*c.blockSize))
}

// within checks that [off, off+n) of the block is of the file.
func (c *claims) within(b sluice.BlockID, off, n int64) error {
	size := c.blockLength(b.Index)
	switch {
	case b.Content != c.content:
		return &sluice.Error{Kind: sluice.Permission, Err: fmt.Errorf("the grant is for content %v, not %v", c.content, b.Content)}
	case off < 0 || n < 0 || off > size || n > size-off:
		return &sluice.Error{Kind: sluice.Invalid, Err: fmt.Errorf("bytes %d to %d of a block of %d", off, off+n, size)}
	}
	return nil
}

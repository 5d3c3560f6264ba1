package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	sluice "github.com/sluicefs/sluice"
)

// A grant is, in bytes (numbers big-endian):
//
//	0      1        5                13          len-32
//	version key id  expiry, unix ms  claims ...  HMAC-SHA256 of all before it
const (
	grantVersion = 1
	grantHeader  = 1 + 4 + 8
	grantMAC     = sha256.Size
	maxGrant     = 8 << 10
)

// SignGrant returns a grant over claims, which stay readable by whoever holds it and
// cannot be changed. It is valid until expiry, cut to the millisecond. Claims are at
// most 8 KiB less 45 bytes; more is a broken expectation of ours and panics.
func (k *Keyring) SignGrant(claims []byte, expiry time.Time) sluice.Grant {
	if len(claims) > maxGrant-grantHeader-grantMAC {
		panic(fmt.Sprintf("auth: claims of %d bytes", len(claims)))
	}
	n := &k.keys[len(k.keys)-1]
	g := make([]byte, grantHeader, grantHeader+len(claims)+grantMAC)
	g[0] = grantVersion
	binary.BigEndian.PutUint32(g[1:], uint32(n.id))
	binary.BigEndian.PutUint64(g[5:], uint64(expiry.UnixMilli()))
	g = append(g, claims...)
	m := hmac.New(sha256.New, n.grant)
	m.Write(g)
	return m.Sum(g)
}

// VerifyGrant returns the claims of a grant signed by a key of the ring, as a slice of
// g. Kind Unauthenticated: it is malformed, altered, or of an unknown key. Kind Stale:
// it expired at or before now; ask the master for a fresh one. A grant seen lately is
// recognised without computing its signature again.
func (k *Keyring) VerifyGrant(g sluice.Grant, now time.Time) ([]byte, error) {
	const op = "verify grant"
	if len(g) < grantHeader+grantMAC || len(g) > maxGrant {
		return nil, sluice.Wrap(op, "", unauthenticated("the grant has %d bytes", len(g)))
	}
	if g[0] != grantVersion {
		return nil, sluice.Wrap(op, "", unauthenticated("the grant has version %d, this server knows %d", g[0], grantVersion))
	}
	if !k.grants.has(g) {
		n := k.find(KeyID(binary.BigEndian.Uint32(g[1:])))
		if n == nil {
			return nil, sluice.Wrap(op, "", unauthenticated("the grant is signed with key %d, which this server does not have", binary.BigEndian.Uint32(g[1:])))
		}
		m := hmac.New(sha256.New, n.grant)
		m.Write(g[:len(g)-grantMAC])
		if !hmac.Equal(m.Sum(nil), g[len(g)-grantMAC:]) {
			return nil, sluice.Wrap(op, "", unauthenticated("the grant's signature is wrong"))
		}
		k.grants.put(g)
	}
	if expiry := int64(binary.BigEndian.Uint64(g[5:])); now.UnixMilli() >= expiry {
		return nil, &sluice.Error{Op: op, Kind: sluice.Stale, Err: fmt.Errorf("the grant expired at %s; open the file again", time.UnixMilli(expiry).UTC().Format(time.RFC3339))}
	}
	return g[grantHeader : len(g)-grantMAC], nil
}

// grantCache remembers grants whose signature was right. It is a direct-mapped table:
// a newer grant takes the place of an older one with the same slot, so it is bounded
// without bookkeeping. The whole grant is compared, not its hash.
type grantCache struct {
	seed   maphash.Seed
	shards [grantShards]grantShard
}

type grantShard struct {
	mu    sync.RWMutex
	slots [grantSlots]string // guarded by mu
}

const (
	grantShards = 16
	grantSlots  = 256
	cachedGrant = 512 // longer grants are verified each time, so that the table stays below 2 MiB
)

func newGrantCache() *grantCache { return &grantCache{seed: maphash.MakeSeed()} }

func (c *grantCache) slot(g []byte) (*grantShard, int) {
	// The signature is uniform to whoever cannot choose it; the seed hides the slot
	// from whoever can.
	h := maphash.Bytes(c.seed, g[len(g)-grantMAC:])
	return &c.shards[h%grantShards], int(h / grantShards % grantSlots)
}

func (c *grantCache) has(g []byte) bool {
	s, i := c.slot(g)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.slots[i] == string(g)
}

func (c *grantCache) put(g []byte) {
	if len(g) > cachedGrant {
		return
	}
	s, i := c.slot(g)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots[i] = string(g)
}

package s3

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"io"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// crcHeader carries the CRC-32C of a body, in base64.
const crcHeader = "X-Amz-Checksum-Crc32c"

// castagnoli is the polynomial of CRC-32C.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode writes a CRC as S3 has it.
func encode(crc uint32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc))
}

// sum returns the SHA-256 of a body where bodies are hashed.
func (s *Store) sum(p []byte) string {
	if !s.hash || len(p) == 0 {
		return ""
	}
	h := sha256.Sum256(p)
	return hex.EncodeToString(h[:])
}

// crcOf returns the CRC-32C of a body where that is sent.
func (s *Store) crcOf(p []byte) string {
	if !s.crc {
		return ""
	}
	return encode(crc32.Checksum(p, castagnoli))
}

// partOf takes apart what Prepared keeps of a part: its ETag, and its CRC-32C if it was
// sent with one.
func partOf(n int, text string) minio.CompletePart {
	etag, crc, _ := strings.Cut(text, " ")
	return minio.CompletePart{PartNumber: n, ETag: etag, ChecksumCRC32C: crc}
}

// verified is the body of a whole object whose CRC-32C the service told. Its end comes only
// when the bytes fit it; bytes handed out before are the caller's to forget.
type verified struct {
	body io.ReadCloser
	key  underfs.Key
	want string
	crc  uint32
	left int64
}

// Read implements io.Reader.
func (v *verified) Read(p []byte) (int, error) {
	n, err := v.body.Read(p)
	v.crc = crc32.Update(v.crc, castagnoli, p[:n])
	v.left -= int64(n)
	if v.left == 0 && encode(v.crc) != v.want {
		return 0, underfs.Failf("read", v.key, sluice.Corrupt, "the bytes that came do not fit the store's checksum")
	}
	return n, err
}

// Close implements io.Closer.
func (v *verified) Close() error { return v.body.Close() }

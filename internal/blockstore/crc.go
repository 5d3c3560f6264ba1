package blockstore

import (
	"hash/crc32"

	"github.com/sluicefs/sluice"
)

// castagnoli is written once at start and only read.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sum returns the CRC-32C of p.
func Sum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// Sums returns the CRC-32C of each 64 KiB chunk of p, the last of which may be short.
func Sums(p []byte) []uint32 {
	sums := make([]uint32, 0, (len(p)+sluice.ChunkSize-1)/sluice.ChunkSize)
	for len(p) > 0 {
		n := min(len(p), sluice.ChunkSize)
		sums = append(sums, Sum(p[:n]))
		p = p[n:]
	}
	return sums
}

// Combine returns the CRC-32C of the concatenation of two byte strings from the
// CRC-32C a of the first and b of the second, which is lenB bytes long. It takes
// time in the logarithm of lenB. With it the checksum of a whole content comes from
// those of its chunks.
//
// Appending lenB zero bytes multiplies the remainder by x^(8 lenB) modulo the
// polynomial; the pre- and post-conditioning of the two sums cancels out.
func Combine(a, b uint32, lenB int64) uint32 {
	if lenB <= 0 {
		return a
	}
	if lenB == sluice.ChunkSize {
		return multiply(a, shiftChunk) ^ b
	}
	const one = uint32(1) << 31 // the polynomial 1, bits reflected
	power := one >> 8           // x^8: one zero byte
	shift := one
	for n := lenB; n > 0; n >>= 1 {
		if n&1 != 0 {
			shift = multiply(shift, power)
		}
		power = multiply(power, power)
	}
	return multiply(a, shift) ^ b
}

// shiftChunk is x^(8 sluice.ChunkSize) modulo the polynomial, bits reflected.
const shiftChunk uint32 = 0xfe7740e6

// CombineChunks returns the CRC-32C of length bytes from those of its chunks of 64 KiB,
// the last of which may be short.
func CombineChunks(sums []uint32, length int64) (sum uint32) {
	for _, s := range sums {
		n := min(length, sluice.ChunkSize)
		sum = Combine(sum, s, n)
		length -= n
	}
	return sum
}

// multiply returns a*b modulo the Castagnoli polynomial, all with reflected bits.
func multiply(a, b uint32) uint32 {
	var product uint32
	for bit := uint32(1) << 31; bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		if b&1 != 0 {
			b = b>>1 ^ crc32.Castagnoli
		} else {
			b >>= 1
		}
	}
	return product
}

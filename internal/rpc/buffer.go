package rpc

import (
	"math/bits"
	"sync"
)

// pool keeps byte slices of powers of two between 1 KiB and 8 MiB. A client and a
// server have one each.
type pool struct{ classes [14]sync.Pool }

const poolSmallest = 10 // the logarithm of the smallest class

// get returns a slice of length n with any content.
func (p *pool) get(n int) []byte {
	c := max(0, bits.Len(uint(max(n, 1)-1))-poolSmallest)
	if c >= len(p.classes) {
		return make([]byte, n)
	}
	if b, ok := p.classes[c].Get().(*[]byte); ok {
		return (*b)[:n]
	}
	return make([]byte, n, 1<<(c+poolSmallest))
}

// put gives back what get returned; nobody may use it afterwards.
func (p *pool) put(b []byte) {
	n := cap(b)
	if n < 1<<poolSmallest || n&(n-1) != 0 || bits.Len(uint(n))-1-poolSmallest >= len(p.classes) {
		return
	}
	b = b[:0]
	p.classes[bits.Len(uint(n))-1-poolSmallest].Put(&b)
}

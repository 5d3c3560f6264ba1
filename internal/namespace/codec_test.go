package namespace

import (
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluicefs/sluice"
)

func somePerm(number uint64) *perm {
	if number > 3 {
		return nil
	}
	return &perm{number: number, owner: "o", group: "g", mode: 0o644}
}

// TestNodeRoundTrip: what the cache holds and what the disk gives back are the same,
// else replicas with other caches would differ.
func TestNodeRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		small := rapid.Int64Range(0, 2)
		n := &node{
			id: 7, flags: rapid.Uint32().Draw(rt, "flags") & stored &^ flagKey, persist: sluice.Persistence(rapid.IntRange(0, 3).Draw(rt, "persist")),
			perm: somePerm(2), mtime: small.Draw(rt, "mtime"), ctime: small.Draw(rt, "ctime"), atime: small.Draw(rt, "atime"),
			length: small.Draw(rt, "length"), version: sluice.Version(rapid.SampledFrom([]string{"", "v"}).Draw(rt, "version")),
			storeAt: small.Draw(rt, "store"), changed: sluice.Index(small.Draw(rt, "changed")), moved: sluice.Index(small.Draw(rt, "moved")),
			target: rapid.SampledFrom([]string{"", "t"}).Draw(rt, "target"),
		}
		if rapid.Bool().Draw(rt, "key") {
			n.key, n.flags = "k", n.flags|flagKey
		}
		if rapid.Bool().Draw(rt, "extent") {
			n.extents = []sluice.Extent{{Content: sluice.ContentID{Incarnation: 1 << 63, Counter: 5}, First: 1, Count: 2, BlockSize: 1 << 27}}
		}
		if rapid.Bool().Draw(rt, "ttl") {
			n.ttl = &ttl{after: 1, due: 2, epoch: 3, action: sluice.TTLDelete}
		}
		got, err := decode(string(childKey(tagNode, 1, "a")), encode(nil, n), somePerm)
		if err != nil || !reflect.DeepEqual(got, row(n)) {
			rt.Fatalf("got %+v (%v), want %+v", got, err, n)
		}
	})
}

// FuzzDecode: damaged rows are errors, never panics, and what decodes encodes again to
// something that decodes the same.
func FuzzDecode(f *testing.F) {
	for _, tag := range "acdhikmMnpqrstwWx" {
		f.Add(byte(tag), []byte{1, 0, 7, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	}
	f.Fuzz(func(t *testing.T, tag byte, value []byte) {
		key := string(append([]byte{tag}, make([]byte, 40)...))
		r, err := decode(key, value, somePerm)
		if err != nil {
			return
		}
		again, err := decode(key, encode(nil, r), somePerm)
		if err != nil {
			t.Fatalf("encoded again it does not decode: %v", err)
		}
		if got, want := fmt.Sprintf("%#v", encode(nil, again)), fmt.Sprintf("%#v", encode(nil, r)); got != want {
			t.Fatalf("encoded again: %s, first %s", got, want)
		}
	})
}

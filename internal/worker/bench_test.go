package worker

import (
	"fmt"
	"testing"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// BenchmarkHit reads what is cached, over a unix socket, one request after the other.
func BenchmarkHit(b *testing.B) {
	for _, n := range []int{4 << 10, 64 << 10, 1 << 20, 4 << 20} {
		b.Run(fmt.Sprintf("%dKiB", n>>10), func(b *testing.B) {
			x := newBench(b, underfstest.Options{}, old)
			data := pattern(1, 4<<20)
			c := x.file(1, "f", data)
			x.wantRead(c, data)
			q := &wire.ReadBlockRequest{Grant: x.grant(c), Block: wire.FromBlockID(sluice.BlockID{Content: content(1)}), Length: int64(n)}
			p := make([]byte, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := x.conn.CallPayload(b.Context(), wire.MethodReadBlock, q, &wire.ReadBlockAnswer{}, rpc.Payload{Recv: p}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

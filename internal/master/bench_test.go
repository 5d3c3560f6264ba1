package master

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// onDisk puts a benchmark's master on a real disk.
func onDisk(b *testing.B) func(*Config) {
	dir := b.TempDir()
	return func(c *Config) { c.FS, c.Dir, c.Background = vfs.Default, dir, time.Second }
}

// callers is how many calls are under way at once in benchmarks.
const callers = 64

func BenchmarkStat(b *testing.B) {
	d := newDesk(b, onDisk(b))
	for i := range 1000 {
		_, err := d.Create(b.Context(), d.call(), sluice.Path(fmt.Sprint("/f", i)), sluice.CreateOptions{Empty: true}, 0)
		d.want("create", err)
	}
	b.SetParallelism(callers / 2)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := d.Stat(b.Context(), d.read(), sluice.Path(fmt.Sprint("/f", i%1000)), sluice.StatOptions{}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "stats/s")
}

func BenchmarkCreate(b *testing.B) {
	d := newDesk(b, onDisk(b))
	var n atomic.Uint64
	b.SetParallelism(callers / 2)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, err := d.Create(b.Context(), d.call(), sluice.Path(fmt.Sprint("/f", n.Add(1))), sluice.CreateOptions{Empty: true}, 0)
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
	s := d.Stats()
	b.ReportMetric(float64(s.Commands)/float64(max(s.Entries, 1)), "commands/entry")
	b.ReportMetric(float64(s.Journal.Entries)/float64(max(s.Journal.Syncs, 1)), "entries/sync")
	b.ReportMetric(float64(s.Journal.Syncs)/b.Elapsed().Seconds(), "syncs/s")
}

// BenchmarkStatOverSocket is Stat by clients of the protocol.
func BenchmarkStatOverSocket(b *testing.B) {
	d := newDesk(b, onDisk(b))
	for i := range 1000 {
		_, err := d.Create(b.Context(), d.call(), sluice.Path(fmt.Sprint("/f", i)), sluice.CreateOptions{Empty: true}, 0)
		d.want("create", err)
	}
	dir, err := os.MkdirTemp("", "desk")
	d.want("directory", err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	d.want("listen", err)
	server := rpc.NewServer(rpc.ServerConfig{Role: rpc.RoleMaster, Identity: d.Identity, Inline: d.Inline}, d.Handler())
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	client := rpc.NewClient(rpc.ClientConfig{}, rpc.Target{Socket: socket})
	b.SetParallelism(callers / 2)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			var a wire.StatAnswer
			if err := client.Call(b.Context(), wire.MethodStat, &wire.StatRequest{Path: fmt.Sprint("/f", i%1000)}, &a); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "stats/s")
	b.StopTimer()
	d.want("close the client", client.Close())
	d.want("shutdown", server.Shutdown(b.Context()))
	d.want("serve", <-served)
}

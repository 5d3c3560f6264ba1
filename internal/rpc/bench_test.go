package rpc

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// calls runs n callers at once until b has had its fill.
func calls(b *testing.B, n int, call func() error) {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	cpu := cpuTime(b)
	defer func() { b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N), "cpu-ns/op") }()
	b.ResetTimer()
	for range n {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := call(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}

// cpuTime is what this process, client and server, has used. It is steadier than the
// time on a machine that others use too.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkCall(b *testing.B) {
	for _, network := range []string{"tcp", "unix"} {
		for _, m := range []struct {
			name   string
			method Method
		}{{"inline", methodInline}, {"spawned", methodEcho}} {
			p := start(b, setting{network: network})
			call := func() error {
				req, resp := text("0123456789abcdef0123456789abcdef"), text(nil)
				return p.Call(context.Background(), m.method, &req, &resp)
			}
			if err := call(); err != nil {
				b.Fatal(err)
			}
			b.Run(network+"/"+m.name+"/64", func(b *testing.B) { calls(b, 64, call) })
			b.Run(network+"/"+m.name+"/1", func(b *testing.B) { calls(b, 1, call) })
		}
	}
}

// BenchmarkRead reads 1 MiB at a time by SendFile from a tmpfs file, checksums verified,
// beside a plain loop of sendfile and read on a connection of its own.
func BenchmarkRead(b *testing.B) {
	const size = 1 << 20
	for _, streams := range []int{1, 4} {
		name := map[int]string{1: "1", 4: "4"}[streams]
		b.Run("rpc/"+name, func(b *testing.B) {
			p := start(b, setting{handler: shmHandler(b)})
			p.handler.sums = sumsOf(p.handler.data, nil)
			var free sync.Pool
			b.SetBytes(size)
			b.ReportAllocs()
			calls(b, streams, func() error {
				buf, ok := free.Get().(*[]byte)
				if !ok {
					buf = new(make([]byte, size))
				}
				defer free.Put(buf)
				_, err := p.CallPayload(context.Background(), methodStored, say("q"), nil, Payload{Recv: *buf})
				return err
			})
		})
		b.Run("raw/"+name, func(b *testing.B) {
			h := shmHandler(b)
			b.SetBytes(size)
			rawLoop(b, h.file, streams, size)
		})
	}
}

func shmHandler(b *testing.B) *testHandler {
	h := newTestHandler(b, 1<<20)
	f, err := os.CreateTemp("/dev/shm", "rpc-bench-*")
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() { f.Close(); os.Remove(f.Name()) })
	if _, err := f.Write(h.data); err != nil {
		b.Fatal(err)
	}
	h.file = f
	return h
}

// rawLoop is the limit: one byte asks, sendfile answers, nothing is checked.
func rawLoop(b *testing.B, f *os.File, streams, size int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	var conns []net.Conn
	for range streams {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
		s, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			defer s.Close()
			raw := newRawSender(s)
			for {
				if _, err := s.Read(make([]byte, 1)); err != nil {
					return
				}
				if n, srcErr, err := raw.sendFile(f, 0, size); n != size {
					b.Errorf("sent %d: %v, %v", n, srcErr, err)
				}
			}
		})
	}
	var next atomic.Int32
	var readers sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(b.N))
	cpu := cpuTime(b)
	defer func() { b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N), "cpu-ns/op") }()
	b.ResetTimer()
	for range streams {
		readers.Go(func() {
			c := conns[next.Add(1)-1]
			buf := make([]byte, size)
			for left.Add(-1) >= 0 {
				c.Write(buf[:1])
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	readers.Wait()
	b.StopTimer()
}

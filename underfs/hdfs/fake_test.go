package hdfs

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sluicefs/sluice/underfs/namenode"
)

// request is a call as a fake name node got it.
type request struct {
	id     int32
	retry  int64
	method string
	body   []byte
}

// answer is what a fake name node does with a call.
type answer struct {
	body    message
	failure *namenode.Exception
	cut     bool   // close the connection instead
	hang    bool   // say nothing
	raw     []byte // instead of a packet
}

// fake is a name node that answers by a function.
type fake struct {
	addr string

	mu   sync.Mutex
	seen []request // guarded by mu
}

// newFake starts one and stops it at the test's end.
func newFake(t *testing.T, reply func(request) answer) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{addr: l.Addr().String()}
	var conns sync.Map
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Store(c, nil)
			wg.Go(func() {
				defer c.Close()
				f.serve(c, reply)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		conns.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		wg.Wait()
	})
	return f
}

// serve answers the calls of one connection.
func (f *fake) serve(c net.Conn, reply func(request) answer) {
	in := bufio.NewReader(c)
	head := make([]byte, 7)
	if _, err := io.ReadFull(in, head); err != nil || string(head[:4]) != "hrpc" {
		return
	}
	if _, err := packet(in); err != nil { // the context
		return
	}
	for {
		parts, err := packet(in)
		if err != nil {
			return
		}
		var r request
		_ = fields(parts[0], func(field protowire.Number, _ []byte, v uint64) error {
			switch field {
			case 3:
				r.id = int32(protowire.DecodeZigZag(v))
			case 5:
				r.retry = protowire.DecodeZigZag(v)
			}
			return nil
		})
		method, _, _ := sub(parts[1], 1)
		r.method, r.body = string(method), parts[2]
		f.mu.Lock()
		f.seen = append(f.seen, r)
		f.mu.Unlock()
		a := reply(r)
		switch {
		case a.cut:
			return
		case a.hang:
			_, _ = io.Copy(io.Discard, in) // until the client goes
			return
		case a.raw != nil:
			_, _ = c.Write(a.raw)
		case a.failure != nil:
			_, _ = c.Write(frame(message(nil).number(1, uint64(r.id)).number(2, 1).text(4, a.failure.Class).text(5, a.failure.Message)))
		default:
			_, _ = c.Write(frame(message(nil).number(1, uint64(r.id)).number(2, 0), a.body))
		}
	}
}

// packet reads a packet's messages.
func packet(r io.Reader) (parts [][]byte, err error) {
	var size uint32
	if err := binary.Read(r, binary.BigEndian, &size); err != nil {
		return nil, err
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	for len(b) > 0 {
		m, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return nil, io.ErrUnexpectedEOF
		}
		parts, b = append(parts, m), b[n:]
	}
	for len(parts) < 3 {
		parts = append(parts, nil)
	}
	return parts, nil
}

// take returns what was asked since the last call.
func (f *fake) take() []request {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.seen
	f.seen = nil
	return all
}

// fileStatus is the answer to getFileInfo of a file.
func fileStatus(length uint64) message {
	st := message(nil).number(1, 2).text(2, "").number(3, length).text(4, perm(0o644)).text(5, "me").text(6, "us").
		number(7, 1_000_000_000_123).number(8, 0).number(10, 1).number(11, 1<<20).number(13, 7)
	return message(nil).text(1, string(st))
}

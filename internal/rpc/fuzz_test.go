package rpc

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// FuzzDecoder reads any bytes as frames: no panic, no large allocation, and what is
// read again in other portions reads the same.
func FuzzDecoder(f *testing.F) {
	f.Add([]byte{}, uint8(1))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 5, 0, 0, 0}, uint8(3))
	good, _ := appendMessage(nil, frameRequest, &header{call: 1, method: 2, timeout: 3, send: 4, recv: 5, credit: 6}, say("hello"), 5)
	h := header{call: 1, payload: 5, sums: 1}
	good = append(appendPrefix(good, framePiece, &h, 5+h.trailer()), "abcde"...)
	good = appendTrailer(good, pieceGood, sumsOf([]byte("abcde"), nil))
	f.Add(good, uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, portion uint8) {
		whole := readAll(b, len(b)+1)
		parts := readAll(b, int(portion)+1)
		if !bytes.Equal(whole, parts) {
			t.Fatalf("in portions of %d: %q, whole: %q", int(portion)+1, parts, whole)
		}
	})
}

func readAll(b []byte, portion int) (seen []byte) {
	src := bytes.NewReader(b)
	d := newDecoder(func(p []byte) (int, error) { return src.Read(p[:min(len(p), portion)]) }, 1<<20)
	dst := make([]byte, PieceSize)
	for {
		var err error
		switch d.phase {
		case phasePayload:
			err = d.payload(dst[:d.h.payload])
		case phaseTrailer:
			if err = d.trailer(); err == nil {
				seen = append(seen, dst[:d.h.payload]...)
				if d.bad {
					seen = append(seen, '!')
				}
			}
		default:
			if err = d.head(); err == nil {
				seen = append(d.h.append(append(seen, byte(d.kind))), d.body...)
			}
		}
		if err != nil {
			return append(seen, err.Error()...)
		}
	}
}

// FuzzHeader decodes what it encodes.
func FuzzHeader(f *testing.F) {
	f.Add(uint64(1), uint16(2), uint64(3), uint32(4), true)
	f.Fuzz(func(t *testing.T, a uint64, m uint16, b uint64, c uint32, x bool) {
		want := header{call: a, method: Method(m), timeout: b, send: a, recv: b, body: c, payload: c, sums: c, credit: a, file: x, failed: !x}
		enc := want.append(nil)
		var got header
		if err := got.parse(enc); err != nil || got != want {
			t.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
		if len(enc) > maxHeader {
			t.Fatalf("a header of %d bytes", len(enc))
		}
	})
}

// FuzzServer lets a stranger say anything to a server, and, after a good handshake,
// anything instead of frames.
func FuzzServer(f *testing.F) {
	hello := clientHello{magic: helloMagic, oldest: 1, newest: 1, role: RoleClient, nonce: make([]byte, nonceSize), window: window, user: "u"}
	var start bytes.Buffer
	writeHello(&start, frameClientHello, hello.encode())
	f.Add(start.Bytes(), false)
	writeHello(&start, frameClientProof, nil)
	f.Add(start.Bytes(), false)
	f.Add(appendPrefix(nil, frameRequest, &header{call: 1, method: 5, recv: 1000}, 0), true)
	f.Add(appendPrefix(nil, frameRequest, &header{call: 1, method: 9, send: 1000}, 0), true)
	f.Add(appendPrefix(nil, frameCancel, &header{call: 1}, 0), true)
	h := newTestHandler(f, 1<<20)
	h.file.Close()
	f.Fuzz(func(t *testing.T, b []byte, greeted bool) {
		s := NewServer(ServerConfig{Anonymous: true, LimitWait: 1}, guarded{h})
		a, c := net.Pipe()
		done := make(chan struct{})
		s.wg.Add(1)
		s.accept(c)
		go func() {
			defer close(done)
			io.Copy(io.Discard, a)
		}()
		if greeted {
			writeHello(a, frameClientHello, hello.encode())
			writeHello(a, frameClientProof, nil)
		}
		a.SetWriteDeadline(time.Now().Add(5 * time.Second))
		a.Write(b)
		a.Close()
		<-done
		s.wg.Done()
		s.wg.Wait()
	})
}

// guarded leaves out the methods that wait for a test or slice by what a peer says.
type guarded struct{ *testHandler }

func (g guarded) Serve(ctx context.Context, r *Request) (Message, error) {
	switch r.Method {
	case methodEcho, methodFail, methodSum, methodWho:
		return g.testHandler.Serve(ctx, r)
	case methodPattern:
		return nil, r.SendBytes(g.data[:min(r.RecvLen(), len(g.data))], nil)
	default:
		return nil, context.Canceled
	}
}

// dialOnce gives c to the first who dials.
func dialOnce(c net.Conn) func(context.Context, string, string) (net.Conn, error) {
	var once atomic.Bool
	return func(context.Context, string, string) (net.Conn, error) {
		if once.Swap(true) {
			return nil, net.ErrClosed
		}
		return c, nil
	}
}

// FuzzClient lets a server say anything to a client that shakes hands.
func FuzzClient(f *testing.F) {
	var b bytes.Buffer
	writeHello(&b, frameServerHello, (&serverHello{version: 1, nonce: make([]byte, nonceSize), refusal: nil}).encode())
	f.Add(b.Bytes())
	writeHello(&b, frameWelcome, (&welcome{}).encode())
	f.Add(b.Bytes())
	f.Add(append(b.Bytes(), appendPrefix(nil, frameAnswer, &header{call: 1}, 0)...))
	h := header{call: 1, payload: 5, sums: 1}
	f.Add(append(append(b.Bytes(), appendPrefix(nil, framePiece, &h, 5+h.trailer())...), "abcde\x00aaaa"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, c := net.Pipe()
		go io.Copy(io.Discard, c)
		go func() {
			c.SetWriteDeadline(time.Now().Add(5 * time.Second))
			c.Write(b)
			c.Close()
		}()
		dial := dialOnce(a)
		client := NewClient(ClientConfig{Dial: dial, Credential: Credential{User: "u"}}, Target{Address: "x:1"})
		client.CallPayload(t.Context(), 1, say("q"), new(text), Payload{Recv: make([]byte, 100)})
		client.Close()
	})
}

package hdfs

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// wire is a connection that the library was given. When it is broken, reads fail; writes to
// a data node are swallowed. The library's block writer ends its goroutines only after its
// last write succeeded, and learns of the failure from the acknowledgement it then waits
// for.
//
// A name node's connection that breaks under a call is reported to the library as the
// answer of a standby: the one failure after which it repeats the call, under the same
// number, at the next name node. (With Kerberos, where answers may be sealed, it could be
// done no more; then such a call fails.)
type wire struct {
	net.Conn
	c      *client
	data   bool
	broken atomic.Bool

	// Of a name node's connection, which carries one call at a time.
	call    int32  // number of the call that was sent last
	asked   bool   // a call was sent and its answer not yet read
	request []byte // that call, for sending it again
	answer  []byte // what is left of the answer that is being read
}

// fail breaks the connection.
func (w *wire) fail() {
	w.broken.Store(true)
	w.Conn.Close()
}

// Close implements net.Conn.
func (w *wire) Close() error {
	w.c.mu.Lock()
	w.c.conns = slices.DeleteFunc(w.c.conns, func(o *wire) bool { return o == w })
	w.c.mu.Unlock()
	return w.Conn.Close()
}

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	if !w.data {
		return w.readAnswer(p)
	}
	if w.broken.Load() {
		return 0, errDropped
	}
	n, err := w.Conn.Read(p)
	if err != nil {
		w.broken.Store(true)
	}
	return n, err
}

// readAnswer reads a name node's answer, as a whole.
func (w *wire) readAnswer(p []byte) (int, error) {
	if len(w.answer) == 0 {
		var err error
		if w.answer, err = w.settled(); err != nil {
			w.broken.Store(true)
			w.c.lost.Store(true)
			if !w.asked || w.c.isDead() {
				return 0, err
			}
			const failed = 1
			w.answer = frame(message(nil).number(1, uint64(uint32(w.call))).number(2, failed).text(4, "org.apache.hadoop.ipc.StandbyException").text(5, err.Error()))
		}
		w.asked = false
	}
	n := copy(p, w.answer)
	w.answer = w.answer[n:]
	return n, nil
}

// settled reads the answer to the call. A block that cannot be added yet, because the data
// nodes have not reported the one before, is asked for again, as every other client does;
// the library would give up the file.
func (w *wire) settled() ([]byte, error) {
	for wait := firstWait; ; wait = min(2*wait, time.Second) {
		answer, err := w.packet()
		if err != nil || !w.asked || !tooEarly(answer) {
			return answer, err
		}
		w.c.mu.Lock()
		ctx := w.c.ctx
		w.c.mu.Unlock()
		if ctx == nil || ctx.Err() != nil {
			return answer, nil
		}
		pause(ctx, wait)
		if _, err := w.Conn.Write(w.request); err != nil {
			return nil, err
		}
	}
}

// tooEarly says whether an answer is the exception that asks for patience.
func tooEarly(answer []byte) bool {
	header, n := protowire.ConsumeBytes(answer[4:])
	if n < 0 {
		return false
	}
	class, _, _ := sub(header, 4)
	return strings.HasSuffix(string(class), ".NotReplicatedYetException")
}

// packet reads one packet with its length.
func (w *wire) packet() ([]byte, error) {
	if w.broken.Load() {
		return nil, errDropped
	}
	var size [4]byte
	if _, err := io.ReadFull(w.Conn, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxAnswer {
		return nil, errGarbled
	}
	b := append(make([]byte, 0, n+4), size[:]...)
	_, err := io.ReadFull(w.Conn, b[4:n+4])
	return b[:n+4], err
}

// Write implements net.Conn.
func (w *wire) Write(p []byte) (int, error) {
	if !w.data {
		w.note(p)
	}
	if !w.broken.Load() {
		n, err := w.Conn.Write(p)
		if err == nil {
			return n, nil
		}
		w.fail()
		if !w.data {
			w.c.lost.Store(true)
			return n, err
		}
	}
	if w.data {
		return len(p), nil
	}
	return 0, errDropped
}

// note keeps a call, and what closes a file. The library writes a call at once; what else
// it writes, when it connects, has no number or that of the connection context.
func (w *wire) note(p []byte) {
	if len(p) < 4 || string(p[:4]) == "hrpc" {
		return
	}
	header, n := protowire.ConsumeBytes(p[4:])
	if n < 0 {
		return
	}
	id, err := num(header, 3)
	call := int32(protowire.DecodeZigZag(id))
	if err != nil || call == contextCall {
		return
	}
	w.call, w.asked, w.request = call, true, bytes.Clone(p)
	head, m := protowire.ConsumeBytes(p[4+n:])
	if m < 0 {
		return
	}
	if method, _, _ := sub(head, 1); string(method) == "complete" {
		body, k := protowire.ConsumeBytes(w.request[4+n+m:])
		if k >= 0 {
			w.c.noteClose(body)
		}
	}
}

// SetDeadline implements net.Conn. The library sets none, but clears the one that is not
// there, which must not fail on a connection that broke.
func (w *wire) SetDeadline(t time.Time) error {
	if w.broken.Load() {
		return nil
	}
	return w.Conn.SetDeadline(t)
}

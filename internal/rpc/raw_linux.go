package rpc

import (
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// rawSender sends by system calls that package net does not offer. Its zero value
// offers none.
type rawSender struct {
	conn syscall.RawConn
	unix *net.UnixConn
}

func newRawSender(c net.Conn) rawSender {
	switch c := c.(type) {
	case *net.TCPConn:
		raw, err := c.SyscallConn()
		if err == nil {
			return rawSender{conn: raw}
		}
	case *net.UnixConn:
		raw, err := c.SyscallConn()
		if err == nil {
			return rawSender{conn: raw, unix: c}
		}
	}
	return rawSender{}
}

// sendfile says whether sendFile and sendMore work.
func (s rawSender) sendfile() bool { return s.conn != nil }

// passes says whether sendDescriptor works.
func (s rawSender) passes() bool { return s.unix != nil }

// sendNow writes as much of b as the kernel takes without waiting.
func (s rawSender) sendNow(b []byte) (n int, err error) {
	var failed error
	err = s.conn.Write(func(fd uintptr) bool {
		for n < len(b) {
			m, err := unix.SendmsgN(int(fd), b[n:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			switch {
			case err == unix.EINTR:
			case err == unix.EAGAIN:
				return true
			case err != nil:
				failed = os.NewSyscallError("sendmsg", err)
				return true
			default:
				n += m
			}
		}
		return true
	})
	if err == nil {
		err = failed
	}
	return n, err
}

// sendMore writes b and tells the kernel that more follows at once.
func (s rawSender) sendMore(b []byte) error {
	var failed error
	err := s.conn.Write(func(fd uintptr) bool {
		for len(b) > 0 {
			n, err := unix.SendmsgN(int(fd), b, nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL)
			switch {
			case err == unix.EINTR:
			case err == unix.EAGAIN:
				return false
			case err != nil:
				failed = os.NewSyscallError("sendmsg", err)
				return true
			default:
				b = b[n:]
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	return failed
}

// sendFile sends n bytes of f from off. It returns how many were sent; srcErr is why
// the file gave no more (io.ErrUnexpectedEOF at its end), err why the connection took
// no more.
func (s rawSender) sendFile(f *os.File, off int64, n int) (sent int, srcErr, err error) {
	src, err := f.SyscallConn()
	if err != nil {
		return 0, err, nil
	}
	var write error
	srcErr = src.Control(func(in uintptr) {
		err = s.conn.Write(func(out uintptr) bool {
			for sent < n {
				m, e := unix.Sendfile(int(out), int(in), &off, n-sent)
				switch {
				case m > 0:
					sent += m
				case e == unix.EINTR:
				case e == unix.EAGAIN:
					return false
				case e == nil:
					srcErr = io.ErrUnexpectedEOF
					return true
				case e == unix.EPIPE || e == unix.ECONNRESET || e == unix.ENOTCONN || e == unix.ETIMEDOUT:
					write = os.NewSyscallError("sendfile", e)
					return true
				default:
					// The kernel does not say whose error it is; if it is the connection's,
					// the padding that follows fails too.
					srcErr = os.NewSyscallError("sendfile", e)
					return true
				}
			}
			return true
		})
	})
	if err == nil {
		err = write
	}
	if sent == n {
		srcErr = nil
	}
	return sent, srcErr, err
}

// sendDescriptor writes b, a descriptor of f riding on its first byte.
func (s rawSender) sendDescriptor(b []byte, f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var sent error
	err = raw.Control(func(fd uintptr) {
		n, _, sent = s.unix.WriteMsgUnix(b, unix.UnixRights(int(fd)), nil)
	})
	if err != nil {
		return fmt.Errorf("pass descriptor: %w", err)
	}
	if sent != nil {
		return sent
	}
	if n < len(b) {
		_, err = s.unix.Write(b[n:])
	}
	return err
}

// maxWaitingFiles bounds the descriptors a peer can make us hold before the frames
// that announce them.
const maxWaitingFiles = 64

// receiver returns the function by which a client reads from c, taking descriptors
// from unix sockets into in.
func receiver(c net.Conn, in *inlet) func([]byte) (int, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return c.Read
	}
	oob := make([]byte, unix.CmsgSpace(4*16))
	return func(p []byte) (int, error) {
		n, oobn, flags, _, err := u.ReadMsgUnix(p, oob)
		if oobn > 0 {
			if err := takeFiles(oob[:oobn], in); err != nil {
				return 0, err
			}
		}
		if flags&unix.MSG_CTRUNC != 0 {
			return 0, fmt.Errorf("%w: too many descriptors", errFrame)
		}
		if n == 0 && err == nil && len(p) > 0 {
			err = io.EOF
		}
		return n, err
	}
}

func takeFiles(oob []byte, in *inlet) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			in.files = append(in.files, os.NewFile(uintptr(fd), "passed descriptor"))
		}
	}
	if len(in.files) > maxWaitingFiles {
		return fmt.Errorf("%w: too many descriptors", errFrame)
	}
	return nil
}

// peerUID returns who is at the other end of a unix socket, by the kernel's word.
func peerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, os.NewSyscallError("getsockopt", failed)
	}
	return cred.Uid, nil
}

// peek says, without reading from it, whether an idle connection was closed by the
// other end, or has bytes to read. What cannot be asked is taken to be well.
func peek(c net.Conn) (closed, pending bool) {
	t, overTLS := c.(interface{ NetConn() net.Conn })
	if overTLS {
		c = t.NetConn()
	}
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true, false
	}
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		closed = n == 0 && err == nil || err != nil && err != unix.EAGAIN && err != unix.EINTR
		pending = n > 0 && !overTLS // TLS sends messages of its own
	})
	return closed || err != nil, pending
}

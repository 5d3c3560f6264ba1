package hdfs

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/colinmarc/hdfs/v2"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs/namenode"
)

// mover makes a data that asks hosts.
func mover(t *testing.T, hosts ...string) *data {
	t.Helper()
	set := settings{hosts: hosts, user: "me", dial: dialer(nil), replication: 1, block: 1 << 20, options: hdfs.ClientOptions{User: "me"}}
	n := newNode(set)
	d := newData(n, set)
	t.Cleanup(func() { d.Close() })
	return d
}

// files are the calls of a fake but those that renew leases.
func files(f *fake) []request {
	return slices.DeleteFunc(f.take(), func(r request) bool { return r.method == "renewLease" })
}

// The library's own calls survive the end of a name node in their middle: they go to the
// next one under the same number.
func TestLibraryFailover(t *testing.T) {
	one := newFake(t, func(request) answer { return answer{cut: true} })
	two := newFake(t, func(request) answer { return answer{body: fileStatus(5)} })
	d := mover(t, one.addr, two.addr)
	enough := errors.New("enough")
	var st namenode.Status
	_, err := d.Open(t.Context(), "/f", 0, 1, func(s namenode.Status) error { st = s; return enough })
	if !errors.Is(err, enough) || st.Length != 5 {
		t.Fatalf("open past a name node that dies: %+v, %v", st, err)
	}
	a, b := files(one), files(two)
	if len(a) != 1 || len(b) != 1 || a[0].id != b[0].id || a[0].method != "getFileInfo" {
		t.Errorf("the first name node saw %+v, the second %+v; want one call under one number", a, b)
	}
	if len(d.clients.idle) != 0 {
		t.Error("a client that lost a connection waits for the next file")
	}
}

// A file that cannot be closed yet is closed by the same request again: with the last block
// in it, which the library leaves out.
func TestCloseAgain(t *testing.T) {
	var closes atomic.Int32
	f := newFake(t, func(r request) answer {
		switch r.method {
		case "create":
			return answer{body: fileStatus(0)}
		case "complete":
			return answer{body: message(nil).flag(1, closes.Add(1) == 3)}
		}
		return answer{}
	})
	d := mover(t, f.addr)
	w, err := d.Create(t.Context(), "/f", 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	seen := files(f)
	if len(seen) != 4 || closes.Load() != 3 {
		t.Fatalf("the name node saw %+v, want create and three times complete", seen)
	}
	for _, r := range seen[2:] {
		if string(r.body) != string(seen[1].body) {
			t.Errorf("it was asked to close with %x, then with %x", seen[1].body, r.body)
		}
	}
	if len(d.clients.idle) != 1 {
		t.Error("the client that is well does not wait for the next file")
	}
}

// A block that cannot be added yet is asked for again, until the caller's deadline.
func TestBlockTooEarly(t *testing.T) {
	var tries atomic.Int32
	f := newFake(t, func(r request) answer {
		switch r.method {
		case "create":
			return answer{body: fileStatus(0)}
		case "addBlock":
			if tries.Add(1) < 3 {
				return answer{failure: &namenode.Exception{Class: "org.apache.hadoop.hdfs.server.namenode.NotReplicatedYetException"}}
			}
			return answer{failure: &namenode.Exception{Class: "java.io.IOException", Message: "no room"}}
		}
		return answer{}
	})
	d := mover(t, f.addr)
	w, err := d.Create(t.Context(), "/f", 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	err = w.Write(t.Context(), []byte("x"))
	if e, ok := errors.AsType[*namenode.Exception](err); !ok || e.Message != "no room" || tries.Load() != 3 {
		t.Errorf("the third answer is not what the writer got: %v after %d tries", err, tries.Load())
	}
}

// A context ends whatever the library waits for, and its client is not used again.
func TestLibraryDeadline(t *testing.T) {
	f := newFake(t, func(request) answer { return answer{hang: true} })
	d := mover(t, f.addr)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := d.Open(ctx, "/f", 0, 1, func(namenode.Status) error { return nil })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("open of a name node that hangs: %v, want the deadline", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err = d.Create(ctx, "/f", 0o644); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("create at a name node that hangs: %v, want the deadline", err)
	}
	if len(d.clients.all) != 0 {
		t.Errorf("%d clients are left", len(d.clients.all))
	}
	d.Close()
	if _, err := d.Open(t.Context(), "/f", 0, 1, nil); namenode.KindOf(err) != sluice.Invalid {
		t.Errorf("open of a closed store: %v, want kind invalid", err)
	}
}

// A broken connection to a data node takes writes and fails reads, which is what makes the
// library end its goroutines; one to a name node fails both.
func TestWire(t *testing.T) {
	for _, toData := range []bool{true, false} {
		a, b := net.Pipe()
		w := &wire{Conn: a, c: &client{}, data: toData}
		b.Close()
		w.fail()
		n, err := w.Write([]byte("abc"))
		if toData != (n == 3 && err == nil) {
			t.Errorf("write, to a data node %v: %d, %v", toData, n, err)
		}
		if _, err := w.Read(make([]byte, 1)); err == nil {
			t.Error("a read of a broken connection succeeded")
		}
	}
}

package hdfs

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/namenode"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect makes a node that asks hosts.
func connect(t *testing.T, hosts ...string) *node {
	t.Helper()
	n := newNode(settings{hosts: hosts, user: "me", dial: dialer(nil)})
	t.Cleanup(n.conns.Close)
	return n
}

// dead returns an address at which nobody listens.
func dead(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// standby refuses every call as a standby does.
func standby(request) answer {
	return answer{failure: &namenode.Exception{Class: "org.apache.hadoop.ipc.StandbyException", Message: "Operation category READ is not supported in state standby"}}
}

func TestFailover(t *testing.T) {
	active := newFake(t, func(request) answer { return answer{body: fileStatus(5)} })
	sleeping := newFake(t, standby)
	n := connect(t, dead(t), sleeping.addr, active.addr)
	st, err := n.Stat(t.Context(), "/f")
	if err != nil || st.Length != 5 || st.ID != 7 || st.Mtime != 1_000_000_000_123 || st.Mode != 0o644 || st.Owner != "me" {
		t.Fatalf("stat past a dead and a standby name node: %+v, %v", st, err)
	}
	sleeping.take()
	if _, err := n.Stat(t.Context(), "/f"); err != nil || len(sleeping.take()) != 0 {
		t.Errorf("the second call: %v; the standby was asked again", err)
	}
	all := connect(t, sleeping.addr)
	if _, err := all.Stat(t.Context(), "/f"); !errors.Is(err, sluice.Unavailable) {
		t.Errorf("stat with nothing but a standby: %v, want kind unavailable", err)
	}
}

// A change whose answer is lost is sent again under its number, at the other name node if
// need be, and takes effect once.
func TestChangeIsSentAgain(t *testing.T) {
	var done atomic.Int32
	var first atomic.Int32
	reply := func(r request) answer {
		if first.CompareAndSwap(0, r.id) {
			done.Add(1)
			return answer{cut: true} // done, and the name node dies
		}
		if r.id != first.Load() {
			done.Add(1) // another number: another change
		}
		return answer{} // from its memory of answers
	}
	one, two := newFake(t, reply), newFake(t, reply)
	n := connect(t, one.addr, two.addr)
	if err := n.Rename(t.Context(), "/a", "/b", false); err != nil {
		t.Fatal(err)
	}
	again := two.take()
	if done.Load() != 1 || len(again) != 1 || again[0].retry != 1 || again[0].method != "rename2" {
		t.Errorf("the rename was done %d times; the second name node saw %+v", done.Load(), again)
	}
}

func TestDeadline(t *testing.T) {
	f := newFake(t, func(request) answer { return answer{hang: true} })
	n := connect(t, f.addr)
	for _, c := range []struct {
		name string
		call func(context.Context) error
		want sluice.Kind
	}{
		{"stat", func(ctx context.Context) error { _, err := n.Stat(ctx, "/f"); return err }, sluice.Timeout},
		{"rename", func(ctx context.Context) error { return n.Rename(ctx, "/a", "/b", true) }, sluice.UnknownOutcome},
		{"delete", func(ctx context.Context) error { return n.Delete(ctx, "/a") }, sluice.UnknownOutcome},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := c.call(ctx); !errors.Is(err, c.want) {
			t.Errorf("%s of a name node that hangs: %v, want kind %q", c.name, err, c.want)
		}
		cancel()
	}
	ctx, cancel := context.WithCancel(t.Context())
	f.take()
	stop := time.AfterFunc(20*time.Millisecond, cancel)
	defer stop.Stop()
	if _, err := n.Stat(ctx, "/f"); !errors.Is(err, sluice.Cancelled) {
		t.Errorf("a stat that was cancelled: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if err := n.Delete(ctx, "/f"); !errors.Is(err, sluice.Cancelled) {
		t.Errorf("a delete that was cancelled before it was sent: %v", err)
	}
}

// A change that cannot be sent was not made.
func TestUnreachable(t *testing.T) {
	n := connect(t, dead(t), dead(t))
	if err := n.Rename(t.Context(), "/a", "/b", false); !errors.Is(err, sluice.Unavailable) {
		t.Errorf("rename with no name node: %v, want kind unavailable", err)
	}
	n.conns.Close()
	if err := n.Rename(t.Context(), "/a", "/b", false); !errors.Is(err, sluice.Invalid) {
		t.Errorf("rename on a closed store: %v, want kind invalid", err)
	}
}

func TestGarbledAnswers(t *testing.T) {
	for _, raw := range [][]byte{
		{0xff, 0xff, 0xff, 0xff}, {0, 0, 0, 1, 0xff}, {0, 0, 0, 0}, []byte("HTTP/1.1 400 Bad Request\r\n\r\n" + string(make([]byte, 100))),
		frame(message(nil).number(1, 99).number(2, 0)), frame(message{0xff}),
	} {
		f := newFake(t, func(request) answer { return answer{raw: raw} })
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if _, err := connect(t, f.addr).Stat(ctx, "/f"); !errors.Is(err, sluice.Unavailable) && !errors.Is(err, sluice.Timeout) {
			t.Errorf("an answer of %q: %v, want kind unavailable", raw, err)
		}
		cancel()
	}
	f := newFake(t, func(request) answer { return answer{body: message{0x0a, 0x7f}} })
	if _, err := connect(t, f.addr).Stat(t.Context(), "/f"); err == nil {
		t.Error("a status cut short was taken")
	}
}

// A file whose length is whole blocks may be open: the name node is asked.
func TestOpenFiles(t *testing.T) {
	f := newFake(t, func(r request) answer {
		if r.method == "getBlockLocations" {
			return answer{body: message(nil).text(1, string(message(nil).number(1, 0).flag(3, true).flag(5, false)))}
		}
		return answer{body: fileStatus(2 << 20)}
	})
	st, err := connect(t, f.addr).Stat(t.Context(), "/f")
	if err != nil || !st.Open {
		t.Errorf("stat of a file under construction: %+v, %v; want it open", st, err)
	}
}

func TestSettings(t *testing.T) {
	for _, c := range []struct {
		uri        string
		properties map[string]string
		hosts      []string
		top        string
		kind       sluice.Kind
	}{
		{"hdfs://nn", nil, []string{"nn:8020"}, "/", 0},
		{"hdfs://nn1:9000,nn2:8020/a/b%20c/", nil, []string{"nn1:9000", "nn2:8020"}, "/a/b c", 0},
		{"hdfs:///path", nil, nil, "", sluice.Invalid},
		{"hdfs://nn1,,nn2/path", nil, nil, "", sluice.Invalid},
		{"hdfs://me@nn/path", nil, nil, "", sluice.Invalid},
		{"hdfs://ns/data", map[string]string{"hadoop_conf": "testdata/ha"}, []string{"nn1.example:8020", "nn2.example:8020"}, "/data", 0},
		{"hdfs:///data", map[string]string{"hadoop_conf": "testdata/ha"}, []string{"nn1.example:8020", "nn2.example:8020"}, "/data", 0},
		{"hdfs://ns/data", map[string]string{"hadoop_conf": "testdata"}, nil, "", sluice.Invalid},
		{"hdfs://ns/data", map[string]string{"hadoop_conf": "testdata/kerberos"}, nil, "", sluice.Unsupported},
		{"hdfs://nn/", map[string]string{"replication": "0"}, nil, "", sluice.Invalid},
		{"hdfs://nn/", map[string]string{"block_size": "1000"}, nil, "", sluice.Invalid},
		{"hdfs://nn/", map[string]string{"datanode_hostname": "yes"}, nil, "", sluice.Invalid},
	} {
		set, err := Driver{}.read(underfs.Config{URI: c.uri, Properties: c.properties})
		if c.kind != 0 {
			if !errors.Is(err, c.kind) {
				t.Errorf("%s %v: %v, want kind %q", c.uri, c.properties, err, c.kind)
			}
			continue
		}
		if err != nil || set.top != c.top || len(set.hosts) != len(c.hosts) || set.hosts[0] != c.hosts[0] {
			t.Errorf("%s %v: %v %q, %v; want %v %q", c.uri, c.properties, set.hosts, set.top, err, c.hosts, c.top)
		}
	}
	set, err := Driver{}.read(underfs.Config{URI: "hdfs://ns/", Properties: map[string]string{"hadoop_conf": "testdata/ha", "replication": "2"}})
	if err != nil || set.block != 64<<20 || set.replication != 2 || !set.options.UseDatanodeHostname {
		t.Errorf("block size %d, replication %d, host names %v, %v; want what hadoop_conf says and a property overrides",
			set.block, set.replication, set.options.UseDatanodeHostname, err)
	}
}

func FuzzStatus(f *testing.F) {
	f.Add([]byte(fileStatus(5)))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if m, ok, err := sub(b, 1); ok && err == nil {
			_, _, _ = parse(m)
		}
	})
}

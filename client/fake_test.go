package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a cluster of one master and some workers behind real rpc, simple enough to be
// right and with handles to make things go wrong.
type fake struct {
	t       testing.TB
	dir     string
	block   int64 // block size of new files
	workers []*fakeWorker
	mounts  []sluice.MountInfo
	holders map[uint64][]*wire.Holder // by file

	calls    [100]atomic.Int64 // by method
	lease    atomic.Int64      // of grants, ns; 0: none
	slow     atomic.Int64      // ns after which a stat is answered as unavailable; 0: no
	dropNext atomic.Int64      // method whose next answer is lost with its connection
	listener *dropper

	mu       sync.Mutex
	files    map[string]*fakeFile
	contents map[sluice.ContentID][]byte // sealed and committed: the "under store"
	sealed   map[sluice.ContentID][]byte // sealed
	next     uint64
	sessions map[uint64]*fakeSession
	wake     chan struct{}
}

type fakeFile struct {
	info *wire.FileInfo
	dir  bool
}

type fakeSession struct {
	answers map[uint64]func() (rpc.Message, error)
	held    map[uint64]bool
	queue   []uint64
	upto    uint64
	acked   uint64
	waiting int
}

// newFake starts a cluster with n workers, the first sockets of which are local.
func newFake(t testing.TB, n, sockets int) *fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "sluice") // short: the name of a unix socket is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &fake{t: t, dir: dir, block: 4 << 20, files: map[string]*fakeFile{"/": {dir: true, info: &wire.FileInfo{Path: "/", Id: 1, Type: uint32(sluice.Directory), Complete: true}}},
		contents: map[sluice.ContentID][]byte{}, sealed: map[sluice.ContentID][]byte{}, next: 100, sessions: map[uint64]*fakeSession{}, wake: make(chan struct{})}
	f.listener = f.serve(f, "unix", filepath.Join(dir, "m.sock"), rpc.RoleMaster)
	for i := range n {
		w := &fakeWorker{f: f, writing: map[sluice.ContentID]map[int64][]byte{}, dropped: map[sluice.ContentID]bool{}}
		w.info = sluice.WorkerInfo{ID: sluice.WorkerID(i + 1), Host: fmt.Sprintf("host%d", i), Weight: 1}
		if i < sockets {
			w.info.Socket = filepath.Join(dir, fmt.Sprintf("w%d.sock", i))
			w.listener = f.serve(w, "unix", w.info.Socket, rpc.RoleWorker)
		} else {
			w.listener = f.serve(w, "tcp", "127.0.0.1:0", rpc.RoleWorker)
			w.info.Address = w.listener.Addr().String()
		}
		f.workers = append(f.workers, w)
	}
	return f
}

func (f *fake) serve(h rpc.Handler, network, addr string, role rpc.Role) *dropper {
	l, err := net.Listen(network, addr)
	if err != nil {
		f.t.Fatal(err)
	}
	d := &dropper{Listener: l}
	s := rpc.NewServer(rpc.ServerConfig{Role: role, Anonymous: true}, h)
	done := make(chan error, 1)
	go func() { done <- s.Serve(d) }()
	f.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Shutdown(ctx)
		if err := <-done; err != nil {
			f.t.Errorf("serve: %v", err)
		}
	})
	return d
}

// client returns a client of the cluster, closed with the test.
func (f *fake) client(change func(*Config)) *Client {
	f.t.Helper()
	cfg := Config{Masters: Static("unix:" + filepath.Join(f.dir, "m.sock")), User: "ann", Retry: 5 * time.Second, Rand: rand.NewPCG(1, f.rand())}
	if change != nil {
		change(&cfg)
	}
	c, err := New(f.t.Context(), cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			f.t.Errorf("close: %v", err)
		}
	})
	return c
}

func (f *fake) rand() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	return f.next
}

func failure(kind sluice.Kind, format string, args ...any) error {
	return &sluice.Error{Op: "fake", Kind: kind, Err: fmt.Errorf(format, args...)}
}

// Serve is the master.
func (f *fake) Serve(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	f.calls[r.Method].Add(1)
	m, err := f.answer(ctx, r)
	if f.dropNext.CompareAndSwap(int64(r.Method), 0) {
		f.listener.cut()
	}
	return m, err
}

func (f *fake) answer(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	switch r.Method {
	case wire.MethodOpenSession, wire.MethodRenewSession, wire.MethodCloseSession:
		return f.session(r)
	case wire.MethodAwait:
		return f.await(ctx, r)
	case wire.MethodStat:
		if d := f.slow.Load(); d != 0 {
			if err := sleep(ctx, time.Duration(d)); err != nil {
				return nil, err
			}
			return nil, failure(sluice.Unavailable, "the store does not answer")
		}
		return read(r, new(wire.StatRequest), func(q *wire.StatRequest) (rpc.Message, error) {
			x := f.files[q.Path]
			if x == nil {
				return nil, failure(sluice.NotFound, "no %s", q.Path)
			}
			return &wire.StatAnswer{Info: clone(x.info)}, nil
		}, &f.mu)
	case wire.MethodList:
		return read(r, new(wire.ListRequest), f.list, &f.mu)
	case wire.MethodOpen:
		return read(r, new(wire.OpenRequest), f.open, &f.mu)
	case wire.MethodMounts:
		f.mu.Lock()
		defer f.mu.Unlock()
		return &wire.MountsAnswer{Mounts: wire.Map(f.mounts, wire.FromMountInfo)}, nil
	case wire.MethodMkdir:
		return change(f, r, new(wire.MkdirRequest), func(q *wire.MkdirRequest) (rpc.Message, error) {
			if f.files[q.Path] != nil {
				return nil, failure(sluice.Exists, "%s is there", q.Path)
			}
			return &wire.StatAnswer{Info: clone(f.add(q.Path, sluice.Directory).info)}, nil
		})
	case wire.MethodCreate:
		return change(f, r, new(wire.CreateRequest), f.create)
	case wire.MethodCommit:
		return change(f, r, new(wire.CommitRequest), f.commit)
	case wire.MethodAbandon:
		return change(f, r, new(wire.AbandonRequest), func(q *wire.AbandonRequest) (rpc.Message, error) {
			for path, x := range f.files {
				if x.info.Id == q.File && !x.info.Complete {
					delete(f.files, path)
				}
			}
			return &wire.Empty{}, nil
		})
	case wire.MethodRemove:
		return change(f, r, new(wire.RemoveRequest), func(q *wire.RemoveRequest) (rpc.Message, error) {
			x := f.files[q.Path]
			if x == nil {
				return nil, failure(sluice.NotFound, "no %s", q.Path)
			}
			delete(f.files, q.Path)
			f.notifyLocked(x.info.Id)
			return &wire.Empty{}, nil
		})
	case wire.MethodRename:
		return change(f, r, new(wire.RenameRequest), func(q *wire.RenameRequest) (rpc.Message, error) {
			x := f.files[q.From]
			if x == nil {
				return nil, failure(sluice.NotFound, "no %s", q.From)
			}
			delete(f.files, q.From)
			x.info.Path = q.To
			f.files[q.To] = x
			f.notifyLocked(x.info.Id)
			return &wire.Empty{}, nil
		})
	}
	return nil, failure(sluice.Unsupported, "method %d", r.Method)
}

func read[Q rpc.Message](r *rpc.Request, q Q, f func(Q) (rpc.Message, error), mu *sync.Mutex) (rpc.Message, error) {
	if err := r.Decode(q); err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	return f(q)
}

// change runs a mutation once for each request id.
func change[Q interface {
	rpc.Message
	GetCall() *wire.CallHeader
}](f *fake, r *rpc.Request, q Q, run func(Q) (rpc.Message, error)) (rpc.Message, error) {
	if err := r.Decode(q); err != nil {
		return nil, err
	}
	id := q.GetCall().GetRequest().Sluice()
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sessions[uint64(id.Session)]
	if s == nil {
		return nil, failure(sluice.NotFound, "no session")
	}
	if again := s.answers[id.Seq]; again != nil {
		return again()
	}
	m, err := run(q)
	s.answers[id.Seq] = func() (rpc.Message, error) { return m, err }
	return m, err
}

func (f *fake) session(r *rpc.Request) (rpc.Message, error) {
	return read(r, new(wire.SessionRequest), func(q *wire.SessionRequest) (rpc.Message, error) {
		switch r.Method {
		case wire.MethodOpenSession:
			f.sessions[q.Session] = &fakeSession{answers: map[uint64]func() (rpc.Message, error){}, held: map[uint64]bool{}}
			return &wire.SessionAnswer{Lease: int64(time.Minute), Window: 16, View: f.view()}, nil
		case wire.MethodCloseSession:
			delete(f.sessions, q.Session)
		default:
			if f.sessions[q.Session] == nil {
				return nil, failure(sluice.NotFound, "no session")
			}
		}
		return &wire.SessionAnswer{}, nil
	}, &f.mu)
}

func (f *fake) view() *wire.View {
	v := &sluice.View{Version: 1}
	for _, w := range f.workers {
		v.Workers = append(v.Workers, w.info)
	}
	return wire.FromView(v)
}

func (f *fake) await(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.AwaitRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sessions[q.Session]
	if s == nil {
		return nil, failure(sluice.NotFound, "no session")
	}
	s.acked = q.Acked
	f.wakeLocked()
	s.waiting++
	defer func() { s.waiting-- }()
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	for s.upto <= q.Acked {
		wake := f.wake
		f.mu.Unlock()
		select {
		case <-wake:
			f.mu.Lock()
			continue
		case <-timer.C:
		case <-ctx.Done():
		}
		f.mu.Lock()
		break
	}
	if f.sessions[q.Session] == nil || ctx.Err() != nil {
		return nil, failure(sluice.NotFound, "no session")
	}
	a := &wire.AwaitAnswer{Upto: s.upto, Files: s.queue, Lease: f.lease.Load()}
	s.queue = nil
	return a, nil
}

func (f *fake) wakeLocked() {
	close(f.wake)
	f.wake = make(chan struct{})
}

// notifyLocked tells the holders of a file that it changed and waits until they know.
func (f *fake) notifyLocked(id uint64) {
	var told []*fakeSession
	for _, s := range f.sessions {
		if s.held[id] {
			delete(s.held, id)
			s.queue = append(s.queue, id)
			s.upto++
			told = append(told, s)
		}
	}
	f.wakeLocked()
	deadline := time.Now().Add(3 * time.Second)
	for _, s := range told {
		for want := s.upto; s.acked < want && time.Now().Before(deadline); {
			wake := f.wake
			f.mu.Unlock()
			select {
			case <-wake:
			case <-time.After(100 * time.Millisecond):
			}
			f.mu.Lock()
		}
	}
}

func (f *fake) add(path string, kind sluice.Type) *fakeFile {
	f.next++
	x := &fakeFile{dir: kind == sluice.Directory, info: &wire.FileInfo{Path: path, Id: f.next, Type: uint32(kind), Complete: kind == sluice.Directory}}
	f.files[path] = x
	return x
}

func (f *fake) list(q *wire.ListRequest) (rpc.Message, error) {
	if f.files[q.Path] == nil {
		return nil, failure(sluice.NotFound, "no %s", q.Path)
	}
	a := &wire.ListAnswer{}
	for _, path := range slices.Sorted(maps.Keys(f.files)) {
		p := sluice.Path(path)
		if path == "/" || p.Parent() != sluice.Path(q.Path) || p.Name() <= q.After {
			continue
		}
		if len(a.Entries) == int(q.Limit) {
			a.More = true
			break
		}
		e := clone(f.files[path].info)
		e.Path = p.Name()
		a.Entries = append(a.Entries, e)
	}
	return a, nil
}

func (f *fake) open(q *wire.OpenRequest) (rpc.Message, error) {
	x := f.files[q.Path]
	if q.File != 0 {
		x = nil
		for _, y := range f.files {
			if y.info.Id == q.File {
				x = y
			}
		}
	}
	if x == nil || !x.dir && !x.info.Complete {
		return nil, failure(sluice.NotFound, "no %s", q.Path)
	}
	a := &wire.OpenAnswer{Holders: f.holders[x.info.Id], Info: clone(x.info), Expires: int64(time.Hour)}
	if a.Info.Key == "" {
		a.Info.Key = x.info.Path
	}
	info := x.info.Sluice()
	g, _ := (&wire.Claims{Content: wire.FromContentID(info.Content()), Length: info.Length, BlockSize: info.BlockSize(), Key: x.info.Path}).MarshalVT()
	a.Grant = g
	if s := f.sessions[q.Call.GetRequest().GetSession()]; s != nil && s.waiting > 0 && f.lease.Load() > 0 {
		s.held[x.info.Id] = true
		a.Lease = f.lease.Load()
	}
	return a, nil
}

func (f *fake) create(q *wire.CreateRequest) (rpc.Message, error) {
	x := f.files[q.Path]
	if x != nil && q.Options.Exclusive {
		return nil, failure(sluice.Exists, "%s is there", q.Path)
	}
	if x == nil {
		x = f.add(q.Path, sluice.File)
	}
	if q.Options.Empty {
		x.info.Complete = true
		return &wire.CreateAnswer{Info: clone(x.info)}, nil
	}
	f.next++
	id := sluice.ContentID{Incarnation: 7, Counter: f.next}
	size := q.Options.BlockSize
	if size == 0 {
		size = f.block
	}
	g, _ := (&wire.Claims{Content: wire.FromContentID(id), Write: true, File: x.info.Id, BlockSize: size}).MarshalVT()
	return &wire.CreateAnswer{Info: clone(x.info), Content: wire.FromContentID(id), Grant: g, Write: uint32(sluice.MustCache), BlockSize: size}, nil
}

func (f *fake) commit(q *wire.CommitRequest) (rpc.Message, error) {
	for _, x := range f.files {
		if x.info.Id != q.File {
			continue
		}
		sealed := q.Sealed.Sluice()
		data, ok := f.sealed[sealed.Content]
		if !ok {
			return nil, failure(sluice.Invalid, "not sealed")
		}
		f.contents[sealed.Content] = data
		f.put(x, sealed.Content, data, f.block)
		f.notifyLocked(x.info.Id)
		return &wire.StatAnswer{Info: clone(x.info)}, nil
	}
	return nil, failure(sluice.NotFound, "no file")
}

func (f *fake) put(x *fakeFile, id sluice.ContentID, data []byte, block int64) {
	x.info.Complete, x.info.Length, x.info.Extents = true, int64(len(data)), nil
	if n := int64(len(data)); n > 0 {
		x.info.Extents = []*wire.Extent{{Content: wire.FromContentID(id), Count: uint32((n + block - 1) / block), BlockSize: block}}
	}
}

// write puts a file into the cluster behind the client's back.
func (f *fake) write(path string, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.files[path]
	if x == nil {
		x = f.add(path, sluice.File)
	}
	f.next++
	id := sluice.ContentID{Incarnation: 7, Counter: f.next}
	f.contents[id] = bytes.Clone(data)
	f.put(x, id, f.contents[id], f.block)
	f.notifyLocked(x.info.Id)
}

func (f *fake) content(path string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.files[path]
	if x == nil || !x.info.Complete {
		return nil
	}
	info := x.info.Sluice()
	return f.contents[info.Content()]
}

// count returns how often the methods were called since the last count.
func (f *fake) count(methods ...int) (n int64) {
	for _, m := range methods {
		n += f.calls[m].Swap(0)
	}
	return n
}

func isKind(t *testing.T, err error, kind sluice.Kind) {
	t.Helper()
	if e, ok := errors.AsType[*sluice.Error](err); !ok || e.Kind != kind || strings.Count(err.Error(), kind.String()) != 1 {
		t.Errorf("got error %v, want one of kind %q, said once", err, kind)
	}
}

func clone(i *wire.FileInfo) *wire.FileInfo { return proto.Clone(i).(*wire.FileInfo) }

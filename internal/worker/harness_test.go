package worker

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/auth"
	"github.com/sluicefs/sluice/internal/blockstore"
	"github.com/sluicefs/sluice/internal/policy"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/mounts"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const incarnation = 7

// bench is a worker behind real rpc, on a real block store, with a master that says what
// the test wants.
type bench struct {
	t      testing.TB
	dir    string
	keys   *auth.Keyring
	driver *underfstest.Driver
	desk   *desk
	cfg    Config
	quota  int64

	damaged int // answers whose bytes failed their checksum here

	w     *Worker
	store *blockstore.Store
	conn  *rpc.Client
	stop  func()
}

// desk is a master of a few words.
type desk struct {
	mu       sync.Mutex
	table    []*wire.WorkerMount
	version  uint64
	verdicts map[sluice.ContentID]*wire.ContentVerdict
	beats    []*wire.Heartbeat
	orders   chan *wire.Order
	results  chan *wire.OrderResult
	room     chan struct{} // a request that waits is answered, for a later one
	primary  string        // not this one
}

func (d *desk) Serve(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	d.mu.Lock()
	primary := d.primary
	d.mu.Unlock()
	if primary != "" {
		return nil, &sluice.Error{Kind: sluice.NotPrimary, Primary: primary}
	}
	switch r.Method {
	case wire.MethodHeartbeat:
		var q wire.Heartbeat
		if err := r.Decode(&q); err != nil {
			return nil, err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.beats = append(d.beats, &q)
		a := &wire.HeartbeatAnswer{Mounts: d.version, Incarnations: []uint64{incarnation}}
		a.View = wire.FromView(&sluice.View{Version: 1, Workers: []sluice.WorkerInfo{q.Worker.Sluice()}})
		if q.Mounts != d.version {
			a.Table = d.table
		}
		for _, c := range q.Unpersisted {
			if v := d.verdicts[c.Sluice()]; v != nil {
				v.Content = c
				a.Verdicts = append(a.Verdicts, v)
			}
		}
		return a, nil
	default:
		var q wire.OrdersRequest
		if err := r.Decode(&q); err != nil {
			return nil, err
		}
		for _, x := range q.Results {
			d.results <- x
		}
		select {
		case d.room <- struct{}{}:
		default:
		}
		select {
		case o := <-d.orders:
			return &wire.OrdersAnswer{Orders: []*wire.Order{o}}, nil
		case <-d.room:
			return &wire.OrdersAnswer{}, nil
		case <-ctx.Done():
			return &wire.OrdersAnswer{}, nil
		}
	}
}

// newBench starts a worker with one mount, id 1, of the memory store "a".
func newBench(t testing.TB, opts underfstest.Options, change ...func(*bench)) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "w")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	keys, err := auth.NewKeyring(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{
		t: t, dir: dir, keys: keys, driver: &underfstest.Driver{Options: opts}, quota: 256 << 20,
		desk: &desk{version: 1, verdicts: map[sluice.ContentID]*wire.ContentVerdict{}, orders: make(chan *wire.Order), results: make(chan *wire.OrderResult, 100), room: make(chan struct{})},
		cfg:  Config{Interval: 20 * time.Millisecond, Prefetch: policy.PrefetchConfig{Max: -1}, Rand: rand.New(rand.NewPCG(1, 2))},
	}
	b.mount(1, "a")
	for _, c := range change {
		c(b)
	}
	b.serve("m", b.desk, rpc.RoleMaster)
	b.start()
	t.Cleanup(func() { b.stop() })
	return b
}

func (b *bench) mount(id uint64, name string) {
	b.desk.mu.Lock()
	defer b.desk.mu.Unlock()
	b.desk.version++
	b.desk.table = append(b.desk.table, &wire.WorkerMount{Epoch: 1, Mount: wire.FromMount(sluice.Mount{
		ID: sluice.MountID(id), Path: sluice.Path("/" + name), URI: "mem://" + name, Options: sluice.MountOptions{Timeout: 20 * time.Second},
	})})
}

func (b *bench) socket(name string) string { return filepath.Join(b.dir, name) }

// serve answers at a socket until the test ends or what it returns is called.
func (b *bench) serve(name string, h rpc.Handler, role rpc.Role) (stop func()) {
	b.t.Helper()
	os.Remove(b.socket(name))
	l, err := net.Listen("unix", b.socket(name))
	if err != nil {
		b.t.Fatal(err)
	}
	s := rpc.NewServer(rpc.ServerConfig{Role: role, Keys: b.keys}, h)
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Shutdown(ctx)
		<-done
	})
	b.t.Cleanup(stop)
	return stop
}

// start starts the worker, again on what it left.
func (b *bench) start() {
	b.t.Helper()
	var err error
	b.store, err = blockstore.Open(b.t.Context(), blockstore.Config{Worker: 5, Tiers: []blockstore.TierConfig{{
		Name: "MEM", Dirs: []blockstore.DirConfig{{Path: filepath.Join(b.dir, "blocks"), Quota: b.quota}},
	}}})
	if err != nil {
		b.t.Fatal(err)
	}
	cfg := b.cfg
	cfg.Store, cfg.Keys = b.store, b.keys
	cfg.Stores = mounts.New(mounts.Config{Registry: underfs.NewRegistry(b.driver)})
	if cfg.Masters == nil {
		cfg.Masters = func(context.Context) ([]string, error) { return []string{"unix:" + b.socket("m")}, nil }
	}
	if b.w, err = New(cfg); err != nil {
		b.t.Fatal(err)
	}
	unserve := b.serve("w", b.w.Handler(), rpc.RoleWorker)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- b.w.Run(ctx) }()
	b.conn = rpc.NewClient(rpc.ClientConfig{}, rpc.Target{Socket: b.socket("w")})
	w, store, conn := b.w, b.store, b.conn
	b.stop = sync.OnceFunc(func() {
		conn.Close()
		unserve()
		cancel()
		if err := <-ran; err != nil {
			b.t.Errorf("run: %v", err)
		}
		if err := w.cfg.Stores.Close(context.Background()); err != nil {
			b.t.Error(err)
		}
		if n := w.pool.pages; !w.pool.free.TryAcquire(n) {
			b.t.Errorf("buffers of the pool were not given back")
		}
		if err := store.Check(); err != nil {
			b.t.Error(err)
		}
		store.Close()
	})
}

func (b *bench) memory() *underfstest.Memory { return b.driver.Memory("a") }

func content(n uint64) sluice.ContentID {
	return sluice.ContentID{Incarnation: incarnation, Counter: n}
}

// file is a content in the store and what a grant says of it.
func (b *bench) file(n uint64, key string, data []byte) *wire.Claims {
	o := b.memory().Put(underfs.Key(key), data)
	return &wire.Claims{
		Content: wire.FromContentID(content(n)), Mount: 1, MountEpoch: 1, Key: key, Version: string(o.Version),
		Length: int64(len(data)), BlockSize: 4 << 20,
	}
}

func (b *bench) grant(c *wire.Claims) []byte {
	p, err := c.MarshalVT()
	if err != nil {
		b.t.Fatal(err)
	}
	return b.keys.SignGrant(p, time.Now().Add(time.Hour))
}

// read reads bytes [off, off+n) of the file, block by block, and once more what came
// damaged.
func (b *bench) read(ctx context.Context, c *wire.Claims, off, n int64, r sluice.ReadType) ([]byte, error) {
	out := make([]byte, n)
	for at := int64(0); at < n; {
		pos := off + at
		in := pos % c.BlockSize
		k := min(n-at, c.BlockSize-in)
		q := &wire.ReadBlockRequest{
			Grant: b.grant(c), Block: wire.FromBlockID(sluice.BlockID{Content: c.Content.Sluice(), Index: uint32(pos / c.BlockSize)}),
			Offset: in, Length: k, Read: uint32(r),
		}
		got, err := b.conn.CallPayload(ctx, wire.MethodReadBlock, q, &wire.ReadBlockAnswer{}, rpc.Payload{Recv: out[at : at+k]})
		if errors.Is(err, sluice.Corrupt) {
			b.damaged++
			q.Again = true
			got, err = b.conn.CallPayload(ctx, wire.MethodReadBlock, q, &wire.ReadBlockAnswer{}, rpc.Payload{Recv: out[at : at+k]})
		}
		if err != nil {
			return nil, err
		}
		if int64(got) != k {
			return nil, errors.New("a short answer without an error")
		}
		at += k
	}
	return out, nil
}

func (b *bench) wantRead(c *wire.Claims, data []byte) {
	b.t.Helper()
	got, err := b.read(b.t.Context(), c, 0, int64(len(data)), sluice.Cache)
	if err != nil {
		b.t.Fatalf("read: %v", err)
	}
	if !bytes.Equal(got, data) {
		b.t.Fatal("read other bytes than were written")
	}
}

func (b *bench) write(ctx context.Context, c *wire.Claims, off int64, p []byte) error {
	_, err := b.conn.CallPayload(ctx, wire.MethodWrite, &wire.WriteRequest{Grant: b.grant(c), Offset: off, Checksum: blockstore.Sum(p)}, nil, rpc.Payload{Send: p})
	return err
}

func (b *bench) seal(c *wire.Claims, n int64) (sluice.Sealed, error) {
	var a wire.SealAnswer
	err := b.conn.Call(b.t.Context(), wire.MethodSeal, &wire.SealRequest{Grant: b.grant(c), Length: n}, &a)
	return a.Sealed.Sluice(), err
}

// order has the worker do something and returns what it says of it.
func (b *bench) order(o *wire.Order) *wire.OrderResult {
	b.t.Helper()
	for {
		select {
		case b.desk.orders <- o:
		case r := <-b.desk.results: // of an earlier one, told twice
			_ = r
			continue
		case <-time.After(patience):
			b.t.Fatal("the worker asks for no orders")
		}
		break
	}
	for {
		select {
		case r := <-b.desk.results:
			if r.Id == o.Id {
				return r
			}
		case <-time.After(patience):
			b.t.Fatal("no result of the order")
		}
	}
}

// pattern is n bytes that differ by seed.
func pattern(seed uint64, n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(p)
	return p
}

// patience bounds waiting for what must come, on a machine that others use as well.
const patience = time.Minute

// until waits for ok, which is asked again after each of the worker's beats.
func (b *bench) until(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if ok() {
			return
		}
		b.w.beats.now(b.t.Context(), time.Second)
	}
	b.t.Fatal("never: " + what)
}

func clone(c *wire.Claims) *wire.Claims { return proto.Clone(c).(*wire.Claims) }

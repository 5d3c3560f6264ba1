package master

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/journal"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// The bounds of what goes from one master to another.
const (
	maxOutbox    = 64 << 20        // bytes waiting for one other master; more are dropped
	maxPackets   = 4 << 20         // bytes in one request, unless one packet alone has more
	packetsWait  = 2 * time.Second // for the other to take them
	complainEach = time.Minute     // about a master that cannot be reached
)

// exchange carries the journal's packets to the other masters and takes theirs in. It is
// a journal.Transport.
type exchange struct {
	cfg     Config
	cluster atomic.Pointer[string] // nil: this master belongs to none yet
	journal atomic.Pointer[journal.Journal]

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	boxes map[string]*outbox // guarded by mu: by address
	heard map[uint64]string  // guarded by mu: where each said it is
	over  bool               // guarded by mu
}

func newExchange(cfg Config) *exchange {
	x := &exchange{cfg: cfg, boxes: make(map[string]*outbox), heard: make(map[uint64]string)}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	return x
}

// outbox is what waits for one other master.
type outbox struct {
	x      *exchange
	addr   string
	client *rpc.Client
	wake   chan struct{} // has room for one

	mu    sync.Mutex
	node  uint64   // guarded by mu
	queue [][]byte // guarded by mu
	bytes int      // guarded by mu
}

// Send implements journal.Transport.
func (x *exchange) Send(to journal.Member, packet []byte) {
	b := x.box(to)
	if b == nil {
		return // nobody knows where it is
	}
	b.mu.Lock()
	b.node = to.Node
	full := b.bytes+len(packet) > maxOutbox
	if !full {
		b.queue = append(b.queue, packet)
		b.bytes += len(packet)
	}
	b.mu.Unlock()
	if full {
		x.unreachable(to.Node)
		return
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Ask implements journal.Transport.
func (x *exchange) Ask(ctx context.Context, to journal.Member, question []byte) ([]byte, error) {
	b := x.box(to)
	if b == nil {
		return nil, &sluice.Error{Kind: sluice.Unavailable, Err: fmt.Errorf("the address of master %d is not known", to.Node)}
	}
	var a wire.PeerReply
	err := b.client.Call(ctx, wire.MethodPeerQuestion, &wire.PeerQuestion{To: to.Node, Cluster: x.of(), Question: question}, &a)
	return a.Answer, err
}

// of is the id of the cluster, "" before there is one.
func (x *exchange) of() string {
	if p := x.cluster.Load(); p != nil {
		return *p
	}
	return ""
}

func (x *exchange) unreachable(node uint64) {
	if j := x.journal.Load(); j != nil {
		j.Unreachable(node)
	}
}

// box returns the outbox of a master, nil where its address is not known.
func (x *exchange) box(to journal.Member) *outbox {
	x.mu.Lock()
	defer x.mu.Unlock()
	addr := to.Address
	if addr == "" {
		addr = x.heard[to.Node]
	}
	if addr == "" || x.over {
		return nil
	}
	b := x.boxes[addr]
	if b == nil {
		b = &outbox{x: x, addr: addr, client: x.client(addr), wake: make(chan struct{}, 1)}
		x.boxes[addr] = b
		x.wg.Go(b.run)
	}
	return b
}

// client makes the connection to a master.
func (x *exchange) client(addr string) *rpc.Client {
	t := rpc.Target{Address: addr}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		t = rpc.Target{Socket: path}
	}
	return rpc.NewClient(rpc.ClientConfig{
		Dial: x.cfg.Dial, TLS: x.cfg.TLS, Credential: rpc.Credential{Role: rpc.RoleMaster, Keys: x.cfg.Keys}, Cluster: x.of(),
		MaxMessage: MaxMessage, BulkConns: 1, DialWait: packetsWait, Log: x.cfg.Log,
	}, t)
}

// run sends what gathers.
func (b *outbox) run() {
	var complained time.Time
	for {
		select {
		case <-b.x.ctx.Done():
			return
		case <-b.wake:
		}
		for {
			node, packets := b.take()
			if len(packets) == 0 {
				break
			}
			err := b.send(node, packets)
			if err == nil {
				continue
			}
			b.drop()
			b.x.unreachable(node)
			if b.x.ctx.Err() == nil && time.Since(complained) > complainEach {
				complained = time.Now()
				b.x.cfg.Log.Warn("another master cannot be reached", "node", node, "address", b.addr, "cause", err)
			}
		}
	}
}

func (b *outbox) send(node uint64, packets [][]byte) error {
	ctx, cancel := context.WithTimeout(b.x.ctx, packetsWait)
	defer cancel()
	return b.client.Call(ctx, wire.MethodPeerPackets, &wire.PeerPackets{
		From: b.x.cfg.Node, Address: b.x.cfg.Address, To: node, Cluster: b.x.of(), Packets: packets,
	}, nil)
}

// take returns the next packets.
func (b *outbox) take() (uint64, [][]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, bytes := 0, 0
	for n < len(b.queue) && (n == 0 || bytes+len(b.queue[n]) <= maxPackets) {
		bytes += len(b.queue[n])
		n++
	}
	packets := b.queue[:n:n]
	b.queue = b.queue[n:]
	if len(b.queue) == 0 {
		b.queue = nil
	}
	b.bytes -= bytes
	return b.node, packets
}

// drop forgets what waits.
func (b *outbox) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue, b.bytes = nil, 0
}

// packets takes in what another master sent. It waits for nothing.
func (x *exchange) packets(r *rpc.Request) (rpc.Message, error) {
	var q wire.PeerPackets
	if err := fromMaster(r, &q); err != nil {
		return nil, err
	}
	if err := x.same(q.Cluster, q.To); err != nil {
		return nil, err
	}
	j := x.journal.Load()
	if j == nil {
		return nil, errStarting()
	}
	x.mu.Lock()
	x.heard[q.From] = q.Address
	x.mu.Unlock()
	for _, p := range q.Packets {
		j.Deliver(p)
	}
	return nil, nil
}

// question answers what the journal of another master asks.
func (x *exchange) question(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.PeerQuestion
	if err := fromMaster(r, &q); err != nil {
		return nil, err
	}
	if err := x.same(q.Cluster, q.To); err != nil {
		return nil, err
	}
	j := x.journal.Load()
	if j == nil {
		return nil, errStarting()
	}
	b, err := j.Answer(ctx, q.Question)
	if err != nil {
		return nil, err
	}
	return &wire.PeerReply{Answer: b}, nil
}

// same refuses masters of another cluster, and what is meant for another one.
func (x *exchange) same(cluster string, node uint64) error {
	switch {
	case cluster != x.of():
		return &sluice.Error{Op: "join masters", Kind: sluice.Invalid, Err: fmt.Errorf("this is a master of cluster %q, not of %q: check the addresses", x.of(), cluster)}
	case node != x.cfg.Node:
		return &sluice.Error{Op: "join masters", Kind: sluice.Invalid, Err: fmt.Errorf("this is master %d, not %d: check the addresses", x.cfg.Node, node)}
	}
	return nil
}

// fromMaster decodes a request that only another master may make.
func fromMaster(r *rpc.Request, m rpc.Message) error {
	if r.Peer.Role != rpc.RoleMaster || r.Peer.Kind != rpc.CredentialKey {
		return &sluice.Error{Op: "join masters", Kind: sluice.Permission, Err: errors.New("only a master with the cluster key may")}
	}
	return r.Decode(m)
}

func errStarting() error {
	return &sluice.Error{Op: "join masters", Kind: sluice.Unavailable, Err: errors.New("this master is starting")}
}

// close ends every connection.
func (x *exchange) close() error {
	x.cancel()
	x.mu.Lock()
	x.over = true
	boxes := x.boxes
	x.boxes = nil
	x.mu.Unlock()
	var errs []error
	for _, b := range boxes {
		errs = append(errs, b.client.Close())
	}
	x.wg.Wait()
	return errors.Join(errs...)
}

package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
)

// reel is a tape that keeps what Flush made durable in a file, and can be carried.
type reel struct {
	*tape
	fs  vfs.FS
	dir string
}

type reelFile struct {
	Index sluice.Index
	Data  []string
	At    []sluice.Index
}

func openReel(fs vfs.FS, dir string) (*reel, error) {
	r := &reel{tape: &tape{}, fs: fs, dir: dir}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := fs.Open(fs.PathJoin(dir, "reel"))
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	var x reelFile
	if err := json.Unmarshal(b, &x); err != nil {
		return nil, fmt.Errorf("%q: %w", b, err)
	}
	r.index, r.durable, r.data, r.at = x.Index, x.Index, x.Data, x.At
	return r, nil
}

// Apply answers with the index, so that a test knows how far a reader must be.
func (r *reel) Apply(e Entry) any {
	if e.Index <= r.Applied() {
		return nil
	}
	r.tape.Apply(e)
	return e.Index
}

func (r *reel) Flush() (sluice.Index, error) { return r.save(r.dir) }

func (r *reel) Checkpoint(dir string) (sluice.Index, error) {
	if err := r.fs.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	return r.save(dir)
}

func (r *reel) save(dir string) (sluice.Index, error) {
	r.mu.Lock()
	x := reelFile{Index: r.index, Data: r.data[:len(r.data):len(r.data)], At: r.at[:len(r.at):len(r.at)]}
	r.mu.Unlock()
	b, err := json.Marshal(x)
	if err != nil {
		return 0, err
	}
	path := r.fs.PathJoin(dir, "reel")
	f, err := r.fs.Create(path+".new", vfs.WriteCategoryUnspecified)
	if err != nil {
		return 0, err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return 0, err
	}
	return x.Index, errors.Join(r.fs.Rename(path+".new", path), syncDir(r.fs, dir))
}

// wire is the network of a simulation. What becomes of a packet is a function of seed,
// link and number.
type wire struct {
	seed uint64

	mu    sync.Mutex
	nodes map[uint64]*simNode
	count map[[2]uint64]uint64
	cut   map[[2]uint64]bool // one way
	loss  uint64             // packets of a thousand
}

// fate decides on one packet.
func (w *wire) fate(from, to uint64) (delay time.Duration, lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	link := [2]uint64{from, to}
	w.count[link]++
	rng := rand.New(rand.NewPCG(w.seed^from<<40^to<<20, w.count[link]))
	return time.Duration(rng.Int64N(int64(3*time.Millisecond)) + 1), w.cut[link] || rng.Uint64N(1000) < w.loss
}

// isolate cuts a node off, or one direction only.
func (w *wire) isolate(node uint64, in, out bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for other := range w.nodes {
		w.cut[[2]uint64{other, node}] = in
		w.cut[[2]uint64{node, other}] = out
	}
}

func (w *wire) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.cut)
}

// journal returns what runs at a node.
func (w *wire) journal(node uint64) *Journal {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.nodes[node]; n != nil {
		return n.j
	}
	return nil
}

// port is the end of one life of a node.
type port struct {
	w    *wire
	node *simNode
	life int
}

func (p *port) alive() bool {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.node.life == p.life
}

func (p *port) Send(to Member, packet []byte) {
	delay, lost := p.w.fate(p.node.id, to.Node)
	if lost || !p.alive() {
		return
	}
	time.AfterFunc(delay, func() {
		if j := p.w.journal(to.Node); j != nil {
			j.Deliver(packet)
		}
	})
}

func (p *port) Ask(ctx context.Context, to Member, question []byte) ([]byte, error) {
	delay, lost := p.w.fate(p.node.id, to.Node)
	back, lostToo := p.w.fate(to.Node, p.node.id)
	j := p.w.journal(to.Node)
	if lost || lostToo || j == nil {
		<-ctx.Done()
		return nil, sluice.Timeout
	}
	time.Sleep(delay + back)
	return j.Answer(ctx, question)
}

// simNode is one member over all its lives.
type simNode struct {
	id   uint64
	w    *wire
	tune func(*Config)
	run  sync.WaitGroup

	fs    *vfs.MemFS
	slept atomic.Int64 // what its boot-time clock is ahead

	// Guarded by the wire's mutex.
	life int // counts; even while it is down
	j    *Journal
	m    *reel
}

// start begins a life on what the disk has, and goes on through checkpoints that arrive.
func (n *simNode) start(t *testing.T) {
	t.Helper()
	n.w.mu.Lock()
	n.life++
	life := n.life
	n.w.mu.Unlock()
	n.open(t, life)
	n.run.Go(func() { n.follow(t, life) })
}

func (n *simNode) open(t *testing.T, life int) {
	t.Helper()
	must(t, n.fs.MkdirAll("m", 0o700))
	must(t, syncDir(n.fs, ""))
	p, err := FindPlace(n.fs, "m")
	must(t, err)
	m, err := openReel(n.fs, p.Dir)
	must(t, err)
	begun := time.Now()
	cfg := Config{
		Boot: func() time.Duration { return time.Since(begun) + time.Duration(n.slept.Load()) },
		FS:   n.fs, Dir: "m/journal", Cluster: "sim", Node: n.id, Machine: m, Origin: p.Origin, Transport: &port{n.w, n, life},
		Rand: rand.NewPCG(n.id, uint64(life)), SegmentBytes: MinSegmentBytes, KeepEntries: 20, FlushEntries: 30, MinFree: -1,
	}
	n.tune(&cfg)
	j, err := Open(context.Background(), cfg)
	if err != nil {
		t.Errorf("node %d, life %d: open: %v", n.id, life, err)
		return
	}
	n.w.mu.Lock()
	n.j, n.m = j, m
	n.w.mu.Unlock()
}

// follow reopens the node each time that a checkpoint has arrived.
func (n *simNode) follow(t *testing.T, life int) {
	for {
		j := n.w.journal(n.id)
		if j == nil {
			return
		}
		<-j.Done()
		a, ok := errors.AsType[*Arrived](j.Status().Err)
		n.w.mu.Lock()
		over := n.life != life
		n.w.mu.Unlock()
		if over || !ok {
			if err := j.Status().Err; err != nil && !over && !errors.Is(err, errRemoved) {
				t.Errorf("node %d stopped: %v", n.id, err)
			}
			return
		}
		if err := j.Close(); err != nil {
			t.Errorf("node %d: close: %v", n.id, err)
		}
		if err := Replace(n.fs, "m", a); err != nil {
			t.Errorf("node %d: replace the state: %v", n.id, err)
		}
		n.w.mu.Lock()
		over = n.life != life
		n.w.mu.Unlock()
		if over {
			return
		}
		n.open(t, life)
	}
}

// crash ends a life; the disk keeps what was synced and a part of the rest.
func (n *simNode) crash(t *testing.T, rng *rand.Rand) {
	t.Helper()
	n.w.mu.Lock()
	n.life++ // from here on nothing of it reaches anybody
	j := n.j
	n.j, n.m = nil, nil
	n.w.mu.Unlock()
	fs := n.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * rng.IntN(2), RNG: rng})
	if j != nil {
		_ = j.Close() // of a disk that nobody will read
	}
	n.run.Wait()
	n.fs = fs
}

// stop ends the last life in order.
func (n *simNode) stop(t *testing.T) {
	t.Helper()
	n.w.mu.Lock()
	n.life++
	j := n.j
	n.w.mu.Unlock()
	if j != nil {
		must(t, j.Close())
	}
	n.run.Wait()
}

// sim is a whole simulated cluster.
type sim struct {
	t     *testing.T
	w     *wire
	nodes []*simNode
	rng   *rand.Rand
}

func newSim(t *testing.T, seed uint64, n int) *sim {
	t.Helper()
	s := &sim{t: t, rng: rand.New(rand.NewPCG(seed, 77)), w: &wire{
		seed: seed, nodes: map[uint64]*simNode{}, count: map[[2]uint64]uint64{}, cut: map[[2]uint64]bool{},
	}}
	var members []Member
	for i := range n {
		members = append(members, Member{Node: uint64(i + 1), Address: fmt.Sprint("m", i+1)})
	}
	for i := range n {
		s.add(uint64(i+1), func(c *Config) { c.Members = members })
	}
	return s
}

// add adds a node to the network and starts it.
func (s *sim) add(id uint64, tune func(*Config)) *simNode {
	s.t.Helper()
	n := &simNode{id: id, w: s.w, fs: vfs.NewCrashableMem(), tune: tune}
	s.nodes = append(s.nodes, n)
	s.w.mu.Lock()
	s.w.nodes[id] = n
	s.w.mu.Unlock()
	n.start(s.t)
	return n
}

func (s *sim) end() {
	for _, n := range s.nodes {
		n.stop(s.t)
	}
}

// primary waits for one.
func (s *sim) primary() *simNode {
	s.t.Helper()
	for range 600 {
		for _, n := range s.nodes {
			if j := s.w.journal(n.id); j != nil && j.leased() {
				return n
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.t.Fatal("there was no primary for a minute")
	return nil
}

// settle waits until every node stands at one index, and returns it.
func (s *sim) settle() sluice.Index {
	s.t.Helper()
	var at []sluice.Index
	for range 1200 {
		s.primary()
		at = at[:0]
		same := true
		for _, n := range s.nodes {
			s.w.mu.Lock()
			m := n.m
			s.w.mu.Unlock()
			if m == nil {
				same = false
				continue
			}
			at = append(at, m.Applied())
			same = same && at[len(at)-1] == at[0]
		}
		if same {
			return at[0]
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.t.Fatalf("the members did not come to one index: %v", at)
	return 0
}

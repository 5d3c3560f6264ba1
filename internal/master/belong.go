package master

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/journal"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// membersMagic begins the file MEMBERS, which says who this master is among several. Its
// format is described in docs/format/master.md.
const membersMagic = "sluice-members 1"

// passport is what a master's directory says of its place among several. A directory
// that was lost is noticed by its birth: the others know the one before.
type passport struct {
	node   uint64
	birth  uint64            // random, drawn when the directory was made
	peers  string            // as the cluster was made with
	births map[uint64]uint64 // of all who made the cluster; empty before it is made
	floor  sluice.Index      // of one that joined later: journal.Config.Floor
}

func (p passport) text() string {
	births := make([]string, 0, len(p.births))
	for node, birth := range p.births {
		births = append(births, fmt.Sprintf("%d=%016x", node, birth))
	}
	slices.Sort(births)
	return fmt.Sprintf("%s\nnode %d\nbirth %016x\npeers %s\nbirths %s\nfloor %d\n",
		membersMagic, p.node, p.birth, p.peers, strings.Join(births, ","), p.floor)
}

func parsePassport(s string) (passport, error) {
	bad := &sluice.Error{Kind: sluice.Corrupt, Err: errors.New("the file MEMBERS of the master's directory is damaged; remove this master from the cluster and add it again")}
	lines := strings.Split(s, "\n")
	if len(lines) != 7 || lines[0] != membersMagic || lines[6] != "" {
		return passport{}, bad
	}
	var values [5]string
	for i, name := range []string{"node ", "birth ", "peers ", "births ", "floor "} {
		v, ok := strings.CutPrefix(lines[i+1], name)
		if !ok {
			return passport{}, bad
		}
		values[i] = v
	}
	p := passport{peers: values[2], births: make(map[uint64]uint64)}
	var err1, err2 error
	p.node, err1 = strconv.ParseUint(values[0], 10, 64)
	p.birth, err2 = strconv.ParseUint(values[1], 16, 64)
	floor, err3 := strconv.ParseUint(values[4], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return passport{}, bad
	}
	p.floor = sluice.Index(floor)
	for pair := range strings.SplitSeq(values[3], ",") {
		if pair == "" {
			continue
		}
		n, b, _ := strings.Cut(pair, "=")
		node, err1 := strconv.ParseUint(n, 10, 64)
		birth, err2 := strconv.ParseUint(b, 16, 64)
		if err1 != nil || err2 != nil {
			return passport{}, bad
		}
		p.births[node] = birth
	}
	return p, nil
}

// readSmall returns the text of a small file; found is false where it is not there.
func readSmall(fs vfs.FS, path string) (text string, found bool, err error) {
	f, err := fs.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	return string(b), true, errors.Join(err, f.Close())
}

// peersText is the list as it is compared between masters.
func peersText(peers []journal.Member) string {
	all := make([]string, 0, len(peers))
	for _, p := range slices.SortedFunc(slices.Values(peers), func(a, b journal.Member) int { return cmp.Compare(a.Node, b.Node) }) {
		all = append(all, fmt.Sprintf("%d=%s", p.Node, p.Address))
	}
	return strings.Join(all, ",")
}

// show reads the passport, or writes the first one.
func (m *Member) show(formed bool) (passport, error) {
	path := m.cfg.FS.PathJoin(m.cfg.Dir, "MEMBERS")
	text, found, err := readSmall(m.cfg.FS, path)
	if err != nil {
		return passport{}, err
	}
	peers := peersText(m.cfg.Peers)
	if !found {
		p := passport{node: m.cfg.Node, birth: m.cfg.Rand.Uint64(), births: make(map[uint64]uint64)}
		if !m.cfg.Join {
			p.peers = peers
		}
		if formed { // by a single master, which is to become one of several
			if len(m.cfg.Peers) != 1 || m.cfg.Node != 1 {
				return p, memberError(sluice.Invalid, "this directory is that of a single master: start it as the only peer, with id 1, and add the others with `sluice admin masters add`")
			}
			p.births[m.cfg.Node] = p.birth
		}
		return p, m.write(p)
	}
	p, err := parsePassport(text)
	switch {
	case err != nil:
		return p, err
	case p.node != m.cfg.Node:
		return p, memberError(sluice.Invalid, "this directory belongs to master %d, and this one is to be master %d; check master.id and the directory", p.node, m.cfg.Node)
	case !formed && !m.cfg.Join: // nothing binds it to an earlier list
		p.peers = peers
	case !m.cfg.Join && p.floor == 0 && p.peers != peers:
		return p, memberError(sluice.Invalid, "master.peers is %q, but the cluster was made with %q: keep the list as it was; masters are added and removed with `sluice admin masters`", peers, p.peers)
	}
	return p, nil
}

func (m *Member) write(p passport) error {
	return replaceFile(m.cfg.FS, m.cfg.Dir, "MEMBERS", p.text())
}

// replaceFile puts a small file in place in one step.
func replaceFile(fs vfs.FS, dir, name, text string) error {
	path := fs.PathJoin(dir, name)
	f, err := fs.Create(path+".new", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(fs, dir)
}

func memberError(kind sluice.Kind, format string, args ...any) error {
	return &sluice.Error{Op: "join masters", Kind: kind, Err: fmt.Errorf(format, args...)}
}

// belong makes this master one of a cluster, for the first time or again, and returns
// the cluster's identity.
func (m *Member) belong(ctx context.Context) (identity, error) {
	text, formed, err := readSmall(m.cfg.FS, m.cfg.FS.PathJoin(m.cfg.Dir, "CLUSTER"))
	if err != nil {
		return identity{}, err
	}
	p, err := m.show(formed)
	if err != nil {
		return identity{}, err
	}
	m.setPassport(p)
	if formed {
		return parseIdentity(text)
	}
	for first := true; ; first = false {
		id, err := m.tryBelong(ctx, &p)
		if err == nil || !patient(err) || ctx.Err() != nil {
			return id, errors.Join(err, ctx.Err())
		}
		if first {
			m.cfg.Log.Info("this master waits for the others", "cause", err)
		}
		if !sleep(ctx, belongPause) {
			return id, ctx.Err()
		}
	}
}

// belongPause is between two rounds of questions to the other masters.
const belongPause = 200 * time.Millisecond

// patient says that what failed may work later.
func patient(err error) bool {
	switch sluice.KindOf(err) {
	case sluice.Unavailable, sluice.Timeout, sluice.NotPrimary, sluice.Busy:
		return true
	}
	return false
}

// tryBelong asks the others once.
func (m *Member) tryBelong(ctx context.Context, p *passport) (identity, error) {
	if m.cfg.Join {
		return m.tryJoin(ctx, p)
	}
	births := map[uint64]uint64{p.node: p.birth}
	var missing error
	for _, other := range m.cfg.Peers {
		if other.Node == m.cfg.Node {
			continue
		}
		w, err := m.hello(ctx, other, p)
		if err != nil {
			missing = fmt.Errorf("master %d at %s: %w", other.Node, other.Address, err)
			if !patient(err) {
				return identity{}, memberError(sluice.KindOf(err), "%w", missing)
			}
			continue
		}
		if err := m.compare(other, w, p); err != nil {
			return identity{}, err
		}
		if w.Cluster != "" { // it knows me: the cluster is made
			p.births = make(map[uint64]uint64, len(w.Births)) // the one before is being shown to others
			for _, b := range w.Births {
				p.births[b.Node] = b.Birth
			}
			return m.settle(identity{cluster: w.Cluster, incarnation: w.Incarnation}, *p)
		}
		births[other.Node] = w.Birth
	}
	lowest := slices.MinFunc(m.cfg.Peers, func(a, b journal.Member) int { return int(a.Node) - int(b.Node) })
	switch {
	case missing != nil:
		return identity{}, memberError(sluice.Unavailable, "%w", missing)
	case lowest.Node != m.cfg.Node:
		return identity{}, memberError(sluice.Unavailable, "master %d is to make the cluster", lowest.Node)
	}
	p.births = births
	return m.settle(identity{
		cluster: fmt.Sprintf("%016x%016x", m.cfg.Rand.Uint64(), m.cfg.Rand.Uint64()), incarnation: m.cfg.Rand.Uint64() | 1,
	}, *p)
}

// compare says why this master and another cannot be of one cluster.
func (m *Member) compare(other journal.Member, w *wire.PeerWelcome, p *passport) error {
	switch {
	case w.Node != other.Node:
		return memberError(sluice.Invalid, "at %s answers master %d, not %d: check master.peers", other.Address, w.Node, other.Node)
	case w.Cluster != "" && !slices.ContainsFunc(w.Births, func(b *wire.PeerBirth) bool { return b.Node == p.node && b.Birth == p.birth }):
		return memberError(sluice.Permission, "the cluster is there already and this directory (%s) is not that of its master %d. If its disk was lost: "+
			"`sluice admin masters remove %d`, then `sluice admin masters add %d ADDRESS`, then start this one with --join", m.cfg.Dir, p.node, p.node, p.node)
	case w.Peers != p.peers:
		return memberError(sluice.Invalid, "master.peers is %q here and %q at master %d: every master needs the same list", p.peers, w.Peers, w.Node)
	}
	return nil
}

// tryJoin asks those named for the primary, and the primary for admission.
func (m *Member) tryJoin(ctx context.Context, p *passport) (identity, error) {
	err := error(memberError(sluice.Invalid, "--join needs the addresses of masters in master.peers"))
	asked := make(map[string]bool)
	all := slices.Clone(m.cfg.Peers)
	for len(all) > 0 {
		other := all[0]
		all = all[1:]
		if other.Node == m.cfg.Node || asked[other.Address] {
			continue
		}
		asked[other.Address] = true
		var w *wire.PeerWelcome
		if w, err = m.hello(ctx, other, p); err == nil {
			p.peers, p.floor = w.Peers, sluice.Index(w.Floor)
			return m.settle(identity{cluster: w.Cluster, incarnation: w.Incarnation}, *p)
		}
		if e, ok := errors.AsType[*sluice.Error](err); ok && e.Kind == sluice.NotPrimary && e.Primary != "" {
			all = append([]journal.Member{{Address: e.Primary}}, all...)
		}
		if !patient(err) {
			break
		}
	}
	return identity{}, err
}

// hello introduces this master to another.
func (m *Member) hello(ctx context.Context, other journal.Member, p *passport) (*wire.PeerWelcome, error) {
	b := m.exchange.box(other)
	if b == nil {
		return nil, errClosed()
	}
	ctx, cancel := context.WithTimeout(ctx, packetsWait)
	defer cancel()
	w := &wire.PeerWelcome{}
	err := b.client.Call(ctx, wire.MethodPeerHello, &wire.PeerHello{Node: p.node, Birth: p.birth, Peers: p.peers, Joining: m.cfg.Join}, w)
	return w, err
}

// settle writes down that this master belongs to a cluster.
func (m *Member) settle(id identity, p passport) (identity, error) {
	if err := m.write(p); err != nil {
		return id, err
	}
	if err := writeIdentity(m.cfg.FS, m.cfg.Dir, m.cfg.FS.PathJoin(m.cfg.Dir, "CLUSTER"), id); err != nil {
		return id, err
	}
	m.setPassport(p)
	m.cfg.Log.Info("this master belongs to a cluster", "cluster", id.cluster, "node", p.node)
	return id, nil
}

// welcome answers another master's hello.
func (m *Member) welcome(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.PeerHello
	if err := fromMaster(r, &q); err != nil {
		return nil, err
	}
	var floor sluice.Index
	if q.Joining {
		var err error
		if floor, err = m.admit(ctx, &q); err != nil {
			return nil, err
		}
	}
	p := m.passport.Load()
	if p == nil {
		return nil, errStarting()
	}
	w := &wire.PeerWelcome{Node: p.node, Birth: p.birth, Peers: p.peers, Cluster: m.exchange.of(), Incarnation: m.incarnation.Load(), Floor: uint64(floor)}
	for node, birth := range p.births {
		w.Births = append(w.Births, &wire.PeerBirth{Node: node, Birth: birth})
	}
	return w, nil
}

// admit says whether a master with an empty directory may come in: it must have been
// added, have no vote, and never have been here. A vote in its name may have been cast,
// and entries acknowledged, by a directory that is lost.
// It returns the entry before which that one has no say.
func (m *Member) admit(ctx context.Context, q *wire.PeerHello) (sluice.Index, error) {
	d := m.desk.Load()
	if d == nil {
		return 0, m.notPrimary()
	}
	all, err := d.journal.Progress(ctx)
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(all, func(p journal.Progress) bool { return p.Node == q.Node })
	switch {
	case i < 0:
		return 0, memberError(sluice.Permission, "master %d was not added: `sluice admin masters add %d ADDRESS` first", q.Node, q.Node)
	case all[i].Voter || all[i].Match > 0:
		return 0, memberError(sluice.Permission, "master %d was here before with another directory: `sluice admin masters remove %d`, then `sluice admin masters add %d ADDRESS`, then start it again", q.Node, q.Node, q.Node)
	}
	return d.journal.Status().Commit, nil
}

// parsePeers is the inverse of peersText.
func parsePeers(s string) []journal.Member {
	var out []journal.Member
	for pair := range strings.SplitSeq(s, ",") {
		n, addr, _ := strings.Cut(pair, "=")
		if node, err := strconv.ParseUint(n, 10, 64); err == nil {
			out = append(out, journal.Member{Node: node, Address: addr})
		}
	}
	return out
}

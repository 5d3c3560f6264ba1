package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicefs/sluice/internal/journal"
	"github.com/sluicefs/sluice/internal/master"
	"github.com/sluicefs/sluice/internal/rpc"
)

// seat is the place of a master among several.
type seat struct {
	journal.Member
	peers []journal.Member
	join  bool
	dir   string // of its files
	name  string // of its socket
	tcp   string // address to listen on, "" for the socket alone
	stays bool   // it does not hand on the primary's place when it stops
}

// makesKey says whether this master makes the cluster's key where it is missing: one of
// them does, and the others get a copy.
func (s *seat) makesKey() bool {
	return s == nil || !s.join && !slices.ContainsFunc(s.peers, func(m journal.Member) bool { return m.Node < s.Node })
}

// seat returns the place of this master among several, nil where it is alone.
func (c *config) seat() (*seat, error) {
	m := c.Master
	if len(m.Peers) == 0 {
		if m.Join {
			return nil, fmt.Errorf("master.join: needs master.peers, which names masters that are there")
		}
		return nil, nil
	}
	peers, err := parsePeers(m.Peers)
	if err != nil {
		return nil, err
	}
	s := &seat{peers: peers, join: m.Join, dir: c.masterDir(), name: "master", tcp: m.Listen}
	for _, p := range peers {
		mine := p.Node == m.ID || m.ID == 0 && (p.Address == m.Listen || p.Address == "unix:"+c.socket("master") || len(peers) == 1)
		if mine {
			s.Member = p
		}
	}
	switch {
	case s.Node == 0 && m.ID != 0:
		return nil, fmt.Errorf("master.peers: there is no master %d among them; it needs all masters, this one included", m.ID)
	case s.Node == 0:
		return nil, fmt.Errorf("master.id: say which of the peers this master is; none of their addresses is master.listen")
	}
	if s.tcp == "" && !strings.HasPrefix(s.Address, "unix:") {
		s.tcp = s.Address
	}
	return s, nil
}

// parsePeers reads ID=ADDRESS pairs.
func parsePeers(list []string) ([]journal.Member, error) {
	var all []journal.Member
	for _, text := range list {
		id, addr, ok := strings.Cut(strings.TrimSpace(text), "=")
		node, err := strconv.ParseUint(id, 10, 32)
		if !ok || err != nil || node == 0 || addr == "" {
			return nil, fmt.Errorf("master.peers: %q is not ID=ADDRESS, such as 1=host:7400 with ids from 1", text)
		}
		for _, m := range all {
			if m.Node == node || m.Address == addr {
				return nil, fmt.Errorf("master.peers: %q has the id or address of another peer", text)
			}
		}
		all = append(all, journal.Member{Node: node, Address: addr})
	}
	return all, nil
}

// startMember opens one of several masters and its listeners. It answers before it
// belongs to a cluster, for the others ask it.
func (h *host) startMember(ctx context.Context, s seat) (*master.Member, error) {
	c, err := h.masterConfig()
	if err != nil {
		return nil, err
	}
	c.Dir, c.Node, c.Address, c.Peers, c.Join = s.dir, s.Node, s.Address, s.peers, s.join
	var addresses []string
	for _, p := range s.peers {
		addresses = append(addresses, p.Address)
	}
	if c.TLS, err = h.cfg.callTLS(addresses); err != nil {
		return nil, err
	}
	m, err := master.NewMember(c)
	if err != nil {
		return nil, err
	}
	h.onStop(func(context.Context) error { return m.Close() })
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	h.serve(func() error { defer close(ended); return m.Run(running) })
	h.onStop(func(context.Context) error { cancel(); <-ended; return nil })
	err = h.listenRPC(s.name, s.tcp, rpc.ServerConfig{
		Role: rpc.RoleMaster, Identity: m.Identity, Inline: m.Inline, MaxMessage: master.MaxMessage,
	}, m)
	if !s.stays {
		h.onStop(func(ctx context.Context) error { m.StepDown(ctx); return nil })
	}
	return m, err
}

// startSeveral starts so many masters in this process, to try it.
func (h *host) startSeveral(ctx context.Context, n int) ([]*master.Member, error) {
	var peers []journal.Member
	var seats []seat
	for i := range n {
		s := seat{name: "master", dir: h.cfg.masterDir(), stays: true}
		if i > 0 {
			s.name = fmt.Sprintf("master-%d", i+1)
			s.dir = fmt.Sprintf("%s-%d", h.cfg.masterDir(), i+1)
		} else {
			s.tcp = h.cfg.Master.Listen
		}
		s.Member = journal.Member{Node: uint64(i + 1), Address: "unix:" + h.cfg.socket(s.name)}
		peers = append(peers, s.Member)
		seats = append(seats, s)
	}
	var all []*master.Member
	for _, s := range seats {
		s.peers = peers
		m, err := h.startMember(ctx, s)
		if err != nil {
			return all, err
		}
		all = append(all, m)
	}
	return all, nil
}

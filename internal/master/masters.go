package master

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/journal"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// The changes of a MastersRequest.
const (
	mastersAdd      = 1
	mastersRemove   = 2
	mastersTransfer = 3
)

// Members implements sluice.MasterAdmin.
func (a admin) Members(ctx context.Context) ([]sluice.MasterMember, error) {
	all, err := a.m.journal.Progress(ctx)
	if err != nil {
		return nil, sluice.Wrap("masters", "", err)
	}
	out := make([]sluice.MasterMember, 0, len(all))
	for _, p := range all {
		x := sluice.MasterMember{Node: p.Node, Address: p.Address, Primary: p.Node == a.m.cfg.Node, Voter: p.Voter, Active: p.Active, Match: p.Match}
		if x.Primary && x.Address == "" {
			x.Address = a.m.cfg.Address
		}
		out = append(out, x)
	}
	return out, nil
}

// AddMaster implements sluice.MasterAdmin.
func (a admin) AddMaster(ctx context.Context, node uint64, address string) error {
	return a.changeMasters(func() error { return a.m.journal.Add(ctx, journal.Member{Node: node, Address: address}) })
}

// RemoveMaster implements sluice.MasterAdmin.
func (a admin) RemoveMaster(ctx context.Context, node uint64) error {
	return a.changeMasters(func() error { return a.m.journal.Remove(ctx, node) })
}

// TransferMaster implements sluice.MasterAdmin.
func (a admin) TransferMaster(ctx context.Context, node uint64) error {
	return a.changeMasters(func() error {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		return a.m.journal.Transfer(limited, node)
	})
}

func (a admin) changeMasters(change func() error) error {
	if err := superuser("masters", a.c); err != nil {
		return err
	}
	if a.m.member == nil {
		return &sluice.Error{Op: "masters", Kind: sluice.Unsupported, Err: errors.New(
			"this master was started alone: start it with --peers 1=ADDRESS to make it the first of several; see docs/ha.md")}
	}
	return sluice.Wrap("masters", "", change())
}

// masters lists or changes the masters.
func (h handler) masters(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.MastersRequest
	c, err := decode(r, &q)
	if err != nil {
		return nil, err
	}
	a := admin{h.m, c}
	switch q.Change {
	case 0:
	case mastersAdd:
		return emptyAnswer(a.AddMaster(ctx, q.Node, q.Address))
	case mastersRemove:
		return emptyAnswer(a.RemoveMaster(ctx, q.Node))
	case mastersTransfer:
		err := a.TransferMaster(ctx, q.Node)
		if err == nil && h.m.member != nil {
			return &wire.MastersAnswer{}, nil
		}
		return emptyAnswer(err)
	default:
		return nil, &sluice.Error{Op: "masters", Kind: sluice.Unsupported, Err: errors.New("this change of the masters is not known here; is the master of another version?")}
	}
	all, err := a.Members(ctx)
	if err != nil {
		return nil, err
	}
	return &wire.MastersAnswer{Masters: wire.Map(all, func(m sluice.MasterMember) *wire.MasterMember {
		return &wire.MasterMember{Node: m.Node, Address: m.Address, Primary: m.Primary, Voter: m.Voter, Active: m.Active, Match: uint64(m.Match)}
	})}, nil
}

// reportOthers adds what the primary knows of the other masters.
func (m *Master) reportOthers(ctx context.Context, r *sluice.Report) {
	if m.member == nil {
		return
	}
	all, err := m.journal.Progress(ctx)
	if err != nil {
		return // the answer will not count
	}
	voters := 0
	for _, p := range all {
		if p.Voter {
			voters++
		}
		if p.Node != m.cfg.Node {
			r.Masters = append(r.Masters, sluice.MasterInfo{Name: fmt.Sprintf("master-%d", p.Node), Address: p.Address, Applied: p.Match})
		}
		if !p.Active {
			r.Warnings = append(r.Warnings, fmt.Sprintf("master %d at %s does not answer", p.Node, p.Address))
		}
	}
	if voters%2 == 0 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("there are %d masters, which stand no more failures than %d: add one or remove one", voters, voters-1))
	}
}

// view answers which workers there are, where that is not what the client knows.
func (h handler) view(r *rpc.Request) (rpc.Message, error) {
	var q wire.ViewRequest
	if _, err := decode(r, &q); err != nil {
		return nil, err
	}
	return &wire.ViewAnswer{View: wire.FromView(h.m.fleet.Newer(q.Known))}, nil
}

// promote gives those that were added their vote when they have caught up.
func (m *Master) promote(ctx context.Context) {
	if m.member == nil {
		return
	}
	for _, node := range m.journal.Status().Learners {
		if err := m.journal.Promote(ctx, node); err == nil {
			m.cfg.Log.Info("a master has caught up and votes", "node", node)
		}
	}
}

var _ sluice.MasterAdmin = admin{}

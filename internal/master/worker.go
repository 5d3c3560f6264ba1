package master

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/fleet"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// maxVerdicts is how many contents a worker may ask about in one heartbeat.
const maxVerdicts = 1000

// ordersWait is how long a worker's request for orders waits.
const ordersWait = 20 * time.Second

// workerID checks that a request comes from a worker with the cluster key, or from the
// superuser's own process, and that it speaks for itself.
func workerID(p rpc.Peer, id sluice.WorkerID) error {
	switch {
	case p.Role != rpc.RoleWorker || p.Kind != rpc.CredentialKey && !p.Principal.Super:
		return &sluice.Error{Kind: sluice.Permission, Err: errors.New("only a worker with the cluster key may; give it the cluster's key file")}
	case id == 0 || p.Worker != 0 && p.Worker != id:
		return &sluice.Error{Kind: sluice.Invalid, Err: fmt.Errorf("worker %s speaks for worker %s", p.Worker, id)}
	}
	return nil
}

func (h handler) heartbeat(_ context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.Heartbeat
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if err := workerID(r.Peer, sluice.WorkerID(q.GetWorker().GetId())); err != nil {
		return nil, err
	}
	return h.m.heartbeat(&q, r.Peer.Address)
}

// heartbeat takes in what a worker says and tells it what it needs to know.
func (m *Master) heartbeat(q *wire.Heartbeat, place string) (*wire.HeartbeatAnswer, error) {
	if len(q.Unpersisted) > maxVerdicts {
		return nil, &sluice.Error{Op: "heartbeat", Kind: sluice.TooLarge, Err: fmt.Errorf("%d contents asked about; at most %d are answered", len(q.Unpersisted), maxVerdicts)}
	}
	b := fleet.Beat{
		Worker: q.Worker.Sluice(), Boot: q.Boot, Place: place,
		Gained: wire.Map(q.Gained, (*wire.BlockID).Sluice), Dropped: wire.Map(q.Dropped, (*wire.BlockID).Sluice), Full: q.Full,
	}
	if len(q.Report) > 0 {
		b.Report = q.Report[0].Sluice()
	}
	interval, _, err := m.fleet.Heartbeat(b)
	if err != nil {
		return nil, err
	}
	view, _ := m.fleet.View()
	table := m.mountTable.Load()
	a := &wire.HeartbeatAnswer{Mounts: table.version, Interval: int64(interval), View: wire.FromView(view)}
	for _, i := range m.state.Incarnations() {
		a.Incarnations = append(a.Incarnations, uint64(i))
	}
	if q.Mounts != table.version {
		a.Table = m.workerMounts(table)
	}
	if len(q.Unpersisted) > 0 {
		a.Verdicts = m.verdicts(wire.Map(q.Unpersisted, (*wire.ContentID).Sluice))
	}
	return a, nil
}

// workerMounts is the mount table with its secrets, for workers only.
func (m *Master) workerMounts(t *mountTable) []*wire.WorkerMount {
	out := make([]*wire.WorkerMount, 0, len(t.entries))
	for _, e := range t.entries {
		secrets, err := m.unseal(e)
		if err != nil {
			continue // the report says so; the worker could not open it either
		}
		out = append(out, &wire.WorkerMount{Mount: wire.FromMount(e.Mount), Secrets: secrets, Epoch: e.epoch})
	}
	return out
}

func (h handler) orders(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.OrdersRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	id := sluice.WorkerID(q.Worker)
	if err := workerID(r.Peer, id); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.m.ctx, cancel)()
	orders, err := h.m.fleet.Ask(ctx, id, q.Results, ordersWait)
	if err != nil {
		return nil, err
	}
	return &wire.OrdersAnswer{Orders: orders}, nil
}

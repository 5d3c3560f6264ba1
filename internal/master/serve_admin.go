package master

import (
	"context"
	"errors"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/auth"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

func (h handler) mount(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.MountRequest
	c, p, err := decodePath(r, &q)
	if err != nil {
		return nil, err
	}
	info, err := h.m.Admin(c).Mount(ctx, p, q.Uri, q.Options.Sluice(), q.Secrets)
	if err != nil {
		return nil, err
	}
	return &wire.MountsAnswer{Mounts: []*wire.MountInfo{wire.FromMountInfo(info)}}, nil
}

func (h handler) unmount(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.UnmountRequest
	c, p, err := decodePath(r, &q)
	if err != nil {
		return nil, err
	}
	return emptyAnswer(h.m.Admin(c).Unmount(ctx, p, q.Force))
}

func (h handler) mounts(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.CallOnly
	c, err := decode(r, &q)
	if err != nil {
		return nil, err
	}
	all, err := h.m.Admin(c).Mounts(ctx)
	if err != nil {
		return nil, err
	}
	return &wire.MountsAnswer{Mounts: wire.Map(all, wire.FromMountInfo)}, nil
}

func (h handler) report(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.CallOnly
	c, err := decode(r, &q)
	if err != nil {
		return nil, err
	}
	report, err := h.m.Admin(c).Report(ctx)
	if err != nil {
		return nil, err
	}
	return &wire.ReportAnswer{Report: wire.FromReport(report)}, nil
}

func (h handler) intents(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.CallOnly
	c, err := decode(r, &q)
	if err != nil {
		return nil, err
	}
	all, err := h.m.Admin(c).Intents(ctx)
	if err != nil {
		return nil, err
	}
	return &wire.IntentsAnswer{Intents: wire.Map(all, wire.FromIntentInfo)}, nil
}

func (h handler) token(r *rpc.Request) (rpc.Message, error) {
	var q wire.TokenRequest
	c, err := decode(r, &q)
	if err != nil {
		return nil, err
	}
	t, err := h.m.IssueToken(c, q.Principal.Sluice(), time.Duration(q.Lifetime), q.SpeakFor)
	if err != nil {
		return nil, err
	}
	return &wire.TokenAnswer{Token: t}, nil
}

// IssueToken makes a token for p that is valid for lifetime. Only the superuser may.
func (m *Master) IssueToken(c sluice.Call, p sluice.Principal, lifetime time.Duration, speakFor bool) (string, error) {
	if err := superuser("token", c); err != nil {
		return "", err
	}
	if lifetime <= 0 {
		return "", &sluice.Error{Op: "token", Kind: sluice.Invalid, Err: errors.New("a token needs a lifetime above 0")}
	}
	t, err := m.cfg.Keys.IssueToken(auth.Token{
		User: p.User, Groups: p.Groups, Expiry: m.cfg.Wall().Add(lifetime), Admin: p.Super, SpeakFor: speakFor,
	})
	return t, sluice.Wrap("token", "", err)
}

// superuser refuses everybody else.
func superuser(op string, c sluice.Call) error {
	if c.Principal.Super {
		return nil
	}
	return &sluice.Error{Op: op, Kind: sluice.Permission, Err: errors.New("only the superuser may; use its unix socket, or a token with admin")}
}

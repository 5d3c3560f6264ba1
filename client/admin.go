package client

import (
	"context"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// Report implements [sluice.Admin].
func (c *Client) Report(ctx context.Context) (sluice.Report, error) {
	var a wire.ReportAnswer
	if err := c.ask(ctx, wire.MethodReport, &wire.CallOnly{Call: c.header()}, &a); err != nil {
		return sluice.Report{}, sluice.Wrap("report", "", err)
	}
	return a.Report.Sluice(), nil
}

// Intents implements [sluice.Admin].
func (c *Client) Intents(ctx context.Context) ([]sluice.IntentInfo, error) {
	var a wire.IntentsAnswer
	if err := c.ask(ctx, wire.MethodIntents, &wire.CallOnly{Call: c.header()}, &a); err != nil {
		return nil, sluice.Wrap("list intents", "", err)
	}
	return wire.Map(a.Intents, (*wire.IntentInfo).Sluice), nil
}

// Mount implements [sluice.Mounter].
func (c *Client) Mount(ctx context.Context, path sluice.Path, uri string, opts sluice.MountOptions, secrets sluice.Secrets) (sluice.MountInfo, error) {
	var a wire.MountsAnswer
	err := c.mutate(ctx, wire.MethodMount, func(h *wire.CallHeader) rpc.Message {
		return &wire.MountRequest{Call: h, Path: string(path), Uri: uri, Options: wire.FromMountOptions(opts), Secrets: secrets}
	}, &a)
	c.grants.clear()
	c.stores.forget()
	if err != nil {
		return sluice.MountInfo{}, sluice.Wrap("mount", path, err)
	}
	if len(a.Mounts) == 0 {
		return sluice.MountInfo{Mount: sluice.Mount{Path: path, URI: uri, Options: opts}}, nil
	}
	return a.Mounts[0].Sluice(), nil
}

// Unmount implements [sluice.Mounter].
func (c *Client) Unmount(ctx context.Context, path sluice.Path, force bool) error {
	err := c.mutate(ctx, wire.MethodUnmount, func(h *wire.CallHeader) rpc.Message {
		return &wire.UnmountRequest{Call: h, Path: string(path), Force: force}
	}, nil)
	c.grants.clear()
	c.stores.forget()
	return sluice.Wrap("unmount", path, err)
}

// Mounts implements [sluice.Mounter].
func (c *Client) Mounts(ctx context.Context) ([]sluice.MountInfo, error) {
	var a wire.MountsAnswer
	if err := c.ask(ctx, wire.MethodMounts, &wire.CallOnly{Call: c.header()}, &a); err != nil {
		return nil, sluice.Wrap("list mounts", "", err)
	}
	return wire.Map(a.Mounts, (*wire.MountInfo).Sluice), nil
}

// Token asks the master for a token that stands for p during lifetime. With speakFor its
// holder (a mount, a gateway) may name the principal of each request. Only the superuser
// may ask; kind Permission otherwise.
func (c *Client) Token(ctx context.Context, p sluice.Principal, lifetime time.Duration, speakFor bool) (string, error) {
	var a wire.TokenAnswer
	req := &wire.TokenRequest{Call: c.header(), Principal: wire.FromPrincipal(p), Lifetime: int64(lifetime), SpeakFor: speakFor}
	if err := c.ask(ctx, wire.MethodToken, req, &a); err != nil {
		return "", sluice.Wrap("make token", "", err)
	}
	return a.Token, nil
}

// The changes of a MastersRequest.
const (
	mastersAdd      = 1
	mastersRemove   = 2
	mastersTransfer = 3
)

// Members implements [sluice.MasterAdmin].
func (c *Client) Members(ctx context.Context) ([]sluice.MasterMember, error) {
	var a wire.MastersAnswer
	if err := c.ask(ctx, wire.MethodMasters, &wire.MastersRequest{Call: c.header()}, &a); err != nil {
		return nil, sluice.Wrap("list masters", "", err)
	}
	return wire.Map(a.Masters, func(m *wire.MasterMember) sluice.MasterMember {
		return sluice.MasterMember{Node: m.Node, Address: m.Address, Primary: m.Primary, Voter: m.Voter, Active: m.Active, Match: sluice.Index(m.Match)}
	}), nil
}

// AddMaster implements [sluice.MasterAdmin].
func (c *Client) AddMaster(ctx context.Context, node uint64, address string) error {
	return c.changeMasters(ctx, &wire.MastersRequest{Change: mastersAdd, Node: node, Address: address})
}

// RemoveMaster implements [sluice.MasterAdmin].
func (c *Client) RemoveMaster(ctx context.Context, node uint64) error {
	return c.changeMasters(ctx, &wire.MastersRequest{Change: mastersRemove, Node: node})
}

// TransferMaster implements [sluice.MasterAdmin].
func (c *Client) TransferMaster(ctx context.Context, node uint64) error {
	return c.changeMasters(ctx, &wire.MastersRequest{Change: mastersTransfer, Node: node})
}

func (c *Client) changeMasters(ctx context.Context, q *wire.MastersRequest) error {
	q.Call = c.header()
	return sluice.Wrap("change masters", "", c.ask(ctx, wire.MethodMasters, q, &wire.MastersAnswer{}))
}

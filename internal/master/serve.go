package master

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/rpc"
	"github.com/sluicefs/sluice/internal/wire"
)

// handler turns requests into words, and answers back.
type handler struct{ m *Master }

// Handler answers requests of clients and workers.
func (m *Master) Handler() rpc.Handler { return handler{m} }

// Inline says which methods never wait, for rpc.ServerConfig.
func (m *Master) Inline(method rpc.Method) bool { return method == wire.MethodPing }

// Serve implements rpc.Handler.
func (h handler) Serve(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	h.m.counters.calls.Add(1)
	switch r.Method {
	case wire.MethodStat:
		return h.stat(ctx, r)
	case wire.MethodList:
		return h.list(ctx, r)
	case wire.MethodOpen:
		return h.open(ctx, r)
	case wire.MethodMkdir:
		return h.mkdir(ctx, r)
	case wire.MethodCreate:
		return h.create(ctx, r)
	case wire.MethodCommit:
		return h.commit(ctx, r)
	case wire.MethodAbandon:
		return h.abandon(ctx, r)
	case wire.MethodRename:
		return h.rename(ctx, r)
	case wire.MethodRemove:
		return h.remove(ctx, r)
	case wire.MethodSetAttr:
		return h.setAttr(ctx, r)
	case wire.MethodSymlink:
		return h.symlink(ctx, r)
	case wire.MethodOpenSession, wire.MethodRenewSession, wire.MethodCloseSession:
		return h.session(ctx, r)
	case wire.MethodAwait:
		return h.await(ctx, r)
	case wire.MethodHeartbeat:
		return h.heartbeat(ctx, r)
	case wire.MethodOrders:
		return h.orders(ctx, r)
	default:
		return h.serveAdmin(ctx, r)
	}
}

// serveAdmin answers what an operator asks.
func (h handler) serveAdmin(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	switch r.Method {
	case wire.MethodMount:
		return h.mount(ctx, r)
	case wire.MethodUnmount:
		return h.unmount(ctx, r)
	case wire.MethodMounts:
		return h.mounts(ctx, r)
	case wire.MethodReport:
		return h.report(ctx, r)
	case wire.MethodIntents:
		return h.intents(ctx, r)
	case wire.MethodToken:
		return h.token(r)
	case wire.MethodPing:
		return nil, h.m.Ready()
	case wire.MethodView:
		return h.view(r)
	case wire.MethodMasters:
		return h.masters(ctx, r)
	default:
		return nil, &sluice.Error{Kind: sluice.Unsupported, Err: fmt.Errorf("a master does not know method %d; is it of another version?", r.Method)}
	}
}

// caller returns on whose behalf a request is made: the one the connection proved, or
// the one the header names if the connection may speak for others. Nobody becomes the
// superuser by a header, except on a connection of the superuser.
func caller(r *rpc.Request, h *wire.CallHeader) (sluice.Call, error) {
	c := sluice.Call{Principal: r.Peer.Principal, Request: h.GetRequest().Sluice()}
	if named := h.GetPrincipal(); named != nil {
		p := named.Sluice()
		switch {
		case r.Peer.SpeakFor:
			p.Super = p.Super && r.Peer.Principal.Super
			c.Principal = p
		case p.User != r.Peer.Principal.User:
			return c, &sluice.Error{Kind: sluice.Permission, Err: fmt.Errorf(
				"%q may not speak for %q; have a token made with --speak-for", r.Peer.Principal.User, p.User)}
		}
	}
	if c.Principal.User == "" && !c.Principal.Super {
		return c, &sluice.Error{Kind: sluice.Unauthenticated, Err: errors.New("nobody proved who the caller is")}
	}
	return c, nil
}

// request is a message with a header.
type request interface {
	rpc.Message
	GetCall() *wire.CallHeader
}

// decode reads a request and says who makes it.
func decode(r *rpc.Request, q request) (sluice.Call, error) {
	if err := r.Decode(q); err != nil {
		return sluice.Call{}, err
	}
	return caller(r, q.GetCall())
}

// decodePath is decode of a request about a path.
func decodePath(r *rpc.Request, q interface {
	request
	GetPath() string
}) (sluice.Call, sluice.Path, error) {
	c, err := decode(r, q)
	if err != nil {
		return c, "", err
	}
	p, err := sluice.ParsePath(q.GetPath())
	return c, p, err
}

func (h handler) stat(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.StatRequest
	c, p, err := decodePath(r, &q)
	if err != nil {
		return nil, err
	}
	info, err := h.m.Stat(ctx, c, p, sluice.StatOptions{Freshness: q.Freshness.Sluice(), XAttrs: q.Xattrs})
	if err != nil {
		return nil, err
	}
	return &wire.StatAnswer{Info: wire.FromFileInfo(info)}, nil
}

func (h handler) list(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.ListRequest
	c, p, err := decodePath(r, &q)
	if err != nil {
		return nil, err
	}
	page, err := h.m.List(ctx, c, p, sluice.ListOptions{Freshness: q.Freshness.Sluice(), After: q.After}, int(min(q.Limit, 1<<20)))
	if err != nil {
		return nil, err
	}
	a := &wire.ListAnswer{More: page.More, Entries: make([]*wire.FileInfo, len(page.Entries))}
	a.File = len(page.Entries) == 1 && page.Entries[0].Path == p
	for i, e := range page.Entries {
		e.Path = sluice.Path(e.Path.Name())
		a.Entries[i] = wire.FromFileInfo(e)
	}
	return a, nil
}

func (h handler) open(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.OpenRequest
	c, p, err := decodePath(r, &q)
	if err != nil {
		return nil, err
	}
	opts := sluice.OpenOptions{Freshness: q.Freshness.Sluice(), Read: sluice.ReadType(q.Read)}
	var o sluice.Opened
	if q.File != 0 {
		o, err = h.m.openFile(ctx, c, sluice.FileID(q.File), opts, q.View)
	} else {
		o, err = h.m.Open(ctx, c, p, opts, q.View)
	}
	if err != nil {
		return nil, err
	}
	return &wire.OpenAnswer{
		Info: wire.FromFileInfo(o.Info), Grant: o.Grant, Expires: int64(o.Expires), Lease: int64(o.Lease),
		Holders: wire.Map(o.Holders, wire.FromHolder), View: wire.FromView(o.View),
	}, nil
}

func (h handler) mkdir(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.MkdirRequest
	c, p, err := decodePath(r, &q)
	if err != nil {
		return nil, err
	}
	return infoAnswer(h.m.Mkdir(ctx, c, p, sluice.MkdirOptions{Parents: q.Parents, Mode: sluice.Mode(q.Mode)}))
}

// infoAnswer is the answer of what returns attributes.
func infoAnswer(info sluice.FileInfo, err error) (rpc.Message, error) {
	if err != nil {
		return nil, err
	}
	return &wire.StatAnswer{Info: wire.FromFileInfo(info)}, nil
}

// emptyAnswer is the answer of what returns nothing.
func emptyAnswer(err error) (rpc.Message, error) {
	if err != nil {
		return nil, err
	}
	return &wire.Empty{}, nil
}

func (h handler) create(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.CreateRequest
	c, p, err := decodePath(r, &q)
	if err != nil {
		return nil, err
	}
	a, err := h.m.Create(ctx, c, p, q.Options.Sluice(), q.View)
	if err != nil {
		return nil, err
	}
	return &wire.CreateAnswer{
		Info: wire.FromFileInfo(a.Info), Content: wire.FromContentID(a.Content), Grant: a.Grant,
		Write: uint32(a.Write), BlockSize: a.BlockSize, View: wire.FromView(a.View),
	}, nil
}

func (h handler) commit(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.CommitRequest
	c, err := decode(r, &q)
	if err != nil {
		return nil, err
	}
	return infoAnswer(h.m.Commit(ctx, c, sluice.FileID(q.File), q.Sealed.Sluice()))
}

func (h handler) abandon(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.AbandonRequest
	c, err := decode(r, &q)
	if err != nil {
		return nil, err
	}
	return emptyAnswer(h.m.Abandon(ctx, c, sluice.FileID(q.File), q.Content.Sluice()))
}

func (h handler) rename(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.RenameRequest
	c, err := decode(r, &q)
	if err != nil {
		return nil, err
	}
	from, err := sluice.ParsePath(q.From)
	if err != nil {
		return nil, err
	}
	to, err := sluice.ParsePath(q.To)
	if err != nil {
		return nil, err
	}
	return emptyAnswer(h.m.Rename(ctx, c, from, to, sluice.RenameOptions{NoReplace: q.NoReplace}))
}

func (h handler) remove(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.RemoveRequest
	c, p, err := decodePath(r, &q)
	if err != nil {
		return nil, err
	}
	return emptyAnswer(h.m.Remove(ctx, c, p, sluice.RemoveOptions{Recursive: q.Recursive, CacheOnly: q.CacheOnly}))
}

func (h handler) setAttr(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.SetAttrRequest
	c, p, err := decodePath(r, &q)
	if err != nil {
		return nil, err
	}
	return infoAnswer(h.m.SetAttr(ctx, c, p, q.Change.Sluice()))
}

func (h handler) symlink(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.SymlinkRequest
	c, p, err := decodePath(r, &q)
	if err != nil {
		return nil, err
	}
	return infoAnswer(h.m.Symlink(ctx, c, q.Target, p))
}

func (h handler) session(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.SessionRequest
	c, err := decode(r, &q)
	if err != nil {
		return nil, err
	}
	id := sluice.SessionID(q.Session)
	switch r.Method {
	case wire.MethodRenewSession:
		return emptyAnswer(h.m.RenewSession(ctx, c, id))
	case wire.MethodCloseSession:
		return emptyAnswer(h.m.CloseSession(ctx, c, id))
	}
	s, err := h.m.OpenSession(ctx, c, id)
	if err != nil {
		return nil, err
	}
	return &wire.SessionAnswer{Lease: int64(s.Lease), Window: uint32(s.Window), Cluster: s.Cluster, View: wire.FromView(&s.View)}, nil
}

func (h handler) await(ctx context.Context, r *rpc.Request) (rpc.Message, error) {
	var q wire.AwaitRequest
	if _, err := decode(r, &q); err != nil {
		return nil, err
	}
	n, err := h.m.await(ctx, sluice.SessionID(q.Session), q.Acked, q.View)
	if err != nil {
		return nil, err
	}
	a := &wire.AwaitAnswer{Upto: n.Upto, Lease: int64(n.Lease), View: wire.FromView(n.View)}
	for _, f := range n.Files {
		a.Files = append(a.Files, uint64(f))
	}
	return a, nil
}

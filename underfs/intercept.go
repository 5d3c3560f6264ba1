package underfs

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/sluicefs/sluice"
)

// Op names one operation of a store or upload.
type Op uint8

// The operations.
const (
	OpStat Op = iota + 1
	OpList
	OpRead
	OpCreate
	OpWrite
	OpPrepare
	OpCommit
	OpAbort
	OpDelete
	OpComplete
	OpAbortPrepared
	OpRename
	OpCopy
	OpMkdir
	OpSetAttr
	OpSweep
	OpProbe
)

// Ops returns every operation in order.
func Ops() []Op {
	all := make([]Op, 0, OpProbe)
	for o := OpStat; o <= OpProbe; o++ {
		all = append(all, o)
	}
	return all
}

// String returns the operation in words.
func (o Op) String() string {
	switch o {
	case OpStat:
		return "stat"
	case OpList:
		return "list"
	case OpRead:
		return "read"
	case OpCreate:
		return "create"
	case OpWrite:
		return "write"
	case OpPrepare:
		return "prepare"
	case OpCommit:
		return "commit"
	case OpAbort:
		return "abort"
	case OpDelete:
		return "delete"
	case OpComplete:
		return "complete"
	case OpAbortPrepared:
		return "abort prepared"
	case OpRename:
		return "rename"
	case OpCopy:
		return "copy"
	case OpMkdir:
		return "mkdir"
	case OpSetAttr:
		return "set attributes"
	case OpSweep:
		return "sweep"
	case OpProbe:
		return "probe"
	default:
		return "unknown"
	}
}

// Changes says whether the operation changes what others see: after such a call was cut
// off, nobody knows whether it happened.
func (o Op) Changes() bool {
	switch o {
	case OpCommit, OpComplete, OpDelete, OpRename, OpCopy, OpMkdir, OpSetAttr:
		return true
	default:
		return false
	}
}

// Call describes a call on its way to a store.
type Call struct {
	Op    Op
	Key   Key
	Bytes int64       // bytes that a Write sends, or that a Read asks for
	Read  ReadRequest // of OpRead
}

// Interceptor stands between callers and a store: a retry, a limit, a breaker. It sees
// every call of the core and of the optional capabilities. Methods may be called at once.
type Interceptor interface {
	// Call runs next once, several times or not at all.
	Call(ctx context.Context, c Call, next func(context.Context) error) error
	// Open opens the body of c.Read with next and returns it or a wrapper of it. The
	// context given to next must stay alive until the body is closed. next may be called
	// again, for the rest of the range too.
	Open(ctx context.Context, c Call, next Opener) (io.ReadCloser, error)
}

// Opener opens the body of a read.
type Opener func(ctx context.Context, req ReadRequest) (io.ReadCloser, error)

// Intercept returns s with each i around it, the first outermost. The result has the
// capabilities of s, see [As], and lets go of s when it is closed.
func Intercept(s Store, is ...Interceptor) Store {
	for n := len(is) - 1; n >= 0; n-- {
		s = &intercepted{next: s, i: is[n], features: s.Features()}
	}
	return s
}

// intercepted is the one wrapper: it implements all capabilities, and [As] says which of
// them the store inside has.
type intercepted struct {
	next     Store
	i        Interceptor
	features Features
}

func (s *intercepted) Features() Features { return s.features }

func (s *intercepted) Close() error { return s.next.Close() }

func (s *intercepted) Stat(ctx context.Context, key Key) (o Object, err error) {
	return run(ctx, s.i, Call{Op: OpStat, Key: key}, func(ctx context.Context) (Object, error) { return s.next.Stat(ctx, key) })
}

func (s *intercepted) List(ctx context.Context, req ListRequest) (ListPage, error) {
	return run(ctx, s.i, Call{Op: OpList, Key: req.Prefix}, func(ctx context.Context) (ListPage, error) { return s.next.List(ctx, req) })
}

func (s *intercepted) Read(ctx context.Context, req ReadRequest) (io.ReadCloser, error) {
	c := Call{Op: OpRead, Key: req.Key, Bytes: req.Length, Read: req}
	return s.i.Open(ctx, c, s.next.Read)
}

func (s *intercepted) Create(ctx context.Context, key Key, opts CreateOptions) (Upload, error) {
	u, err := run(ctx, s.i, Call{Op: OpCreate, Key: key}, func(ctx context.Context) (Upload, error) { return s.next.Create(ctx, key, opts) })
	if err != nil {
		return nil, err
	}
	return &interceptedUpload{next: u, i: s.i, key: key}, nil
}

func (s *intercepted) Delete(ctx context.Context, key Key, cond Condition) error {
	return s.i.Call(ctx, Call{Op: OpDelete, Key: key}, func(ctx context.Context) error { return s.next.Delete(ctx, key, cond) })
}

func (s *intercepted) Complete(ctx context.Context, key Key, p sluice.Prepared, cond Condition) (Object, error) {
	return through(ctx, s, Call{Op: OpComplete, Key: key}, func(ctx context.Context, c Completer) (Object, error) { return c.Complete(ctx, key, p, cond) })
}

func (s *intercepted) AbortPrepared(ctx context.Context, key Key, p sluice.Prepared) error {
	_, err := through(ctx, s, Call{Op: OpAbortPrepared, Key: key}, func(ctx context.Context, c Completer) (struct{}, error) {
		return struct{}{}, c.AbortPrepared(ctx, key, p)
	})
	return err
}

func (s *intercepted) Rename(ctx context.Context, from, to Key, cond Condition) (Object, error) {
	return through(ctx, s, Call{Op: OpRename, Key: from}, func(ctx context.Context, r Renamer) (Object, error) { return r.Rename(ctx, from, to, cond) })
}

func (s *intercepted) Copy(ctx context.Context, from Key, v sluice.Version, to Key, cond Condition) (Object, error) {
	return through(ctx, s, Call{Op: OpCopy, Key: from}, func(ctx context.Context, c Copier) (Object, error) { return c.Copy(ctx, from, v, to, cond) })
}

func (s *intercepted) Mkdir(ctx context.Context, key Key, mode sluice.Mode) (Object, error) {
	return through(ctx, s, Call{Op: OpMkdir, Key: key}, func(ctx context.Context, d Directories) (Object, error) { return d.Mkdir(ctx, key, mode) })
}

func (s *intercepted) SetAttr(ctx context.Context, key Key, change sluice.AttrChange) (Object, error) {
	return through(ctx, s, Call{Op: OpSetAttr, Key: key}, func(ctx context.Context, a Attributer) (Object, error) { return a.SetAttr(ctx, key, change) })
}

func (s *intercepted) Sweep(ctx context.Context, age time.Duration, keep func(string) bool) (int, error) {
	return through(ctx, s, Call{Op: OpSweep}, func(ctx context.Context, w Sweeper) (int, error) { return w.Sweep(ctx, age, keep) })
}

func (s *intercepted) Probe(ctx context.Context) error {
	_, err := through(ctx, s, Call{Op: OpProbe}, func(ctx context.Context, p Prober) (struct{}, error) { return struct{}{}, p.Probe(ctx) })
	return err
}

// errNoCapability is what a call gets that [As] would have advised against.
var errNoCapability = errors.New("this store cannot do it")

// through runs a call of capability C through the interceptor.
func through[C, T any](ctx context.Context, s *intercepted, c Call, f func(context.Context, C) (T, error)) (T, error) {
	able, ok := As[C](s.next)
	if !ok {
		var zero T
		return zero, Fail(c.Op.String(), c.Key, sluice.Unsupported, errNoCapability)
	}
	return run(ctx, s.i, c, func(ctx context.Context) (T, error) { return f(ctx, able) })
}

// run runs a call that returns a value. The value of the last try counts.
func run[T any](ctx context.Context, i Interceptor, c Call, f func(context.Context) (T, error)) (T, error) {
	var out T
	err := i.Call(ctx, c, func(ctx context.Context) (err error) {
		out, err = f(ctx)
		return err
	})
	return out, err
}

// interceptedUpload is an upload whose calls go through an interceptor.
type interceptedUpload struct {
	next Upload
	i    Interceptor
	key  Key
}

func (u *interceptedUpload) Write(ctx context.Context, p []byte) error {
	return u.i.Call(ctx, Call{Op: OpWrite, Key: u.key, Bytes: int64(len(p))}, func(ctx context.Context) error { return u.next.Write(ctx, p) })
}

func (u *interceptedUpload) Prepare(ctx context.Context) (sluice.Prepared, error) {
	return run(ctx, u.i, Call{Op: OpPrepare, Key: u.key}, u.next.Prepare)
}

func (u *interceptedUpload) Commit(ctx context.Context, cond Condition) (Object, error) {
	return run(ctx, u.i, Call{Op: OpCommit, Key: u.key}, func(ctx context.Context) (Object, error) { return u.next.Commit(ctx, cond) })
}

func (u *interceptedUpload) Abort(ctx context.Context) error {
	return u.i.Call(ctx, Call{Op: OpAbort, Key: u.key}, u.next.Abort)
}

package namespace

import (
	"errors"
	"fmt"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// Apply applies an entry and returns one answer per command, equal on every replica. An
// index that was applied already is ignored: nil, nil. A command that fails has no
// effect and does not touch the others; they see each other's effects. It takes the
// entry over. An error means that this build cannot apply the entry (a newer format, an
// unknown command) or cannot read or write its rows: the member must stop.
func (s *State) Apply(index sluice.Index, entry *wire.Entry) ([]*wire.Answer, error) {
	w := s.w
	switch {
	case w.broken != nil:
		return nil, w.broken
	case index <= w.meta.applied:
		return nil, nil
	case entry.Format > wire.EntryFormat:
		w.broken = unknown("the entry has format %d; this build knows %d: install a newer one", entry.Format, wire.EntryFormat)
		return nil, w.broken
	case entry.Version > wire.ClusterVersion:
		w.broken = unknown("the entry is of cluster version %d; this build knows %d: install a newer one", entry.Version, wire.ClusterVersion)
		return nil, w.broken
	}
	w.index, w.meta.applied = index, index
	w.meta.wall = entry.Wall
	w.meta.tick = max(w.meta.tick, entry.Tick)
	w.wall, w.tick = w.meta.wall, w.meta.tick
	answers := make([]*wire.Answer, len(entry.Commands))
	for i, c := range entry.Commands {
		a, err := w.apply(c)
		if err != nil {
			w.broken = err
			return nil, fmt.Errorf("command %d of entry %d: %w", i, index, err)
		}
		answers[i] = a
	}
	w.forgetTombs()
	if err := w.publish(); err != nil {
		w.broken = err
		return nil, err
	}
	return answers, nil
}

func unknown(format string, args ...any) error {
	return &sluice.Error{Op: "apply", Kind: sluice.Unsupported, Err: fmt.Errorf(format, args...)}
}

// inWay is the error of a change that must wait for an intent.
type inWay struct{ intent uint64 }

func (e inWay) Error() string {
	return fmt.Sprintf("busy: an operation on the same names is under way (intent %d)", e.intent)
}

// apply judges and executes one command. Its error stops the member.
func (w *writer) apply(c *wire.Command) (*wire.Answer, error) {
	if a, err := w.recall(c.Request); a != nil || err != nil {
		return a, err
	}
	meta, mounts := w.meta, w.mounts
	w.begin()
	a, err := w.execute(c)
	if w.broken != nil {
		return nil, w.broken
	}
	if errors.Is(err, errUnknownCommand) {
		return nil, err
	}
	if err != nil {
		w.drop(meta, mounts)
		a = answerOf(err)
	} else {
		w.keep()
		for _, id := range w.changed {
			a.Changed = append(a.Changed, uint64(id))
		}
	}
	w.remember(c.Request, a)
	return a, nil
}

func answerOf(err error) *wire.Answer {
	if busy, ok := errors.AsType[inWay](err); ok {
		return &wire.Answer{BusyWith: busy.intent, Error: &wire.Error{Kind: uint32(sluice.Busy), Text: "an operation on the same names is under way"}}
	}
	return &wire.Answer{Error: wire.FromError(err)}
}

var errUnknownCommand = errors.New("the command is unknown to this build: install a newer one")

// execute runs a command. An error means that what it changed is to be taken back.
func (w *writer) execute(c *wire.Command) (*wire.Answer, error) {
	if c.Op == nil {
		return nil, errUnknownCommand
	}
	if op, ok := c.Op.(*wire.Command_Format); ok {
		return w.format(op.Format)
	}
	if len(w.meta.incarnation) == 0 {
		return nil, fail(sluice.Unavailable, "the cluster is not formatted yet")
	}
	var by *sluice.Principal
	if c.By != nil {
		by = new(c.By.Sluice())
	}
	if a, err := w.executeUser(c, by); err != errUnknownCommand {
		return a, err
	}
	return w.executeDesk(c, by)
}

// executeUser runs what users ask for.
func (w *writer) executeUser(c *wire.Command, by *sluice.Principal) (*wire.Answer, error) {
	r := c.Request.Sluice()
	switch op := c.Op.(type) {
	case *wire.Command_Mkdir:
		return w.mkdir(op.Mkdir, by, r)
	case *wire.Command_CreateFile:
		return w.create(op.CreateFile, by, r)
	case *wire.Command_CommitContent:
		return w.commit(op.CommitContent, by, r)
	case *wire.Command_Abandon:
		return w.abandon(op.Abandon, r)
	case *wire.Command_Rename:
		return w.rename(op.Rename, by, r)
	case *wire.Command_Remove:
		return w.remove(op.Remove, by, r)
	case *wire.Command_SetAttr:
		return w.setAttr(op.SetAttr, by)
	case *wire.Command_Symlink:
		return w.symlink(op.Symlink, by)
	case *wire.Command_MountStore:
		return w.mount(op.MountStore, by)
	case *wire.Command_UnmountStore:
		return w.unmount(op.UnmountStore, by)
	case *wire.Command_UpdateMount:
		return w.updateMount(op.UpdateMount, by)
	default:
		return nil, errUnknownCommand
	}
}

// executeDesk runs what the cluster itself has to do.
func (w *writer) executeDesk(c *wire.Command, by *sluice.Principal) (*wire.Answer, error) {
	switch op := c.Op.(type) {
	case *wire.Command_RaiseVersion:
		if op.RaiseVersion.Version > wire.ClusterVersion {
			return nil, errUnknownCommand
		}
		w.meta.version = max(w.meta.version, op.RaiseVersion.Version)
		return &wire.Answer{}, nil
	case *wire.Command_SetIncarnation:
		w.meta.incarnation = append(w.meta.incarnation[:len(w.meta.incarnation):len(w.meta.incarnation)], sluice.Incarnation(op.SetIncarnation.Incarnation))
		w.meta.content = 0
		return &wire.Answer{}, nil
	case *wire.Command_CheckHash:
		return w.checkHash(op.CheckHash)
	case *wire.Command_OpenSession:
		return w.openSession(op.OpenSession, by)
	case *wire.Command_CloseSession:
		return w.closeSession(sluice.SessionID(op.CloseSession.Session), nil)
	case *wire.Command_ExpireSessions:
		for _, e := range op.ExpireSessions.Sessions {
			if _, err := w.closeSession(sluice.SessionID(e.Session), &e.Epoch); err != nil {
				return nil, err
			}
		}
		return &wire.Answer{}, nil
	case *wire.Command_LoadChildren:
		return w.loadChildren(op.LoadChildren)
	case *wire.Command_Reap:
		return w.reap(op.Reap)
	case *wire.Command_ExpireTtl:
		return w.expireTTL(op.ExpireTtl)
	case *wire.Command_ReportLost:
		return w.reportLost(op.ReportLost)
	case *wire.Command_BeginAttempt:
		return w.beginAttempt(op.BeginAttempt)
	case *wire.Command_FinishIntent:
		return w.finishIntent(op.FinishIntent)
	case *wire.Command_MoveKeys:
		return w.moveKeys(op.MoveKeys)
	default:
		return nil, errUnknownCommand
	}
}

// format makes the first state.
func (w *writer) format(f *wire.Format) (*wire.Answer, error) {
	if len(w.meta.incarnation) > 0 {
		return nil, fail(sluice.Exists, "the state is formatted already")
	}
	if f.Incarnation == 0 {
		return nil, fail(sluice.Invalid, "an incarnation must not be 0")
	}
	w.meta.cluster, w.meta.version = f.Cluster, 1
	w.meta.incarnation = []sluice.Incarnation{sluice.Incarnation(f.Incarnation)}
	w.meta.lease, w.meta.window = f.SessionLease, uint64(f.SessionWindow)
	if w.meta.window == 0 {
		w.meta.window = DefaultWindow
	}
	w.meta.file = uint64(sluice.RootID)
	mode := sluice.Mode(f.Mode)
	if mode == 0 {
		mode = 0o755
	}
	root := &node{id: sluice.RootID, flags: flagDir | flagLocal, perm: w.permFor(f.Owner, f.Group, mode), mtime: w.wall, ctime: w.wall, changed: w.index}
	w.put(childKey(tagNode, rootKeyParent, ""), root)
	return &wire.Answer{}, w.count(0, countsOf(root))
}

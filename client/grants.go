package client

import (
	"container/list"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// opened is what the master said at an open: enough to read one version of one file.
type opened struct {
	info    sluice.FileInfo
	grant   sluice.Grant
	holders []sluice.Holder
	made    time.Time // when the request was sent
	expires time.Time // of the grant; zero: not said
	until   time.Time // may be used for further opens; longer while notices come
	session *session  // that is told of changes
	who     string    // for whom it was given
	read    sluice.ReadType
}

// maxReuse bounds how long one answer serves further opens, however often its lease is
// renewed: so often at least the mount's freshness has its say.
const maxReuse = 10 * time.Second

// grants remembers answers of opens while the master keeps us told of changes.
type grants struct {
	max int

	mu     sync.Mutex
	byPath map[sluice.Path][]*list.Element   // guarded by mu
	byFile map[sluice.FileID][]*list.Element // guarded by mu
	order  *list.List                        // guarded by mu: of *opened, the most recently used first
	told   uint64                            // guarded by mu: counts the notices of change
}

func newGrants(n int) *grants {
	g := &grants{max: n}
	g.clear()
	return g
}

// clear forgets everything.
func (g *grants) clear() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.told++
	g.byPath = map[sluice.Path][]*list.Element{}
	g.byFile = map[sluice.FileID][]*list.Element{}
	g.order = list.New()
}

// find returns a remembered answer that may serve an open now.
func (g *grants) find(path sluice.Path, who string, opts sluice.OpenOptions) *opened {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.byPath[path] {
		o := e.Value.(*opened)
		if o.who != who || o.read != opts.Read {
			continue
		}
		if !o.reusable(now, opts.Freshness) {
			return nil
		}
		g.order.MoveToFront(e)
		return o
	}
	return nil
}

// reusable says whether o may serve an open that asks for this freshness.
func (o *opened) reusable(now time.Time, f sluice.Freshness) bool {
	age := now.Sub(o.made)
	if age > maxReuse || f.Set && !f.Never && age >= f.Every {
		return false
	}
	if !o.expires.IsZero() && now.Add(time.Second).After(o.expires) {
		return false
	}
	return now.Before(o.until) || now.Before(o.session.leased())
}

// seen returns the count of notices, to be given to put.
func (g *grants) seen() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.told
}

// put remembers o unless a notice came since told was read: it could be about o.
func (g *grants) put(o *opened, told uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if told != g.told {
		return
	}
	for _, e := range g.byPath[o.info.Path] {
		if old := e.Value.(*opened); old.who == o.who && old.read == o.read {
			g.removeLocked(e)
			break
		}
	}
	for g.order.Len() >= g.max {
		g.removeLocked(g.order.Back())
	}
	e := g.order.PushFront(o)
	g.byPath[o.info.Path] = append(g.byPath[o.info.Path], e)
	g.byFile[o.info.ID] = append(g.byFile[o.info.ID], e)
}

func (g *grants) removeLocked(e *list.Element) {
	o := e.Value.(*opened)
	g.order.Remove(e)
	drop(g.byPath, o.info.Path, e)
	drop(g.byFile, o.info.ID, e)
}

func drop[K comparable](m map[K][]*list.Element, k K, e *list.Element) {
	s := m[k]
	if i := slices.Index(s, e); i >= 0 {
		s = slices.Delete(s, i, i+1)
	}
	if len(s) == 0 {
		delete(m, k)
	} else {
		m[k] = s
	}
}

// forget drops what is remembered of path. It returns the content that the path was
// known to have.
func (g *grants) forget(path sluice.Path) []sluice.Extent {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.told++
	return dropAll(g, g.byPath, path)
}

// forgetBelow is forget of path and of everything below it.
func (g *grants) forgetBelow(path sluice.Path) (was []sluice.Extent) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.told++
	for p := range g.byPath {
		if path.Contains(p) {
			was = append(was, dropAll(g, g.byPath, p)...)
		}
	}
	return was
}

// changed drops what is remembered of files; id 0 means everything. It returns the content
// that the files were known to have, but for 0.
func (g *grants) changed(files []uint64) (was []sluice.Extent) {
	if len(files) == 0 {
		return nil
	}
	if slices.Contains(files, 0) {
		g.clear()
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.told++
	for _, id := range files {
		was = append(was, dropAll(g, g.byFile, sluice.FileID(id))...)
	}
	return was
}

// dropAll removes what is remembered under k and returns its content. The caller holds
// the mutex of g.
func dropAll[K comparable](g *grants, m map[K][]*list.Element, k K) (was []sluice.Extent) {
	for len(m[k]) > 0 {
		e := m[k][0]
		was = append(was, e.Value.(*opened).info.Extents...)
		g.removeLocked(e)
	}
	return was
}

// leased returns until when the notices of n keep grants good.
func (n *session) leased() time.Time {
	if t := n.until.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// listen waits for notices of changes as long as the session lives. It starts once.
func (s *sessions) listen(n *session) {
	if n.awaited.Swap(true) {
		return
	}
	s.c.background(func(context.Context) { s.await(n) })
}

// awaitFor bounds one waiting request, so that a master that forgot it is asked again.
const awaitFor = 30 * time.Second

func (s *sessions) await(n *session) {
	var acked uint64
	pause := firstPause
	for n.dead.Err() == nil {
		sent := time.Now()
		var a wire.AwaitAnswer
		req := &wire.AwaitRequest{Call: &wire.CallHeader{}, Session: uint64(n.id), Acked: acked}
		if v := s.c.workers.view.Load(); v != nil {
			req.View = v.Version
		}
		ctx, cancel := context.WithTimeout(n.dead, awaitFor)
		_, err := s.c.masters.call(ctx, wire.MethodAwait, req, &a)
		cancel()
		if err != nil {
			if errors.Is(err, sluice.NotFound) {
				s.lose(n)
				return
			}
			if sleep(n.dead, s.c.dice.jitter(pause)) != nil {
				return
			}
			pause = min(2*pause, lastPause)
			continue
		}
		pause = firstPause
		// Most likely their content is another or none; if not, it is opened again.
		s.c.locals.forget(s.c.grants.changed(a.Files))
		s.c.watchers.tell(a.Files)
		s.c.workers.learn(a.View.Sluice())
		acked = max(acked, a.Upto)
		n.until.Store(new(sent.Add(time.Duration(a.Lease))))
	}
}

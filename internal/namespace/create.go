package namespace

import (
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// The bounds of what is open at once.
const (
	maxWriters = 64     // of one file
	maxIntents = 10_000 // of one mount, whose store may be gone for long
)

// writeType decides how a file at the place is written.
func writeType(p *place, asked sluice.WriteType) (sluice.WriteType, error) {
	if asked > sluice.AsyncThrough {
		return 0, fail(sluice.Invalid, "the write type %d is unknown", asked)
	}
	if p.mount == nil {
		switch asked {
		case sluice.WriteDefault, sluice.MustCache:
			return sluice.MustCache, nil
		default:
			return 0, fail(sluice.Unsupported, "%s outside of a mount: there is no store to write through to", asked)
		}
	}
	o := &p.mount.mount.Options
	if o.ReadOnly {
		return 0, readOnly(p)
	}
	if asked == sluice.WriteDefault {
		asked = o.WriteType
	}
	switch asked {
	case sluice.WriteDefault:
		return sluice.CacheThrough, nil
	case sluice.AsyncThrough:
		return 0, fail(sluice.Unsupported, "%s is not there yet; use CACHE_THROUGH", asked)
	default:
		return asked, nil
	}
}

func readOnly(p *place) error {
	return fail(sluice.ReadOnly, "the mount %s is read-only", p.mount.mount.Path)
}

// writable refuses changes in a read-only mount.
func writable(p *place) error {
	if p.mount != nil && p.mount.mount.Options.ReadOnly {
		return readOnly(p)
	}
	return nil
}

// clear says whether no open intent is in the way of a change of the key at the place.
// store: the change makes an intent itself, so that also those count whose change of
// the namespace was made already, and there must be room for it.
func (w *writer) clear(mount sluice.MountID, s span, store bool) error {
	if mount == 0 {
		return nil
	}
	if id := w.open.find(mount, s, store); id != 0 {
		return inWay{id}
	}
	if n := w.open.of[mount]; store && n >= maxIntents {
		return fail(sluice.Busy, "%d changes wait for the store already, the most that may", n)
	}
	return nil
}

// parents makes the missing directories of a path, all but the last, here only. On
// return p.dir is the parent.
func (w *writer) parents(p *place, by *sluice.Principal) error {
	dir := p.deepest
	for _, name := range p.missing[:len(p.missing)-1] {
		if err := sluice.CheckName(name); err != nil {
			return fail(sluice.Invalid, "%w", err)
		}
		if !allowed(by, dir.node, MayWrite|MayExecute) {
			return fail(sluice.Permission, "%s may not change the directory", by.User)
		}
		n := w.newNode(by, dir.node, flagDir, 0o755)
		n.moved = w.index
		if err := w.addNode(p.mountID(), dir.node.id, name, n); err != nil {
			return err
		}
		if err := w.touch(dir); err != nil {
			return err
		}
		dir = at{dir.node.id, name, n}
	}
	p.missing = p.missing[len(p.missing)-1:]
	p.dir, p.deepest = dir, dir
	p.at = at{dir.node.id, p.missing[0], nil}
	return nil
}

func parsePath(s string) (sluice.Path, error) {
	p, err := sluice.ParsePath(s)
	return p, err
}

// create is CreateFile.
func (w *writer) create(c *wire.CreateFile, by *sluice.Principal, r sluice.RequestID) (*wire.Answer, error) {
	path, err := parsePath(c.Path)
	if err != nil {
		return nil, err
	}
	opts := c.Options.Sluice()
	p, err := walk(w, by, path)
	if err != nil {
		return nil, err
	}
	write, err := writeType(&p, opts.Write)
	if err != nil {
		return nil, err
	}
	if r.Session == 0 && !opts.Empty {
		return nil, fail(sluice.Invalid, "a file is created within a session")
	}
	if err := w.clear(p.mountID(), span{p.key(), false}, false); err != nil {
		return nil, err
	}
	if p.found() {
		if err := w.mayReplace(&p, by, &opts, r); err != nil {
			return nil, err
		}
	} else if err := w.mayMake(&p, by, &opts); err != nil {
		return nil, err
	}
	x := &creation{place: &p, opts: &opts, write: write, by: by, request: r}
	x.row = writerRow{
		session: r.Session, write: write, mount: p.mountID(), blockSize: blockSize(&p, &opts, c.DefaultBlockSize),
		base: opts.Base, key: p.ownKey(), ttl: int64(opts.TTL), ttlAction: opts.TTLAction, pinned: opts.Pinned,
	}
	if st := w.sessions[r.Session]; st != nil {
		x.row.epoch = st.epoch
	}
	if opts.Empty {
		return w.createEmpty(x)
	}
	return w.createOpen(x)
}

// creation is a CreateFile that was found good.
type creation struct {
	*place
	opts    *sluice.CreateOptions
	write   sluice.WriteType
	by      *sluice.Principal
	request sluice.RequestID
	row     writerRow
}

func blockSize(p *place, o *sluice.CreateOptions, dflt int64) int64 {
	size := o.BlockSize
	if size == 0 && p.mount != nil {
		size = p.mount.mount.Options.BlockSize
	}
	if size == 0 {
		size = dflt
	}
	if size <= 0 || size%sluice.PageSize != 0 || size > sluice.MaxBlockSize {
		size = sluice.DefaultBlockSize
	}
	return size
}

// mayMake judges a file that is not there yet.
func (w *writer) mayMake(p *place, by *sluice.Principal, o *sluice.CreateOptions) error {
	if !o.Base.IsZero() {
		return fail(sluice.Stale, "the file it was based on is gone")
	}
	if len(p.missing) > 1 && !o.Parents {
		return fail(sluice.NotFound, "its directory does not exist")
	}
	if err := w.parents(p, by); err != nil {
		return err
	}
	return mayUnlink(by, p.dir.node, nil)
}

// mayReplace judges a file that is there. Writers that are left of an earlier try of the
// same session are dropped, those of others are in the way of a file not complete.
func (w *writer) mayReplace(p *place, by *sluice.Principal, o *sluice.CreateOptions, r sluice.RequestID) error {
	n := p.node
	switch {
	case o.Exclusive:
		return kindError(sluice.Exists)
	case n.dir():
		return kindError(sluice.IsDirectory)
	case n.has(flagSymlink):
		return fail(sluice.Exists, "it is a symbolic link")
	case !allowed(by, n, MayWrite):
		return fail(sluice.Permission, "%s may not write the file", by.User)
	case !o.Base.IsZero() && n.content() != o.Base:
		return fail(sluice.Stale, "its content was replaced meanwhile")
	}
	if o.TTL > 0 && o.TTLAction == sluice.TTLDelete {
		if err := mayUnlink(by, p.dir.node, n); err != nil {
			return err
		}
	}
	if n.has(flagComplete) && !n.has(flagWriters) {
		return nil
	}
	writers, others := 0, false
	var mine []sluice.ContentID
	err := w.writersOf(n.id, func(c sluice.ContentID, x *writerRow) {
		writers++
		if x.session == r.Session && x.intent == 0 {
			mine = append(mine, c)
		} else if w.sessions[x.session] != nil || x.intent != 0 {
			others = true
		}
	})
	if err != nil {
		return err
	}
	if n.has(flagComplete) {
		if writers >= maxWriters {
			return fail(sluice.Busy, "%d writers have it open already", writers)
		}
		return nil
	}
	if others {
		return fail(sluice.Busy, "somebody else is writing it")
	}
	for _, c := range mine {
		x, err := as[writerRow](w.get(writerKey(n.id, c)))
		if err != nil {
			return err
		}
		if err := w.endWriterRows(n.id, c, x, true); err != nil {
			return err
		}
	}
	return nil
}

// createEmpty makes a file complete at once, or through an intent.
func (w *writer) createEmpty(x *creation) (*wire.Answer, error) {
	p := x.place
	if x.write != sluice.MustCache {
		return w.createOpen(x)
	}
	var n *node
	if p.found() {
		c, err := w.publishContent(p, sluice.ContentID{}, nil, 0, 0)
		if err != nil {
			return nil, err
		}
		n = c
		n.persist = sluice.CacheOnly // what the store has under the key stays known
		w.setTTL(n, x.row.ttl, x.row.ttlAction)
		if err := w.set(p, n); err != nil {
			return nil, err
		}
	} else {
		n = w.newFileNode(x, flagComplete)
		n.persist = sluice.CacheOnly
		if err := w.addNode(p.mountID(), p.dir.node.id, p.name, n); err != nil {
			return nil, err
		}
		p.node = n
	}
	if err := w.touch(p.dir); err != nil {
		return nil, err
	}
	return &wire.Answer{Info: wire.FromFileInfo(p.info()), Write: uint32(x.write)}, nil
}

// newFileNode makes the node of a created file.
func (w *writer) newFileNode(x *creation, flags uint32) *node {
	mode := x.opts.Mode
	if mode == 0 {
		mode = 0o644
	}
	n := w.newNode(x.by, x.dir.node, flags, mode)
	n.set(flagPinned, x.opts.Pinned)
	w.setTTL(n, x.row.ttl, x.row.ttlAction)
	return n
}

// createOpen makes an incomplete entry, or a further writer of a complete file. For an
// empty file in a store its commit begins at once.
func (w *writer) createOpen(x *creation) (*wire.Answer, error) {
	p := x.place
	c := w.newContent()
	if p.found() {
		n := *p.node
		n.set(flagWriters, true)
		if err := w.set(p, &n); err != nil {
			return nil, err
		}
	} else {
		n := w.newFileNode(x, flagWriters)
		if err := w.addNode(p.mountID(), p.dir.node.id, p.name, n); err != nil {
			return nil, err
		}
		p.node = n
		if err := w.touch(p.dir); err != nil {
			return nil, err
		}
	}
	if err := w.addWriter(p.node.id, c, &x.row); err != nil {
		return nil, err
	}
	if x.opts.Empty {
		return w.beginCommit(p, c, &x.row, sluice.Sealed{}, x.by, x.request)
	}
	info := p.info()
	return &wire.Answer{Info: wire.FromFileInfo(info), Content: wire.FromContentID(c), Write: uint32(x.write)}, nil
}

// abandon is Abandon. What is not there any more needs no abandoning.
func (w *writer) abandon(c *wire.Abandon, r sluice.RequestID) (*wire.Answer, error) {
	file, content := sluice.FileID(c.File), c.Content.Sluice()
	wr, err := as[writerRow](w.get(writerKey(file, content)))
	if err != nil {
		return nil, err
	}
	switch {
	case wr == nil:
		return &wire.Answer{}, nil
	case wr.session != r.Session:
		return nil, fail(sluice.Permission, "another session is writing it")
	case wr.intent != 0:
		return nil, inWay{wr.intent}
	}
	return &wire.Answer{}, w.dropWriter(file, content, wr, true)
}

// commit is CommitContent.
func (w *writer) commit(c *wire.CommitContent, by *sluice.Principal, r sluice.RequestID) (*wire.Answer, error) {
	file, sealed := sluice.FileID(c.File), c.Sealed.Sluice()
	if sealed.Length < 0 || len(sealed.Holders) > 1000 {
		return nil, fail(sluice.Invalid, "the sealed content is of length %d with %d holders", sealed.Length, len(sealed.Holders))
	}
	wr, err := as[writerRow](w.get(writerKey(file, sealed.Content)))
	if err != nil {
		return nil, err
	}
	st := w.sessions[r.Session]
	if wr == nil || st == nil || wr.session != r.Session || wr.epoch != st.epoch {
		return nil, fail(sluice.NotFound, "the session writes no such content; it was abandoned, or the file is gone")
	}
	if wr.intent != 0 {
		return nil, inWay{wr.intent}
	}
	p, err := locate(w, file)
	if err != nil {
		return nil, err
	}
	if !p.found() {
		return nil, fail(sluice.NotFound, "the file is gone")
	}
	if err := commitable(&p, wr, &sealed); err != nil {
		if e := w.endCommitRefused(&p, sealed.Content, wr); e != nil {
			return nil, e
		}
		return &wire.Answer{Error: wire.FromError(err)}, nil
	}
	if wr.write != sluice.MustCache {
		return w.beginCommit(&p, sealed.Content, wr, sealed, by, r)
	}
	n, err := w.publishContent(&p, sealed.Content, wr, sealed.Length, wr.blockSize)
	if err != nil {
		return nil, err
	}
	n.persist = sluice.CacheOnly // what the store has under the key stays known
	w.holders(file, &sealed)
	if err := w.set(&p, n); err != nil {
		return nil, err
	}
	return &wire.Answer{Info: wire.FromFileInfo(p.info())}, nil
}

// endCommitRefused drops a writer whose content can never be published.
func (w *writer) endCommitRefused(p *place, c sluice.ContentID, wr *writerRow) error {
	return w.dropWriter(p.node.id, c, wr, true)
}

// commitable says whether a sealed content still fits its file.
func commitable(p *place, wr *writerRow, sealed *sluice.Sealed) error {
	switch {
	case p.mountID() != wr.mount:
		return fail(sluice.Changed, "the file is in another mount than when it was created")
	case !wr.base.IsZero() && p.node.content() != wr.base:
		return fail(sluice.Stale, "its content was replaced meanwhile")
	case wr.write != sluice.MustCache && !sealed.Prepared.Inline && p.ownKey() != wr.key:
		return fail(sluice.Changed, "the file or a directory above it was renamed while it was written; write it again")
	case sealed.Length > 0 && (sealed.Length-1)/wr.blockSize >= 1<<32-1:
		return fail(sluice.TooLarge, "%d bytes are too many for blocks of %d", sealed.Length, wr.blockSize)
	}
	return writable(p)
}

// publishContent returns the node of the place with a new content instead of its old
// one, and ends the content's writer (nil: there is none). It is complete then.
func (w *writer) publishContent(p *place, c sluice.ContentID, wr *writerRow, length, block int64) (*node, error) {
	n := *p.node
	if n.has(flagHeld) {
		for _, e := range n.extents {
			w.del(contentKey(e.Content))
		}
	}
	if n.has(flagComplete) {
		w.changed = append(w.changed, n.id)
	}
	n.extents, n.length = nil, length
	if length > 0 {
		n.extents = []sluice.Extent{{Content: c, Count: uint32((length-1)/block + 1), BlockSize: block}}
	}
	n.set(flagHeld, length > 0)
	n.set(flagComplete, true)
	n.mtime, n.ctime, n.atime, n.changed = w.wall, w.wall, 0, w.index
	if n.perm.mode&0o6000 != 0 {
		n.perm = w.permFor(n.perm.owner, n.perm.group, n.perm.mode&^0o6000)
	}
	if wr == nil {
		return &n, nil
	}
	if wr.pinned {
		n.set(flagPinned, true)
	}
	if wr.ttl > 0 || !p.node.has(flagComplete) {
		w.setTTL(&n, wr.ttl, wr.ttlAction)
	}
	if err := w.endWriterRows(n.id, c, wr, length == 0); err != nil {
		return nil, err
	}
	left := false
	err := w.writersOf(n.id, func(sluice.ContentID, *writerRow) { left = true })
	n.set(flagWriters, left)
	return &n, err
}

// holders notes which workers hold a content.
func (w *writer) holders(file sluice.FileID, s *sluice.Sealed) {
	if s.Length > 0 {
		w.put(contentKey(s.Content), &contentRow{file: file, holders: s.Holders})
	}
}

// beginCommit makes the intent that is a file's commit point.
func (w *writer) beginCommit(p *place, c sluice.ContentID, wr *writerRow, sealed sluice.Sealed, by *sluice.Principal, r sluice.RequestID) (*wire.Answer, error) {
	i := w.newIntent(OpCommit, p, by, r)
	i.Key = p.ownKey()
	i.File, i.Content, i.Sealed, i.Empty = p.node.id, c, sealed, sealed.Content.IsZero()
	i.Write, i.Session, i.Mode = wr.write, wr.session, p.node.perm.mode
	if p.node.inStore() {
		i.Version = p.node.version
	} else {
		i.Absent = true
	}
	if err := w.clear(i.Mount, span{i.Key, false}, true); err != nil {
		return nil, err
	}
	row := *wr
	row.intent = i.ID
	w.put(writerKey(i.File, c), &row)
	w.holders(i.File, &sealed)
	return w.beginIntent(i), nil
}

// newIntent makes an intent about a place.
func (w *writer) newIntent(op Op, p *place, by *sluice.Principal, r sluice.RequestID) *Intent {
	w.meta.intent++
	i := &Intent{ID: w.meta.intent, Op: op, Mount: p.mountID(), Path: p.path, Request: r, Since: time.Duration(w.tick)}
	if by != nil {
		i.By = *by
	}
	return i
}

// beginIntent opens an intent. Its answer comes with its end.
func (w *writer) beginIntent(i *Intent) *wire.Answer {
	w.put(key64(tagIntent, i.ID), &intentRow{*i})
	w.open.add(i)
	w.revert(func() { w.open.remove(i) })
	return &wire.Answer{Intent: i.ID}
}

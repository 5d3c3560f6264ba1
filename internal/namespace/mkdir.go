package namespace

import (
	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// mkdir is Mkdir.
func (w *writer) mkdir(c *wire.Mkdir, by *sluice.Principal, r sluice.RequestID) (*wire.Answer, error) {
	path, err := parsePath(c.Path)
	if err != nil {
		return nil, err
	}
	p, err := walk(w, by, path)
	if err != nil {
		return nil, err
	}
	if p.found() {
		if c.Parents && p.node.dir() {
			return &wire.Answer{Info: wire.FromFileInfo(p.info())}, nil
		}
		return nil, kindError(sluice.Exists)
	}
	switch err := writable(&p); {
	case err != nil:
		return nil, err
	case len(p.missing) > 1 && !c.Parents:
		return nil, fail(sluice.NotFound, "its directory does not exist")
	}
	if err := mayUnlink(by, p.deepest.node, nil); err != nil {
		return nil, err
	}
	mode := sluice.Mode(c.Mode)
	if mode == 0 {
		mode = 0o755
	}
	if p.mount != nil && c.Native {
		return w.beginMkdir(&p, mode, by, r)
	}
	if err := w.clear(p.mountID(), span{p.key(), false}, false); err != nil {
		return nil, err
	}
	if err := w.makeDirs(&p, mode, by, flagLocal); err != nil {
		return nil, err
	}
	return &wire.Answer{Info: wire.FromFileInfo(p.info())}, nil
}

// makeDirs makes the missing directories of a place.
func (w *writer) makeDirs(p *place, mode sluice.Mode, by *sluice.Principal, local uint32) error {
	if err := w.parents(p, by); err != nil {
		return err
	}
	n := w.newNode(by, p.dir.node, flagDir, mode)
	n.moved = w.index
	if err := w.addNode(p.mountID(), p.dir.node.id, p.name, n); err != nil {
		return err
	}
	if err := w.touch(p.dir); err != nil {
		return err
	}
	p.parent, p.node = p.dir.node.id, n
	if local == 0 {
		return w.stored(p)
	}
	return nil
}

// stored marks the directory at the place as one that the store has.
func (w *writer) stored(p *place) error {
	n := *p.node
	n.set(flagLocal|flagMade, false)
	n.changed = w.index
	return w.set(p, &n)
}

func (w *writer) beginMkdir(p *place, mode sluice.Mode, by *sluice.Principal, r sluice.RequestID) (*wire.Answer, error) {
	i := w.newIntent(OpMkdir, p, by, r)
	i.Mode, i.File = mode, p.deepest.node.id
	own := p.ownKey()
	end := len(own)
	for j := len(p.missing) - 1; j >= 0; j-- {
		i.Dirs = append(i.Dirs, own[:end]+"/")
		end -= len(p.missing[j]) + 1
	}
	for a, b := 0, len(i.Dirs)-1; a < b; a, b = a+1, b-1 {
		i.Dirs[a], i.Dirs[b] = i.Dirs[b], i.Dirs[a]
	}
	i.Key = i.Dirs[len(i.Dirs)-1]
	for _, s := range i.footprint() {
		if err := w.clear(i.Mount, s, true); err != nil {
			return nil, err
		}
	}
	return w.beginIntent(i), nil
}

// finishMkdir makes the directories of an intent here.
func (w *writer) finishMkdir(i *Intent) (*wire.Answer, error) {
	p, err := walk(w, nil, i.Path)
	if err != nil || p.mountID() != i.Mount {
		return answerOf(fail(sluice.UnknownOutcome, "its directory is gone")), nil
	}
	if p.found() {
		if !p.node.dir() {
			return answerOf(kindError(sluice.Exists)), nil
		}
		return &wire.Answer{Info: wire.FromFileInfo(p.info())}, nil
	}
	by := i.By
	by.Super = true // what the store has done is not judged again
	if err := w.makeDirs(&p, i.Mode, &by, 0); err != nil {
		return answerOf(err), nil
	}
	return &wire.Answer{Info: wire.FromFileInfo(p.info())}, nil
}

// symlink is Symlink. Links are entries of ours: no store is asked to make one.
func (w *writer) symlink(c *wire.Symlink, by *sluice.Principal) (*wire.Answer, error) {
	path, err := parsePath(c.Path)
	if err != nil {
		return nil, err
	}
	if c.Target == "" || len(c.Target) > sluice.MaxPath {
		return nil, fail(sluice.Invalid, "a link's target has 1 to %d bytes", sluice.MaxPath)
	}
	p, err := walk(w, by, path)
	if err != nil {
		return nil, err
	}
	if p.found() {
		return nil, kindError(sluice.Exists)
	}
	if err := writable(&p); err != nil {
		return nil, err
	}
	if len(p.missing) > 1 {
		return nil, fail(sluice.NotFound, "its directory does not exist")
	}
	if err := mayUnlink(by, p.dir.node, nil); err != nil {
		return nil, err
	}
	if err := w.clear(p.mountID(), span{p.key(), false}, false); err != nil {
		return nil, err
	}
	n := w.newNode(by, p.dir.node, flagSymlink, 0o777)
	n.target = c.Target
	if err := w.addNode(p.mountID(), p.dir.node.id, p.name, n); err != nil {
		return nil, err
	}
	p.parent, p.node = p.dir.node.id, n
	if err := w.touch(p.dir); err != nil {
		return nil, err
	}
	return &wire.Answer{Info: wire.FromFileInfo(p.info())}, nil
}

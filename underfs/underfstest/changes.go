package underfstest

import (
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// checkDelete deletes files and what is not there.
func checkDelete(c *run) {
	o := c.mustPut("d/o", []byte("x"))
	c.kind("delete of another version", c.s.Delete(c.ctx, "d/o", underfs.Condition{Version: o.Version + "x"}), sluice.Changed)
	c.expect(o, []byte("x"))
	c.must("delete of the version", c.s.Delete(c.ctx, "d/o", underfs.Condition{Version: o.Version}))
	c.gone("after delete", "d/o")
	c.kind("delete of what is gone", c.s.Delete(c.ctx, "d/o", underfs.Condition{}), sluice.NotFound)
	if err := c.s.Delete(c.ctx, "d/o", underfs.Condition{Version: o.Version}); err != nil {
		c.kind("delete of a version of what is gone", err, sluice.NotFound, sluice.Changed)
	}
	c.kind("delete of what never was", c.s.Delete(c.ctx, "never/was", underfs.Condition{}), sluice.NotFound)
	c.mustPut("full/o", []byte("x"))
	if err := c.s.Delete(c.ctx, "full", underfs.Condition{}); err == nil {
		c.errorf("delete of a directory by a file's key succeeded")
	}
	if err := c.s.Delete(c.ctx, "full/", underfs.Condition{}); err == nil {
		c.errorf("delete of a directory with entries succeeded")
	} else {
		c.kind("delete of a directory with entries", err, sluice.NotEmpty, sluice.NotFound)
	}
	if _, err := c.s.Stat(c.ctx, "full/o"); err != nil {
		c.errorf("an object below a directory that was not deleted: %v", err)
	}
}

// checkRename renames files and directories.
func checkRename(c *run) {
	r, ok := underfs.As[underfs.Renamer](c.s)
	if !ok {
		return
	}
	c.mustPut("a/x", []byte("x"))
	y := c.mustPut("a/y", []byte("yy"))
	o, err := r.Rename(c.ctx, "a/x", "b/c/x", underfs.Condition{})
	c.must("rename", err)
	c.same(o)
	c.expect(o, []byte("x"))
	_, err = c.s.Stat(c.ctx, "a/x")
	c.kind("stat of the old name", err, sluice.NotFound)
	_, err = r.Rename(c.ctx, "b/c/x", "a/y", underfs.Condition{})
	c.kind("rename over something", err, sluice.Exists)
	_, err = r.Rename(c.ctx, "b/c/x", "a/y", underfs.Condition{Version: y.Version + "x"})
	c.kind("rename over another version", err, sluice.Changed)
	c.expect(y, []byte("yy"))
	o, err = r.Rename(c.ctx, "b/c/x", "a/y", underfs.Condition{Version: y.Version})
	c.must("rename over the version", err)
	c.expect(o, []byte("x"))
	_, err = r.Rename(c.ctx, "nothing", "a/z", underfs.Condition{})
	c.kind("rename of nothing", err, sluice.NotFound)
	c.mustPut("dir/1/2", []byte("2"))
	o, err = r.Rename(c.ctx, "dir/", "other/dir/", underfs.Condition{})
	c.must("rename of a directory", err)
	if !o.Dir || o.Key != "other/dir/" {
		c.errorf("rename of a directory returned %+v", o)
	}
	moved, err := c.s.Stat(c.ctx, "other/dir/1/2")
	c.must("stat below the renamed directory", err)
	c.expect(moved, []byte("2"))
	_, err = c.s.Stat(c.ctx, "dir/")
	c.kind("stat of the old directory", err, sluice.NotFound)
	_, err = r.Rename(c.ctx, "other/", "other/dir/1/below/", underfs.Condition{})
	c.kind("rename of a directory below itself", err, sluice.Invalid)
}

// checkCopy copies objects, small and large.
func checkCopy(c *run) {
	w, ok := underfs.As[underfs.Copier](c.s)
	if !ok {
		return
	}
	data := content(60, c.large())
	o := c.mustPut("from", data)
	n, err := w.Copy(c.ctx, "from", o.Version, "to/here", underfs.Condition{Absent: true})
	c.must("copy", err)
	c.same(n)
	c.expect(n, data)
	c.expect(o, data)
	_, err = w.Copy(c.ctx, "from", o.Version+"x", "to/there", underfs.Condition{})
	c.kind("copy of another version", err, sluice.Changed)
	_, err = w.Copy(c.ctx, "from", o.Version, "to/here", underfs.Condition{Absent: true})
	c.kind("copy over something", err, sluice.Exists)
	_, err = w.Copy(c.ctx, "nothing", "", "to/there", underfs.Condition{})
	c.kind("copy of nothing", err, sluice.NotFound)
	_, err = c.s.Stat(c.ctx, "to/there")
	c.kind("stat of what was not copied", err, sluice.NotFound)
	c.mustPut("from", []byte("other"))
	_, err = w.Copy(c.ctx, "from", o.Version, "to/there", underfs.Condition{})
	c.kind("copy of a version that was replaced", err, sluice.Changed)
	_, err = c.s.Stat(c.ctx, "to/there")
	c.kind("stat of what was not copied", err, sluice.NotFound)
	n, err = w.Copy(c.ctx, "from", "", "to/here", underfs.Condition{Version: n.Version})
	c.must("copy over the version", err)
	c.expect(n, []byte("other"))
}

// checkDirectories makes and removes directories.
func checkDirectories(c *run) {
	d, ok := underfs.As[underfs.Directories](c.s)
	if !ok {
		return
	}
	o, err := d.Mkdir(c.ctx, "d/", 0o750)
	c.must("mkdir", err)
	if !o.Dir || o.Key != "d/" || o.Native && o.Mode != 0o750 {
		c.errorf("mkdir returned %+v", o)
	}
	_, err = d.Mkdir(c.ctx, "d/", 0o750)
	c.kind("mkdir of what is there", err, sluice.Exists)
	if got := keys(c.list(underfs.ListRequest{})); len(got) != 1 || got[0] != "d/" {
		c.errorf("an empty directory is listed as %q", got)
	}
	if page, err := c.s.List(c.ctx, underfs.ListRequest{Prefix: "d/"}); err != nil {
		c.errorf("list of an empty directory: %v", err)
	} else {
		for _, o := range page.Objects {
			if o.Key != "d/" || !o.Marker {
				c.errorf("list of an empty directory shows %+v", o)
			}
		}
	}
	c.must("rmdir", c.s.Delete(c.ctx, "d/", underfs.Condition{}))
	_, err = c.s.Stat(c.ctx, "d/")
	c.kind("stat of a removed directory", err, sluice.NotFound)
	c.kind("rmdir of nothing", c.s.Delete(c.ctx, "d/", underfs.Condition{}), sluice.NotFound)
	if c.f.NativeDirs {
		c.mustPut("file", []byte("x"))
		_, err = d.Mkdir(c.ctx, "file/", 0o755)
		c.kind("mkdir of a file", err, sluice.Exists)
		_, err = d.Mkdir(c.ctx, "n/", 0o755)
		c.must("mkdir", err)
		u := c.write("n", []byte("x"), underfs.CreateOptions{Length: 1})
		if _, err := u.Prepare(c.ctx); err == nil {
			_, err = u.Commit(c.ctx, underfs.Condition{})
			c.kind("commit over a directory", err, sluice.IsDirectory, sluice.Exists)
		}
		c.must("abort", u.Abort(c.ctx))
	}
}

// checkAttributes changes mode and time.
func checkAttributes(c *run) {
	a, ok := underfs.As[underfs.Attributer](c.s)
	if !ok {
		return
	}
	u := c.write("f", []byte("x"), underfs.CreateOptions{Length: 1, Mode: 0o640})
	_, err := u.Prepare(c.ctx)
	c.must("prepare", err)
	o, err := u.Commit(c.ctx, underfs.Condition{})
	c.must("commit", err)
	if o.Mode != 0o640 {
		c.errorf("created with mode %v, want 0640", o.Mode)
	}
	when := time.Unix(1_000_000_000, 123_000_000)
	o, err = a.SetAttr(c.ctx, "f", sluice.AttrChange{Mode: new(sluice.Mode(0o600)), Mtime: &when})
	c.must("set attributes", err)
	if o.Mode != 0o600 || !o.Mtime.Equal(when) {
		c.errorf("set mode 0600 and time %v, got %+v", when, o)
	}
	c.same(o)
	c.expect(o, []byte("x"))
	_, err = a.SetAttr(c.ctx, "nothing", sluice.AttrChange{Mode: new(sluice.Mode(0o600))})
	c.kind("set attributes of nothing", err, sluice.NotFound)
}

// checkSweep removes what dead writers left and keeps what is wanted.
func checkSweep(c *run) {
	w, ok := underfs.As[underfs.Sweeper](c.s)
	if !ok {
		return
	}
	prepare := func(key underfs.Key, tag string) sluice.Prepared {
		u := c.write(key, content(70, c.large()), underfs.CreateOptions{Length: -1, Tag: tag})
		p, err := u.Prepare(c.ctx)
		c.must("prepare", err)
		return p
	}
	dead, kept := prepare("s/dead", "deadtag"), prepare("s/kept", "kepttag")
	n, err := w.Sweep(c.ctx, time.Hour, nil)
	if err != nil || n != 0 {
		c.errorf("sweep of what is older than an hour: %d, %v", n, err)
	}
	n, err = w.Sweep(c.ctx, 0, func(s string) bool { return s == kept.Upload || s == "kepttag" })
	if err != nil || n != 1 {
		c.errorf("sweep of all but one: %d, %v; want 1", n, err)
	}
	cp, ok := underfs.As[underfs.Completer](c.s)
	if !ok {
		return
	}
	_, err = cp.Complete(c.ctx, "s/dead", dead, underfs.Condition{})
	c.kind("complete of what was swept", err, sluice.NotFound)
	o, err := cp.Complete(c.ctx, "s/kept", kept, underfs.Condition{})
	c.must("complete of what was kept", err)
	c.expect(o, content(70, c.large()))
}

// checkProbe probes a store that is well.
func checkProbe(c *run) {
	if p, ok := underfs.As[underfs.Prober](c.s); ok {
		c.must("probe", p.Probe(c.ctx))
		c.mustPut("o", []byte("x"))
		c.must("probe with an object", p.Probe(c.ctx))
	}
}

package underfstest

import (
	"fmt"
	"sync"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// large returns a length that is uploaded in several parts where there are parts.
func (c *run) large() int64 { return max(c.f.SmallUpload, 1<<20) + max(c.f.PartSize, 1<<20) + 12345 }

// checkSizes writes and reads contents of every interesting length, announced or not.
func checkSizes(c *run) {
	sizes := []int64{0, 1, 4096, 1<<20 + 1}
	if c.f.SmallUpload > 0 {
		sizes = append(sizes, c.f.SmallUpload-1, c.f.SmallUpload, c.f.SmallUpload+1)
	}
	sizes = append(sizes, c.large())
	for i, n := range sizes {
		key := underfs.Key(fmt.Sprintf("dir/size-%d", n))
		data := content(uint64(i), n)
		length := n
		if i%2 == 1 {
			length = -1
		}
		u := c.write(key, data, underfs.CreateOptions{Length: length, Tag: fmt.Sprintf("t%d", i)})
		p, err := u.Prepare(c.ctx)
		c.must("prepare", err)
		if small := c.f.SmallUpload; p.Inline != (small > 0 && n <= small) {
			c.errorf("%s: Prepared.Inline is %v, SmallUpload %d", key, p.Inline, small)
		}
		o, err := u.Commit(c.ctx, underfs.Condition{})
		c.must("commit", err)
		again, err := u.Commit(c.ctx, underfs.Condition{})
		if err != nil || again.Version != o.Version {
			c.errorf("%s: a repeated commit gave %+v, %v; want the same as the first", key, again, err)
		}
		c.must("abort after commit", u.Abort(c.ctx))
		c.same(o)
		c.expect(o, data)
	}
}

// same compares what a commit said with what Stat and List say.
func (c *run) same(o underfs.Object) {
	c.t.Helper()
	st, err := c.s.Stat(c.ctx, o.Key)
	c.must("stat", err)
	if st.Version != o.Version || st.Length != o.Length || st.Key != o.Key || st.Dir {
		c.errorf("stat says %+v, the change said %+v", st, o)
	}
	dir := o.Key
	for dir != "" && dir[len(dir)-1] != '/' {
		dir = dir[:len(dir)-1]
	}
	for _, l := range c.list(underfs.ListRequest{Prefix: dir}) {
		if l.Key == o.Key {
			if l.Version != o.Version || l.Length != o.Length {
				c.errorf("list says %+v, the change said %+v", l, o)
			}
			return
		}
	}
	c.errorf("%s is not listed", o.Key)
}

// gone says that nothing is seen of key.
func (c *run) gone(when string, key underfs.Key) {
	c.t.Helper()
	_, err := c.s.Stat(c.ctx, key)
	c.kind("stat "+when, err, sluice.NotFound)
	_, err = c.read(underfs.ReadRequest{Key: key, Length: 1})
	c.kind("read "+when, err, sluice.NotFound)
	for _, o := range c.list(underfs.ListRequest{Recursive: true}) {
		if !o.Dir {
			c.errorf("%s is listed %s", o.Key, when)
		}
	}
}

// checkInvisible looks for an object at every step of its upload.
func checkInvisible(c *run) {
	for i, n := range []int64{10, c.large()} {
		key := underfs.Key(fmt.Sprintf("a/b/hidden-%d", i))
		u := c.write(key, content(1, n), underfs.CreateOptions{Length: -1})
		c.gone("before prepare", key)
		_, err := u.Prepare(c.ctx)
		c.must("prepare", err)
		c.gone("before commit", key)
		o, err := u.Commit(c.ctx, underfs.Condition{})
		c.must("commit", err)
		c.same(o)
		c.must("delete", c.s.Delete(c.ctx, key, underfs.Condition{Version: o.Version}))
		c.gone("after delete", key)
	}
}

// checkAbort aborts at every step.
func checkAbort(c *run) {
	for i, n := range []int64{10, c.large()} {
		key := underfs.Key(fmt.Sprintf("aborted-%d", i))
		u := c.write(key, content(2, n), underfs.CreateOptions{Length: -1})
		c.must("abort", u.Abort(c.ctx))
		c.must("abort again", u.Abort(c.ctx))
		c.gone("after abort", key)
		if err := u.Write(c.ctx, []byte("x")); err == nil {
			c.errorf("a write after abort succeeded")
		}
		u = c.write(key, content(2, n), underfs.CreateOptions{Length: n})
		_, err := u.Prepare(c.ctx)
		c.must("prepare", err)
		c.must("abort", u.Abort(c.ctx))
		c.gone("after prepare and abort", key)
		if _, err := u.Commit(c.ctx, underfs.Condition{}); err == nil {
			c.errorf("a commit after abort succeeded")
		}
	}
	u := c.write("short", []byte("four"), underfs.CreateOptions{Length: 5})
	_, err := u.Prepare(c.ctx)
	c.kind("prepare of fewer bytes than announced", err, sluice.Invalid)
	c.must("abort", u.Abort(c.ctx))
	u, err = c.s.Create(c.ctx, "long", underfs.CreateOptions{Length: 3})
	c.must("create", err)
	c.kind("write of more bytes than announced", u.Write(c.ctx, []byte("four")), sluice.Invalid)
	c.must("abort", u.Abort(c.ctx))
}

// checkConditions tries commits whose condition holds and fails, small and large.
func checkConditions(c *run) {
	for i, n := range []int64{10, c.large()} {
		key := underfs.Key(fmt.Sprintf("cond-%d", i))
		first, err := c.put(key, content(3, n), underfs.Condition{Absent: true})
		c.must("commit where nothing lies", err)
		_, err = c.put(key, content(4, n), underfs.Condition{Absent: true})
		c.kind("commit that expects nothing over something", err, sluice.Exists)
		_, err = c.put(key, content(4, n), underfs.Condition{Version: first.Version + "x"})
		c.kind("commit over another version", err, sluice.Changed)
		c.expect(first, content(3, n))
		second, err := c.put(key, content(4, n), underfs.Condition{Version: first.Version})
		c.must("commit over the version it expects", err)
		if second.Version == first.Version {
			c.errorf("%s: another content has the same version %q", key, second.Version)
		}
		c.expect(second, content(4, n))
		_, err = c.put(key, content(5, n), underfs.Condition{Version: first.Version})
		c.kind("commit over a version that is gone", err, sluice.Changed)
		third, err := c.put(key, content(6, n/2), underfs.Condition{})
		c.must("commit without a condition", err)
		c.expect(third, content(6, n/2))
		c.must("delete", c.s.Delete(c.ctx, key, underfs.Condition{}))
		_, err = c.put(key, content(5, n), underfs.Condition{Version: third.Version})
		c.kind("commit over a version that was deleted", err, sluice.Changed, sluice.NotFound)
	}
}

// checkRace lets many create one key; exactly one may win where the store promises it.
func checkRace(c *run) {
	const n = 8
	errs := make([]error, n)
	objects := make([]underfs.Object, n)
	var wg sync.WaitGroup
	for i := range n {
		u := c.write("race", content(uint64(100+i), 2000), underfs.CreateOptions{Length: -1, Tag: fmt.Sprintf("racer%d", i)})
		_, err := u.Prepare(c.ctx)
		c.must("prepare", err)
		wg.Go(func() {
			objects[i], errs[i] = u.Commit(c.ctx, underfs.Condition{Absent: true})
			_ = u.Abort(c.ctx)
		})
	}
	wg.Wait()
	won := 0
	for i, err := range errs {
		if err == nil {
			won++
			if c.f.CreateIfAbsent {
				c.expect(objects[i], content(uint64(100+i), 2000))
			}
		} else {
			c.kind("commit that lost the race", err, sluice.Exists)
		}
	}
	if won == 0 || won > 1 && c.f.CreateIfAbsent {
		c.errorf("%d of %d creates of one key won, want 1", won, n)
	}
}

// checkComplete completes and aborts what another process prepared.
func checkComplete(c *run) {
	w, ok := underfs.As[underfs.Completer](c.s)
	if !ok {
		return
	}
	upload := func(key underfs.Key, seed uint64) (underfs.Upload, sluice.Prepared) {
		u := c.write(key, content(seed, c.large()), underfs.CreateOptions{Length: -1, Tag: fmt.Sprintf("tag%d", seed)})
		p, err := u.Prepare(c.ctx)
		c.must("prepare", err)
		return u, p
	}
	prepare := func(key underfs.Key, seed uint64) sluice.Prepared {
		_, p := upload(key, seed)
		return p
	}
	u, p := upload("x/done", 7)
	o, err := w.Complete(c.ctx, "x/done", p, underfs.Condition{Absent: true})
	c.must("complete", err)
	c.same(o)
	c.expect(o, content(7, c.large()))
	c.must("abort of what another process completed", u.Abort(c.ctx))
	c.expect(o, content(7, c.large()))
	if again, err := w.Complete(c.ctx, "x/done", p, underfs.Condition{Absent: true}); err == nil {
		if again.Version != o.Version {
			c.errorf("a repeated complete gave version %q, the first %q", again.Version, o.Version)
		}
	} else {
		c.kind("repeated complete", err, sluice.NotFound, sluice.Exists)
	}
	_, err = w.Complete(c.ctx, "x/done", prepare("x/done", 8), underfs.Condition{Absent: true})
	c.kind("complete over something", err, sluice.Exists)
	_, err = w.Complete(c.ctx, "x/done", prepare("x/done", 8), underfs.Condition{Version: o.Version + "x"})
	c.kind("complete over another version", err, sluice.Changed)
	p = prepare("x/aborted", 9)
	c.must("abort prepared", w.AbortPrepared(c.ctx, "x/aborted", p))
	c.must("abort prepared again", w.AbortPrepared(c.ctx, "x/aborted", p))
	_, err = w.Complete(c.ctx, "x/aborted", p, underfs.Condition{})
	c.kind("complete of what was aborted", err, sluice.NotFound)
	c.expect(o, content(7, c.large()))
}

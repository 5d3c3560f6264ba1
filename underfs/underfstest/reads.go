package underfstest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// checkRanges reads parts of an object.
func checkRanges(c *run) {
	const n = 3<<20 + 77
	data := content(10, n)
	o := c.mustPut("ranges/o", data)
	for _, r := range [][2]int64{{0, 1}, {0, n}, {n - 1, 1}, {1 << 20, 1 << 20}, {1<<20 - 1, 2}, {12345, 2 << 20}} {
		got, err := c.read(underfs.ReadRequest{Key: o.Key, Version: o.Version, Offset: r[0], Length: r[1]})
		if err != nil || !bytes.Equal(got, data[r[0]:r[0]+r[1]]) {
			c.errorf("read %d+%d: %d bytes, %v; want the bytes written", r[0], r[1], len(got), err)
		}
	}
	for _, r := range [][2]int64{{0, n + 1}, {n, 1}, {n + 5, 1}, {n - 1, 2}} {
		_, err := c.read(underfs.ReadRequest{Key: o.Key, Version: o.Version, Offset: r[0], Length: r[1]})
		c.kind(fmt.Sprintf("read %d+%d of %d", r[0], r[1], n), err, sluice.Changed)
	}
	for _, r := range [][2]int64{{0, 0}, {-1, 1}, {0, -1}} {
		_, err := c.read(underfs.ReadRequest{Key: o.Key, Version: o.Version, Offset: r[0], Length: r[1]})
		c.kind(fmt.Sprintf("read %d+%d", r[0], r[1]), err, sluice.Invalid)
	}
	got, err := c.read(underfs.ReadRequest{Key: o.Key, Offset: 5, Length: 6})
	if err != nil || !bytes.Equal(got, data[5:11]) {
		c.errorf("read of whatever is there: %q, %v", got, err)
	}
	r, err := c.s.Read(c.ctx, underfs.ReadRequest{Key: o.Key, Version: o.Version, Length: n})
	c.must("read", err)
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		c.errorf("read a little: %v", err)
	}
	if err := r.Close(); err != nil {
		c.errorf("close in the middle: %v", err)
	}
	empty := c.mustPut("ranges/empty", nil)
	_, err = c.read(underfs.ReadRequest{Key: empty.Key, Version: empty.Version, Length: 1})
	c.kind("read of an empty object", err, sluice.Changed)
}

// checkVersions reads versions that are not there.
func checkVersions(c *run) {
	a := c.mustPut("v", content(11, 5000))
	b := c.mustPut("v", content(12, 5000))
	if a.Version == b.Version || a.Version == "" {
		c.errorf("versions %q and %q of two contents of equal length", a.Version, b.Version)
	}
	_, err := c.read(underfs.ReadRequest{Key: "v", Version: a.Version, Length: 5000})
	c.kind("read of a replaced version", err, sluice.Changed)
	c.expect(b, content(12, 5000))
	c.must("delete", c.s.Delete(c.ctx, "v", underfs.Condition{}))
	_, err = c.read(underfs.ReadRequest{Key: "v", Version: b.Version, Length: 5000})
	c.kind("read of a deleted object", err, sluice.NotFound, sluice.Changed)
}

// checkReplacedWhileRead replaces an object by a shorter, a longer and an equally long one
// in the middle of a read: what is confirmed is one version.
func checkReplacedWhileRead(c *run) {
	n := c.large() // more than fits the buffers of a connection where there is one
	for i, m := range []int64{n, n / 2, n * 2} {
		key := underfs.Key(fmt.Sprintf("replaced-%d", i))
		old := content(uint64(20+i), n)
		o := c.mustPut(key, old)
		r, err := c.s.Read(c.ctx, underfs.ReadRequest{Key: key, Version: o.Version, Length: n})
		c.must("read", err)
		head := make([]byte, 1000)
		_, err = io.ReadFull(r, head)
		c.must("read the head", err)
		c.mustPut(key, content(uint64(30+i), m))
		tail, err := io.ReadAll(r)
		r.Close()
		got := append(head, tail...)
		switch {
		case err == nil && !bytes.Equal(got, old):
			c.errorf("a read that was confirmed returned bytes of no one version")
		case err != nil:
			c.kind("read of what was replaced meanwhile", err, sluice.Changed, sluice.NotFound, sluice.Unavailable)
			if c.f.Conditional && !bytes.Equal(got, old[:len(got)]) {
				c.errorf("a conditional read returned bytes of another version")
			}
		}
	}
}

// checkListing looks at one level, at all levels, and at their order.
func checkListing(c *run) {
	put := []underfs.Key{"a-b", "a.b", "a/x", "a/y/z", "a0", "b", "ä/ö", "with space/and+plus%41", "zz/1"}
	for i, k := range put {
		c.mustPut(k, content(uint64(i), int64(i)))
	}
	names := func(what string, got []underfs.Object, want ...underfs.Key) {
		c.t.Helper()
		if !slices.Equal(keys(got), want) {
			c.errorf("%s: got %q, want %q", what, keys(got), want)
		}
	}
	top := c.list(underfs.ListRequest{})
	names("top", top, "a-b", "a.b", "a/", "a0", "b", "with space/", "zz/", "ä/")
	for _, o := range top {
		if o.Dir != (o.Key[len(o.Key)-1] == '/') {
			c.errorf("%s: Dir is %v", o.Key, o.Dir)
		}
		if !o.Dir && (o.Version == "" || o.Mtime.IsZero()) {
			c.errorf("%s: no version or time: %+v", o.Key, o)
		}
	}
	names("a/", c.list(underfs.ListRequest{Prefix: "a/"}), "a/x", "a/y/")
	names("ä/", c.list(underfs.ListRequest{Prefix: "ä/"}), "ä/ö")
	names("odd names", c.list(underfs.ListRequest{Prefix: "with space/"}), "with space/and+plus%41")
	names("after a file", c.list(underfs.ListRequest{After: "a.b"}), "a/", "a0", "b", "with space/", "zz/", "ä/")
	names("after a directory", c.list(underfs.ListRequest{After: "a/"}), "a0", "b", "with space/", "zz/", "ä/")
	names("after what is not there", c.list(underfs.ListRequest{After: "a1"}), "b", "with space/", "zz/", "ä/")
	names("after the last", c.list(underfs.ListRequest{After: "ä/"}))
	names("within, after", c.list(underfs.ListRequest{Prefix: "a/", After: "a/x"}), "a/y/")
	files := func(objects []underfs.Object) []underfs.Object {
		return slices.DeleteFunc(objects, func(o underfs.Object) bool { return o.Dir })
	}
	all := files(c.list(underfs.ListRequest{Recursive: true}))
	want := slices.Clone(put)
	slices.Sort(want)
	names("recursive", all, want...)
	names("recursive below", files(c.list(underfs.ListRequest{Prefix: "a/", Recursive: true})), "a/x", "a/y/z")
	names("recursive after", files(c.list(underfs.ListRequest{Recursive: true, After: "a/x"})), "a/y/z", "a0", "b", "with space/and+plus%41", "zz/1", "ä/ö")
	names("recursive after a directory", files(c.list(underfs.ListRequest{Recursive: true, After: "a/y/"})), "a/y/z", "a0", "b", "with space/and+plus%41", "zz/1", "ä/ö")
	if page, err := c.s.List(c.ctx, underfs.ListRequest{Prefix: "nothing/"}); err != nil {
		c.kind("list of what is not there", err, sluice.NotFound)
	} else if len(page.Objects) > 0 || page.More {
		c.errorf("list of what is not there: %+v", page)
	}
	_, err := c.s.List(c.ctx, underfs.ListRequest{Prefix: "a"})
	c.kind("list of a prefix without a slash", err, sluice.Invalid)
}

// checkPaging reads a directory in small pages: nothing twice, nothing missing.
func checkPaging(c *run) {
	var want []underfs.Key
	for i := range 23 {
		key := underfs.Key(fmt.Sprintf("p/%02d", i))
		if i%3 == 0 {
			c.mustPut(key+"/f", []byte("x"))
			c.mustPut(key+"/g", []byte("x"))
			key += "/"
		} else {
			c.mustPut(key, []byte("x"))
		}
		want = append(want, key)
	}
	for _, limit := range []int{1, 2, 7, 23, 24, 1000, 0} {
		if got := keys(c.list(underfs.ListRequest{Prefix: "p/", Limit: limit})); !slices.Equal(got, want) {
			c.errorf("pages of %d: got %q, want %q", limit, got, want)
		}
	}
	flat := keys(c.list(underfs.ListRequest{Prefix: "p/", Recursive: true}))
	for _, limit := range []int{1, 3, 10} {
		if got := keys(c.list(underfs.ListRequest{Prefix: "p/", Recursive: true, Limit: limit})); !slices.Equal(got, flat) {
			c.errorf("recursive pages of %d: got %q, want %q", limit, got, flat)
		}
	}
	page, err := c.s.List(c.ctx, underfs.ListRequest{Prefix: "p/", Limit: 23})
	c.must("list", err)
	if len(page.Objects) == 23 && page.More {
		c.t.Logf("%s: a last page that is full says that there is more; allowed, but it costs a request", c.name)
	}
}

// checkStat asks for files, directories and what is not there.
func checkStat(c *run) {
	c.mustPut("d/e/f", content(40, 123))
	for _, key := range []underfs.Key{"d", "d/", "d/e", "d/e/", ""} {
		o, err := c.s.Stat(c.ctx, key)
		if err != nil || !o.Dir {
			c.errorf("stat %q: %+v, %v; want a directory", key, o, err)
		} else if want := dirKey(key); o.Key != want {
			c.errorf("stat %q: the key is %q, want %q", key, o.Key, want)
		}
	}
	for _, key := range []underfs.Key{"d/e/f/", "d/e/f/g", "d/x", "dd", "d/e/", "nothing/below"} {
		if key == "d/e/" {
			continue
		}
		_, err := c.s.Stat(c.ctx, key)
		c.kind("stat "+string(key), err, sluice.NotFound)
	}
	o, err := c.s.Stat(c.ctx, "d/e/f")
	c.must("stat", err)
	if o.Length != 123 || o.Mtime.IsZero() || time.Since(o.Mtime).Abs() > time.Hour {
		c.errorf("stat d/e/f: %+v", o)
	}
}

// dirKey returns key as a directory's.
func dirKey(key underfs.Key) underfs.Key {
	if key == "" || key[len(key)-1] == '/' {
		return key
	}
	return key + "/"
}

// checkBadKeys tries keys that are no paths: refused or kept apart, never mangled.
func checkBadKeys(c *run) {
	c.mustPut("good/file", []byte("x"))
	for _, key := range []underfs.Key{"../out", "good/../good/file", "good//file", "/good/file", "./good/file", "good/./file"} {
		if o, err := c.s.Stat(c.ctx, key); err == nil && o.Key != key {
			c.errorf("stat %q answers for %q", key, o.Key)
		} else if err != nil {
			c.kind("stat "+string(key), err, sluice.NotFound, sluice.Invalid)
		}
		if b, err := c.read(underfs.ReadRequest{Key: key, Length: 1}); err == nil {
			c.errorf("read %q returned %q", key, b)
		}
	}
}

// checkCancelled calls with a context that has ended.
func checkCancelled(c *run) {
	o := c.mustPut("o", content(50, 1000))
	ctx, cancel := context.WithCancel(c.ctx)
	cancel()
	_, err := c.s.Stat(ctx, "o")
	c.kind("stat", err, sluice.Cancelled)
	_, err = c.s.List(ctx, underfs.ListRequest{})
	c.kind("list", err, sluice.Cancelled)
	_, err = c.s.Read(ctx, underfs.ReadRequest{Key: "o", Version: o.Version, Length: 1000})
	c.kind("read", err, sluice.Cancelled)
	c.kind("delete", c.s.Delete(ctx, "o", underfs.Condition{}), sluice.Cancelled)
	c.expect(o, content(50, 1000))
	late, stop := context.WithDeadline(c.ctx, time.Now().Add(-time.Second))
	defer stop()
	_, err = c.s.Stat(late, "o")
	c.kind("stat after the deadline", err, sluice.Timeout)
}

// checkMany uses the store from many goroutines.
func checkMany(c *run) {
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			defer func() { _ = recover() }() // errStop of a helper was reported already
			for j := range 4 {
				key := underfs.Key(fmt.Sprintf("many/%d/%d", i%4, i*10+j))
				data := content(uint64(i*10+j), int64(1000*j+i))
				o := c.mustPut(key, data)
				c.expect(o, data)
				if st, err := c.s.Stat(c.ctx, key); err != nil || st.Version != o.Version {
					c.errorf("stat %s: %+v, %v", key, st, err)
				}
			}
		})
	}
	wg.Wait()
	n := 0
	for _, o := range c.list(underfs.ListRequest{Prefix: "many/", Recursive: true}) {
		if !o.Dir {
			n++
		}
	}
	if n != 64 {
		c.errorf("%d objects are listed, 64 were written", n)
	}
}

// checkClosed calls a closed store.
func checkClosed(c *run) {
	c.mustPut("o", []byte("x"))
	c.must("close", c.s.Close())
	if _, err := c.s.Stat(c.ctx, "o"); err == nil {
		c.errorf("stat of a closed store succeeded")
	}
	if _, err := c.s.List(c.ctx, underfs.ListRequest{}); err == nil {
		c.errorf("list of a closed store succeeded")
	}
	c.must("close again", c.s.Close())
}

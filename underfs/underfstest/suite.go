package underfstest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// TB is what the suite reports to; *testing.T is one.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
}

// checks returns the suite: each check gets an empty store of its own.
func checks() []check {
	return []check{
		{"sizes", checkSizes},
		{"invisible until commit", checkInvisible},
		{"abort", checkAbort},
		{"conditions of a commit", checkConditions},
		{"race of creates", checkRace},
		{"complete elsewhere", checkComplete},
		{"ranges", checkRanges},
		{"versions", checkVersions},
		{"replaced while read", checkReplacedWhileRead},
		{"listing", checkListing},
		{"paging", checkPaging},
		{"stat", checkStat},
		{"delete", checkDelete},
		{"bad keys", checkBadKeys},
		{"cancelled", checkCancelled},
		{"many at once", checkMany},
		{"closed", checkClosed},
		{"rename", checkRename},
		{"copy", checkCopy},
		{"directories", checkDirectories},
		{"attributes", checkAttributes},
		{"sweep", checkSweep},
		{"probe", checkProbe},
	}
}

// check is one check of the suite.
type check struct {
	name string
	run  func(c *run)
}

// Run holds stores made by open against the contract of package underfs and reports every
// breach with t.Errorf, the name of the check first. open returns an empty store each
// time it is called; the suite closes it. A check that cannot go on ends; the others
// still run. Capabilities that a store has are checked, others are passed over.
func Run(t TB, open func() underfs.Store) {
	t.Helper()
	for _, c := range checks() {
		one(t, c, open)
	}
}

// Check runs the one check called name, for drivers under construction.
func Check(t TB, name string, open func() underfs.Store) {
	t.Helper()
	for _, c := range checks() {
		if c.name == name {
			one(t, c, open)
			return
		}
	}
	t.Errorf("there is no check %q", name)
}

// Names returns the names of the checks in order.
func Names() []string {
	var all []string
	for _, c := range checks() {
		all = append(all, c.name)
	}
	return all
}

// one runs one check.
func one(t TB, c check, open func() underfs.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s := open()
	defer s.Close()
	defer func() {
		if r := recover(); r != nil && r != errStop {
			panic(r)
		}
	}()
	c.run(&run{t: t, name: c.name, ctx: ctx, s: s, f: s.Features()})
}

// errStop is what a check that cannot go on panics with.
var errStop = fmt.Errorf("the check cannot go on")

// run is a running check.
type run struct {
	t    TB
	name string
	ctx  context.Context
	s    underfs.Store
	f    underfs.Features
	tags atomic.Int64
}

// errorf reports a breach.
func (c *run) errorf(format string, args ...any) {
	c.t.Helper()
	c.t.Errorf("%s: %s", c.name, fmt.Sprintf(format, args...))
}

// fatalf reports a breach and ends the check.
func (c *run) fatalf(format string, args ...any) {
	c.t.Helper()
	c.errorf(format, args...)
	panic(errStop)
}

// must ends the check on an error.
func (c *run) must(what string, err error) {
	c.t.Helper()
	if err != nil {
		c.fatalf("%s: %v", what, err)
	}
}

// kind reports an error that is not of one of the kinds.
func (c *run) kind(what string, err error, want ...sluice.Kind) {
	c.t.Helper()
	if err == nil {
		c.errorf("%s: got no error, want kind %v", what, want)
		return
	}
	if _, ok := err.(*sluice.Error); !ok {
		c.errorf("%s: got a %T (%v), want a *sluice.Error", what, err, err)
	}
	if !slices.Contains(want, sluice.KindOf(err)) {
		c.errorf("%s: got kind %q (%v), want %v", what, sluice.KindOf(err), err, want)
	}
}

// content returns n bytes that depend on seed.
func content(seed uint64, n int64) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(n), byte(n >> 8), byte(n >> 16)}).Read(b) // never fails
	return b
}

// write starts an upload and writes data in uneven pieces.
func (c *run) write(key underfs.Key, data []byte, opts underfs.CreateOptions) underfs.Upload {
	c.t.Helper()
	u, err := c.s.Create(c.ctx, key, opts)
	c.must("create "+string(key), err)
	buf := make([]byte, 700001)
	for len(data) > 0 {
		n := copy(buf, data)
		c.must("write "+string(key), u.Write(c.ctx, buf[:n]))
		clear(buf[:n]) // the bytes are the caller's again
		data = data[n:]
	}
	return u
}

// put writes an object and returns what the commit returned.
func (c *run) put(key underfs.Key, data []byte, cond underfs.Condition) (underfs.Object, error) {
	c.t.Helper()
	u := c.write(key, data, underfs.CreateOptions{Length: int64(len(data)), Tag: fmt.Sprintf("tag-%d", c.tags.Add(1))})
	_, err := u.Prepare(c.ctx)
	c.must("prepare "+string(key), err)
	o, err := u.Commit(c.ctx, cond)
	if err != nil {
		c.must("abort "+string(key), u.Abort(c.ctx))
	}
	return o, err
}

// mustPut is put that has to succeed.
func (c *run) mustPut(key underfs.Key, data []byte) underfs.Object {
	c.t.Helper()
	o, err := c.put(key, data, underfs.Condition{})
	c.must("commit "+string(key), err)
	return o
}

// read reads a range to its confirmed end.
func (c *run) read(req underfs.ReadRequest) ([]byte, error) {
	r, err := c.s.Read(c.ctx, req)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var b bytes.Buffer
	_, err = io.Copy(&b, r)
	return b.Bytes(), err
}

// expect reads all of o and compares.
func (c *run) expect(o underfs.Object, want []byte) {
	c.t.Helper()
	if o.Length != int64(len(want)) {
		c.errorf("%s: length %d, want %d", o.Key, o.Length, len(want))
		return
	}
	if len(want) == 0 {
		return
	}
	got, err := c.read(underfs.ReadRequest{Key: o.Key, Version: o.Version, Length: o.Length})
	if err != nil {
		c.errorf("read %s: %v", o.Key, err)
	} else if !bytes.Equal(got, want) {
		c.errorf("read %s: %d bytes that differ from the %d written", o.Key, len(got), len(want))
	}
}

// list returns everything under req, page by page.
func (c *run) list(req underfs.ListRequest) []underfs.Object {
	c.t.Helper()
	var all []underfs.Object
	for range 10000 {
		page, err := c.s.List(c.ctx, req)
		c.must(fmt.Sprintf("list %+v", req), err)
		if req.Limit > 0 && len(page.Objects) > req.Limit {
			c.errorf("list %+v: a page of %d objects", req, len(page.Objects))
		}
		all = append(all, page.Objects...)
		if !page.More {
			return all
		}
		if len(page.Objects) > 0 {
			req.After = page.Objects[len(page.Objects)-1].Key
		} else if page.Token == "" {
			c.fatalf("list %+v: an empty page says that there is more and gives no token", req)
		}
		req.Token = page.Token
	}
	c.fatalf("list %+v: no end after 10,000 pages", req)
	return nil
}

// keys returns the keys of objects.
func keys(objects []underfs.Object) []underfs.Key {
	out := make([]underfs.Key, 0, len(objects))
	for _, o := range objects {
		out = append(out, o.Key)
	}
	return out
}

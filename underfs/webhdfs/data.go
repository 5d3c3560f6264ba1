package webhdfs

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs/namenode"
)

// Open implements namenode.Data: GETFILESTATUS, then OPEN at a name node and at the data
// node that it names.
func (c *client) Open(ctx context.Context, path string, off, n int64, accept func(namenode.Status) error) (io.ReadCloser, error) {
	st, err := c.stat(ctx, path)
	if err == nil {
		err = accept(st)
	}
	if err != nil {
		return nil, err
	}
	return c.get(ctx, path, values("offset", strconv.FormatInt(off, 10), "length", strconv.FormatInt(n, 10)))
}

// get opens a body.
func (c *client) get(ctx context.Context, path string, params url.Values) (io.ReadCloser, error) {
	resp, err := c.ask(ctx, http.MethodGet, "OPEN", path, params)
	if err != nil {
		return nil, err
	}
	addr, err := c.redirected(resp)
	if err == nil && addr != "" {
		resp, err = c.send(ctx, http.MethodGet, addr, nil)
	}
	if err != nil {
		return nil, c.leg(ctx, err)
	}
	return resp.Body, nil
}

// leg is the error of the second step of a read, which changed nothing.
func (c *client) leg(ctx context.Context, err error) error {
	if e, ok := errors.AsType[*namenode.Exception](err); ok {
		return &sluice.Error{Kind: e.Kind(), Err: e}
	}
	return failed(ctx, http.MethodGet, true, err)
}

// put makes a file of all that r has, in one go.
func (c *client) put(ctx context.Context, path string, params url.Values, r io.Reader) error {
	addr, err := c.place(ctx, path, params)
	if err != nil {
		return err
	}
	resp, err := c.send(ctx, http.MethodPut, addr, r)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// place asks where a file is to be sent.
func (c *client) place(ctx context.Context, path string, params url.Values) (string, error) {
	q := values("noredirect", "false")
	for _, v := range []url.Values{c.create, params} {
		for k := range v {
			q.Set(k, v.Get(k))
		}
	}
	// It makes nothing yet: to ask twice does no harm, so an answer that is missing is no
	// unknown outcome.
	resp, err := c.ask(ctx, http.MethodPut, "CREATE", path, q)
	if errors.Is(err, sluice.UnknownOutcome) {
		err = failed(ctx, http.MethodGet, true, errors.Unwrap(err))
	}
	if err != nil {
		return "", err
	}
	addr, err := c.redirected(resp)
	if err == nil && addr == "" {
		resp.Body.Close()
		err = errors.New("the name node does not redirect CREATE")
	}
	if err != nil {
		return "", c.leg(ctx, err)
	}
	return addr, nil
}

// Create implements namenode.Data. The body goes to the data node as it is written, in one
// request that lives from here to Finish or Abort.
func (c *client) Create(ctx context.Context, path string, mode sluice.Mode) (namenode.Writer, error) {
	addr, err := c.place(ctx, path, values("overwrite", "false", "permission", octal(mode), "unmaskedpermission", octal(mode)))
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	life, cancel := context.WithCancel(context.Background())
	u := &writer{c: c, pipe: w, cancel: cancel}
	c.note(u, true)
	u.done.Go(func() {
		resp, err := c.send(life, http.MethodPut, addr, r)
		if err == nil {
			err = resp.Body.Close()
		}
		u.err = err
		if err == nil {
			err = errEnded
		}
		r.CloseWithError(err) // whoever writes learns of it
	})
	return u, nil
}

// note keeps w among the open writers, or forgets it.
func (c *client) note(w *writer, open bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if open {
		c.writers[w] = true
	} else {
		delete(c.writers, w)
	}
}

// errEnded is what a write gets after the data node ended the request by itself.
var errEnded = errors.New("the data node answered before the file had ended")

// writer is a PUT under way.
type writer struct {
	c      *client
	pipe   *io.PipeWriter
	cancel context.CancelFunc
	done   sync.WaitGroup
	err    error // of the request; valid after done
}

// Write implements namenode.Writer.
func (w *writer) Write(ctx context.Context, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	stop := context.AfterFunc(ctx, w.cancel)
	defer stop()
	_, err := w.pipe.Write(p)
	return w.blame(ctx, err)
}

// Finish implements namenode.Writer.
func (w *writer) Finish(ctx context.Context) error {
	stop := context.AfterFunc(ctx, w.cancel)
	defer stop()
	w.pipe.Close()
	w.done.Wait()
	w.c.note(w, false)
	return w.blame(ctx, w.err)
}

// blame returns the error of a request that changed nothing anybody sees.
func (w *writer) blame(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*namenode.Exception](err); ok {
		return &sluice.Error{Kind: e.Kind(), Err: e}
	}
	return failed(ctx, http.MethodGet, true, err)
}

// Abort implements namenode.Writer.
func (w *writer) Abort() {
	w.cancel()
	w.pipe.CloseWithError(context.Canceled)
	w.done.Wait()
	w.c.note(w, false)
}

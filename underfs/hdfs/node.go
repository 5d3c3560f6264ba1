package hdfs

import (
	"context"
	"crypto/rand"
	"errors"
	"math"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/colinmarc/hdfs/v2"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs/namenode"
)

// node is the namespace of an HDFS by ClientProtocol. The library's client has these calls
// too, but not with a context, a listing from a given name, a rename that overwrites
// nothing, times in milliseconds, or a retry that the name node recognises.
type node struct {
	conns *conns
	calls atomic.Int32
}

// newNode makes a node; it connects when it is first asked.
func newNode(set settings) *node {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	return &node{conns: &conns{hosts: set.hosts, user: set.user, id: id, dial: set.dial, open: make(map[*conn]bool)}}
}

// notFound says that nothing lies at a path.
func notFound(path string) error {
	return &sluice.Error{Kind: sluice.NotFound, Err: errors.New("nothing lies at " + path)}
}

// Stat implements namenode.Node by getFileInfo, and getBlockLocations where the file may be
// open.
func (n *node) Stat(ctx context.Context, path string) (namenode.Status, error) {
	resp, err := n.call(ctx, "getFileInfo", message(nil).text(1, path), false)
	if err != nil {
		return namenode.Status{}, err
	}
	b, ok, err := sub(resp, 1)
	if err != nil {
		return namenode.Status{}, err
	}
	if !ok {
		return namenode.Status{}, notFound(path)
	}
	st, _, err := parse(b)
	if err == nil && st.Suspect() {
		st.Open, err = n.isOpen(ctx, path)
	}
	st.Name = ""
	return st, err
}

// parse reads an HdfsFileStatusProto. known says that Open is right.
func parse(b []byte) (st namenode.Status, known bool, err error) {
	var p hdfs.FileStatus
	if err := proto.Unmarshal(b, &p); err != nil {
		return st, false, &sluice.Error{Kind: sluice.Unavailable, Err: errGarbled}
	}
	st = statusOf(&p)
	if l := p.GetLocations(); l != nil {
		st.Open, known = l.GetUnderConstruction(), true
	}
	return st, known || !st.Suspect(), nil
}

// statusOf turns the protocol's status into ours.
func statusOf(p *hdfs.FileStatus) namenode.Status {
	const dir, link = 1, 3
	const crypt, coded = 2, 4 // of flags
	return namenode.Status{
		Name:      string(p.GetPath()),
		Dir:       p.GetFileType() == dir,
		ID:        p.GetFileId(),
		Length:    int64(p.GetLength()),
		BlockSize: int64(p.GetBlocksize()),
		Mtime:     int64(p.GetModificationTime()),
		Mode:      sluice.Mode(p.GetPermission().GetPerm()) & sluice.ModeMask,
		Owner:     p.GetOwner(),
		Group:     p.GetGroup(),
		Target:    target(p, link),
		Encrypted: p.GetFileEncryptionInfo() != nil || p.GetFlags()&crypt != 0,
		Coded:     p.GetEcPolicy() != nil || p.GetFlags()&coded != 0,
	}
}

// target returns where a symbolic link leads.
func target(p *hdfs.FileStatus, link int32) string {
	if int32(p.GetFileType()) == link {
		return string(p.GetSymlink())
	}
	return ""
}

// isOpen asks whether a file is under construction. One that is gone is not.
func (n *node) isOpen(ctx context.Context, path string) (bool, error) {
	resp, err := n.call(ctx, "getBlockLocations", message(nil).text(1, path).number(2, 0).number(3, 0), false)
	if err != nil {
		// Who may not read the file is told its status, but not its blocks.
		if errors.Is(err, sluice.Permission) || errors.Is(err, sluice.NotFound) {
			return false, nil
		}
		return false, err
	}
	located, ok, err := sub(resp, 1)
	if err != nil || !ok {
		return false, err
	}
	v, err := num(located, 3)
	return v != 0, err
}

// List implements namenode.Node by getListing. Where a file of the page may be open the
// page is asked for again with the blocks, which say so.
func (n *node) List(ctx context.Context, path, after string) ([]namenode.Status, bool, error) {
	page, more, sure, err := n.list(ctx, path, after, false)
	if err != nil || sure {
		return page, more, err
	}
	located, more2, _, err := n.list(ctx, path, after, true)
	// A page with blocks may be shorter. What is not in it comes with the next.
	return located, more2 || more && len(located) < len(page), err
}

// list asks for one page.
func (n *node) list(ctx context.Context, path, after string, located bool) (page []namenode.Status, more, sure bool, err error) {
	resp, err := n.call(ctx, "getListing", message(nil).text(1, path).text(2, after).flag(3, located), false)
	if err != nil {
		return nil, false, false, err
	}
	dir, ok, err := sub(resp, 1)
	if err != nil {
		return nil, false, false, err
	}
	if !ok {
		return nil, false, false, notFound(path)
	}
	sure = true
	err = fields(dir, func(field protowire.Number, bytes []byte, number uint64) error {
		switch field {
		case 1:
			st, known, err := parse(bytes)
			if err != nil {
				return err
			}
			if st.Name == "" { // the path is a file's
				return &sluice.Error{Kind: sluice.NotDirectory, Err: errors.New("it is a file")}
			}
			sure = sure && known
			page = append(page, st)
		case 2:
			more = number > 0
		}
		return nil
	})
	return page, more, sure, err
}

// Mkdirs implements namenode.Node.
func (n *node) Mkdirs(ctx context.Context, path string, mode sluice.Mode) error {
	_, err := n.call(ctx, "mkdirs", message(nil).text(1, path).text(2, perm(mode)).flag(3, true), true)
	if errors.Is(err, sluice.Exists) { // a file lies there
		err = namenode.Rekind("", sluice.NotDirectory, err)
	}
	return err
}

// perm makes an FsPermissionProto.
func perm(mode sluice.Mode) string {
	return string(message(nil).number(1, uint64(mode&sluice.ModeMask)))
}

// Rename implements namenode.Node by rename2.
func (n *node) Rename(ctx context.Context, from, to string, overwrite bool) error {
	_, err := n.call(ctx, "rename2", message(nil).text(1, from).text(2, to).flag(3, overwrite), true)
	return err
}

// Delete implements namenode.Node.
func (n *node) Delete(ctx context.Context, path string) error {
	resp, err := n.call(ctx, "delete", message(nil).text(1, path).flag(2, false), true)
	if err != nil {
		return err
	}
	done, err := num(resp, 1)
	if err == nil && done == 0 {
		return notFound(path)
	}
	return err
}

// SetMode implements namenode.Node.
func (n *node) SetMode(ctx context.Context, path string, mode sluice.Mode) error {
	_, err := n.call(ctx, "setPermission", message(nil).text(1, path).text(2, perm(mode)), true)
	return err
}

// SetOwner implements namenode.Node.
func (n *node) SetOwner(ctx context.Context, path, owner, group string) error {
	m := message(nil).text(1, path)
	if owner != "" {
		m = m.text(2, owner)
	}
	if group != "" {
		m = m.text(3, group)
	}
	_, err := n.call(ctx, "setOwner", m, true)
	return err
}

// SetTimes implements namenode.Node.
func (n *node) SetTimes(ctx context.Context, path string, mtime, atime *time.Time) error {
	_, err := n.call(ctx, "setTimes", message(nil).text(1, path).number(2, millis(mtime)).number(3, millis(atime)), true)
	return err
}

// millis returns a time as the protocol has it; -1 leaves it.
func millis(t *time.Time) uint64 {
	if t == nil {
		return math.MaxUint64
	}
	return uint64(t.UnixMilli())
}

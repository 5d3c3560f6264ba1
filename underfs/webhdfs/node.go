package webhdfs

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs/namenode"
)

// status is a FileStatus.
type status struct {
	PathSuffix       string
	Type             string
	Length           int64
	BlockSize        int64
	ModificationTime int64
	Permission       string // octal
	Owner, Group     string
	FileID           uint64
	Symlink          string
	EncBit, ECBit    bool
}

// convert turns a FileStatus into ours, but for Open.
func (s *status) convert() namenode.Status {
	mode, _ := strconv.ParseUint(s.Permission, 8, 32) // 0 where the server says nonsense
	return namenode.Status{
		Name:      s.PathSuffix,
		Dir:       s.Type == "DIRECTORY",
		ID:        s.FileID,
		Length:    s.Length,
		BlockSize: s.BlockSize,
		Mtime:     s.ModificationTime,
		Mode:      sluice.Mode(mode) & sluice.ModeMask,
		Owner:     s.Owner,
		Group:     s.Group,
		Target:    s.Symlink,
		Encrypted: s.EncBit,
		Coded:     s.ECBit,
	}
}

// notFound says that nothing lies at a path.
func notFound(path string) error {
	return &sluice.Error{Kind: sluice.NotFound, Err: errors.New("nothing lies at " + path)}
}

// stat describes a path, but for Open.
func (c *client) stat(ctx context.Context, path string) (namenode.Status, error) {
	var a struct{ FileStatus status }
	if err := c.call(ctx, http.MethodGet, "GETFILESTATUS", path, nil, &a); err != nil {
		return namenode.Status{}, err
	}
	if a.FileStatus.Type == "" {
		return namenode.Status{}, &sluice.Error{Kind: sluice.Unavailable, Err: errors.New("the answer to GETFILESTATUS has no FileStatus")}
	}
	st := a.FileStatus.convert()
	st.Name = ""
	return st, nil
}

// Stat implements namenode.Node by GETFILESTATUS, and GET_BLOCK_LOCATIONS where the file
// may be open.
func (c *client) Stat(ctx context.Context, path string) (namenode.Status, error) {
	st, err := c.stat(ctx, path)
	if err == nil && st.Suspect() {
		st.Open, err = c.isOpen(ctx, path)
	}
	return st, err
}

// isOpen asks whether a file is under construction. Who cannot know (HttpFS), may not know,
// or finds nothing says no.
func (c *client) isOpen(ctx context.Context, path string) (bool, error) {
	var a struct {
		LocatedBlocks struct{ IsUnderConstruction bool }
	}
	err := c.call(ctx, http.MethodGet, "GET_BLOCK_LOCATIONS", path, values("offset", "0", "length", "0"), &a)
	switch sluice.KindOf(err) {
	case sluice.Permission, sluice.NotFound, sluice.Invalid, sluice.Unsupported:
		return false, nil
	}
	return a.LocatedBlocks.IsUnderConstruction, err
}

// listing is a DirectoryListing.
type listing struct {
	PartialListing   struct{ FileStatuses struct{ FileStatus []status } }
	RemainingEntries int
}

// List implements namenode.Node by LISTSTATUS_BATCH. A listing does not tell which files
// are open: those that may be are asked for one by one.
func (c *client) List(ctx context.Context, path, after string) ([]namenode.Status, bool, error) {
	var a struct{ DirectoryListing listing }
	err := c.call(ctx, http.MethodGet, "LISTSTATUS_BATCH", path, values("startAfter", after), &a)
	if err != nil {
		return nil, false, err
	}
	all := a.DirectoryListing.PartialListing.FileStatuses.FileStatus
	page := make([]namenode.Status, 0, len(all))
	for i := range all {
		st := all[i].convert()
		if st.Name == "" {
			return nil, false, &sluice.Error{Kind: sluice.NotDirectory, Err: errors.New("it is a file")}
		}
		if st.Suspect() {
			if st.Open, err = c.isOpen(ctx, join(path, st.Name)); err != nil {
				return nil, false, err
			}
		}
		page = append(page, st)
	}
	return page, a.DirectoryListing.RemainingEntries > 0, nil
}

// join returns the path of a name below a directory.
func join(dir, name string) string {
	if dir == "/" {
		return dir + name
	}
	return dir + "/" + name
}

// octal returns permission bits as WebHDFS takes them.
func octal(m sluice.Mode) string { return strconv.FormatUint(uint64(m&sluice.ModeMask), 8) }

// Mkdirs implements namenode.Node.
func (c *client) Mkdirs(ctx context.Context, path string, mode sluice.Mode) error {
	var a struct{ Boolean bool }
	err := c.call(ctx, http.MethodPut, "MKDIRS", path, values("permission", octal(mode)), &a)
	switch {
	case errors.Is(err, sluice.Exists): // a file lies there
		return namenode.Rekind("", sluice.NotDirectory, err)
	case err == nil && !a.Boolean:
		return &sluice.Error{Kind: sluice.Unavailable, Err: errors.New("the name node made no directory and does not say why")}
	}
	return err
}

// Rename implements namenode.Node.
func (c *client) Rename(ctx context.Context, from, to string, overwrite bool) error {
	option := "NONE"
	if overwrite {
		option = "OVERWRITE"
	}
	return c.call(ctx, http.MethodPut, "RENAME", from, values("destination", to, "renameoptions", option), nil)
}

// Delete implements namenode.Node.
func (c *client) Delete(ctx context.Context, path string) error {
	var a struct{ Boolean bool }
	err := c.call(ctx, http.MethodDelete, "DELETE", path, values("recursive", "false"), &a)
	if err == nil && !a.Boolean {
		err = notFound(path)
	}
	return err
}

// SetMode implements namenode.Node.
func (c *client) SetMode(ctx context.Context, path string, mode sluice.Mode) error {
	return c.call(ctx, http.MethodPut, "SETPERMISSION", path, values("permission", octal(mode)), nil)
}

// SetOwner implements namenode.Node.
func (c *client) SetOwner(ctx context.Context, path, owner, group string) error {
	v := values()
	if owner != "" {
		v.Set("owner", owner)
	}
	if group != "" {
		v.Set("group", group)
	}
	return c.call(ctx, http.MethodPut, "SETOWNER", path, v, nil)
}

// SetTimes implements namenode.Node.
func (c *client) SetTimes(ctx context.Context, path string, mtime, atime *time.Time) error {
	return c.call(ctx, http.MethodPut, "SETTIMES", path, values("modificationtime", millis(mtime), "accesstime", millis(atime)), nil)
}

// millis returns a time as WebHDFS takes it; -1 leaves it.
func millis(t *time.Time) string {
	if t == nil {
		return "-1"
	}
	return strconv.FormatInt(t.UnixMilli(), 10)
}

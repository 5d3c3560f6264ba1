package namenode

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// errGone says that an upload is not there.
var errGone = errors.New("the upload is gone: completed, aborted or swept")

// Create opens a temporary file in one hidden directory at the mount's top.
func (s *Store) Create(ctx context.Context, key underfs.Key, opts underfs.CreateOptions) (underfs.Upload, error) {
	if err := s.target(ctx, "create", key); err != nil {
		return nil, err
	}
	if isDirKey(key) {
		return nil, underfs.Failf("create", key, sluice.Invalid, "a file's key does not end in a slash")
	}
	u := &upload{s: s, key: key, opts: opts, temp: tempName(opts.Tag)}
	for {
		fresh, err := s.tempTop(ctx)
		if err != nil {
			return nil, fail("create", key, err)
		}
		u.w, err = s.cfg.Data.Create(ctx, s.temp(u.temp), mode(opts.Mode, 0o644))
		if errors.Is(err, sluice.NotFound) && !fresh { // somebody removed the directory
			s.made.Store(false)
			continue
		}
		if err != nil {
			return nil, fail("create", key, err)
		}
		return u, nil
	}
}

// mode returns m, or without where m says nothing.
func mode(m, without sluice.Mode) sluice.Mode {
	if m == 0 {
		return without
	}
	return m & sluice.ModeMask
}

// temp returns the path of an upload's file.
func (s *Store) temp(name string) string { return path.Join(s.cfg.Top, tempDir, name) }

// tempTop makes the directory of temporary files and says whether it did just now. A
// directory whose files the protocol cannot write is refused.
func (s *Store) tempTop(ctx context.Context) (bool, error) {
	if s.made.Load() {
		return false, nil
	}
	dir := path.Join(s.cfg.Top, tempDir)
	if err := s.cfg.Node.Mkdirs(ctx, dir, 0o700); err != nil {
		return false, err
	}
	st, err := s.cfg.Node.Stat(ctx, dir)
	if err != nil {
		return false, err
	}
	if err := s.writable(&st); err != nil {
		return false, err
	}
	s.made.Store(true)
	return true, nil
}

// writable refuses what this protocol would write as plain bytes where ciphertext or
// stripes are expected.
func (s *Store) writable(st *Status) error {
	if (st.Encrypted || st.Coded) && !s.cfg.Transparent {
		return &sluice.Error{Kind: sluice.Unsupported, Err: fmt.Errorf(
			"files below %s are encrypted or erasure-coded, which this protocol cannot write; mount it by webhdfs://", s.cfg.Top)}
	}
	return nil
}

// tempName makes a file name of a tag that nobody else makes.
func tempName(tag string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '_'
	}, tag)
	return "u-" + clean[:min(len(clean), 180)] + "-" + rand.Text()
}

// tagOf returns the tag in a name made by tempName.
func tagOf(temp string) (string, bool) {
	rest, ok := strings.CutPrefix(temp, "u-")
	i := strings.LastIndexByte(rest, '-')
	if !ok || i < 0 {
		return "", false
	}
	return rest[:i], true
}

// upload is a temporary file that becomes key.
type upload struct {
	s    *Store
	key  underfs.Key
	opts underfs.CreateOptions
	w    Writer // nil when the file is closed
	temp string // "" after Abort
	off  int64  // bytes written

	prepared *sluice.Prepared
	done     *underfs.Object // what Commit returned
}

// Write implements underfs.Upload.
func (u *upload) Write(ctx context.Context, p []byte) error {
	if err := ctx.Err(); err != nil {
		return underfs.Fail("write", u.key, sluice.Unavailable, err)
	}
	if u.w == nil {
		return underfs.Fail("write", u.key, sluice.Invalid, errGone)
	}
	if u.opts.Length >= 0 && int64(len(p)) > u.opts.Length-u.off {
		return underfs.Failf("write", u.key, sluice.Invalid, "more than the %d bytes that were announced", u.opts.Length)
	}
	if err := u.w.Write(ctx, p); err != nil {
		return fail("write", u.key, err)
	}
	u.off += int64(len(p))
	return nil
}

// Prepare implements underfs.Upload: the file is closed, and given to its owner.
func (u *upload) Prepare(ctx context.Context) (sluice.Prepared, error) {
	if u.prepared != nil {
		return *u.prepared, nil
	}
	if err := ctx.Err(); err != nil {
		return sluice.Prepared{}, underfs.Fail("prepare", u.key, sluice.Unavailable, err)
	}
	if u.w == nil {
		return sluice.Prepared{}, underfs.Fail("prepare", u.key, sluice.Invalid, errGone)
	}
	if u.opts.Length >= 0 && u.off != u.opts.Length {
		return sluice.Prepared{}, underfs.Failf("prepare", u.key, sluice.Invalid, "%d bytes were announced and %d written", u.opts.Length, u.off)
	}
	if err := u.w.Finish(ctx); err != nil {
		return sluice.Prepared{}, fail("prepare", u.key, err)
	}
	st, err := u.s.cfg.Node.Stat(ctx, u.s.temp(u.temp))
	if err == nil {
		err = u.s.writable(&st)
	}
	if err == nil && st.Length != u.off {
		err = fmt.Errorf("%d bytes were written and the name node knows of %d", u.off, st.Length)
	}
	if err == nil {
		err = u.s.dress(ctx, u.s.temp(u.temp), &st, u.opts)
	}
	if err != nil {
		return sluice.Prepared{}, fail("prepare", u.key, err)
	}
	u.w.Abort()
	u.w = nil
	u.prepared = &sluice.Prepared{Upload: u.temp, Parts: []string{string(st.version())}, Tag: u.opts.Tag}
	return *u.prepared, nil
}

// dress gives a file the owner, group and mode that were asked for, where this user may: a
// file belongs to who writes it, and only HDFS's superuser gives files away.
func (s *Store) dress(ctx context.Context, name string, st *Status, opts underfs.CreateOptions) error {
	owner, group := opts.Owner, opts.Group
	if owner == st.Owner {
		owner = ""
	}
	if group == st.Group {
		group = ""
	}
	if owner != "" || group != "" {
		if err := s.cfg.Node.SetOwner(ctx, name, owner, group); err != nil && !errors.Is(err, sluice.Permission) {
			return err
		}
	}
	if want := mode(opts.Mode, 0o644); st.Mode&sluice.ModeMask != want {
		return s.cfg.Node.SetMode(ctx, name, want)
	}
	return nil
}

// Commit implements underfs.Upload.
func (u *upload) Commit(ctx context.Context, cond underfs.Condition) (underfs.Object, error) {
	if u.done != nil {
		return *u.done, nil
	}
	if u.prepared == nil || u.temp == "" {
		return underfs.Object{}, underfs.Failf("commit", u.key, sluice.Invalid, "it was not prepared, or was aborted")
	}
	o, err := u.s.Complete(ctx, u.key, *u.prepared, cond)
	if err == nil {
		u.done = &o
	}
	return o, err
}

// Abort implements underfs.Upload.
func (u *upload) Abort(ctx context.Context) error {
	if u.done != nil || u.temp == "" {
		return nil
	}
	if u.w != nil {
		u.w.Abort()
		u.w = nil
	}
	err := u.s.cfg.Node.Delete(ctx, u.s.temp(u.temp))
	if err != nil && !errors.Is(err, sluice.NotFound) {
		return fail("abort", u.key, err)
	}
	u.temp = ""
	return nil
}

// Complete makes a prepared file visible under key by one rename. Completed before, it
// returns what lies there; kind NotFound where neither the upload nor its result is found.
func (s *Store) Complete(ctx context.Context, key underfs.Key, p sluice.Prepared, cond underfs.Condition) (underfs.Object, error) {
	if err := s.target(ctx, "commit", key); err != nil {
		return underfs.Object{}, err
	}
	if err := ours(p); err != nil {
		return underfs.Object{}, underfs.Fail("commit", key, sluice.Invalid, err)
	}
	if err := s.publish(ctx, key, p, cond); err != nil {
		return underfs.Object{}, fail("commit", key, err)
	}
	st, err := s.cfg.Node.Stat(ctx, s.path(key))
	if err != nil {
		// The rename was made. To say anything but "look" would be a guess.
		return underfs.Object{}, Rekind("commit", sluice.UnknownOutcome, err)
	}
	return object(key, &st), nil
}

// ours says whether p is an upload of this driver.
func ours(p sluice.Prepared) error {
	if _, ok := tagOf(p.Upload); !ok || strings.Contains(p.Upload, "/") || len(p.Parts) != 1 {
		return fmt.Errorf("%q is no upload of this driver", p.Upload)
	}
	return nil
}

// publish renames the temporary file to key.
func (s *Store) publish(ctx context.Context, key underfs.Key, p sluice.Prepared, cond underfs.Condition) error {
	if cond.Version != "" {
		if err := s.expect(ctx, "commit", key, cond.Version); err != nil {
			if s.published(ctx, key, p) {
				return nil
			}
			return s.gone(ctx, p, err)
		}
	}
	err := s.cfg.Node.Rename(ctx, s.temp(p.Upload), s.path(key), !cond.Absent)
	if errors.Is(err, sluice.NotFound) { // the file, or the directory it goes to
		if e := s.gone(ctx, p, nil); e != nil {
			if s.published(ctx, key, p) {
				return nil
			}
			return e
		}
		if err := s.parents(ctx, key); err != nil {
			return err
		}
		err = s.cfg.Node.Rename(ctx, s.temp(p.Upload), s.path(key), !cond.Absent)
	}
	switch {
	case err == nil, errors.Is(err, sluice.UnknownOutcome):
		return err
	case errors.Is(err, sluice.Exists) && s.published(ctx, key, p):
		return nil
	}
	if st, e := s.cfg.Node.Stat(ctx, s.path(key)); e == nil && st.Dir && !cond.Absent {
		return &sluice.Error{Kind: sluice.IsDirectory, Err: errors.New("a directory lies there")}
	}
	return s.gone(ctx, p, s.explain(ctx, key, err))
}

// explain turns a refusal to rename into an encryption zone, which is for good, into
// Unsupported. HDFS has no exception of its own for it.
func (s *Store) explain(ctx context.Context, key underfs.Key, err error) error {
	if !errors.Is(err, sluice.Unavailable) {
		return err
	}
	if st, e := s.cfg.Node.Stat(ctx, path.Dir(s.path(key))); e != nil || !st.Encrypted {
		return err
	}
	return &sluice.Error{Kind: sluice.Unsupported, Err: fmt.Errorf("HDFS moves no file into an encryption zone: mount the zone by itself, by webhdfs:// (%v)", err)}
}

// gone returns NotFound where the temporary file of p is not there, else err.
func (s *Store) gone(ctx context.Context, p sluice.Prepared, err error) error {
	if _, e := s.cfg.Node.Stat(ctx, s.temp(p.Upload)); errors.Is(e, sluice.NotFound) {
		return &sluice.Error{Kind: sluice.NotFound, Err: errGone}
	}
	return err
}

// published says whether what lies under key is what p describes.
func (s *Store) published(ctx context.Context, key underfs.Key, p sluice.Prepared) bool {
	st, err := s.cfg.Node.Stat(ctx, s.path(key))
	return err == nil && string(st.version()) == p.Parts[0]
}

// parents makes the directories above key.
func (s *Store) parents(ctx context.Context, key underfs.Key) error {
	dir := path.Dir(s.path(key))
	if len(dir) < len(s.cfg.Top) {
		return nil
	}
	return s.cfg.Node.Mkdirs(ctx, dir, 0o755)
}

// AbortPrepared implements underfs.Completer.
func (s *Store) AbortPrepared(ctx context.Context, key underfs.Key, p sluice.Prepared) error {
	if err := s.target(ctx, "abort", key); err != nil {
		return err
	}
	if err := ours(p); err != nil {
		return underfs.Fail("abort", key, sluice.Invalid, err)
	}
	if err := s.cfg.Node.Delete(ctx, s.temp(p.Upload)); err != nil && !errors.Is(err, sluice.NotFound) {
		return fail("abort", key, err)
	}
	return nil
}

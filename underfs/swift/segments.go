package swift

// The companion container holds, for each upload of a large object, below root/UPLOAD/
//
//	00000001 ...  the segments
//	ref/HASH      an object was about to get a manifest that names them (body: its name)
//	gone/HASH     a user of ours deletes or replaces that object (body: its name)
//	shared        a copy was made: there may be more than one manifest
//
// HASH is of the object's name. A ref is written before the manifest, a gone before the
// manifest is deleted or replaced, so that a crash leaves too much and never too little.
// Segments go when nothing was ever to name them (an abandoned upload), or when every
// object that was to name them is gone by our doing and really does not name them. A
// manifest that somebody else moved or copied keeps them: its ref has no gone.
//
// Listings of a container may be late. A ref that is not listed yet is the danger, so that
// free trusts a listing only where no copy was made or the last one is settled; what it
// leaves, Sweep takes, a day later.

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// root is what the names of the companion container begin with; others may use it too.
const root = "sluice/"

// settled is the age from which a name is taken to be listed.
const settled = time.Hour

// newUpload returns an upload's id: when, a random number, and the tag.
func newUpload(tag string) string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%010x-%s-%s", time.Now().Unix(), hex.EncodeToString(b[:]), base64.RawURLEncoding.EncodeToString([]byte(tag)))
}

// tagOf returns the tag of an upload's id.
func tagOf(upload string) string {
	parts := strings.SplitN(upload, "-", 3)
	if len(parts) != 3 {
		return ""
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return ""
	}
	return string(b)
}

// segmentName is the name of an upload's segment n, from 1.
func segmentName(upload string, n int) string { return fmt.Sprintf("%s%s/%08d", root, upload, n) }

// note is the name of a ref or gone of an object.
func (s *Store) note(upload, what string, key underfs.Key) string {
	h := sha256.Sum256([]byte(s.whole(key)))
	return root + upload + "/" + what + "/" + hex.EncodeToString(h[:16])
}

// whole is container and name of an object.
func (s *Store) whole(key underfs.Key) string { return s.container + "/" + s.object(key) }

// putNote writes a ref, a gone or the mark of a copy.
func (s *Store) putNote(ctx context.Context, name string, key underfs.Key) error {
	_, err := s.session.call(ctx, request{method: http.MethodPut, container: s.segments, object: name, body: []byte(s.whole(key)), header: []string{"Content-Type", "text/plain"}})
	return err
}

// dropNote removes one, if it is there.
func (s *Store) dropNote(ctx context.Context, name string) error {
	_, err := s.session.call(ctx, request{method: http.MethodDelete, container: s.segments, object: name})
	if is(err, http.StatusNotFound) {
		return nil
	}
	return err
}

// is says whether err is an answer of that status.
func is(err error, status int) bool {
	e, ok := errors.AsType[*statusError](err)
	return ok && e.status == status
}

// leaving notes that key is about to stop naming old's segments. Nothing is to be done
// where old is no large object of ours.
func (s *Store) leaving(ctx context.Context, key underfs.Key, old *found) error {
	if old == nil || !old.static || old.upload == "" {
		return nil
	}
	return s.putNote(ctx, s.note(old.upload, "gone", key), key)
}

// stays takes back what leaving noted, after a change that was refused.
func (s *Store) stays(ctx context.Context, key underfs.Key, old *found, failed error) {
	if old == nil || !old.static || old.upload == "" || errors.Is(failed, sluice.UnknownOutcome) {
		return
	}
	// Else the note stays, and Sweep looks at the object before it believes it.
	_ = s.dropNote(context.WithoutCancel(ctx), s.note(old.upload, "gone", key))
}

// left frees the segments of what key was, if nothing names them any more. It does what it
// can in part of the time there is: the change itself is done, and Sweep does the rest.
func (s *Store) left(ctx context.Context, old *found) {
	if old == nil || !old.static || old.upload == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout/3)
	defer cancel()
	_ = s.free(ctx, old.upload)
}

// free removes an upload's segments if it is certain that nothing names them.
func (s *Store) free(ctx context.Context, upload string) error {
	h, err := s.session.call(ctx, request{method: http.MethodHead, container: s.segments, object: root + upload + "/shared", header: []string{"X-Newest", "true"}})
	switch {
	case err == nil:
		when, err := http.ParseTime(h.Get("Last-Modified"))
		if err != nil || time.Since(when) < settled {
			return nil
		}
	case !is(err, http.StatusNotFound):
		return err
	}
	return s.each(ctx, root+upload+"/", func(g *group) error {
		if len(g.refs) == 0 { // not listed yet, or never ours
			return nil
		}
		dead, err := s.dead(ctx, g)
		if err != nil || !dead {
			return err
		}
		return s.remove(ctx, g)
	})
}

// group is what the companion container holds of one upload.
type group struct {
	upload              string
	newest              time.Time
	segments            []string
	refs, gones, others []string
}

// add takes a name into the group.
func (g *group) add(r row) {
	if m := r.modified(); m.After(g.newest) {
		g.newest = m
	}
	switch rest := strings.TrimPrefix(r.Name, root+g.upload+"/"); {
	case strings.HasPrefix(rest, "ref/"):
		g.refs = append(g.refs, r.Name)
	case strings.HasPrefix(rest, "gone/"):
		g.gones = append(g.gones, r.Name)
	case len(rest) == 8 && strings.Trim(rest, "0123456789") == "":
		g.segments = append(g.segments, r.Name)
	default:
		g.others = append(g.others, r.Name)
	}
}

// each calls f for every upload of which the companion container lists something below
// prefix, one after the other. It holds one upload in memory.
func (s *Store) each(ctx context.Context, prefix string, f func(*group) error) error {
	var g *group
	marker := ""
	for {
		rows, err := s.rowsOf(ctx, s.segments, url.Values{"prefix": {prefix}, "limit": {"1000"}, "marker": {marker}})
		if is(err, http.StatusNotFound) {
			return nil // there is no such container: no large object was written
		}
		if err != nil {
			return err
		}
		for _, r := range rows {
			upload, _, ok := strings.Cut(strings.TrimPrefix(r.Name, root), "/")
			if !ok || r.Name <= marker {
				continue
			}
			if g != nil && g.upload != upload {
				if err := f(g); err != nil {
					return err
				}
				g = nil
			}
			if g == nil {
				g = &group{upload: upload}
			}
			g.add(r)
		}
		if len(rows) == 0 || rows[len(rows)-1].Name <= marker { // the end, or a listing that loops
			break
		}
		marker = rows[len(rows)-1].Name
	}
	if g != nil {
		return f(g)
	}
	return nil
}

// dead says whether every object that was to name the segments was left by us and does not
// name them.
func (s *Store) dead(ctx context.Context, g *group) (bool, error) {
	for _, ref := range g.refs {
		if !slices.Contains(g.gones, strings.Replace(ref, "/ref/", "/gone/", 1)) {
			return false, nil
		}
	}
	for _, gone := range g.gones {
		b, err := s.session.fetch(ctx, request{method: http.MethodGet, container: s.segments, object: gone}, 4096)
		if is(err, http.StatusNotFound) {
			return false, nil // another one is at it
		}
		if err != nil {
			return false, err
		}
		container, name, ok := strings.Cut(string(b), "/")
		if !ok {
			return false, nil
		}
		h, err := s.session.call(ctx, request{method: http.MethodHead, container: container, object: name, header: []string{"X-Newest", "true"}})
		if is(err, http.StatusNotFound) {
			continue
		}
		if err != nil || h.Get(uploadHeader) == g.upload {
			return false, err
		}
	}
	return true, nil
}

// remove deletes everything of an upload, what protects the segments last.
func (s *Store) remove(ctx context.Context, g *group) error {
	for _, names := range [][]string{g.segments, g.refs, append(g.gones, g.others...)} {
		if err := s.deleteAll(ctx, names); err != nil {
			return err
		}
	}
	return nil
}

// deleteAll deletes names of the companion container, by bulk delete where there is that.
// What is not there is fine.
func (s *Store) deleteAll(ctx context.Context, names []string) error {
	for chunk := range slices.Chunk(names, 1000) {
		var lines strings.Builder
		for _, name := range chunk {
			u := url.URL{Path: "/" + s.segments + "/" + name}
			lines.WriteString(u.EscapedPath() + "\n")
		}
		b, err := s.session.fetch(ctx, request{
			method: http.MethodPost, query: url.Values{"bulk-delete": {"true"}}, body: []byte(lines.String()),
			header: []string{"Content-Type", "text/plain", "Accept", "application/json"},
		}, 1<<20)
		var answer struct {
			Deleted  *int       `json:"Number Deleted"`
			NotFound int        `json:"Number Not Found"`
			Errors   [][]string `json:"Errors"`
		}
		if err == nil && json.Unmarshal(b, &answer) == nil && answer.Deleted != nil {
			if len(answer.Errors) == 0 && *answer.Deleted+answer.NotFound == len(chunk) {
				continue
			}
			return fmt.Errorf("a bulk delete of %d names left some: %.200s", len(chunk), b)
		}
		if _, answered := errors.AsType[*statusError](err); err != nil && !answered {
			return err
		}
		for _, name := range chunk { // no such middleware
			if err := s.dropNote(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// companion makes the companion container if it is not known to be there.
func (s *Store) companion(ctx context.Context) error {
	s.mu.Lock()
	made := s.made
	s.mu.Unlock()
	if made {
		return nil
	}
	if _, err := s.session.call(ctx, request{method: http.MethodPut, container: s.segments}); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made = true
	return nil
}

// Sweep implements underfs.Sweeper: of the companion container, what abandoned uploads and
// interrupted deletions left, each with nothing younger than age. It looks at whatever
// Sluice wrote there, whichever mount wrote it; keep protects what others are writing.
func (s *Store) Sweep(ctx context.Context, age time.Duration, keep func(string) bool) (int, error) {
	if err := s.begin(ctx, "sweep", ""); err != nil {
		return 0, err
	}
	removed := 0
	err := s.each(ctx, root, func(g *group) error {
		if age > 0 && time.Since(g.newest) < age {
			return nil
		}
		// The tag says that the content lives; of one that had a manifest the manifests say it.
		if tag := tagOf(g.upload); keep != nil && (keep(g.upload) || len(g.refs) == 0 && tag != "" && keep(tag)) {
			return nil
		}
		dead, err := s.dead(ctx, g)
		if err == nil && dead {
			err = s.remove(ctx, g)
			removed++
		}
		return err
	})
	return removed, s.fail("sweep", "", err)
}

// drop removes the segments of an upload that was not completed. It costs no listing: the
// segments are numbered.
func (s *Store) drop(ctx context.Context, upload string, segments int) error {
	names := make([]string, segments)
	for i := range names {
		names[i] = segmentName(upload, i+1)
	}
	return s.deleteAll(ctx, names)
}

// AbortPrepared implements underfs.Completer. Where a completion may still be on its way,
// the segments are left for Sweep.
func (s *Store) AbortPrepared(ctx context.Context, key underfs.Key, p sluice.Prepared) error {
	if err := s.begin(ctx, "abort", key); err != nil {
		return err
	}
	if p.Upload == "" {
		return nil
	}
	ref := request{method: http.MethodHead, container: s.segments, object: s.note(p.Upload, "ref", key), header: []string{"X-Newest", "true"}}
	_, err := s.session.call(ctx, ref)
	if is(err, http.StatusNotFound) {
		return s.fail("abort", key, s.drop(ctx, p.Upload, len(p.Parts)))
	}
	if err != nil {
		return s.fail("abort", key, err)
	}
	f, err := s.head(ctx, "abort", key, true)
	if err == nil && f.upload == p.Upload || err != nil && !errors.Is(err, sluice.NotFound) {
		return err
	}
	return s.fail("abort", key, s.putNote(ctx, s.note(p.Upload, "gone", key), key))
}

// drain reads the rest of an answer that is of no interest.
func drain(r io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, r, 64<<10)
	r.Close()
}

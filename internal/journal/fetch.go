package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/sluicefs/sluice"
)

// Arrived is why a journal stopped whose member lay too far behind for the log: a
// checkpoint of another member's state has arrived. Its owner closes the journal and
// the Machine, puts Dir in the place of the state, durably together with Origin, and
// opens both again with Config.Origin.
type Arrived struct {
	Dir    string // everything in it is synced
	Origin []byte
	Index  sluice.Index
}

// Error implements error.
func (a *Arrived) Error() string {
	return fmt.Sprintf("a checkpoint of the state at entry %d has arrived", a.Index)
}

// errRemoved stops a member that is none any more.
var errRemoved = errors.New("this master was removed from the cluster; to take it in again, empty its directory, " +
	"run `sluice admin masters add` and start it with --join")

// fetched is the end of a fetch, for the loop.
type fetched struct {
	at  ground
	err error
}

// fetch begins to fetch the checkpoint that a message names, unless that is under way or
// the log has what it stands on. The loop calls it.
func (j *Journal) fetch(m raftpb.Message) {
	at := m.Snapshot.Metadata
	if term, err := j.store.Term(at.Index); err == nil && term == at.Term {
		// Raft only moves its commit index then.
		if err := j.raft.Step(m); err != nil {
			j.cfg.Log.Debug("raft refused a message", "from", m.From, "cause", err)
		}
		return
	}
	// Its sender is the primary of its term; Raft is to hear of it as of a heartbeat.
	beat := raftpb.Message{Type: raftpb.MsgHeartbeat, From: m.From, To: m.To, Term: m.Term}
	if err := j.raft.Step(beat); err != nil || j.raft.BasicStatus().Term != m.Term || j.fetching {
		return
	}
	j.fetching = true
	from := j.member(m.From)
	j.cfg.Log.Info("this member lies too far behind and fetches a checkpoint", "from", from.Node, "index", at.Index)
	ctx, cancel := context.WithCancel(context.Background())
	j.fetches.Go(func() {
		defer cancel()
		g, err := j.fetchAll(ctx, from)
		j.inbox.put(fetched{at: g, err: err})
	})
	j.fetches.Go(func() {
		select {
		case <-j.stop:
			cancel()
		case <-ctx.Done():
		}
	})
}

// arrive ends a fetch.
func (j *Journal) arrive(f fetched) {
	j.fetching = false
	if f.err != nil {
		j.cfg.Log.Warn("the checkpoint did not arrive; it is tried again", "cause", f.err)
		return
	}
	if f.at.index <= j.raft.BasicStatus().Commit {
		return // the log was faster
	}
	if term, err := j.store.Term(f.at.index); err == nil && term == f.at.term {
		return
	}
	dir := j.cfg.FS.PathJoin(j.cfg.Dir, incomingDir)
	j.fail(&Arrived{Dir: dir, Origin: encodeOrigin(f.at), Index: sluice.Index(f.at.index)})
}

// How often a question is repeated before a fetch is given up.
const (
	fetchTries   = 5
	fetchTimeout = 10 * time.Second
)

// question asks another member, again where that may help.
func (j *Journal) question(ctx context.Context, from Member, q []byte) (b []byte, err error) {
	for try := range fetchTries {
		if try > 0 {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
		limited, cancel := context.WithTimeout(ctx, fetchTimeout)
		b, err = j.cfg.Transport.Ask(limited, from, q)
		cancel()
		if err == nil || ctx.Err() != nil || errors.Is(err, sluice.NotFound) {
			return b, err
		}
	}
	return nil, err
}

// fetchAll fetches a checkpoint into a directory of its own. What is there of the same
// one, from before a try that failed, is not fetched again.
func (j *Journal) fetchAll(ctx context.Context, from Member) (ground, error) {
	q := binary.AppendUvarint(binary.AppendUvarint(nil, askFiles), j.cfg.Node)
	b, err := j.question(ctx, from, q)
	if err != nil {
		return ground{}, err
	}
	id, g, files, err := parseList(b)
	if err != nil {
		return g, err
	}
	fs, dir := j.cfg.FS, j.cfg.FS.PathJoin(j.cfg.Dir, incomingDir)
	if id != j.incoming {
		if err := fs.RemoveAll(dir); err != nil {
			return g, err
		}
		j.incoming = id
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return g, err
	}
	begun, bytes := j.cfg.Boot(), int64(0)
	for i, f := range files {
		q := binary.AppendUvarint(binary.AppendUvarint(binary.AppendUvarint(binary.AppendUvarint(nil, askChunk), j.cfg.Node), id), uint64(i))
		if err := j.fetchFile(ctx, from, q, f, fs.PathJoin(dir, f.name)); err != nil {
			return g, fmt.Errorf("file %s: %w", f.name, err)
		}
		bytes += f.size
	}
	if err := errors.Join(syncDir(fs, dir), syncDir(fs, j.cfg.Dir)); err != nil {
		return g, err
	}
	j.cfg.Log.Info("the checkpoint has arrived", slog.Uint64("index", g.index), slog.Int64("bytes", bytes), slog.Duration("took", j.cfg.Boot()-begun))
	return g, nil
}

// parseList decodes what a checkpoint consists of.
func parseList(b []byte) (id uint64, g ground, files []carried, err error) {
	r := &reader{b: b}
	id = r.uint()
	if g, err = parseOrigin(r.bytes()); err != nil {
		return id, g, nil, err
	}
	for range r.count() {
		f := carried{name: string(r.bytes()), size: int64(r.uint())}
		if f.name == "" || strings.ContainsAny(f.name, "/\\") || strings.HasPrefix(f.name, "..") || f.size < 0 {
			r.bad = true
		}
		files = append(files, f)
	}
	if r.bad || len(r.b) != 0 || len(files) == 0 || len(files) > maxFiles {
		return id, g, nil, &sluice.Error{Op: "fetch checkpoint", Kind: sluice.Invalid, Err: errors.New("the list of its files cannot be read")}
	}
	return id, g, files, nil
}

// fetchFile fetches one file and syncs it.
func (j *Journal) fetchFile(ctx context.Context, from Member, q []byte, f carried, path string) error {
	off, file, err := openPart(j.cfg.FS, path, f.size)
	if err != nil {
		return err
	}
	err = j.fetchChunks(ctx, from, q, f.size, off, file)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// openPart opens a file of which a first part may be there, and returns its length.
func openPart(fs vfs.FS, path string, size int64) (int64, vfs.File, error) {
	file, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return 0, nil, err
	}
	st, err := file.Stat()
	if err == nil && st.Size() > size {
		err = fmt.Errorf("it has %d bytes where %d are due", st.Size(), size)
	}
	if err != nil {
		return 0, nil, errors.Join(err, file.Close())
	}
	return st.Size(), file, nil
}

// fetchChunks fetches a file from an offset on.
func (j *Journal) fetchChunks(ctx context.Context, from Member, q []byte, size, off int64, file vfs.File) error {
	bad := 0
	for off < size {
		b, err := j.question(ctx, from, binary.AppendUvarint(q[:len(q):len(q)], uint64(off)))
		if err != nil {
			return err
		}
		if len(b) <= 4 || int64(len(b)-4) > size-off || binary.LittleEndian.Uint32(b) != crc32.Checksum(b[4:], castagnoli()) {
			if bad++; bad == fetchTries {
				return &sluice.Error{Op: "fetch checkpoint", Kind: sluice.Corrupt, Err: errors.New("a part fails its checksum again and again")}
			}
			continue
		}
		if _, err := file.WriteAt(b[4:], off); err != nil {
			return err
		}
		off += int64(len(b) - 4)
	}
	return nil
}

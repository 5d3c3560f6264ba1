package namespace

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// nothing is a row whose key says it all.
type nothing struct{}

func (nothing) append(dst []byte) []byte { return dst }

// nameRow says where an inode's node lies. A parent with detachedBit is a detached row.
type nameRow struct {
	parent sluice.FileID
	name   string
}

func (r *nameRow) append(dst []byte) []byte {
	dst = append(dst, nameKey(r.parent)[1:]...)
	return putString(dst, r.name)
}

// countsRow counts what lies in a mount, or outside all (mount 0).
type countsRow struct {
	files, dirs, bytes int64
	unpersisted        int64 // files whose bytes are in workers only
	writers            int64
}

func (r *countsRow) append(dst []byte) []byte {
	return putInt(putInt(putInt(putInt(putInt(dst, r.files), r.dirs), r.bytes), r.unpersisted), r.writers)
}

// add returns the sum.
func (r countsRow) add(o countsRow) countsRow {
	return countsRow{r.files + o.files, r.dirs + o.dirs, r.bytes + o.bytes, r.unpersisted + o.unpersisted, r.writers + o.writers}
}

// negative returns what takes r away.
func (r countsRow) negative() countsRow {
	return countsRow{-r.files, -r.dirs, -r.bytes, -r.unpersisted, -r.writers}
}

// countsOf is what a node adds.
func countsOf(n *node) countsRow {
	switch {
	case n == nil:
		return countsRow{}
	case n.dir():
		return countsRow{dirs: 1}
	}
	c := countsRow{files: 1, bytes: n.length}
	if n.persist == sluice.CacheOnly || n.persist == sluice.ToBePersisted {
		c.unpersisted = 1
	}
	return c
}

// sessionRow is a client session.
type sessionRow struct {
	epoch  uint64
	user   string
	opened int64  // journal time
	lowest uint64 // of the window, where no remembered answer says a higher one
}

func (r *sessionRow) append(dst []byte) []byte {
	return putUint(putInt(putString(putUint(dst, r.epoch), r.user), r.opened), r.lowest)
}

// tombRow remembers that a name went, so that an older listing does not bring it back.
type tombRow struct {
	index sluice.Index
	tick  int64
}

func (r *tombRow) append(dst []byte) []byte { return putInt(putUint(dst, uint64(r.index)), r.tick) }

// answerRow is a remembered answer, or the intent that it waits for.
type answerRow struct {
	lowest uint64 // as the request said
	intent uint64 // not 0: pending
	answer []byte // wire.Answer
}

func (r *answerRow) append(dst []byte) []byte {
	return putString(putUint(putUint(dst, r.lowest), r.intent), string(r.answer))
}

func decodeAnswer(d *decoder) *answerRow {
	return &answerRow{lowest: d.uint(), intent: d.uint(), answer: d.bytes()}
}

// writerRow is somebody's right to give a file a new content.
type writerRow struct {
	session   sluice.SessionID
	epoch     uint64
	write     sluice.WriteType
	mount     sluice.MountID
	blockSize int64
	base      sluice.ContentID
	key       string // the store key the path implied when it was given
	ttl       int64
	ttlAction sluice.TTLAction
	pinned    bool
	intent    uint64 // not 0: its commit is under way
}

func (r *writerRow) append(dst []byte) []byte {
	dst = putUint(putUint(dst, uint64(r.session)), r.epoch)
	dst = append(dst, byte(r.write), byte(r.ttlAction))
	dst = putBool(dst, r.pinned)
	dst = putInt(putUint(dst, uint64(r.mount)), r.blockSize)
	dst = putString(putContent(dst, r.base), r.key)
	return putUint(putInt(dst, r.ttl), r.intent)
}

func decodeWriter(d *decoder) *writerRow {
	r := &writerRow{session: sluice.SessionID(d.uint()), epoch: d.uint()}
	r.write, r.ttlAction, r.pinned = sluice.WriteType(d.byte()), sluice.TTLAction(d.byte()), d.bool()
	r.mount, r.blockSize = sluice.MountID(d.uint()), d.int()
	r.base, r.key = d.content(), d.string()
	r.ttl, r.intent = d.int(), d.uint()
	return r
}

// contentRow says whose content it is and which workers were given it. There is one for
// every content that was written here or is pinned, while a file or writer has it.
type contentRow struct {
	file    sluice.FileID
	holders []sluice.Holder
}

func (r *contentRow) append(dst []byte) []byte {
	dst = putUint(dst, uint64(r.file))
	dst = putUint(dst, uint64(len(r.holders)))
	for _, h := range r.holders {
		dst = append(dst, key64(0, uint64(h.Worker))[1:]...)
		dst = putUint(putUint(dst, uint64(h.First)), uint64(h.Count))
	}
	return dst
}

func decodeContent(d *decoder) *contentRow {
	r := &contentRow{file: sluice.FileID(d.uint())}
	for range d.count() {
		r.holders = append(r.holders, sluice.Holder{Worker: sluice.WorkerID(d.fixed()), First: uint32(d.uint()), Count: uint32(d.uint())})
	}
	return r
}

// detachedRow is what is being taken away in steps. The root of a tree lies as the
// entry "" of the parent detachedBit|id.
type detachedRow struct {
	session sluice.SessionID // not 0: the left-overs of that session, and no tree
	mount   sluice.MountID
	intent  uint64
	path    sluice.Path
	key     string // the store's key of the root, without "/"
	since   int64  // journal time
}

func (r *detachedRow) append(dst []byte) []byte {
	dst = putUint(putUint(dst, uint64(r.session)), uint64(r.mount))
	dst = putString(putString(putUint(dst, r.intent), string(r.path)), r.key)
	return putInt(dst, r.since)
}

func decodeDetached(d *decoder) *detachedRow {
	return &detachedRow{
		session: sluice.SessionID(d.uint()), mount: sluice.MountID(d.uint()), intent: d.uint(),
		path: sluice.Path(d.string()), key: d.string(), since: d.int(),
	}
}

// mountRow is an entry of the mount table.
type mountRow struct {
	mount   sluice.Mount
	root    sluice.FileID
	epoch   uint64
	secrets map[string][]byte
}

func (r *mountRow) append(dst []byte) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(wire.FromMount(r.mount))
	if err != nil {
		panic("namespace: encode a mount: " + err.Error())
	}
	dst = putString(dst, string(b))
	dst = putUint(putUint(dst, uint64(r.root)), r.epoch)
	dst = putUint(dst, uint64(len(r.secrets)))
	for _, name := range slices.Sorted(maps.Keys(r.secrets)) {
		dst = putString(putString(dst, name), string(r.secrets[name]))
	}
	return dst
}

func decodeMount(d *decoder) *mountRow {
	var m wire.Mount
	if err := m.UnmarshalVT(d.bytes()); err != nil {
		d.fail("mount")
	}
	r := &mountRow{mount: m.Sluice(), root: sluice.FileID(d.uint()), epoch: d.uint()}
	if n := d.count(); n > 0 {
		r.secrets = make(map[string][]byte, n)
		for range n {
			name := d.string()
			r.secrets[name] = d.bytes()
		}
	}
	return r
}

// metaRow is what the whole state has once.
type metaRow struct {
	applied     sluice.Index
	cluster     string
	version     uint32
	lease       int64 // of sessions, ns of journal time
	window      uint64
	wall, tick  int64
	file        uint64 // the ids given last
	content     uint64
	intent      uint64
	mount       uint64
	epoch       uint64
	perm        uint64
	tombFloor   sluice.Index         // tombs of this index and before are no longer kept
	incarnation []sluice.Incarnation // the live ones, the present one last
	hash        changeHash           // of all changes of rows but this one
	mark        sluice.Index         // the last entry at which markHash was noted
	markHash    changeHash
}

func (r *metaRow) append(dst []byte) []byte {
	dst = putUint(dst, uint64(r.applied))
	dst = putUint(putString(dst, r.cluster), uint64(r.version))
	dst = putUint(putInt(dst, r.lease), r.window)
	dst = putInt(putInt(dst, r.wall), r.tick)
	for _, v := range []uint64{r.file, r.content, r.intent, r.mount, r.epoch, r.perm, uint64(r.tombFloor)} {
		dst = putUint(dst, v)
	}
	dst = putUint(dst, uint64(len(r.incarnation)))
	for _, i := range r.incarnation {
		dst = append(dst, key64(0, uint64(i))[1:]...)
	}
	dst = append(dst, key64(0, r.hash.number())[1:]...)
	return append(putUint(dst, uint64(r.mark)), key64(0, r.markHash.number())[1:]...)
}

func decodeMeta(d *decoder) *metaRow {
	r := &metaRow{applied: sluice.Index(d.uint()), cluster: d.string(), version: uint32(d.uint()), lease: d.int(), window: d.uint()}
	r.wall, r.tick = d.int(), d.int()
	for _, v := range []*uint64{&r.file, &r.content, &r.intent, &r.mount, &r.epoch, &r.perm, (*uint64)(&r.tombFloor)} {
		*v = d.uint()
	}
	for range d.count() {
		r.incarnation = append(r.incarnation, sluice.Incarnation(d.fixed()))
	}
	r.hash, r.mark, r.markHash = hashOf(d.fixed()), sluice.Index(d.uint()), hashOf(d.fixed())
	return r
}

// xattrsRow are the extended attributes of an inode.
type xattrsRow struct{ values map[string][]byte }

func (r *xattrsRow) append(dst []byte) []byte {
	dst = putUint(dst, uint64(len(r.values)))
	for _, name := range slices.Sorted(maps.Keys(r.values)) {
		dst = putString(putString(dst, name), string(r.values[name]))
	}
	return dst
}

func decodeXAttrs(d *decoder) *xattrsRow {
	n := d.count()
	r := &xattrsRow{values: make(map[string][]byte, n)}
	for range n {
		name := d.string()
		r.values[name] = d.bytes()
	}
	return r
}

// size is the bytes of names and values.
func (r *xattrsRow) size() int {
	n := 0
	for name, v := range r.values {
		n += len(name) + len(v)
	}
	return n
}

package namespace

import (
	"encoding/binary"
	"fmt"

	"github.com/sluicefs/sluice"
)

// rowFormat is the version byte that begins every row.
const rowFormat = 1

// maxField bounds a string or a list inside a row, against damaged rows.
const maxField = 16 << 20

// row is a decoded row. It never changes once it is in a map or the cache: a change
// puts a changed copy.
type row interface {
	// append appends the encoded row, without the version byte.
	append(dst []byte) []byte
}

// encode returns the bytes of a row.
func encode(dst []byte, r row) []byte { return r.append(append(dst, rowFormat)) }

func putUint(dst []byte, v uint64) []byte { return binary.AppendUvarint(dst, v) }
func putInt(dst []byte, v int64) []byte   { return binary.AppendVarint(dst, v) }

func putString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func putBool(dst []byte, b bool) []byte {
	if b {
		return append(dst, 1)
	}
	return append(dst, 0)
}

func putContent(dst []byte, c sluice.ContentID) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.Incarnation))
	return putUint(dst, c.Counter)
}

// decoder takes a row apart. After an error everything it returns is zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("a row is cut short or damaged at its %s", what)
	}
	d.b = nil
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("signed number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads the length of a list, each element of which takes at least one byte.
func (d *decoder) count() int {
	n := d.uint()
	if n > maxField || n > uint64(len(d.b)) {
		d.fail("count")
		return 0
	}
	return int(n)
}

func (d *decoder) string() string {
	n := d.count()
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) bytes() []byte { return []byte(d.string()) }

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("byte")
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) bool() bool { return d.byte() != 0 }

func (d *decoder) fixed() uint64 {
	if len(d.b) < 8 {
		d.fail("fixed number")
		return 0
	}
	v := binary.BigEndian.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

func (d *decoder) content() sluice.ContentID {
	return sluice.ContentID{Incarnation: sluice.Incarnation(d.fixed()), Counter: d.uint()}
}

// end says whether the row was read to its end without error.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.err = fmt.Errorf("a row has %d bytes too many", len(d.b))
	}
	return d.err
}

// permsOf finds the numbered combinations of owner, group and mode.
type permsOf func(number uint64) *perm

// decode takes apart the value of a key, by the key's table.
func decode(key string, value []byte, perms permsOf) (row, error) {
	r, err := decodeRow(key, value, perms)
	if err != nil {
		return nil, &sluice.Error{Op: "read state", Kind: sluice.Corrupt, Err: fmt.Errorf("row %q: %w", key, err)}
	}
	return r, nil
}

func decodeRow(key string, value []byte, perms permsOf) (row, error) {
	if len(key) == 0 || len(value) == 0 {
		return nil, fmt.Errorf("it is empty")
	}
	if value[0] != rowFormat {
		return nil, fmt.Errorf("it has format %d; this build knows %d", value[0], rowFormat)
	}
	d := &decoder{b: value[1:]}
	r := decodeBody(key[0], d, perms)
	if r == nil {
		return nil, fmt.Errorf("its table %q is unknown", key[0])
	}
	return r, d.end()
}

func decodeBody(tag byte, d *decoder, perms permsOf) row {
	switch tag {
	case tagNode, tagHidden:
		return decodeNode(d, perms)
	case tagName:
		return &nameRow{parent: sluice.FileID(d.fixed()), name: d.string()}
	case tagAnswer:
		return decodeAnswer(d)
	case tagCounts:
		return &countsRow{files: d.int(), dirs: d.int(), bytes: d.int(), unpersisted: d.int(), writers: d.int()}
	case tagDetached:
		return decodeDetached(d)
	case tagIntent:
		return decodeIntent(d)
	case tagContent:
		return decodeContent(d)
	case tagMount:
		return decodeMount(d)
	case tagMeta:
		return decodeMeta(d)
	case tagPerm:
		return &perm{owner: d.string(), group: d.string(), mode: sluice.Mode(d.uint())}
	case tagTTL, tagSessionOf:
		return nothing{}
	case tagSession:
		return &sessionRow{epoch: d.uint(), user: d.string(), opened: d.int(), lowest: d.uint()}
	case tagTomb:
		return &tombRow{index: sluice.Index(d.uint()), tick: d.int()}
	case tagWriter:
		return decodeWriter(d)
	case tagXAttrs:
		return decodeXAttrs(d)
	default:
		return nil
	}
}

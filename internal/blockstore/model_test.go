package blockstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluicefs/sluice"
)

// model is what a store must do, without eviction getting in the way: everything
// that was filled and not dropped is there.
type model struct {
	disk    *MemDisk
	bytes   []byte
	store   *Store
	present map[sluice.BlockID]map[int64]bool
	handles []*Handle
	passed  []*outsider
}

// block is the id and bytes of one of a few blocks, of one to three pages.
func (m *model) block(n int) (sluice.BlockID, []byte) {
	size := []int64{1, 5000, sluice.ChunkSize, sluice.ChunkSize + 9, sluice.PageSize, 2*sluice.PageSize + 1, 3 * sluice.PageSize}[n%7]
	return blockID(uint64(n/3), uint32(n%3)), m.bytes[n : int64(n)+size]
}

// Random operations and restarts: the books agree with the disk's own figures after
// every step, and what was filled is read back.
func TestModel(t *testing.T) {
	bytes := pattern(1, 4*sluice.PageSize)
	rapid.Check(t, func(r *rapid.T) {
		huge := rapid.Bool().Draw(r, "huge")
		m := &model{bytes: bytes, disk: NewMemDisk(MemDiskConfig{Volatile: huge, Huge: huge}), present: map[sluice.BlockID]map[int64]bool{}}
		m.open(r)
		block := rapid.IntRange(0, 20)
		r.Repeat(map[string]func(*rapid.T){
			"fill":    func(r *rapid.T) { m.fill(r, block.Draw(r, "block"), rapid.Int64Range(0, 2).Draw(r, "page")) },
			"write":   func(r *rapid.T) { m.write(r, block.Draw(r, "block"), rapid.Bool().Draw(r, "only")) },
			"delete":  func(r *rapid.T) { m.remove(block.Draw(r, "block")) },
			"open":    func(r *rapid.T) { m.hold(block.Draw(r, "block")) },
			"close":   func(r *rapid.T) { m.letGo() },
			"pass":    func(r *rapid.T) { m.pass(r, block.Draw(r, "block")) },
			"return":  func(r *rapid.T) { m.giveBack() },
			"pin":     func(r *rapid.T) { m.pin(r, block.Draw(r, "block"), rapid.Bool().Draw(r, "on")) },
			"restart": func(r *rapid.T) { m.restart(r) },
			"read":    func(r *rapid.T) { m.read(r) },
			"":        func(r *rapid.T) { m.check(r) },
		})
		m.read(r)
		for len(m.handles) > 0 {
			m.letGo()
		}
		for len(m.passed) > 0 {
			m.giveBack()
		}
		m.check(r)
		m.store.Close()
	})
}

func (m *model) open(r *rapid.T) {
	s, err := Open(r.Context(), memConfig(m.disk, 256<<20))
	if err != nil {
		r.Fatal(err)
	}
	m.store = s
}

func (m *model) mark(id sluice.BlockID, page int64) {
	if m.present[id] == nil {
		m.present[id] = map[int64]bool{}
	}
	m.present[id][page] = true
}

func (m *model) fill(r *rapid.T, n int, page int64) {
	id, data := m.block(n)
	if page*sluice.PageSize >= int64(len(data)) {
		page = 0
	}
	if err := m.store.FillPage(r.Context(), id, int64(len(data)), page, pageOf(data, page), nil); err != nil {
		r.Fatal(err)
	}
	m.mark(id, page)
}

func (m *model) write(r *rapid.T, n int, only bool) {
	id, data := m.block(n)
	w, err := m.store.Begin(r.Context(), id, BeginOptions{Unpersisted: only})
	if m.present[id] != nil {
		if !errors.Is(err, sluice.Exists) {
			r.Fatalf("begin of a block that is here: %v", err)
		}
		return
	}
	if err != nil {
		r.Fatal(err)
	}
	step := max(len(data)/3, 1)
	for off := 0; off < len(data); off += step {
		if err := w.WriteAt(r.Context(), data[off:min(off+step, len(data))], int64(off)); err != nil {
			r.Fatal(err)
		}
	}
	if n%5 == 0 {
		w.Abort()
		return
	}
	if _, err := w.Finish(r.Context(), true); err != nil {
		r.Fatal(err)
	}
	for page := int64(0); page*sluice.PageSize < int64(len(data)); page++ {
		m.mark(id, page)
	}
}

func (m *model) remove(n int) {
	id, _ := m.block(n)
	m.store.Delete(context.Background(), id)
	delete(m.present, id)
}

func (m *model) hold(n int) {
	id, _ := m.block(n)
	if h, err := m.store.OpenBlock(context.Background(), id); err == nil {
		m.handles = append(m.handles, h)
	}
}

func (m *model) letGo() {
	if len(m.handles) > 0 {
		m.handles[0].Close()
		m.handles = m.handles[1:]
	}
}

// pass passes a descriptor to another process.
func (m *model) pass(r *rapid.T, n int) {
	id, _ := m.block(n)
	h, err := m.store.OpenBlock(context.Background(), id)
	if err != nil {
		return
	}
	defer h.Close()
	o := &outsider{}
	if o.file, err = m.disk.Open(h.block.path(), ReadOnly); err != nil {
		r.Fatal(err)
	}
	if o.pass, err = h.Pass(func() { o.asked.Add(1) }); err != nil {
		r.Fatal(err)
	}
	m.passed = append(m.passed, o)
}

func (m *model) giveBack() {
	if len(m.passed) > 0 {
		m.passed[0].letGo()
		m.passed = m.passed[1:]
	}
}

func (m *model) pin(r *rapid.T, n int, on bool) {
	id, _ := m.block(n)
	change := m.store.Unpin
	if on {
		change = m.store.Pin
	}
	if err := change(r.Context(), id.Content); err != nil {
		r.Fatal(err)
	}
	for _, b := range m.store.Blocks(id.Content) {
		if b.Pinned != on {
			r.Fatalf("%v: pinned %v", b.ID, b.Pinned)
		}
	}
}

func (m *model) restart(r *rapid.T) {
	for len(m.handles) > 0 {
		m.letGo()
	}
	for len(m.passed) > 0 { // its books begin anew: so must the holders'
		m.giveBack()
	}
	before := m.infos()
	m.store.Close()
	m.open(r)
	if after := m.infos(); !slices.Equal(before, after) {
		r.Fatalf("before the restart:\n%v\nafter:\n%v", before, after)
	}
}

// infos describes every block, in order.
func (m *model) infos() (all []string) {
	for c := range m.store.Contents() {
		for _, b := range m.store.Blocks(c.Content) {
			all = append(all, fmt.Sprintf("%+v", b))
		}
	}
	return all
}

func (m *model) check(r *rapid.T) {
	if err := m.store.Check(); err != nil {
		r.Fatal(err)
	}
	for _, o := range m.passed {
		if dead := o.pass.block.has(flagDead); dead != (o.asked.Load() == 1) {
			r.Fatalf("a holder of %v was asked %d times, the block is dead: %v", o.pass.block.id, o.asked.Load(), dead)
		}
	}
	tier := m.store.Stats().Tiers[0]
	switch held := tier.Used + tier.Held; {
	case tier.Used+tier.Held+tier.Free != tier.Quota || tier.Quota != 256<<20:
		r.Fatalf("%+v", tier)
	case !m.disk.cfg.Huge && held != m.disk.Used(), held < m.disk.Used():
		r.Fatalf("the store charges %d, the disk has %d", held, m.disk.Used())
	}
}

// read reads every page of every block.
func (m *model) read(r *rapid.T) {
	for id, pages := range m.present {
		var data []byte
		for n := range 21 {
			if i, d := m.block(n); i == id {
				data = d
			}
		}
		for page := int64(0); page*sluice.PageSize < int64(len(data)); page++ {
			want := pageOf(data, page)
			p := make([]byte, len(want))
			_, err := m.store.Read(r.Context(), id, page*sluice.PageSize, p)
			if pages[page] && (err != nil || string(p) != string(want)) || !pages[page] && !errors.Is(err, sluice.NotFound) {
				r.Fatalf("page %d of %v, filled %v: %v", page, id, pages[page], err)
			}
		}
	}
}

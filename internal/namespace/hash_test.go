package namespace

import (
	"errors"
	"testing"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/keyvalue"
	"github.com/sluicefs/sluice/internal/wire"
)

// toMark applies entries without commands up to the next mark.
func (m *machine) toMark() (sluice.Index, uint64) {
	m.t.Helper()
	for uint64(m.index+1)%hashEvery != 0 {
		m.apply()
	}
	m.apply()
	return m.s.Mark()
}

func checkHash(index sluice.Index, hash uint64) *wire.Entry {
	return &wire.Entry{Format: 1, Version: 1, Commands: []*wire.Command{
		{Op: &wire.Command_CheckHash{CheckHash: &wire.CheckHash{Index: uint64(index), Hash: hash}}},
	}}
}

// TestMembersThatWentApartStop: the primary's hash stops a member whose changes were
// others, for good, and nobody else.
func TestMembersThatWentApartStop(t *testing.T) {
	db := keyvalue.OpenMemory()
	primary, same, apart := newMachineOn(t, db), newMachine(t), newMachine(t)
	for _, m := range []*machine{primary, same, apart} {
		m.ok(m.do(nil, mkdir("/d", false, false)))
	}
	// One change that only a defect explains: the same entries, another row.
	apart.s.w.entry[string(xattrsKey(1))] = &xattrsRow{values: map[string][]byte{"a": nil}}
	var index sluice.Index
	var hash uint64
	for _, m := range []*machine{apart, same, primary} {
		index, hash = m.toMark()
	}
	if index != hashEvery || hash == 0 {
		t.Fatalf("the mark is %d with hash %x, want %d", index, hash, hashEvery)
	}
	for _, m := range []*machine{primary, same} {
		if _, err := m.s.Apply(index+1, checkHash(index, hash)); err != nil {
			t.Errorf("a member with the same changes stops: %v", err)
		}
	}
	if _, err := apart.s.Apply(index+1, checkHash(index-1, hash)); err != nil {
		t.Errorf("a hash of an index that is no mark: %v", err)
	}
	for i := index + 2; i < index+4; i++ {
		if _, err := apart.s.Apply(i, checkHash(index, hash)); !errors.Is(err, sluice.Corrupt) {
			t.Errorf("a member that went apart goes on with entry %d: %v, want corrupt", i, err)
		}
	}
	again, err := Open(db, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if i, h := again.Mark(); i != index || h != hash {
		t.Errorf("opened again the mark is %d %x, want %d %x", i, h, index, hash)
	}
}

package keyvalue

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// files makes the two rows of empty files, as a file system of many directories of a
// thousand files each has them: the entry with its attributes, and the way back.
func files(n int, put func(key, value []byte)) {
	rng := rand.New(rand.NewPCG(1, 1))
	var key, value []byte
	now := uint64(1_790_000_000_000_000_000)
	for i := range uint64(n) {
		parent, id := 2+i/1000, 1_000_000+i
		now += uint64(rng.Int64N(100_000))
		name := append([]byte("part-"), byte('0'+i/100%10), byte('0'+i/10%10), byte('0'+i%10))
		key = binary.BigEndian.AppendUint64(append(key[:0], 'e'), parent)
		key = append(key, name...)
		value = binary.AppendUvarint(append(value[:0], 1), id)
		value = binary.AppendUvarint(value, now)
		value = binary.AppendUvarint(value, now)
		value = append(value, 0x1a, 0x4, 3, 'a', 'd', 'a', 3, 'd', 'e', 'v', 0, 0, 0)
		put(key, value)
		key = binary.BigEndian.AppendUint64(append(key[:0], 'r'), id)
		key = binary.BigEndian.AppendUint64(key, parent)
		put(append(key, name...), nil)
	}
}

// BenchmarkFiles fills a store on disk with empty files, a thousand rows a batch.
func BenchmarkFiles(b *testing.B) {
	const n = 200_000
	for b.Loop() {
		db, err := OpenPebble(PebbleConfig{Dir: b.TempDir()})
		must(b, err)
		batch := db.Batch()
		files(n, func(key, value []byte) {
			batch.Set(key, value)
			if batch.Len() == 1000 {
				must(b, batch.Commit())
			}
		})
		must(b, batch.Commit())
		must(b, db.Flush())
		loose := db.Stats()
		must(b, db.Compact())
		st := db.Stats()
		b.ReportMetric(float64(loose.TableBytes)/n, "bytes/file-flushed")
		b.ReportMetric(float64(st.TableBytes)/n, "bytes/file")
		b.ReportMetric(float64(st.Stalls), "stalls")
		must(b, db.Close())
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "files/s")
}

// BenchmarkBatch does what commands do to rows that are warm: four changes each and
// reads of what the batch itself has written, 64 commands to a batch. It compares our overlay with an indexed
// batch of Pebble's.
func BenchmarkBatch(b *testing.B) {
	const commands = 64
	keys := make([][]byte, 4*commands)
	for i := range keys {
		keys[i] = binary.BigEndian.AppendUint64(append([]byte{}, 'e'), rand.New(rand.NewPCG(2, uint64(i))).Uint64())
		keys[i] = append(keys[i], "some-name"...)
	}
	value := make([]byte, 50)
	b.Run("overlay", func(b *testing.B) {
		db := benchStore(b)
		batch := db.Batch()
		for b.Loop() {
			for c := range commands {
				for i := range 4 {
					batch.Set(keys[4*c+i], value)
					_, _, _ = batch.Get(keys[4*c+i])
				}
				_, _, _ = batch.Get(keys[c])
			}
			must(b, batch.Commit())
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/commands, "ns/command")
		must(b, db.Close())
	})
	b.Run("indexed", func(b *testing.B) {
		db := benchStore(b)
		p := db.(*pebbleDB).db
		for b.Loop() {
			batch := p.NewIndexedBatch()
			for c := range commands {
				for i := range 4 {
					must(b, batch.Set(keys[4*c+i], value, nil))
					_, _, _ = get(batch, keys[4*c+i])
				}
				_, _, _ = get(batch, keys[c])
			}
			must(b, p.Apply(batch, pebble.NoSync))
			must(b, batch.Close())
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/commands, "ns/command")
		must(b, db.Close())
	})
}

func benchStore(b *testing.B) DB {
	db, err := OpenPebble(PebbleConfig{FS: vfs.NewMem(), Dir: "state"})
	must(b, err)
	batch := db.Batch()
	files(20_000, batch.Set)
	must(b, batch.Commit())
	must(b, db.Flush())
	return db
}

// BenchmarkGet reads rows of a compacted store, cached and not.
func BenchmarkGet(b *testing.B) {
	db := benchStore(b)
	must(b, db.Compact())
	var keys [][]byte
	files(20_000, func(key, _ []byte) { keys = append(keys, append([]byte{}, key...)) })
	rng := rand.New(rand.NewPCG(3, 3))
	for b.Loop() {
		if _, found, err := db.Get(keys[rng.IntN(len(keys))]); !found || err != nil {
			b.Fatal(found, err)
		}
	}
	must(b, db.Close())
}

package policy

import (
	"math/rand/v2"
	"testing"
)

const kib, mib = 1 << 10, 1 << 20

// A reader that goes forward finds everything but the beginning fetched before it
// comes, in ever larger pieces that follow one another.
func TestPrefetchSequential(t *testing.T) {
	p := NewPrefetch(PrefetchConfig{Min: 256 * kib, Max: 8 * mib})
	ahead, largest, late, asks := int64(0), int64(0), 0, 0
	for off := int64(0); off < 200*mib; off += 128 * kib {
		if off > 0 && ahead < off+128*kib {
			late++
		}
		r := p.Read(off, 128*kib)
		if r.Len == 0 {
			continue
		}
		asks++
		if off > 0 && r.Off != ahead {
			t.Fatalf("at %d: advice starts at %d, the last ended at %d", off, r.Off, ahead)
		}
		ahead, largest = r.End(), max(largest, r.Len)
		if ahead-(off+128*kib) > 8*mib {
			t.Fatalf("at %d: %d bytes ahead, more than the maximum", off, ahead-off)
		}
	}
	if late > 0 || largest < 4*mib || asks > 80 {
		t.Errorf("late %d times, largest piece %d, %d pieces", late, largest, asks)
	}
}

func TestPrefetchIgnoresRandomReads(t *testing.T) {
	p := NewPrefetch(PrefetchConfig{})
	r := rand.New(rand.NewPCG(1, 2))
	var wasted int64
	for range 10_000 {
		wasted += p.Read(4096*(1+r.Int64N(100*mib)), 4096).Len
	}
	if wasted > 0 {
		t.Errorf("%d bytes were to be fetched for random reads", wasted)
	}
}

// Several readers at places of their own are followed each.
func TestPrefetchStreams(t *testing.T) {
	p := NewPrefetch(PrefetchConfig{})
	var ahead [4]int64
	for step := range int64(400) {
		for i := range int64(4) {
			off := i<<40 + step*64*kib
			r := p.Read(off, 64*kib)
			ahead[i] = max(ahead[i], r.End())
			if step > 2 && ahead[i] < off+64*kib {
				t.Fatalf("stream %d, step %d: nothing was fetched ahead", i, step)
			}
		}
	}
}

// Reads of one stream that arrive in a slightly different order do not break it.
func TestPrefetchOutOfOrder(t *testing.T) {
	p := NewPrefetch(PrefetchConfig{})
	var total int64
	for step := int64(0); step < 1000; step += 2 {
		total += p.Read((step+1)*128*kib, 128*kib).Len
		total += p.Read(step*128*kib, 128*kib).Len
	}
	if total < 100*mib || total > 125*mib+16*mib {
		t.Errorf("%d bytes fetched ahead of 125 MiB read in swapped order", total)
	}
}

func TestPrefetchOff(t *testing.T) {
	p := NewPrefetch(PrefetchConfig{Max: -1})
	if r := p.Read(0, 10); r.Len != 0 {
		t.Errorf("%+v although it is switched off", r)
	}
	for _, c := range []PrefetchConfig{{Min: -1}, {Min: 2, Max: 1}, {Streams: 65}} {
		if c.Validate() == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

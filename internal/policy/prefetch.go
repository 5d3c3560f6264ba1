package policy

import "errors"

// PrefetchConfig bounds reading ahead. The zero value means the defaults.
type PrefetchConfig struct {
	Min     int64 // bytes of the first window of a stream; default 256 KiB
	Max     int64 // bytes a window grows to; default 16 MiB; below 0 switches reading ahead off
	Streams int   // sequential streams recognised at once; default 8, at most 64
}

// Validate says what to change.
func (c PrefetchConfig) Validate() error {
	switch {
	case c.Min < 0:
		return errors.New("prefetch minimum is negative: set it to 0 for the default")
	case c.Max > 0 && c.Min > c.Max:
		return errors.New("prefetch minimum is above its maximum: lower the one or raise the other")
	case c.Streams < 0 || c.Streams > 64:
		return errors.New("prefetch streams must be between 0 (the default) and 64")
	}
	return nil
}

// Range is the bytes [Off, Off+Len) of a file. Len 0 is nothing.
type Range struct{ Off, Len int64 }

// End is the offset behind the range.
func (r Range) End() int64 { return r.Off + r.Len }

// Prefetch watches the reads of one file and says what to read ahead. Several
// readers, each going forward at its own place, are told apart by where they
// continue. A stream starts small, doubles while it stays sequential and is
// forgotten once reads elsewhere have taken its place, so that random reads cause no
// reading ahead at all. It is for one goroutine at a time; it knows nothing of the
// file's length: the caller cuts what lies behind the end.
type Prefetch struct {
	cfg     PrefetchConfig
	streams []stream
	tick    uint64
}

// stream is one reader going forward. Invariant: next <= ahead once window > 0.
type stream struct {
	next   int64 // where it continues
	ahead  int64 // everything up to here was asked for
	window int64 // bytes to keep ahead of next; 0 until it proved sequential
	used   uint64
}

// NewPrefetch returns a state with no streams.
func NewPrefetch(cfg PrefetchConfig) *Prefetch {
	if cfg.Min == 0 {
		cfg.Min = 256 << 10
	}
	if cfg.Max == 0 {
		cfg.Max = 16 << 20
	}
	if cfg.Streams == 0 {
		cfg.Streams = 8
	}
	cfg.Min = min(cfg.Min, max(cfg.Max, 0))
	return &Prefetch{cfg: cfg}
}

// Read notes a read of n bytes at off and returns what to fetch ahead of its reader,
// beginning where the last advice for that reader ended; an empty range where
// nothing is to be fetched. A first read at offset 0 counts as the start of a
// sequential pass; elsewhere it takes two reads in a row.
func (p *Prefetch) Read(off, n int64) Range {
	if p.cfg.Max <= 0 || n <= 0 || off < 0 {
		return Range{}
	}
	p.tick++
	if i := p.find(off, n); i >= 0 {
		return p.advance(p.merge(i, n), off+n)
	}
	s := p.replace()
	*s = stream{next: off + n, ahead: off + n, used: p.tick}
	if off == 0 {
		s.window = p.cfg.Min
		return p.extend(s)
	}
	return Range{}
}

// Reset forgets all streams, as when the file was changed or memory is short.
func (p *Prefetch) Reset() { p.streams = p.streams[:0] }

// find returns the stream that a read at off continues: the nearest one that ends at
// or shortly before off, or that asked for off already. Reads of one stream may
// arrive out of order when the kernel or an application issues several at once.
func (p *Prefetch) find(off, n int64) int {
	best, distance := -1, int64(0)
	for i := range p.streams {
		s := &p.streams[i]
		behind := s.next - off                    // the read starts before next
		gap := off - max(s.next, s.ahead)         // or beyond what was asked for
		slack := max(n, min(s.window, p.cfg.Min)) // out of order, but close by
		if behind > slack || gap > slack {
			continue
		}
		if s.window == 0 && (behind > 0 || gap > 0) {
			continue // not proven sequential: only the exact continuation counts
		}
		if d := max(off-s.next, behind); best < 0 || d < distance {
			best, distance = i, d
		}
	}
	return best
}

// merge takes into stream i those that run beside it, within a read of n bytes or the
// smallest window, and returns it: reads that arrived out of order began them.
func (p *Prefetch) merge(i int, n int64) *stream {
	s := p.streams[i]
	kept := p.streams[:0]
	for j, o := range p.streams {
		if near := max(n, p.cfg.Min); j != i && (o.next < s.next-near || o.next > s.next+near) {
			kept = append(kept, o)
			continue
		}
		s.next, s.ahead = max(s.next, o.next), max(s.ahead, o.ahead)
		s.window = max(s.window, o.window)
	}
	p.streams = append(kept, s)
	return &p.streams[len(p.streams)-1]
}

// advance moves the stream's reader forward and widens its window when it has used
// half of what was fetched for it.
func (p *Prefetch) advance(s *stream, end int64) Range {
	s.used = p.tick
	if end <= s.next {
		return Range{}
	}
	s.next = end
	s.ahead = max(s.ahead, end)
	switch {
	case s.window == 0:
		s.window = p.cfg.Min
	case s.ahead-s.next > s.window/2:
		return Range{}
	default:
		s.window = min(2*s.window, p.cfg.Max)
	}
	return p.extend(s)
}

func (p *Prefetch) extend(s *stream) Range {
	r := Range{Off: s.ahead, Len: s.next + s.window - s.ahead}
	if r.Len <= 0 {
		return Range{}
	}
	s.ahead = r.End()
	return r
}

// replace returns a place for a stream: a free one, or that of the one unused longest.
func (p *Prefetch) replace() *stream {
	if len(p.streams) < p.cfg.Streams {
		p.streams = append(p.streams, stream{})
		return &p.streams[len(p.streams)-1]
	}
	oldest := 0
	for i := range p.streams {
		if p.streams[i].used < p.streams[oldest].used {
			oldest = i
		}
	}
	return &p.streams[oldest]
}

package blockstore

import "sync"

// openFiles bounds the block files kept open without being in use.
type openFiles struct {
	mu     sync.Mutex
	blocks []*block // a clock: hand goes round and closes what is idle
	hand   int
}

// add notes that b's file is open and closes idle ones above the bound.
func (o *openFiles) add(s *Store, b *block) {
	o.mu.Lock()
	o.blocks = append(o.blocks, b)
	var idle []*block
	for tries := 0; len(o.blocks) > s.cfg.MaxOpen && tries < 8; tries++ {
		o.hand = (o.hand + 1) % len(o.blocks)
		if c := o.blocks[o.hand]; c != b && c.refs.Load() == 0 {
			idle = append(idle, c)
			o.dropLocked(o.hand)
		}
	}
	o.mu.Unlock()
	for _, c := range idle {
		s.closeIdle(c)
	}
}

func (o *openFiles) dropLocked(i int) {
	last := len(o.blocks) - 1
	o.blocks[i] = o.blocks[last]
	o.blocks[last] = nil
	o.blocks = o.blocks[:last]
}

// remove forgets b.
func (o *openFiles) remove(b *block) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, c := range o.blocks {
		if c == b {
			o.dropLocked(i)
			return
		}
	}
}

func (o *openFiles) len() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return int64(len(o.blocks))
}

// closeAll closes every file that is not in use.
func (o *openFiles) closeAll(s *Store) {
	o.mu.Lock()
	all := o.blocks
	o.blocks = nil
	o.mu.Unlock()
	for _, b := range all {
		s.closeIdle(b)
	}
}

// closeIdle closes the file of a block that nobody uses; of one in use it only takes
// care that it is found again.
func (s *Store) closeIdle(b *block) {
	h := s.shard(b.id.Content)
	h.mu.Lock()
	l := b.live
	if l == nil || l.opening != nil {
		h.mu.Unlock()
		return
	}
	if b.refs.Load() != 0 {
		h.mu.Unlock()
		s.files.mu.Lock()
		s.files.blocks = append(s.files.blocks, b)
		s.files.mu.Unlock()
		return
	}
	b.live = nil
	h.mu.Unlock()
	l.file.Close()
}

package blockstore

import (
	"context"
	"iter"
	"slices"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/policy"
)

// Delete drops a block, whatever its flags say: the caller knows that nobody needs
// it. Readers that hold it read on. Kind NotFound where it is not here.
func (s *Store) Delete(ctx context.Context, id sluice.BlockID) error {
	h := s.shard(id.Content)
	h.mu.Lock()
	b := h.blocks[id]
	h.mu.Unlock()
	if b == nil || !s.kill(b, always) {
		return errGone("delete block", id)
	}
	return nil
}

// DropContent deletes every block of a content and forgets that it is pinned; it
// returns how many there were.
func (s *Store) DropContent(ctx context.Context, c sluice.ContentID) int {
	h := s.shard(c)
	h.mu.Lock()
	delete(h.pins, c)
	h.mu.Unlock()
	n := 0
	for _, b := range s.blocksOf(c) {
		if s.kill(b, always) {
			n++
		}
	}
	return n
}

// FreeContent drops the blocks of a content that may be dropped, and returns the
// bytes freed and the bytes of pinned and unpersisted blocks that were kept.
func (s *Store) FreeContent(ctx context.Context, c sluice.ContentID) (freed, kept int64) {
	for _, b := range s.blocksOf(c) {
		var bytes int64
		ok := s.kill(b, func() bool {
			bytes = b.present()
			return !b.has(flagPinned | flagUnpersisted)
		})
		if ok {
			freed += bytes
		} else {
			kept += bytes
		}
	}
	return freed, kept
}

func (s *Store) blocksOf(c sluice.ContentID) []*block {
	h := s.shard(c)
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.contentLocked(c)
}

// Pin keeps the blocks of a content from being evicted, those here and those that
// come. It survives a restart for the blocks that are here.
func (s *Store) Pin(ctx context.Context, c sluice.ContentID) error {
	h := s.shard(c)
	h.mu.Lock()
	h.pins[c] = struct{}{}
	h.mu.Unlock()
	return s.reflag(c, flagPinned, 0)
}

// Unpin undoes Pin.
func (s *Store) Unpin(ctx context.Context, c sluice.ContentID) error {
	h := s.shard(c)
	h.mu.Lock()
	delete(h.pins, c)
	h.mu.Unlock()
	return s.reflag(c, 0, flagPinned)
}

// SetPersisted notes that the content lies in the under store: its blocks may be
// evicted from then on, unless they are pinned.
func (s *Store) SetPersisted(ctx context.Context, c sluice.ContentID) error {
	return s.reflag(c, 0, flagUnpersisted)
}

// reflag changes the flags of a content's blocks, in memory and then in the index. A
// crash in between leaves the old flags; the master says again what it wants.
func (s *Store) reflag(c sluice.ContentID, set, unset uint32) error {
	h := s.shard(c)
	h.mu.Lock()
	entries := map[*dir][]byte{}
	for _, b := range h.contentLocked(c) {
		before := b.kept()
		b.home.reflag(b, set, unset, policy.Hash(b.id))
		if after := b.kept(); after != before && b.has(flagIndexed) {
			entries[b.home] = appendRecord(entries[b.home], &record{kind: recFlags, gen: b.gen, flags: after})
		}
	}
	h.mu.Unlock()
	for _, d := range s.dirs { // in order, not as the map has it
		if entry := entries[d]; entry != nil {
			if err := d.log.append(entry, false); err != nil {
				return s.trouble(d, nil, err)
			}
		}
	}
	return nil
}

// Contents yields the contents of which blocks are here, quarantined ones included.
// Each is described as of one moment, all of them are not; the order means nothing.
// The store may be changed during the iteration.
func (s *Store) Contents() iter.Seq[ContentInfo] {
	return func(yield func(ContentInfo) bool) {
		for i := range s.shards {
			for _, c := range s.shardContents(&s.shards[i]) {
				if !yield(c) {
					return
				}
			}
		}
	}
}

func (s *Store) shardContents(h *shard) []ContentInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []ContentInfo
	at := map[sluice.ContentID]int{}
	for id, b := range h.blocks {
		bytes := b.present()
		if bytes == 0 {
			continue
		}
		i, ok := at[id.Content]
		if !ok {
			i = len(out)
			at[id.Content] = i
			out = append(out, ContentInfo{
				Content: id.Content, First: id.Index, Last: id.Index, Quarantined: s.quarantined(id.Content),
			})
		}
		c := &out[i]
		c.Blocks++
		c.First, c.Last = min(c.First, id.Index), max(c.Last, id.Index)
		c.Bytes += bytes
		c.Unpersisted = c.Unpersisted || b.has(flagUnpersisted)
		c.Pinned = c.Pinned || b.has(flagPinned)
	}
	slices.SortFunc(out, func(a, b ContentInfo) int { return a.Content.Compare(b.Content) })
	return out
}

// Blocks returns what is here of a content, in index order, quarantined or not.
func (s *Store) Blocks(c sluice.ContentID) []Info {
	h := s.shard(c)
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Info
	for _, b := range h.contentLocked(c) {
		out = append(out, s.infoLocked(b))
	}
	slices.SortFunc(out, func(a, b Info) int { return int(int64(a.ID.Index) - int64(b.ID.Index)) })
	return out
}

// Stats describes the store.
func (s *Store) Stats() Stats {
	c := &s.counts
	st := Stats{Open: s.files.len(), Counters: Counters{
		Evicted: c.evicted.Load(), EvictedBytes: c.evictedBytes.Load(),
		Filled: c.filled.Load(), FilledBytes: c.filledBytes.Load(),
		Written: c.written.Load(), WrittenBytes: c.writtenBytes.Load(),
		ReadBytes: c.readBytes.Load(), Corrupt: c.corrupt.Load(),
		Orphans: c.orphans.Load(), Missing: c.missing.Load(),
		Damaged: c.damaged.Load(), Lost: c.lost.Load(), FailedDirs: c.failedDirs.Load(),
	}}
	for t, cfg := range s.cfg.Tiers {
		info := sluice.TierInfo{Name: cfg.Name, Note: cfg.Note}
		for _, d := range s.dirs {
			if d.tier != t {
				continue
			}
			d.mu.Lock()
			info.Directories = append(info.Directories, d.path)
			info.Used += d.used
			info.Held += d.held
			info.Free += d.freeLocked()
			info.Blocks += d.count
			st.Pinned += d.pinned
			st.Unpersisted += d.unpersisted
			if d.failed != nil {
				info.Note = d.path + " is out of service: " + d.failed.Error()
			}
			d.mu.Unlock()
		}
		// An index that grew past a lowered quota shows as quota, not as less than no space.
		info.Quota = info.Used + info.Held + info.Free
		st.Blocks += info.Blocks
		st.Tiers = append(st.Tiers, info)
	}
	return st
}

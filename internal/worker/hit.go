package worker

import (
	"context"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/blockstore"
)

// stored sends what is in the block store from the reader's position on, up to the first
// page that is not there or on its way. The error is errKept where it was expected and is
// not there.
func (r *reader) stored(ctx context.Context) error {
	end := r.pos
	for p := r.pos / sluice.PageSize; p < max(r.sched, r.pos/sluice.PageSize+1) && r.ways[p] == nil && end < r.end; p++ {
		end = min(r.end, (p+1)*sluice.PageSize)
	}
	if end-r.pos > 2*sluice.ChunkSize {
		sent, err := r.sendFile(ctx, end)
		if sent || err != nil {
			return err
		}
	}
	return r.copyOut(ctx, end)
}

// copyOut sends checked bytes by way of a buffer.
func (r *reader) copyOut(ctx context.Context, end int64) error {
	buf := r.w.small.Get().(*[sluice.ChunkSize]byte)
	defer r.w.small.Put(buf)
	for r.pos < end {
		n := min(sluice.ChunkSize-r.pos%sluice.ChunkSize, end-r.pos)
		if _, err := r.w.cfg.Store.Read(ctx, r.b, r.pos, buf[:n]); err != nil {
			if absent(err) != nil || sluice.KindOf(err) == sluice.Unavailable {
				return errKept
			}
			return err
		}
		if err := r.out.SendBytes(buf[:n], nil); err != nil {
			return err
		}
		r.pos += n
		r.w.stats.hit(n)
	}
	return nil
}

// sendFile sends whole chunks straight from the block file with the checksums that are
// kept beside it; the receiver checks them. False where that is not possible.
func (r *reader) sendFile(ctx context.Context, end int64) (bool, error) {
	h, err := r.w.cfg.Store.OpenBlock(ctx, r.b)
	if err != nil {
		return false, nil // copyOut says what is missing
	}
	defer h.Close()
	f, ok := h.OS()
	if !ok {
		return false, nil
	}
	for p := r.pos / sluice.PageSize; p*sluice.PageSize < end; p++ {
		if !has(h.Pages, p) {
			end = p * sluice.PageSize
		}
	}
	if end <= r.pos {
		return false, nil
	}
	if r.doubt && !r.sound(ctx, h, end) {
		return true, errKept
	}
	if rest := r.pos % sluice.ChunkSize; rest != 0 {
		if err := r.copyOut(ctx, min(end, r.pos-rest+sluice.ChunkSize)); err != nil {
			return true, err
		}
	}
	whole := end - end%sluice.ChunkSize
	if end == h.Length {
		whole = end
	}
	if n := whole - r.pos; n > 0 {
		first := r.pos / sluice.ChunkSize
		chunks := (n + sluice.ChunkSize - 1) / sluice.ChunkSize
		if err := r.out.SendFile(f, r.pos, n, h.Sums[first:first+chunks]); err != nil {
			return true, err
		}
		r.pos += n
		r.w.stats.hit(n)
	}
	return true, r.copyOut(ctx, end)
}

// sound checks the chunks of [pos, end) against their checksums, and has the store drop
// those that fail. It is asked of a range whose caller found it damaged.
func (r *reader) sound(ctx context.Context, h *blockstore.Handle, end int64) bool {
	buf := r.w.small.Get().(*[sluice.ChunkSize]byte)
	defer r.w.small.Put(buf)
	for chunk := r.pos / sluice.ChunkSize; chunk*sluice.ChunkSize < end; chunk++ {
		p := buf[:min(sluice.ChunkSize, h.Length-chunk*sluice.ChunkSize)]
		n, err := h.ReadAt(p, chunk*sluice.ChunkSize)
		if n == len(p) && blockstore.Sum(p) == h.Sums[chunk] {
			continue
		}
		_ = err // Verify finds the same and drops the page
		if _, dropped, err := r.w.cfg.Store.Verify(ctx, r.b); err != nil || dropped > 0 {
			r.w.stats.corrupt.Add(int64(dropped))
			return false
		}
		return true
	}
	return true
}

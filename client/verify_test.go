package client

import (
	"testing"
	"time"

	"github.com/sluicefs/sluice"
)

// TestLocalDescriptorLater: a large block is verified in the background once somebody
// reads of it, never while it is being opened.
func TestLocalDescriptorLater(t *testing.T) {
	f := newFake(t, 1, 1)
	f.block = 4 << 20
	c := f.client(nil)
	f.write("/f", noise(1, 3<<20))
	local := func() error {
		h, err := c.Open(t.Context(), "/f", sluice.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		_, release, err := h.(sluice.LocalFile).Local(t.Context())
		if err == nil {
			release()
		}
		return err
	}
	for range 3 {
		isKind(t, local(), sluice.Unavailable)
		if c.verifying.Load() {
			t.Fatal("a block that nobody has read is being verified")
		}
	}
	h, err := c.Open(t.Context(), "/f", sluice.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := h.ReadAt(t.Context(), make([]byte, 10), 0); err != nil {
		t.Fatal(err)
	}
	isKind(t, local(), sluice.Unavailable)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for local() != nil {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("it was never verified")
		}
	}
}

func TestLocalDescriptor(t *testing.T) {
	f := newFake(t, 1, 1)
	c := f.client(nil)
	data := noise(1, 100_000)
	f.write("/f", data)
	f.write("/big", noise(2, int(f.block)+1))
	h, err := c.Open(t.Context(), "/f", sluice.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	l := h.(sluice.LocalFile)
	_, release, err := l.Local(t.Context())
	if err != nil {
		t.Fatal(err) // small enough to be verified at once
	}
	release()
	big, err := c.Open(t.Context(), "/big", sluice.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer big.Close()
	_, _, err = big.(sluice.LocalFile).Local(t.Context())
	isKind(t, err, sluice.Unavailable)
}

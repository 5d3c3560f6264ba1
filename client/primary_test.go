package client

import (
	"testing"

	"github.com/sluicefs/sluice"
)

// TestEmptyViewOfANewPrimary: a primary that was just elected knows no workers yet; the
// client goes on with those it knows, until it hears of others.
func TestEmptyViewOfANewPrimary(t *testing.T) {
	w := newWorkers(&core{})
	w.learn(&sluice.View{Version: 1})
	if w.version() != 1 {
		t.Errorf("the first view, an empty one, was not taken: version %d", w.version())
	}
	w.learn(&sluice.View{Version: 5, Workers: []sluice.WorkerInfo{{ID: 7}}})
	w.learn(&sluice.View{Version: 9})
	if v := w.view.Load(); v.Version != 5 || len(v.Workers) != 1 {
		t.Errorf("after an empty view: version %d with %d workers, want 5 with 1", v.Version, len(v.Workers))
	}
	w.learn(&sluice.View{Version: 10, Workers: []sluice.WorkerInfo{{ID: 8}}})
	if v := w.view.Load(); v.Version != 10 || v.Workers[0].ID != 8 {
		t.Errorf("after another view: version %d", v.Version)
	}
}

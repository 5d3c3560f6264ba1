package local_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/local"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open opens dir with the driver.
func open(t *testing.T, dir string) underfs.Store {
	t.Helper()
	s, err := local.Driver{}.Open(underfs.Config{URI: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	underfstest.Run(t, func() underfs.Store { return open(t, t.TempDir()) })
}

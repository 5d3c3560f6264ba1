package underfstest_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	for name, opts := range map[string]underfstest.Options{
		"like S3":                 {SmallUpload: 1 << 20},
		"like S3, never inline":   {SmallUpload: -1},
		"like S3, no tags":        {SmallUpload: 1 << 20, NoTags: true},
		"like a directory":        {Local: true},
		"like a plain old server": {NoConditions: true, SmallUpload: 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			underfstest.Run(t, func() underfs.Store { return underfstest.NewMemory(opts).Store() })
		})
	}
}

// A store that is slow, lists slowly and gives bodies in small pieces behaves as any other.
func TestConformanceSlow(t *testing.T) {
	t.Parallel()
	for name, local := range map[string]bool{"like S3": false, "like a directory": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			underfstest.Run(t, func() underfs.Store {
				m := underfstest.NewMemory(underfstest.Options{Local: local, SmallUpload: 1 << 20, Seed: 3})
				for _, op := range []underfs.Op{underfs.OpStat, underfs.OpRead, underfs.OpCreate, underfs.OpPrepare, underfs.OpCommit, underfs.OpDelete, underfs.OpRename, underfs.OpCopy} {
					m.Inject(op, underfstest.Fault{Rate: 0.2, Latency: 2 * time.Millisecond})
				}
				m.Inject(underfs.OpList, underfstest.Fault{Latency: 5 * time.Millisecond})
				m.Inject(underfs.OpRead, underfstest.Fault{Rate: 0.3, Short: true})
				return m.Store()
			})
		})
	}
}

// An object that gets another content while it is read gives the bytes of the version asked
// for, or kind changed before the body ends well; never a mixture that counts.
func TestVersionFlips(t *testing.T) {
	old := bytes.Repeat([]byte("old!"), 100_000)
	for name, opts := range map[string]underfstest.Options{"like S3": {}, "like a directory": {Local: true}} {
		m := underfstest.NewMemory(opts)
		s := m.Store()
		changed := 0
		for range 50 {
			o := m.Put("o", old)
			m.Inject(underfs.OpRead, underfstest.Fault{Flip: true, Short: true, Times: 1})
			r, err := s.Read(t.Context(), underfs.ReadRequest{Key: "o", Version: o.Version, Length: int64(len(old))})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got, err := io.ReadAll(r)
			r.Close()
			switch {
			case errors.Is(err, sluice.Changed):
				changed++
			case err != nil:
				t.Errorf("%s: %v, want kind changed", name, err)
			case !bytes.Equal(got, old):
				t.Fatalf("%s: a body that ended well has bytes of another version", name)
			}
			if _, err := s.Read(t.Context(), underfs.ReadRequest{Key: "o", Version: o.Version, Length: 1}); !errors.Is(err, sluice.Changed) && opts.Local == false {
				t.Errorf("%s: the old version is read after the flip: %v", name, err)
			}
		}
		if opts.Local && changed == 0 {
			t.Errorf("%s: no flip was noticed", name)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

package underfstest_test

import (
	"testing"

	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

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

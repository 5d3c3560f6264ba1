//go:build e2e

package kill

import "testing"

// TestE2EKill is [TestKill] in more rounds.
func TestE2EKill(t *testing.T) { play(t, 40) }

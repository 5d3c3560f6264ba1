// Package mount tries the mount with the real binary and real programs. Its tests are
// built with the tag e2e, need root and /dev/fuse, and say loudly where they skip.
package mount

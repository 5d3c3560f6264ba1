package blockstore

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/policy"
)

// Config says what the store is made of. Tiers must be given; all else has a useful
// zero value.
type Config struct {
	// Tiers in order, the fastest first. New blocks enter the first that has room.
	Tiers []TierConfig
	// Worker is the id to write into fresh directories. Directories that carry an id
	// keep it; 0 accepts any. See [Store.Worker].
	Worker sluice.WorkerID
	// Low and High are the watermarks in percent of the part of a directory's quota that
	// is not pinned, unpersisted or held: eviction starts in the background when less
	// than Low is free and goes on until High is.
	// Default 5 and 10.
	Low, High int
	// MaxOpen bounds the block files kept open without being in use. Default 512.
	MaxOpen int
	// Order makes the eviction order of one directory. Default least recently used.
	Order func() policy.Order
	// Disk is the seam to the disks. Default [OSDisk].
	Disk Disk
	// Log takes what an operator can act on. Default discards.
	Log *slog.Logger
}

// TierConfig is one tier.
type TierConfig struct {
	Name string // such as "MEM", "SSD", "HDD"
	Dirs []DirConfig
	Note string // shown to operators, such as "no tmpfs: a directory on flash"
}

// DirConfig is one directory of a tier. The store owns everything in it.
type DirConfig struct {
	Path  string
	Quota int64 // bytes, index included
}

// MinQuota is the smallest quota of a directory in bytes.
const MinQuota = 4 << 20

// Validate says what to change. It does not look at the disks.
func (c *Config) Validate() error {
	if len(c.Tiers) == 0 {
		return errors.New("no tiers: give at least one tier with one directory")
	}
	tiers, paths := map[string]bool{}, []string{}
	for _, t := range c.Tiers {
		switch {
		case t.Name == "":
			return errors.New("a tier has no name: call it MEM, SSD or HDD")
		case tiers[t.Name]:
			return fmt.Errorf("tier %s is given twice: put its directories under one entry", t.Name)
		case len(t.Dirs) == 0:
			return fmt.Errorf("tier %s has no directories: add one or remove the tier", t.Name)
		}
		tiers[t.Name] = true
		for _, d := range t.Dirs {
			if d.Path == "" {
				return fmt.Errorf("a directory of tier %s has no path", t.Name)
			}
			if d.Quota < MinQuota {
				return fmt.Errorf("the quota of %s is %d bytes: give at least %d", d.Path, d.Quota, MinQuota)
			}
			paths = append(paths, filepath.Clean(d.Path))
		}
	}
	if err := disjoint(paths); err != nil {
		return err
	}
	if c.Low < 0 || c.High < 0 || c.Low > 50 || c.High > 50 || (c.High != 0 && c.High < c.Low) {
		return fmt.Errorf("watermarks low %d %% and high %d %%: each is between 0 and 50, and low is not above high", c.Low, c.High)
	}
	if c.MaxOpen < 0 {
		return errors.New("MaxOpen is negative: use 0 for the default")
	}
	return nil
}

// disjoint refuses a path that is given twice or lies in another.
func disjoint(paths []string) error {
	for i, a := range paths {
		for j, b := range paths {
			if i != j && (a == b && i < j || strings.HasPrefix(a, strings.TrimSuffix(b, "/")+"/")) {
				return fmt.Errorf("directory %s is used twice or lies in %s: each needs a place of its own", a, b)
			}
		}
	}
	return nil
}

// withDefaults returns c with the defaults filled in.
func (c Config) withDefaults() Config {
	if c.Low == 0 {
		c.Low = 5
	}
	if c.High == 0 {
		c.High = max(10, c.Low)
	}
	if c.MaxOpen == 0 {
		c.MaxOpen = 512
	}
	if c.Order == nil {
		c.Order = func() policy.Order { return new(policy.LRU) }
	}
	if c.Disk == nil {
		c.Disk = OSDisk{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

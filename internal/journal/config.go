package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicefs/sluice"
)

// The defaults of [Config].
const (
	DefaultFlushEntries  = 10_000
	DefaultFlushBytes    = 4 << 20
	DefaultFlushInterval = 5 * time.Second
	DefaultSegmentBytes  = 16 << 20
	DefaultMaxEntry      = 4 << 20
	DefaultMaxInflight   = 32 << 20
	DefaultMinFree       = 64 << 20
	DefaultTick          = 100 * time.Millisecond
	MinSegmentBytes      = 16 << 10
	MaxSegmentBytes      = 1 << 30
	MaxClusterName       = 64
)

// Config says where a journal lies and what it drives. Only Dir, Cluster, Node and
// Machine must be set.
type Config struct {
	FS      vfs.FS // nil is the disk
	Dir     string // made if absent; belongs to the journal alone
	Cluster string // the cluster's id, at most 64 bytes; a log of another one is refused
	Node    uint64 // this member's id, not 0
	Machine Machine
	Log     *slog.Logger // nil is silence
	Rand    rand.Source  // of the salts of segments; nil is the runtime's

	// Members vote at the beginning of the cluster's life; every one, later ones too, is
	// given the same ones. Empty: this member alone. A log that is there knows better.
	Members []Member
	// Floor is not 0 in a member that came into a cluster that was there: it has no say
	// (neither votes nor leads) before it has applied that entry, by which it was added.
	// Until then it may take itself for one that it replaces.
	Floor     sluice.Index
	Address   string               // of this member, for the others; needed where there may be any
	Transport Transport            // to the other members; nil: there will never be any
	Boot      func() time.Duration // never jumps, counts while asleep; nil is the process's own clock
	// Origin is that of the [Arrived] by which the Machine's state came here.
	Origin []byte

	FlushEntries  int           // the Machine is flushed after so many entries; 0 is 10,000
	FlushBytes    int           // or after entries of so many bytes; 0 is 4 MiB
	FlushInterval time.Duration // or after so long, when there is something; 0 is 5 s
	KeepEntries   int           // kept below what is durable, for members that lag; 0 is 1,000, with a Transport 20,000
	SegmentBytes  int64         // size of a file of the log; 0 is 16 MiB
	MaxEntry      int           // bytes of one entry; 0 is 4 MiB
	MaxInflight   int64         // bytes proposed and not yet answered; 0 is 32 MiB
	MinFree       int64         // read-only below so many free bytes; 0 is 64 MiB, -1 is off
	Tick          time.Duration // Raft's unit of time; 0 is 100 ms
}

// Validate says what is wrong, with kind Invalid.
func (c Config) Validate() error {
	var err error
	switch {
	case c.Dir == "":
		err = errors.New("the directory is empty: name one that the journal has to itself")
	case c.Cluster == "" || len(c.Cluster) > MaxClusterName:
		err = fmt.Errorf("the cluster id has %d bytes: give 1 to %d", len(c.Cluster), MaxClusterName)
	case c.Node == 0:
		err = errors.New("the node id is 0: members count from 1")
	case c.Node >= maxNode:
		err = fmt.Errorf("the node id %d: give a smaller number", c.Node)
	case len(c.Members) > 0 && c.Floor == 0 && !slices.ContainsFunc(c.Members, func(m Member) bool { return m.Node == c.Node }):
		err = fmt.Errorf("node %d is not among the members of the cluster", c.Node)
	case len(c.Members) > 1 && c.Transport == nil:
		err = errors.New("there are several members and no transport between them")
	case c.Machine == nil:
		err = errors.New("there is no machine to drive")
	case c.FlushEntries < 0 || c.FlushBytes < 0 || c.FlushInterval < 0 || c.KeepEntries < 0 || c.MaxInflight < 0 || c.Tick < 0:
		err = errors.New("a bound is negative: give a positive one, or 0 for its default")
	case c.SegmentBytes != 0 && (c.SegmentBytes < MinSegmentBytes || c.SegmentBytes > MaxSegmentBytes):
		err = fmt.Errorf("segments of %d bytes: give %d to %d, or 0 for %d", c.SegmentBytes, MinSegmentBytes, MaxSegmentBytes, DefaultSegmentBytes)
	case c.MaxEntry < 0 || c.MaxEntry > 64<<20:
		err = fmt.Errorf("entries of %d bytes: give at most 64 MiB, or 0 for 4 MiB", c.MaxEntry)
	case c.MinFree < -1:
		err = errors.New("the free space to keep is negative: give bytes, 0 for 64 MiB, or -1 for none")
	}
	if err != nil {
		return &sluice.Error{Op: "open journal", Kind: sluice.Invalid, Err: err}
	}
	return nil
}

// filled returns c with its defaults in place.
func (c Config) filled() Config {
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	fill(&c.FlushEntries, DefaultFlushEntries)
	fill(&c.FlushBytes, DefaultFlushBytes)
	fill(&c.FlushInterval, DefaultFlushInterval)
	if c.Boot == nil {
		begun := time.Now()
		c.Boot = func() time.Duration { return time.Since(begun) }
	}
	if c.Transport != nil {
		fill(&c.KeepEntries, 20_000)
	}
	fill(&c.KeepEntries, 1000)
	fill(&c.SegmentBytes, DefaultSegmentBytes)
	fill(&c.MaxEntry, DefaultMaxEntry)
	fill(&c.MaxInflight, DefaultMaxInflight)
	fill(&c.MinFree, DefaultMinFree)
	fill(&c.Tick, DefaultTick)
	return c
}

// first is who votes in a log that begins here.
func (c Config) first() members {
	m := members{}
	switch {
	case len(c.Members) == 0:
		m.conf.Voters = []uint64{c.Node}
	default:
		for _, p := range c.Members {
			m.conf.Voters = append(m.conf.Voters, p.Node)
			m.book = append(m.book, p)
		}
		slices.Sort(m.conf.Voters)
		slices.SortFunc(m.book, byNode)
	}
	return m
}

// fill puts a default where there is nothing.
func fill[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

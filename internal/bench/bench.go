// Package bench holds the benchmark cases of Sluice and the limits they are measured
// against: plain system calls or direct store access in the same run, interleaved. It
// owns methods and figures, and refuses verdicts.
package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/underfs"
)

// Result is one case's figures. Value and Limit are medians in Unit.
type Result struct {
	Case  string  `json:"case"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Limit float64 `json:"limit,omitempty"` // of the plain system call or direct access; 0 where there is none
	Ratio float64 `json:"ratio,omitempty"` // value / limit, at least 1 is as good as the limit
	CPU   float64 `json:"cpu,omitempty"`   // seconds that client and servers used in one run, the median
	Runs  int     `json:"runs"`
	Note  string  `json:"note,omitempty"`
}

// Cluster is what a benchmark runs on. Servers are other processes.
type Cluster struct {
	Local  *client.Client // reaches the worker by its unix socket
	Remote *client.Client // reaches the worker over TCP only
	// Connect makes a further client that knows nothing yet, by the unix socket.
	Connect  func(ctx context.Context) (*client.Client, error)
	MemDir   string      // a directory on the medium of the MEM tier, for plain reads
	StoreDir string      // a directory on the medium of the local store
	Through  sluice.Path // a mount of a directory below StoreDir
	Echo     Echo        // the rpc echo of the master, the limit of metadata reads
	Servers  []int       // process ids of master and workers, for the CPU they use

	Bucket      sluice.Path      // a mount of an object store; "" leaves its cases out
	BucketStore underfs.Baseline // the same bucket by its own library
	Link        sluice.Path      // the same bucket behind a slow link; "" leaves its cases out
	LinkStore   underfs.Baseline
}

// Echo makes one empty round trip to the master.
type Echo func(ctx context.Context) error

// Options choose what runs.
type Options struct {
	Match string // a pattern of case names as in path.Match; "" is all
	Runs  int    // repetitions; default 5
	Scale float64
	Out   io.Writer
	JSON  bool
}

// benchCase measures value and limit once per run, so that both see the same machine.
type benchCase struct {
	name, unit string
	needs      func(*Cluster) bool
	setup      func(ctx context.Context, b *bench) error
	value      func(ctx context.Context, b *bench) (float64, error)
	limit      func(ctx context.Context, b *bench) (float64, error) // nil where there is none
}

// bench is one running case.
type bench struct {
	*Cluster
	opts  Options
	dir   sluice.Path // of this case, outside mounts
	files []sluice.Path
	plain []string
	keep  any
	run   int
	note  string
}

// Names lists the cases.
func Names() []string {
	var all []string
	for _, c := range cases() {
		all = append(all, c.name)
	}
	return all
}

func cases() []benchCase {
	return slices.Concat(readCases(), metaCases(), storeCases())
}

// Run runs the cases that match and prints each as it is done.
func Run(ctx context.Context, c *Cluster, o Options) ([]Result, error) {
	if o.Runs <= 0 {
		o.Runs = 5
	}
	if o.Scale <= 0 {
		o.Scale = 1
	}
	var all []Result
	for i, bc := range cases() {
		if ok, err := path.Match(o.Match, bc.name); o.Match != "" && (err != nil || !ok) {
			if err != nil {
				return nil, &sluice.Error{Op: "bench", Kind: sluice.Invalid, Err: fmt.Errorf("pattern %q: %w", o.Match, err)}
			}
			continue
		}
		if bc.needs != nil && !bc.needs(c) {
			continue
		}
		r, err := runCase(ctx, bc, &bench{Cluster: c, opts: o, dir: sluice.Root.Join(fmt.Sprintf("bench-%d", i))})
		if err != nil {
			return all, fmt.Errorf("case %s: %w", bc.name, err)
		}
		all = append(all, r)
		if err := print(o, r); err != nil {
			return all, err
		}
	}
	if len(all) == 0 {
		return nil, &sluice.Error{Op: "bench", Kind: sluice.Invalid, Err: fmt.Errorf("no case matches %q; see sluice bench --list", o.Match)}
	}
	return all, nil
}

func print(o Options, r Result) error {
	if o.JSON {
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(o.Out, "%s\n", b)
		return err
	}
	limit := ""
	if r.Limit > 0 {
		limit = fmt.Sprintf("limit %10.4g  ratio %5.2f", r.Limit, r.Ratio)
	}
	_, err := fmt.Fprintf(o.Out, "%-24s %10.4g %-10s %-36s cpu %6.3g  %s\n", r.Case, r.Value, r.Unit, limit, r.CPU, r.Note)
	return err
}

func runCase(ctx context.Context, bc benchCase, b *bench) (Result, error) {
	if _, err := b.Local.Mkdir(ctx, b.dir, sluice.MkdirOptions{Parents: true}); err != nil {
		return Result{}, err
	}
	defer func() {
		_ = b.Local.Remove(context.WithoutCancel(ctx), b.dir, sluice.RemoveOptions{Recursive: true}) // the cluster is the benchmark's own
	}()
	if bc.setup != nil {
		if err := bc.setup(ctx, b); err != nil {
			return Result{}, fmt.Errorf("setup: %w", err)
		}
	}
	var values, limits, cpus []float64
	for b.run = -1; b.run < b.opts.Runs; b.run++ {
		before := cpuTime(b.Servers)
		v, err := bc.value(ctx, b)
		if err != nil {
			return Result{}, err
		}
		used := (cpuTime(b.Servers) - before).Seconds()
		l := 0.0
		if bc.limit != nil {
			if l, err = bc.limit(ctx, b); err != nil {
				return Result{}, fmt.Errorf("limit: %w", err)
			}
		}
		if b.run < 0 {
			continue // the first one touches memory that nobody has touched before
		}
		values, cpus = append(values, v), append(cpus, used)
		if bc.limit != nil {
			limits = append(limits, l)
		}
	}
	r := Result{Case: bc.name, Unit: bc.unit, Value: median(values), Limit: median(limits), CPU: median(cpus), Runs: b.opts.Runs, Note: b.note}
	if r.Limit > 0 {
		r.Ratio = r.Value / r.Limit
	}
	return r, nil
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// cpuTime is what this process and the servers have used.
func cpuTime(servers []int) time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	used := time.Duration(u.Utime.Nano() + u.Stime.Nano())
	for _, pid := range servers {
		used += cpuTimeOf(pid)
	}
	return used
}

// clockTick is the unit of the times in /proc, which Linux fixes for all architectures
// that Go knows.
const clockTick = 10 * time.Millisecond

// cpuTimeOf reads what a process has used; 0 where it cannot be seen.
func cpuTimeOf(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The command's name may hold anything; the fields behind it are numbers.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err1 != nil || err2 != nil {
		return 0
	}
	return time.Duration(user+system) * clockTick
}

// scaled returns n by the options' scale, at least 1.
func (b *bench) scaled(n int) int { return max(1, int(float64(n)*b.opts.Scale)) }

// rate runs n operations by callers at once and returns how many a second.
func rate(ctx context.Context, callers, n int, op func(ctx context.Context, i int) error) (float64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	begin := time.Now()
	done := make(chan error, callers)
	for c := range callers {
		go func() {
			for i := c; i < n; i += callers {
				if err := op(ctx, i); err != nil {
					cancel(err)
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	var failed error
	for range callers {
		if err := <-done; err != nil && failed == nil {
			failed = err
		}
	}
	return float64(n) / time.Since(begin).Seconds(), failed
}

// speed returns GB/s for bytes moved by do.
func speed(bytes int64, do func() error) (float64, error) {
	begin := time.Now()
	err := do()
	return float64(bytes) / 1e9 / time.Since(begin).Seconds(), err
}

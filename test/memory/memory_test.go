// Package memory shows that the client library stays within a bound of memory, whatever it
// reads: promise 9 for the process of a user.
package memory

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
	"github.com/sluicefs/sluice/internal/cluster"
)

// reader in the environment makes this binary the reading process: it names the master.
const reader = "SLUICE_TEST_MEMORY_MASTER"

func TestMain(m *testing.M) {
	if address := os.Getenv(reader); address != "" {
		if err := read(context.Background(), address); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// work is what is read, and how large the process may become.
type work struct {
	file   int64 // bytes
	inARow int64 // bytes
	random int   // reads
	limit  int64 // bytes
}

// load is less than what is promised unless SLUICE_SOAK is set: what grows shows in it, too.
func load() work {
	w := work{file: 100 << 30, inARow: 256 << 20, random: 1500, limit: 64 << 20}
	if os.Getenv("SLUICE_SOAK") != "" {
		w.inARow, w.random = 4<<30, 100_000
	}
	return w
}

// A process that reads 4 GiB in a row and then 100,000 times at random from a file of 100 GiB
// without caching it stays below 64 MB, all that it has resident included.
func TestClientIsBounded(t *testing.T) {
	c := cluster.Start(t, cluster.Options{})
	dir := c.MountLocal("/m", sluice.MountOptions{})
	w := load()
	f, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(w.file); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), reader+"="+c.Address())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the reader: %v\n%s", err, out)
	}
	peak, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		t.Fatalf("the reader said %q", out)
	}
	t.Logf("%d MiB in a row and %d reads at random: %d MiB resident at most", w.inARow>>20, w.random, peak>>20)
	if peak > w.limit {
		t.Errorf("the reader had %d MiB resident, at most %d are allowed", peak>>20, w.limit>>20)
	}
}

// read does the work and prints the largest resident size.
func read(ctx context.Context, address string) error {
	c, err := client.New(ctx, client.Config{Masters: client.Static(address)})
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	h, err := c.Open(ctx, "/m/sparse", sluice.OpenOptions{Read: sluice.NoCache})
	if err != nil {
		return err
	}
	defer h.Close()
	w := load()
	n, err := io.CopyN(io.Discard, sluice.NewReader(ctx, h, 0), w.inARow)
	if err != nil {
		return fmt.Errorf("in a row, after %d bytes: %w", n, err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, 4096)
	for i := range w.random {
		off := random.Int64N(w.file - int64(len(p)))
		if _, err := h.ReadAt(ctx, p, off); err != nil {
			return fmt.Errorf("read %d at random, at %d: %w", i, off, err)
		}
	}
	peak, err := resident()
	if err == nil {
		fmt.Println(peak)
	}
	return err
}

// resident returns the most bytes that this process had resident.
func resident() (int64, error) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if text, ok := strings.CutPrefix(s.Text(), "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("no VmHWM in %s", f.Name())
}

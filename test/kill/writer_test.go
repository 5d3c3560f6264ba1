package kill

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
)

// TestMain makes the test binary a writer when it is asked to be one.
func TestMain(m *testing.M) {
	if seed := os.Getenv("SLUICE_KILL_WRITER"); seed != "" {
		n, _ := strconv.ParseUint(seed, 10, 64)
		os.Exit(write(n))
	}
	os.Exit(m.Run())
}

// content makes the bytes of a state.
func content(s state) []byte {
	r := rand.New(rand.NewPCG(s.seed, 7))
	p := make([]byte, s.length)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// lengths are those at which something may be off by one.
func lengths() []int {
	return []int{0, 1, 100, 4096, 65535, 65536, 65537, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3 << 20}
}

// write makes, replaces, renames and deletes files until it is killed or its standard
// input ends, and says on standard output what it tries and what was acknowledged.
func write(seed uint64) int {
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1)) // its end is the signal
		stop()
	}()
	c, err := client.New(ctx, client.Config{Masters: client.Static(os.Getenv("SLUICE_KILL_MASTER")), Retry: 20 * time.Second})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	r := rand.New(rand.NewPCG(seed, 11))
	live := map[string]state{}
	for i := 0; ctx.Err() == nil; i++ {
		dir := []string{"/cache", "/store"}[r.IntN(2)]
		p := fmt.Sprintf("%s/w%d-%d", dir, seed, r.IntN(40))
		old, there := live[p]
		switch op := r.IntN(10); {
		case op < 6 || !there:
			s := state{seed: r.Uint64(), length: lengths()[r.IntN(len(lengths()))]}
			say("try", p, s)
			settle(p, s, put(ctx, c, sluice.Path(p), content(s)), live)
		case op < 8:
			say("try", p, state{absent: true})
			settle(p, state{absent: true}, c.Remove(ctx, sluice.Path(p), sluice.RemoveOptions{}), live)
		default:
			to := fmt.Sprintf("%s/w%d-%d", dir, seed, 40+i)
			say("try", to, old)
			say("try", p, state{absent: true})
			err := c.Rename(ctx, sluice.Path(p), sluice.Path(to), sluice.RenameOptions{})
			settle(p, state{absent: true}, err, live)
			settle(to, old, err, live)
		}
	}
	return 0
}

func put(ctx context.Context, c *client.Client, p sluice.Path, data []byte) error {
	w, err := c.Create(ctx, p, sluice.CreateOptions{})
	if err != nil {
		return err
	}
	defer w.Abort(context.WithoutCancel(ctx))
	for r := bytes.NewReader(data); r.Len() > 0; {
		piece := make([]byte, min(r.Len(), 300_000))
		_, _ = r.Read(piece)
		if _, err := w.Write(ctx, piece); err != nil {
			return err
		}
	}
	_, err = w.Close(ctx)
	return err
}

func say(what, path string, s state) { fmt.Println(what, path, s) }

// settle says how an operation ended. An error leaves the outcome open: the next
// operation on the path is judged against both.
func settle(path string, s state, err error, live map[string]state) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
		delete(live, path)
		return
	}
	say("ack", path, s)
	if s.absent {
		delete(live, path)
	} else {
		live[path] = s
	}
}

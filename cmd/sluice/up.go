package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/internal/master"
	"github.com/sluicefs/sluice/internal/shell"
	"github.com/sluicefs/sluice/internal/web"
)

// metric is short for the figures that metrics.go makes of the rooms' counters.
type metric = web.Metric

func joined(err ...error) error { return errors.Join(err...) }

func (p *program) up() *cobra.Command {
	var clear, yes bool
	var masters int
	cmd := &cobra.Command{
		Use: "up", Short: "Start a master and a worker on this machine", Args: cobra.NoArgs,
		Long: `Start a master and a worker on this machine.

Everything lies below the data directory (~/.sluice, or --set data=DIR); nothing listens beyond this machine.
Ctrl-C or SIGTERM stops both within seconds; the next start goes on where this one ended. A tmpfs that the
worker mounted for its MEM tier stays mounted, with what is cached; --clear removes it, after listing what
exists nowhere else.

With --masters 3 there are three masters in this process, that elect a primary: to try what ha.md describes, not to
survive anything. A data directory stays with the number it was first started with.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if clear {
				return p.clear(cmd.Context(), yes)
			}
			h, err := p.host(true)
			if err != nil {
				return err
			}
			if masters < 1 || masters > 9 {
				return &shell.Usage{Err: fmt.Errorf("--masters %d: give 1 to 9, an odd number", masters)}
			}
			http, err := h.startBoth(cmd.Context(), masters)
			if err != nil {
				return joined(err, h.stop())
			}
			h.welcome(http)
			err = h.wait(cmd.Context())
			fmt.Fprintln(h.out, "stopped; sluice up goes on from here")
			for _, dir := range h.tmpfs {
				fmt.Fprintf(h.out, "what is cached stays in memory, on the tmpfs %s; sluice up --clear removes it\n", dir)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&clear, "clear", false, "drop the cache of a stopped worker and unmount its tmpfs")
	cmd.Flags().BoolVar(&yes, "yes", false, "with --clear: even what exists nowhere else")
	cmd.Flags().IntVar(&masters, "masters", 1, "how many masters to start")
	return cmd
}

// startBoth starts a master, or several, and a worker in this process and returns where
// metrics are.
func (h *host) startBoth(ctx context.Context, masters int) (http string, err error) {
	var m desk
	if masters == 1 {
		m, err = h.startMaster(ctx)
	} else {
		var all []*master.Member
		if all, err = h.startSeveral(ctx, masters); err == nil {
			m = all[0]
		}
	}
	if err != nil {
		return "", err
	}
	w, err := h.startWorker(ctx)
	if err != nil {
		return "", err
	}
	collect := func() []metric { return append(masterMetrics(m.Stats()), workerMetrics(w.Stats())...) }
	return h.listenHTTP("master", h.cfg.Master.HTTP, collect, func() error { return joined(m.Ready(), w.Ready()) })
}

// welcome says where things are and what to type next.
func (h *host) welcome(http string) {
	fmt.Fprintf(h.out, "Sluice is up. Data: %s\n", h.cfg.Data)
	for _, s := range []struct{ role, listen string }{{"master", h.cfg.Master.Listen}, {"worker", h.cfg.Worker.Listen}} {
		fmt.Fprintf(h.out, "  %s  %s\n", s.role, strings.TrimSpace("unix:"+h.cfg.socket(s.role)+" "+s.listen))
	}
	if http != "" {
		fmt.Fprintf(h.out, "  http    http://%s/metrics, /health/ready, /debug/pprof/\n", http)
	}
	fmt.Fprint(h.out, "Next:  sluice fs mount /data file:///some/dir && sluice fs ls -l /data\n")
}

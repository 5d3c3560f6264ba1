// Package web is the door for browsers and monitors: Prometheus metrics, health and
// pprof over HTTP. It owns names and routes of what can be seen, and refuses to know
// where the figures come from: rooms hand them in as plain values.
package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metric is one figure at one moment. Names are documented in docs/metrics.md.
type Metric struct {
	Name    string // such as sluice_worker_hit_bytes_total
	Help    string
	Counter bool // only grows; else a gauge
	Value   float64
	Labels  map[string]string
}

// Config says what is shown.
type Config struct {
	// Collect returns the figures. It is called for each scrape and must be quick.
	Collect func() []Metric
	// Ready returns why the server cannot serve yet, nil if it can.
	Ready func() error
	// Trusted are the networks beyond this machine that are answered. Without any only
	// loopback peers are.
	Trusted []netip.Prefix
	// Log gets errors of the HTTP server; nil is silence.
	Log *slog.Logger
}

// Server answers on one listener.
type Server struct {
	http http.Server
	log  *slog.Logger
}

// New makes a server. pprof is only served to loopback peers.
func New(cfg Config) *Server {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collector{cfg.Collect})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("GET /health/live", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "live") })
	mux.HandleFunc("GET /health/ready", func(w http.ResponseWriter, _ *http.Request) {
		if err := cfg.Ready(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	for pattern, handler := range map[string]http.HandlerFunc{
		"GET /debug/pprof/": pprof.Index, "GET /debug/pprof/cmdline": pprof.Cmdline, "GET /debug/pprof/profile": pprof.Profile,
		"GET /debug/pprof/symbol": pprof.Symbol, "GET /debug/pprof/trace": pprof.Trace,
	} {
		mux.HandleFunc(pattern, onLoopback(handler))
	}
	return &Server{log: log, http: http.Server{Handler: onlyTrusted(cfg.Trusted, mux), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}}
}

// Serve answers on l until Shutdown.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown stops answering and waits for what is under way until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

// onlyTrusted refuses peers that are neither on this machine nor in a trusted network.
func onlyTrusted(trusted []netip.Prefix, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ip := peer(r)
		if !ip.IsLoopback() && !slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(ip) }) {
			http.Error(w, "this network is not among the trusted ones (auth.trusted)", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// peer is the address a request comes from; not valid where that is not known.
func peer(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// onLoopback refuses peers of other machines.
func onLoopback(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !peer(r).IsLoopback() {
			http.Error(w, "profiles are for this machine only", http.StatusForbidden)
			return
		}
		h(w, r)
	}
}

// collector hands the figures to Prometheus.
type collector struct{ collect func() []Metric }

// Describe implements prometheus.Collector; the metrics are found out at each scrape.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	if c.collect == nil {
		return
	}
	for _, m := range c.collect() {
		kind := prometheus.GaugeValue
		if m.Counter {
			kind = prometheus.CounterValue
		}
		metric, err := prometheus.NewConstMetric(prometheus.NewDesc(m.Name, m.Help, nil, m.Labels), kind, m.Value)
		if err != nil {
			metric = prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
		}
		out <- metric
	}
}

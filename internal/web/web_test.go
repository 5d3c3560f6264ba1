package web

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestServer(t *testing.T) {
	defer goleak.VerifyNone(t)
	ready := errors.New("no primary yet")
	s := New(Config{
		Collect: func() []Metric {
			return []Metric{{Name: "sluice_worker_hit_bytes_total", Help: "h", Counter: true, Value: 42, Labels: map[string]string{"tier": "MEM"}}}
		},
		Ready: func() error { return ready },
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	get := func(path string) (int, string) {
		t.Helper()
		r, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return r.StatusCode, string(b)
	}
	if code, body := get("/metrics"); code != 200 || !strings.Contains(body, `sluice_worker_hit_bytes_total{tier="MEM"} 42`) {
		t.Errorf("/metrics: %d, without the figure:\n%.500s", code, body)
	}
	if code, _ := get("/health/live"); code != 200 {
		t.Errorf("/health/live: %d", code)
	}
	if code, body := get("/health/ready"); code != 503 || !strings.Contains(body, "no primary yet") {
		t.Errorf("/health/ready before: %d %q", code, body)
	}
	ready = nil
	if code, _ := get("/health/ready"); code != 200 {
		t.Errorf("/health/ready after: %d", code)
	}
	if code, _ := get("/debug/pprof/cmdline"); code != 200 {
		t.Errorf("pprof on loopback: %d", code)
	}
	http.DefaultClient.CloseIdleConnections()
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Beyond loopback only the networks that the operator names are answered.
func TestTrustedNetworks(t *testing.T) {
	s := New(Config{Ready: func() error { return nil }, Trusted: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}})
	for peer, want := range map[string]int{"10.1.2.3:9": 200, "[::ffff:10.1.2.3]:9": 200, "10.2.0.1:9": 403, "127.0.0.1:9": 200, "[2001:db8::1]:9": 403, "nonsense": 403} {
		r := httptest.NewRequest("GET", "/health/live", nil)
		r.RemoteAddr = peer
		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("health from %s: got %d, want %d", peer, w.Code, want)
		}
	}
}

func TestPprofIsLocal(t *testing.T) {
	s := New(Config{Ready: func() error { return nil }})
	for peer, want := range map[string]int{"192.0.2.7:999": 403, "127.0.0.1:999": 200, "[::1]:9": 200, "nonsense": 403} {
		r := httptest.NewRequest("GET", "/debug/pprof/cmdline", nil)
		r.RemoteAddr = peer
		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("pprof from %s: got %d, want %d", peer, w.Code, want)
		}
	}
}

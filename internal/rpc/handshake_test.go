package rpc

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/internal/auth"

	sluice "github.com/sluicefs/sluice"
)

func newKeys(t testing.TB) *auth.Keyring {
	t.Helper()
	k, err := auth.NewKeyring(nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func issue(t testing.TB, k *auth.Keyring, tok auth.Token) string {
	t.Helper()
	s, err := k.IssueToken(tok)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestWho shows what a server learns of its callers, and whom it turns away.
func TestWho(t *testing.T) {
	keys, other := newKeys(t), newKeys(t)
	rotated, err := keys.Rotated()
	if err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	token := issue(t, keys, auth.Token{User: "ann", Expiry: later, SpeakFor: true})
	stranger := uint32(os.Geteuid()) + 1
	for _, c := range []struct {
		name    string
		network string
		server  func(*ServerConfig)
		client  ClientConfig
		want    string
		kind    error
	}{
		{name: "key", client: ClientConfig{Credential: Credential{Keys: keys, Role: RoleWorker}}, want: "worker cluster key sluice super=true local=false speak=true"},
		{name: "newer key at the server", server: func(c *ServerConfig) { c.Keys = rotated }, client: ClientConfig{Credential: Credential{Keys: keys}}, want: "client cluster key sluice super=true local=false speak=true"},
		{name: "newer key at the client", client: ClientConfig{Credential: Credential{Keys: rotated}}, want: "client cluster key sluice super=true local=false speak=true"},
		{name: "another cluster's key", client: ClientConfig{Credential: Credential{Keys: other}}, kind: sluice.Unauthenticated},
		{name: "server without key", server: func(c *ServerConfig) { c.Keys = nil }, client: ClientConfig{Credential: Credential{Keys: keys}}, kind: sluice.Unauthenticated},
		{name: "token", client: ClientConfig{Credential: Credential{Token: token}}, want: "client token ann super=false local=false speak=true"},
		{name: "admin token", client: ClientConfig{Credential: Credential{Role: RoleAdmin, Token: issue(t, keys, auth.Token{User: "root", Expiry: later, Admin: true})}}, want: "admin token root super=true local=false speak=false"},
		{name: "token of another cluster", client: ClientConfig{Credential: Credential{Token: issue(t, other, auth.Token{User: "ann", Expiry: later})}}, kind: sluice.Unauthenticated},
		{name: "expired token", server: func(c *ServerConfig) { c.Now = func() time.Time { return later } }, client: ClientConfig{Credential: Credential{Token: token}}, kind: sluice.Unauthenticated},
		{name: "worker with a token", client: ClientConfig{Credential: Credential{Role: RoleWorker, Token: token}}, kind: sluice.Unauthenticated},
		{name: "nobody", client: ClientConfig{Credential: Credential{User: "bob"}}, want: "client none bob super=false local=false speak=false"},
		{name: "nobody of a strange name", client: ClientConfig{Credential: Credential{User: "a b"}}, kind: sluice.Unauthenticated},
		{name: "nobody where a credential is due", server: func(c *ServerConfig) { c.Anonymous = false }, client: ClientConfig{Credential: Credential{User: "bob"}}, kind: sluice.Unauthenticated},
		{name: "superuser's uid", network: "unix", server: func(c *ServerConfig) {
			c.LookupUser = func(uint32) (string, []string) { return "eve", nil }
		}, want: "client uid eve super=true local=true speak=false"},
		{name: "unknown uid", network: "unix", server: func(c *ServerConfig) {
			c.Superuser = &stranger
			c.LookupUser = func(uint32) (string, []string) { return "", nil }
		}, want: "client uid #" + uidText() + " super=false local=true speak=false"},
		{name: "same cluster", server: cluster("c1"), client: ClientConfig{Cluster: "c1", Credential: Credential{Keys: keys}}, want: "client cluster key sluice super=true local=false speak=true"},
		{name: "another cluster", server: cluster("c1"), client: ClientConfig{Cluster: "c2", Credential: Credential{Keys: keys}}, kind: sluice.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := start(t, setting{network: c.network, size: 16,
				server: func(s *ServerConfig) {
					s.Keys = keys
					if c.server != nil {
						c.server(s)
					}
				},
				client: func(cc *ClientConfig) { *cc = c.client },
			})
			var resp text
			err := p.Call(t.Context(), methodWho, say(""), &resp)
			if c.kind != nil {
				if !errors.Is(err, c.kind) {
					t.Fatalf("got %v, want kind %v", err, c.kind)
				}
				for _, secret := range []string{token, c.client.Credential.Token} {
					if secret != "" && strings.Contains(err.Error(), secret) {
						t.Fatalf("the error shows the token: %v", err)
					}
				}
				return
			}
			if err != nil || string(resp) != c.want {
				t.Fatalf("got %q, %v, want %q", resp, err, c.want)
			}
		})
	}
}

func uidText() string { return big.NewInt(int64(os.Geteuid())).String() }

func cluster(name string) func(*ServerConfig) {
	return func(c *ServerConfig) { c.Identity = func() Identity { return Identity{Cluster: name, Incarnation: 7} } }
}

func TestPeerOfClient(t *testing.T) {
	p := start(t, setting{network: "unix", server: cluster("c1")})
	if p.Local() {
		t.Error("local before it is connected")
	}
	if err := p.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.Peer(); !p.Local() || got.Cluster != "c1" || got.Incarnation != 7 || got.Role != RoleMaster || got.Address != p.target.Socket {
		t.Errorf("got %+v", got)
	}
}

// TestSocketFirst falls back to the address only if nobody answers at the socket.
func TestSocketFirst(t *testing.T) {
	p := start(t, setting{})
	c := NewClient(ClientConfig{Credential: Credential{User: "u"}}, Target{Socket: t.TempDir() + "/none", Address: p.target.Address})
	defer c.Close()
	if err := c.Connect(t.Context()); err != nil || c.Local() {
		t.Fatalf("got %v, local %t", err, c.Local())
	}
}

// TestFakeServer is a server that relays everything but does not have the key.
func TestFakeServer(t *testing.T) {
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.Close()
		in := inlet{read: b.Read, buf: make([]byte, inletStart)}
		if _, err := readHello(&in, frameClientHello); err != nil {
			return
		}
		writeHello(b, frameServerHello, (&serverHello{version: 1, nonce: newNonce(), key: 1, role: RoleMaster}).encode())
		if _, err := readHello(&in, frameClientProof); err != nil {
			return
		}
		writeHello(b, frameWelcome, (&welcome{mac: make([]byte, 32)}).encode())
	}()
	cfg := ClientConfig{Dial: func(context.Context, string, string) (net.Conn, error) { return a, nil }, Credential: Credential{Keys: newKeys(t)}}
	c := NewClient(cfg, Target{Address: "x:1"})
	err := c.Connect(t.Context())
	c.Close()
	<-done
	if !errors.Is(err, sluice.Unauthenticated) {
		t.Fatalf("got %v, want unauthenticated", err)
	}
}

// TestOtherVersion gets a refusal that says what to do, in a format that never changes.
func TestOtherVersion(t *testing.T) {
	p := start(t, setting{})
	nc, err := net.Dial("tcp", p.target.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	hello := clientHello{magic: helloMagic, oldest: 2, newest: 9, role: RoleClient, nonce: newNonce(), window: window}
	if err := writeHello(nc, frameClientHello, hello.encode()); err != nil {
		t.Fatal(err)
	}
	in := inlet{read: nc.Read, buf: make([]byte, inletStart)}
	b, err := readHello(&in, frameServerHello)
	if err != nil {
		t.Fatal(err)
	}
	var s serverHello
	if err := s.decode(b); err != nil || s.version != 0 || s.refusal == nil || s.refusal.kind != sluice.Unsupported || !strings.Contains(s.refusal.text, "versions 2 to 9") {
		t.Fatalf("got %+v, %v", s, err)
	}
}

// TestBadFrames sends what no client sends; the server closes the connection without
// setting memory aside, and goes on serving others.
func TestBadFrames(t *testing.T) {
	p := start(t, setting{})
	frame := func(kind frameType, h header, extra int) []byte { return appendPrefix(nil, kind, &h, extra) }
	for name, b := range map[string][]byte{
		"4 GiB":            {0xff, 0xff, 0xff, 0xff, byte(frameRequest), 0, 0, 0},
		"HTTP":             []byte("GET / HTTP/1.1\r\n\r\n"),
		"header too long":  {0, 1, 0, 0, byte(frameRequest), 0, 255, 1},
		"unknown type":     frame(99, header{call: 1}, 0),
		"a hello":          frame(frameClientHello, header{}, 0),
		"an answer":        frame(frameAnswer, header{call: 1}, 0),
		"huge message":     frame(frameRequest, header{call: 1, body: 1 << 31}, 1<<31),
		"piece too large":  frame(framePiece, header{call: 1, payload: PieceSize + 1, sums: 5}, PieceSize+1+21),
		"no checksums":     frame(framePiece, header{call: 1, payload: 8}, 9),
		"parts do not fit": frame(frameRequest, header{call: 1, body: 5}, 9),
		"false credit":     frame(frameCredit, header{credit: 1 << 40}, 0),
		"unsent credit":    frame(frameCredit, header{credit: 1}, 0),
		"bad varint":       append([]byte{11, 0, 0, 0, byte(frameRequest), 0, 11, 0}, bytes.Repeat([]byte{0xff}, 11)...),
	} {
		t.Run(name, func(t *testing.T) {
			nc, err := net.Dial("tcp", p.target.Address)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			cfg := ClientConfig{Credential: Credential{User: "u"}}.withDefaults()
			in := inlet{read: nc.Read, buf: make([]byte, inletStart)}
			if _, _, err := cfg.greet(nc, &in, false); err != nil {
				t.Fatal(err)
			}
			if _, err := nc.Write(b); err != nil {
				t.Fatal(err)
			}
			nc.SetReadDeadline(time.Now().Add(10 * time.Second))
			if n, err := nc.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("the connection is still open: %d, %v", n, err)
			}
		})
	}
	if err := p.Call(t.Context(), methodEcho, say("q"), nil); err != nil {
		t.Fatal(err)
	}
}

func TestValidate(t *testing.T) {
	keys, network := newKeys(t), []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for _, c := range []struct {
		name   string
		cfg    ServerConfig
		listen string
		ok     bool
	}{
		{"loopback", ServerConfig{}, "127.0.0.1:1", true},
		{"loopback 6", ServerConfig{}, "[::1]:1", true},
		{"socket", ServerConfig{}, "unix:/run/s", true},
		{"beyond without key", ServerConfig{TLS: &tls.Config{}}, "0.0.0.0:1", false},
		{"every address", ServerConfig{}, ":1", false},
		{"beyond with key and TLS", ServerConfig{Keys: keys, TLS: &tls.Config{}}, ":1", true},
		{"beyond without TLS", ServerConfig{Keys: keys}, "10.1.1.1:1", false},
		{"plaintext without networks", ServerConfig{Keys: keys, Plaintext: true}, "10.1.1.1:1", false},
		{"networks without plaintext", ServerConfig{Keys: keys, TrustedNetworks: network}, "10.1.1.1:1", false},
		{"plaintext and networks", ServerConfig{Keys: keys, Plaintext: true, TrustedNetworks: network}, "10.1.1.1:1", true},
		{"the whole world", ServerConfig{Keys: keys, Plaintext: true, TrustedNetworks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}, "10.1.1.1:1", false},
		{"no port", ServerConfig{}, "127.0.0.1", false},
	} {
		if err := c.cfg.Validate(c.listen); (err == nil) != c.ok {
			t.Errorf("%s: got %v, want ok %t", c.name, err, c.ok)
		} else if err != nil && !errors.Is(err, sluice.Invalid) {
			t.Errorf("%s: kind of %v is not invalid", c.name, err)
		}
	}
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := NewServer(ServerConfig{}, nil).Serve(l); !errors.Is(err, sluice.Invalid) {
		t.Errorf("Serve beyond loopback without key: %v, want invalid", err)
	}
	if _, err := l.Accept(); err == nil {
		t.Error("the refused listener is still open")
	}
}

func TestTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "t"}, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	keys := newKeys(t)
	p := start(t, setting{
		server: func(c *ServerConfig) {
			c.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
			c.Keys = keys
		},
		client: func(c *ClientConfig) {
			c.TLS = &tls.Config{RootCAs: roots}
			c.Credential.Keys = keys
			c.BulkConns = 1
		},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := p.Call(ctx, methodBlock, say("q"), nil); !errors.Is(err, sluice.Timeout) {
		t.Fatalf("got %v, want timeout", err)
	}
	for range 3 {
		buf := make([]byte, 1<<20)
		if n, err := p.CallPayload(t.Context(), methodFile, say("q"), nil, Payload{Recv: buf}); err != nil || n != len(buf) || !bytes.Equal(buf, p.handler.data) {
			t.Fatalf("got %d, %v", n, err)
		}
		if err := p.Call(t.Context(), methodEcho, say("q"), nil); err != nil {
			t.Fatal(err)
		}
	}
	plain := NewClient(ClientConfig{Credential: Credential{Keys: keys}}, p.target)
	defer plain.Close()
	if err := plain.Connect(t.Context()); err == nil {
		t.Error("a client without TLS was accepted")
	}
	wrong := NewClient(ClientConfig{Credential: Credential{Keys: keys}, TLS: &tls.Config{}}, p.target)
	defer wrong.Close()
	if err := wrong.Connect(t.Context()); !errors.Is(err, sluice.Unavailable) {
		t.Errorf("an unknown certificate: got %v, want unavailable", err)
	}
}

func TestCredentialStaysInside(t *testing.T) {
	c := ClientConfig{Credential: Credential{Token: "tok-3n"}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%q"} {
		if s := fmt.Sprintf(verb, c.Credential) + fmt.Sprintf(verb, c); strings.Contains(s, "tok-3n") {
			t.Errorf("%s shows the token: %s", verb, s)
		}
	}
	var b bytes.Buffer
	slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "c", c.Credential)
	if strings.Contains(b.String(), "tok-3n") {
		t.Errorf("a log line shows the token: %s", b.String())
	}
}

// TestRelay lets somebody in the middle change a byte of the server's hello: neither
// side accepts the other's proof.
func TestRelay(t *testing.T) {
	p := start(t, setting{server: func(c *ServerConfig) { c.Keys = newKeys(t) }})
	server, err := net.Dial("tcp", p.target.Address)
	if err != nil {
		t.Fatal(err)
	}
	client, middle := net.Pipe()
	done := make(chan struct{}, 2)
	go func() {
		io.Copy(server, middle)
		done <- struct{}{}
	}()
	go func() {
		defer middle.Close()
		in := inlet{read: server.Read, buf: make([]byte, inletStart)}
		if b, err := readHello(&in, frameServerHello); err == nil {
			var s serverHello
			s.decode(b)
			s.incarnation++
			writeHello(middle, frameServerHello, s.encode())
			if b, err := readHello(&in, frameWelcome); err == nil {
				writeHello(middle, frameWelcome, b)
			}
		}
		done <- struct{}{}
	}()
	c := NewClient(ClientConfig{Dial: func(context.Context, string, string) (net.Conn, error) { return client, nil }, Credential: Credential{Keys: p.server.cfg.Keys}}, Target{Address: "x:1"})
	if err := c.Connect(t.Context()); !errors.Is(err, sluice.Unauthenticated) {
		t.Errorf("got %v, want unauthenticated", err)
	}
	c.Close()
	server.Close()
	<-done
	<-done
}

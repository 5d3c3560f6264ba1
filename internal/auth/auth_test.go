package auth

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	sluice "github.com/sluicefs/sluice"
)

// seeded is a source of chance that gives the same keys each time.
func seeded(seed byte) *mathrand.ChaCha8 { return mathrand.NewChaCha8([32]byte{seed}) }

func ring(t testing.TB, seed byte) *Keyring {
	t.Helper()
	k, err := NewKeyring(seeded(seed))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// noon is when these tests happen.
func noon() time.Time { return time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC) }

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	if _, err := LoadKeyring(path, nil); !errors.Is(err, sluice.NotFound) {
		t.Fatalf("absent: got %v, want not found", err)
	}
	a, err := LoadOrCreateKeyring(path, seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Fatalf("mode %v, %v, want 0600", info.Mode(), err)
	}
	b, err := LoadOrCreateKeyring(path, nil)
	if err != nil || !bytes.Equal(a.text(), b.text()) {
		t.Fatalf("loaded ring differs: %v", err)
	}
	if _, err := CreateKeyring(path, nil); !errors.Is(err, sluice.Exists) {
		t.Fatalf("create over a file: got %v, want exists", err)
	}
	for _, mode := range []os.FileMode{0o644, 0o640, 0o602} {
		os.Chmod(path, mode)
		if _, err := LoadKeyring(path, nil); !errors.Is(err, sluice.Permission) {
			t.Errorf("mode %o: got %v, want permission", mode, err)
		}
	}
	os.Chmod(path, 0o600)
	grant := a.SignGrant([]byte("c"), noon())
	c, err := a.Rotated()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Save(path); err != nil {
		t.Fatal(err)
	}
	d, err := LoadKeyring(path, nil)
	if err != nil || d.Signing() != 2 {
		t.Fatalf("after rotation: %v, %v", d, err)
	}
	if _, err := d.VerifyGrant(grant, noon().Add(-1)); err != nil {
		t.Errorf("a grant of the older key: %v", err)
	}
	if _, err := a.VerifyGrant(d.SignGrant(nil, noon()), noon().Add(-time.Second)); !errors.Is(err, sluice.Unauthenticated) {
		t.Errorf("a grant of a key unknown here: got %v, want unauthenticated", err)
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".keys-*"))
	if len(left) > 0 {
		t.Errorf("temporary files are left: %v", left)
	}
}

// TestKeyFileGolden reads a file of version 1 as every later version must.
func TestKeyFileGolden(t *testing.T) {
	k, err := parseKeyring([]byte("sluice-keys 1\n# a comment\n1 "+strings.Repeat("01", 32)+"\n7 "+strings.Repeat("07", 32)+"\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	g := k.SignGrant([]byte("claims"), noon())
	const want = "0100000007000001b8dd58e200636c61696d73"
	if got := hex.EncodeToString(g[:len(g)-grantMAC]); got != want {
		t.Errorf("grant without its signature: got %s, want %s", got, want)
	}
	const mac = "c5230ea0817aeddf22282363d80900b8f79a4c2594af8e7a9acf78f3835b0c3e"
	if got := hex.EncodeToString(g[len(g)-grantMAC:]); got != mac {
		t.Errorf("signature: got %s, want %s", got, mac)
	}
	sealed, err := hex.DecodeString("0100000007c6c150a912520b1c7c69c20d5b6de74081034b2fa002d9c078cde26ae9ffec1b95b2")
	if err != nil {
		t.Fatal(err)
	}
	if secret, err := k.Open(sealed, "mount 1"); err != nil || string(secret) != "s3cret" {
		t.Errorf("open: %q, %v", secret, err)
	}
}

func TestKeyFileMalformed(t *testing.T) {
	good := strings.Repeat("ab", 32)
	for name, text := range map[string]string{
		"empty":       "",
		"other magic": "sluice-keys 2\n1 " + good,
		"no key":      "sluice-keys 1\n",
		"short key":   "sluice-keys 1\n1 abcd",
		"id 0":        "sluice-keys 1\n0 " + good,
		"descending":  "sluice-keys 1\n2 " + good + "\n1 " + good,
		"not hex":     "sluice-keys 1\n1 " + strings.Repeat("zz", 32),
		"too many":    "sluice-keys 1\n" + manyKeys(maxKeys+1),
		"too long":    "sluice-keys 1\n" + strings.Repeat("#\n", maxFile),
	} {
		_, err := parseKeyring([]byte(text), nil)
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "abab") {
			t.Errorf("%s: the error shows the key: %v", name, err)
		}
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d %064x\n", i+1, i+1)
	}
	return b.String()
}

func TestGrant(t *testing.T) {
	k := ring(t, 1)
	for _, n := range []int{0, 1, 100, 600, maxGrant - grantHeader - grantMAC} {
		claims := bytes.Repeat([]byte{'c'}, n)
		g := k.SignGrant(claims, noon())
		for range 2 { // the second time from memory
			if got, err := k.VerifyGrant(g, noon().Add(-time.Millisecond)); err != nil || !bytes.Equal(got, claims) {
				t.Fatalf("%d bytes: got %d, %v", n, len(got), err)
			}
			if _, err := k.VerifyGrant(g, noon()); !errors.Is(err, sluice.Stale) {
				t.Fatalf("expired: got %v, want stale", err)
			}
		}
	}
	if _, err := ring(t, 2).VerifyGrant(k.SignGrant(nil, noon()), noon().Add(-time.Second)); !errors.Is(err, sluice.Unauthenticated) {
		t.Fatalf("another ring: got %v, want unauthenticated", err)
	}
}

// TestGrantTampered changes each byte, and cuts and extends, after the good one was
// verified and remembered.
func TestGrantTampered(t *testing.T) {
	k := ring(t, 1)
	g := k.SignGrant([]byte("read content 7"), noon())
	now := noon().Add(-time.Hour)
	if _, err := k.VerifyGrant(g, now); err != nil {
		t.Fatal(err)
	}
	check := func(what string, bad []byte) {
		t.Helper()
		if _, err := k.VerifyGrant(bad, now); !errors.Is(err, sluice.Unauthenticated) {
			t.Errorf("%s: got %v, want unauthenticated", what, err)
		}
	}
	for i := range g {
		for _, x := range []byte{1, 0x80} {
			bad := bytes.Clone(g)
			bad[i] ^= x
			check(fmt.Sprintf("byte %d", i), bad)
		}
		check(fmt.Sprintf("cut to %d", i), g[:i])
	}
	check("extended", append(bytes.Clone(g), 0))
	check("too long", make([]byte, maxGrant+1))
}

func TestToken(t *testing.T) {
	k := ring(t, 1)
	want := Token{User: "ann", Groups: []string{"a", "b"}, Expiry: noon(), Admin: true, SpeakFor: true}
	s, err := k.IssueToken(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := k.VerifyToken(s, noon().Add(-time.Second))
	if err != nil {
		t.Fatal(err)
	}
	got.Expiry = got.Expiry.UTC()
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if p := got.Principal(); p.User != "ann" || !p.In("b") || !p.Super {
		t.Errorf("principal %+v", p)
	}
	r, err := k.Rotated()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.VerifyToken(s, noon().Add(-time.Second)); err != nil {
		t.Errorf("after a rotation: %v", err)
	}
	bad := map[string]string{"empty": "", "two parts": "a.b", "long": strings.Repeat("a", maxToken+1), "unsigned": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4iLCJpc3MiOiJzbHVpY2UiLCJleHAiOjk5OTk5OTk5OTl9."}
	other, _ := ring(t, 2).IssueToken(want)
	bad["another ring"] = other
	for i := range len(s) {
		b := []byte(s)
		if b[i]++; b[i] == 'f' { // 'e' and 'f' may differ in bits that are not used
			b[i] = '!'
		}
		bad[fmt.Sprintf("byte %d", i)] = string(b)
	}
	for what, s := range bad {
		if _, err := k.VerifyToken(s, noon().Add(-time.Second)); !errors.Is(err, sluice.Unauthenticated) {
			t.Errorf("%s: got %v, want unauthenticated", what, err)
		} else if len(s) > 8 && strings.Contains(err.Error(), s[len(s)-8:]) {
			t.Errorf("%s: the error shows the token: %v", what, err)
		}
	}
	if _, err := k.VerifyToken(s, noon()); !errors.Is(err, sluice.Unauthenticated) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired: got %v", err)
	}
	for _, tok := range []Token{{Expiry: noon()}, {User: "a"}, {User: strings.Repeat("a", maxToken), Expiry: noon()}} {
		if _, err := k.IssueToken(tok); !errors.Is(err, sluice.Invalid) {
			t.Errorf("issue: got %v, want invalid", err)
		}
	}
}

func TestSeal(t *testing.T) {
	k := ring(t, 1)
	for _, secret := range []string{"", "s3cret", strings.Repeat("x", maxSecret)} {
		sealed, err := k.Seal([]byte(secret), "mount 1")
		if err != nil {
			t.Fatal(err)
		}
		if secret != "" && bytes.Contains(sealed, []byte(secret)) {
			t.Fatal("the secret is readable")
		}
		if got, err := k.Open(sealed, "mount 1"); err != nil || string(got) != secret {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
		if _, err := k.Open(sealed, "mount 2"); !errors.Is(err, sluice.Corrupt) {
			t.Errorf("another context: got %v, want corrupt", err)
		}
	}
	if _, err := k.Seal(make([]byte, maxSecret+1), ""); !errors.Is(err, sluice.TooLarge) {
		t.Errorf("got %v, want too large", err)
	}
	a, _ := k.Seal([]byte("s"), "")
	b, _ := k.Seal([]byte("s"), "")
	if bytes.Equal(a, b) {
		t.Error("two sealings are equal: the nonce repeats")
	}
	for i := range a {
		bad := bytes.Clone(a)
		bad[i] ^= 1
		if _, err := k.Open(bad, ""); err == nil {
			t.Errorf("byte %d changed: opened", i)
		}
		if _, err := k.Open(a[:i], ""); err == nil {
			t.Errorf("cut to %d: opened", i)
		}
	}
	// The same source of chance gives the same bytes, so that a simulation can be repeated.
	x, _ := ring(t, 9).Seal([]byte("s"), "")
	y, _ := ring(t, 9).Seal([]byte("s"), "")
	if !bytes.Equal(x, y) {
		t.Error("the same seed gave other bytes")
	}
}

func TestProof(t *testing.T) {
	k, other := ring(t, 1), ring(t, 2)
	p := k.Proof(1, "client", []byte("both hellos"))
	if !k.CheckProof(1, "client", []byte("both hellos"), p) {
		t.Error("a right proof is refused")
	}
	for what, ok := range map[string]bool{
		"another transcript": k.CheckProof(1, "client", []byte("other hellos"), p),
		"another label":      k.CheckProof(1, "server", []byte("both hellos"), p),
		"an unknown key":     k.CheckProof(2, "client", []byte("both hellos"), p),
		"another ring":       other.CheckProof(1, "client", []byte("both hellos"), p),
		"nothing":            k.CheckProof(1, "client", []byte("both hellos"), nil),
		"nothing, no key":    k.CheckProof(5, "client", []byte("both hellos"), nil),
	} {
		if ok {
			t.Errorf("%s is accepted", what)
		}
	}
}

// TestSecretsStayInside prints a ring in every way fmt knows.
func TestSecretsStayInside(t *testing.T) {
	k := ring(t, 1)
	secret := k.keys[0].secret
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
		s := fmt.Sprintf(verb, k)
		for _, form := range []string{hex.EncodeToString(secret[:4]), fmt.Sprint(secret[:4])[1:10], string(secret[:4])} {
			if strings.Contains(s, form) {
				t.Errorf("%s shows the key: %s", verb, s)
			}
		}
	}
}

func TestTLSFiles(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: noon()}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, b []byte, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, private, open := write("cert", "CERTIFICATE", der, 0o644), write("key", "PRIVATE KEY", raw, 0o600), write("open", "PRIVATE KEY", raw, 0o644)
	for _, c := range []struct {
		files TLSFiles
		kind  error
	}{
		{TLSFiles{}, nil},
		{TLSFiles{Cert: cert, Key: private}, nil},
		{TLSFiles{Cert: cert}, sluice.Invalid},
		{TLSFiles{Cert: cert, Key: open}, sluice.Permission},
		{TLSFiles{Cert: cert, Key: dir + "/none"}, sluice.NotFound},
		{TLSFiles{Cert: dir + "/none", Key: private}, sluice.NotFound},
		{TLSFiles{Cert: private, Key: private}, sluice.Invalid},
	} {
		got, err := c.files.Server()
		if c.kind == nil && (err != nil || (got != nil) != (c.files.Cert != "")) || c.kind != nil && !errors.Is(err, c.kind) {
			t.Errorf("%+v: got %v, %v, want kind %v", c.files, got != nil, err, c.kind)
		}
	}
	if c, err := (TLSFiles{CA: cert}).Client(); err != nil || c.RootCAs == nil {
		t.Errorf("client: %v", err)
	}
	if _, err := (TLSFiles{CA: private}).Client(); !errors.Is(err, sluice.Invalid) {
		t.Errorf("a key as CA: got %v, want invalid", err)
	}
}

func FuzzGrant(f *testing.F) {
	k, err := NewKeyring(seeded(1))
	if err != nil {
		f.Fatal(err)
	}
	good := k.SignGrant([]byte("claims"), noon())
	f.Add([]byte(good))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, g []byte) {
		if _, err := k.VerifyGrant(g, noon().Add(-1)); err == nil && !bytes.Equal(g, good) {
			t.Fatalf("forged: %x", g)
		}
	})
}

func FuzzKeyFile(f *testing.F) {
	f.Add([]byte("sluice-keys 1\n1 " + strings.Repeat("ab", 32) + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := parseKeyring(b, nil)
		if err != nil {
			return
		}
		again, err := parseKeyring(k.text(), nil)
		if err != nil || !bytes.Equal(again.text(), k.text()) {
			t.Fatalf("what was read is written as what cannot be read: %v", err)
		}
	})
}

func FuzzOpen(f *testing.F) {
	k, err := NewKeyring(seeded(1))
	if err != nil {
		f.Fatal(err)
	}
	good, err := k.Seal([]byte("s"), "c")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := k.Open(b, "c"); err == nil && !bytes.Equal(b, good) {
			t.Fatalf("forged: %x", b)
		}
	})
}

func BenchmarkVerifyGrant(b *testing.B) {
	k := ring(b, 1)
	g := k.SignGrant(make([]byte, 100), noon())
	now := noon().Add(-time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.VerifyGrant(g, now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyNewGrant(b *testing.B) {
	k := ring(b, 1)
	g := k.SignGrant(make([]byte, 1000), noon()) // too long to be remembered
	now := noon().Add(-time.Hour)
	for b.Loop() {
		if _, err := k.VerifyGrant(g, now); err != nil {
			b.Fatal(err)
		}
	}
}

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// certs writes ca.pem, and cert.pem and key.pem for 127.0.0.1.
func certs(ts *testscript.TestScript, _ bool, _ []string) {
	write := func(name, kind string, der []byte) {
		ts.Check(os.WriteFile(ts.MkAbs(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		ts.Check(err)
		return k
	}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	ca, caKey := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, key()
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	ts.Check(err)
	write("ca.pem", "CERTIFICATE", der)
	server, serverKey := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"}, NotBefore: from, NotAfter: to,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key()
	der, err = x509.CreateCertificate(rand.Reader, server, ca, serverKey.Public(), caKey)
	ts.Check(err)
	write("cert.pem", "CERTIFICATE", der)
	der, err = x509.MarshalPKCS8PrivateKey(serverKey)
	ts.Check(err)
	write("key.pem", "PRIVATE KEY", der)
}

// What is called with TLS is what listeners demand it for.
func TestCallTLS(t *testing.T) {
	for _, x := range []struct {
		address   string
		plaintext bool
		want      bool
	}{
		{"unix:/x/master.sock", false, false},
		{"127.0.0.1:7470", false, false},
		{"localhost:7470", false, false},
		{"[::1]:7470", false, false},
		{"10.0.0.1:7470", false, true},
		{"master.example.com:7470", false, true},
		{"master.example.com:7470", true, false},
	} {
		c := defaults()
		c.Auth.Plaintext = x.plaintext
		got, err := c.callTLS([]string{x.address})
		if err != nil || (got != nil) != x.want {
			t.Errorf("%+v: TLS %v, %v", x, got != nil, err)
		}
	}
}

package auth

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	sluice "github.com/sluicefs/sluice"
)

// TLSFiles names PEM files. The zero value means no TLS.
type TLSFiles struct {
	Cert string // the server's certificate, followed by intermediate ones
	Key  string // its private key, readable by its owner only
	CA   string // certificates that clients trust; empty means the system's
}

// Validate says what to change if the names do not fit together.
func (f TLSFiles) Validate() error {
	if (f.Cert == "") != (f.Key == "") {
		return sluice.Wrap("check TLS files", "", invalid("a TLS certificate and its key go together: set both or neither"))
	}
	return nil
}

// Server returns the configuration of listeners, nil if no certificate is named. Kind
// NotFound, Permission or Invalid: a file is absent, readable by others, or not PEM.
func (f TLSFiles) Server() (*tls.Config, error) {
	const op = "load TLS certificate"
	if err := f.Validate(); err != nil || f.Cert == "" {
		return nil, err
	}
	info, err := os.Stat(f.Key)
	if err != nil {
		return nil, sluice.Wrap(op, "", err)
	}
	if perm := info.Mode().Perm(); perm&0o007 != 0 {
		return nil, &sluice.Error{Op: op, Kind: sluice.Permission, Err: fmt.Errorf("%s has mode %04o and must not be readable by everybody; run chmod 600 on it", f.Key, perm)}
	}
	if _, err := os.Stat(f.Cert); err != nil {
		return nil, sluice.Wrap(op, "", err)
	}
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, sluice.Wrap(op, "", invalid("%s and %s are not a certificate and its key: %w", f.Cert, f.Key, err))
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}, nil
}

// Client returns the configuration of callers: it trusts the certificates of CA, or
// the system's if none is named. The name to verify is the host that is dialled.
func (f TLSFiles) Client() (*tls.Config, error) {
	const op = "load TLS authorities"
	c := &tls.Config{MinVersion: tls.VersionTLS13}
	if f.CA == "" {
		return c, nil
	}
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, sluice.Wrap(op, "", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, sluice.Wrap(op, "", invalid("%s holds no PEM certificate", f.CA))
	}
	return c, nil
}

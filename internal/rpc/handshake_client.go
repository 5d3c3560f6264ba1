package rpc

import (
	"fmt"
	"net"

	sluice "github.com/sluicefs/sluice"
)

func (c Credential) kind(local bool) CredentialKind {
	switch {
	case c.Keys != nil:
		return CredentialKey
	case c.Token != "":
		return CredentialToken
	case local:
		return CredentialUID
	default:
		return CredentialNone
	}
}

// greet does the client's half of the handshake and returns who the server is and how
// large a payload it takes.
func (c *ClientConfig) greet(conn net.Conn, in *inlet, local bool) (Peer, *serverHello, error) {
	cred := c.Credential
	hello := clientHello{
		magic: helloMagic, oldest: protocolVersion, newest: protocolVersion, cluster: c.Cluster,
		role: cred.Role, kind: cred.kind(local), nonce: newNonce(), window: uint64(window),
		user: cred.User, worker: cred.Worker, maxMessage: uint64(c.MaxMessage),
	}
	if cred.Keys != nil {
		hello.key = cred.Keys.Signing()
	}
	sent := hello.encode()
	if err := writeHello(conn, frameClientHello, sent); err != nil {
		return Peer{}, nil, err
	}
	got, err := readHello(in, frameServerHello)
	if err != nil {
		return Peer{}, nil, err
	}
	var server serverHello
	if err := server.decode(got); err != nil {
		return Peer{}, nil, err
	}
	if err := c.judge(&server); err != nil {
		return Peer{}, nil, err
	}
	t, err := transcript(sent, got, conn)
	if err != nil {
		return Peer{}, nil, err
	}
	peer := Peer{Role: server.role, Local: local, Cluster: server.cluster, Incarnation: server.incarnation}
	if err := c.prove(conn, in, &hello, &server, t); err != nil {
		return Peer{}, nil, err
	}
	if hello.kind == CredentialKey {
		peer.Kind, peer.SpeakFor = CredentialKey, true
	}
	return peer, &server, nil
}

// judge refuses a server that refuses us, or is not the one we look for.
func (c *ClientConfig) judge(s *serverHello) error {
	switch {
	case s.refusal != nil:
		return s.refusal.toError()
	case s.version != protocolVersion:
		return fail(sluice.Unsupported, "the server answers with protocol version %d, this program speaks %d; use the same release on both sides", s.version, protocolVersion)
	case c.Cluster != "" && s.cluster != "" && s.cluster != c.Cluster:
		return fail(sluice.Invalid, "the server belongs to cluster %q, not %q; check the address", s.cluster, c.Cluster)
	case len(s.nonce) != nonceSize:
		return fmt.Errorf("%w: nonce of %d bytes", errFrame, len(s.nonce))
	}
	return nil
}

// prove shows our credential and, with the cluster key, has the server show its own.
func (c *ClientConfig) prove(conn net.Conn, in *inlet, hello *clientHello, server *serverHello, t []byte) error {
	keys := c.Credential.Keys
	var proof clientProof
	switch hello.kind {
	case CredentialKey:
		if proof.mac = keys.Proof(server.key, clientLabel, t); proof.mac == nil {
			return fail(sluice.Unauthenticated, "the server uses cluster key %d, which this key file does not have; copy the cluster's key file here", server.key)
		}
	case CredentialToken:
		proof.token = c.Credential.Token
	}
	if err := writeHello(conn, frameClientProof, proof.encode()); err != nil {
		return err
	}
	b, err := readHello(in, frameWelcome)
	if err != nil {
		return err
	}
	var w welcome
	if err := w.decode(b); err != nil {
		return err
	}
	if w.refusal != nil {
		return w.refusal.toError()
	}
	if hello.kind == CredentialKey && !keys.CheckProof(server.key, serverLabel, t, w.mac) {
		return fail(sluice.Unauthenticated, "the server did not prove the cluster key; it is not a server of this cluster")
	}
	return nil
}

package rpc

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sluicefs/sluice/internal/auth"

	sluice "github.com/sluicefs/sluice"
)

// protocolVersion is the only version of the protocol so far.
const protocolVersion = 1

const (
	helloMagic  = "sluice"
	nonceSize   = 32
	clientLabel = "sluice rpc 1 client"
	serverLabel = "sluice rpc 1 server"
)

// clientHello opens a connection. Protobuf fields: 1 magic, 2 and 3 oldest and newest
// version, 4 cluster, 5 incarnation, 6 role, 7 credential kind, 8 nonce, 9 key id,
// 10 window, 11 user, 12 worker, 13 largest message.
type clientHello struct {
	magic       string
	oldest      uint64
	newest      uint64
	cluster     string
	incarnation sluice.Incarnation
	role        Role
	kind        CredentialKind
	nonce       []byte
	key         auth.KeyID
	window      uint64 // payload bytes the server may send ahead of credit
	user        string
	worker      sluice.WorkerID
	maxMessage  uint64
}

func (m *clientHello) encode() []byte {
	var e encoder
	e.text(1, m.magic)
	e.number(2, m.oldest)
	e.number(3, m.newest)
	e.text(4, m.cluster)
	e.fixed(5, uint64(m.incarnation))
	e.number(6, uint64(m.role))
	e.number(7, uint64(m.kind))
	e.text(8, string(m.nonce))
	e.number(9, uint64(m.key))
	e.number(10, m.window)
	e.text(11, m.user)
	e.fixed(12, uint64(m.worker))
	e.number(13, m.maxMessage)
	return e.b
}

func (m *clientHello) decode(b []byte) error {
	return fields(b, func(n protowire.Number, v uint64, s []byte) {
		switch n {
		case 1:
			m.magic = string(s)
		case 2:
			m.oldest = v
		case 3:
			m.newest = v
		case 4:
			m.cluster = string(s)
		case 5:
			m.incarnation = sluice.Incarnation(v)
		case 6:
			m.role = Role(min(v, 255))
		case 7:
			m.kind = CredentialKind(min(v, 255))
		case 8:
			m.nonce = append([]byte(nil), s...)
		case 9:
			m.key = auth.KeyID(v)
		case 10:
			m.window = v
		case 11:
			m.user = string(s)
		case 12:
			m.worker = sluice.WorkerID(v)
		case 13:
			m.maxMessage = v
		}
	})
}

// serverHello answers it. Protobuf fields: 1 version (0: refused), 2 cluster,
// 3 incarnation, 4 role, 5 nonce, 6 key id, 7 the refusal (a fault), 8 largest
// message, 9 largest payload of a request.
type serverHello struct {
	version     uint64
	cluster     string
	incarnation sluice.Incarnation
	role        Role
	nonce       []byte
	key         auth.KeyID
	refusal     *fault
	maxMessage  uint64
	maxPayload  uint64
}

func (m *serverHello) encode() []byte {
	var e encoder
	e.number(1, m.version)
	e.text(2, m.cluster)
	e.fixed(3, uint64(m.incarnation))
	e.number(4, uint64(m.role))
	e.text(5, string(m.nonce))
	e.number(6, uint64(m.key))
	e.fault(7, m.refusal)
	e.number(8, m.maxMessage)
	e.number(9, m.maxPayload)
	return e.b
}

func (m *serverHello) decode(b []byte) error {
	var inner error
	err := fields(b, func(n protowire.Number, v uint64, s []byte) {
		switch n {
		case 1:
			m.version = v
		case 2:
			m.cluster = string(s)
		case 3:
			m.incarnation = sluice.Incarnation(v)
		case 4:
			m.role = Role(min(v, 255))
		case 5:
			m.nonce = append([]byte(nil), s...)
		case 6:
			m.key = auth.KeyID(v)
		case 7:
			m.refusal = new(fault)
			inner = m.refusal.UnmarshalVT(s)
		case 8:
			m.maxMessage = v
		case 9:
			m.maxPayload = v
		}
	})
	return errors.Join(err, inner)
}

// clientProof carries the credential: 1 the proof of the cluster key, 2 a token.
type clientProof struct {
	mac   []byte
	token string
}

func (m *clientProof) encode() []byte {
	var e encoder
	e.text(1, string(m.mac))
	e.text(2, m.token)
	return e.b
}

func (m *clientProof) decode(b []byte) error {
	return fields(b, func(n protowire.Number, _ uint64, s []byte) {
		switch n {
		case 1:
			m.mac = append([]byte(nil), s...)
		case 2:
			m.token = string(s)
		}
	})
}

// welcome ends the handshake: 1 the server's proof, 2 the refusal (a fault).
type welcome struct {
	mac     []byte
	refusal *fault
}

func (m *welcome) encode() []byte {
	var e encoder
	e.text(1, string(m.mac))
	e.fault(2, m.refusal)
	return e.b
}

func (m *welcome) decode(b []byte) error {
	var inner error
	err := fields(b, func(n protowire.Number, _ uint64, s []byte) {
		switch n {
		case 1:
			m.mac = append([]byte(nil), s...)
		case 2:
			m.refusal = new(fault)
			inner = m.refusal.UnmarshalVT(s)
		}
	})
	return errors.Join(err, inner)
}

// encoder appends the fields of a protobuf message, leaving out zero ones.
type encoder struct{ b []byte }

func (e *encoder) number(n protowire.Number, v uint64) {
	if v != 0 {
		e.b = protowire.AppendVarint(protowire.AppendTag(e.b, n, protowire.VarintType), v)
	}
}

func (e *encoder) fixed(n protowire.Number, v uint64) {
	if v != 0 {
		e.b = protowire.AppendFixed64(protowire.AppendTag(e.b, n, protowire.Fixed64Type), v)
	}
}

func (e *encoder) text(n protowire.Number, s string) {
	if s != "" {
		e.b = protowire.AppendString(protowire.AppendTag(e.b, n, protowire.BytesType), s)
	}
}

func (e *encoder) fault(n protowire.Number, f *fault) {
	if f != nil {
		b := make([]byte, f.SizeVT())
		f.MarshalToSizedBufferVT(b)
		e.text(n, string(b))
	}
}

// writeHello sends one frame of the handshake: a prefix and a message, no header.
func writeHello(w io.Writer, kind frameType, message []byte) error {
	b := append(appendPrefix(nil, kind, &header{}, len(message)), message...)
	_, err := w.Write(b)
	return err
}

// readHello reads one frame of the handshake, of the given type and at most 32 KiB.
func readHello(in *inlet, kind frameType) ([]byte, error) {
	if err := in.need(prefixSize, prefixSize); err != nil {
		return nil, err
	}
	p, err := parsePrefix(in.bytes(), maxHello)
	if err != nil {
		return nil, err
	}
	if p.kind != kind || p.header != 0 {
		return nil, fmt.Errorf("%w: type %d where %d is due", errFrame, p.kind, kind)
	}
	in.skip(prefixSize)
	if err := in.need(p.length, p.length); err != nil {
		return nil, err
	}
	b := append([]byte(nil), in.bytes()[:p.length]...)
	in.skip(p.length)
	return b, nil
}

// transcript is what the proofs are made over: both hellos as they were sent, and for
// TLS what binds them to this very connection (RFC 9266), so that nobody in the middle
// can pass a proof on.
func transcript(client, server []byte, conn net.Conn) ([]byte, error) {
	h := sha256.New()
	put := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	put(client)
	put(server)
	if t, ok := conn.(*tls.Conn); ok {
		state := t.ConnectionState()
		binding, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
		if err != nil {
			return nil, fmt.Errorf("bind the handshake to TLS: %w", err)
		}
		put(binding)
	}
	return h.Sum(nil), nil
}

func newNonce() []byte {
	b := make([]byte, nonceSize)
	rand.Read(b)
	return b
}

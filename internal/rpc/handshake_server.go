package rpc

import (
	"fmt"
	"net"
	"net/netip"
	"os/user"
	"regexp"
	"strconv"

	sluice "github.com/sluicefs/sluice"
)

// userPattern is what an unproved name must look like: that of POSIX, with dots and @.
const userPattern = `^[A-Za-z_][A-Za-z0-9_.@-]{0,63}$`

// receive does the server's half of the handshake. A refusal is told to the client
// before it is returned.
func (s *Server) receive(conn net.Conn, in *inlet) (Peer, *clientHello, error) {
	got, err := readHello(in, frameClientHello)
	if err != nil {
		return Peer{}, nil, err
	}
	var client clientHello
	if err := client.decode(got); err != nil {
		return Peer{}, nil, err
	}
	id := s.identity()
	server := serverHello{
		version: protocolVersion, cluster: id.Cluster, incarnation: id.Incarnation, role: s.cfg.Role, nonce: newNonce(),
		maxMessage: uint64(s.cfg.MaxMessage), maxPayload: uint64(s.cfg.MaxPayload),
	}
	peer, err := s.admit(conn, &client, id)
	if err != nil {
		server.version, server.refusal = 0, toFault(err)
		writeHello(conn, frameServerHello, server.encode())
		return Peer{}, nil, err
	}
	if client.kind == CredentialKey {
		if server.key = s.cfg.Keys.Signing(); s.cfg.Keys.Has(client.key) {
			server.key = client.key
		}
	}
	sent := server.encode()
	if err := writeHello(conn, frameServerHello, sent); err != nil {
		return Peer{}, nil, err
	}
	t, err := transcript(got, sent, conn)
	if err != nil {
		return Peer{}, nil, err
	}
	w := welcome{}
	if err := s.examine(in, &client, &server, t, &peer); err != nil {
		w.refusal = toFault(err)
		writeHello(conn, frameWelcome, w.encode())
		return Peer{}, nil, err
	}
	if client.kind == CredentialKey {
		w.mac = s.cfg.Keys.Proof(server.key, serverLabel, t)
	}
	return peer, &client, writeHello(conn, frameWelcome, w.encode())
}

// admit judges a client by its hello and where it comes from.
func (s *Server) admit(conn net.Conn, h *clientHello, id Identity) (Peer, error) {
	peer := Peer{Role: h.role, Kind: h.kind, Cluster: h.cluster, Incarnation: h.incarnation, Address: remoteAddress(conn)}
	u, local := conn.(*net.UnixConn)
	peer.Local = local
	switch {
	case h.magic != helloMagic:
		return peer, fail(sluice.Invalid, "this is a Sluice server and the client is not a Sluice client")
	case h.oldest > protocolVersion || h.newest < protocolVersion:
		return peer, fail(sluice.Unsupported, "the client speaks protocol versions %d to %d, this server %d; use the same release on both sides", h.oldest, h.newest, protocolVersion)
	case h.cluster != "" && id.Cluster != "" && h.cluster != id.Cluster:
		return peer, fail(sluice.Invalid, "the client looks for cluster %q, this server belongs to %q; check the address", h.cluster, id.Cluster)
	case len(h.nonce) != nonceSize:
		return peer, fail(sluice.Invalid, "the client's nonce has %d bytes", len(h.nonce))
	case h.role < RoleClient || h.role > RoleAdmin:
		return peer, fail(sluice.Invalid, "the client's role %d is unknown", h.role)
	case (h.role == RoleWorker || h.role == RoleMaster) && h.kind != CredentialKey:
		return peer, fail(sluice.Unauthenticated, "a %s must prove the cluster key; name its key file", h.role)
	case h.window < PieceSize:
		return peer, fail(sluice.Invalid, "the client's window of %d bytes is smaller than a piece", h.window)
	}
	trusted, err := s.origin(conn)
	if err != nil {
		return peer, err
	}
	switch h.kind {
	case CredentialKey, CredentialToken:
		if s.cfg.Keys == nil {
			return peer, fail(sluice.Unauthenticated, "this server has no cluster key to check a %s with", h.kind)
		}
	case CredentialUID:
		if !local {
			return peer, fail(sluice.Unauthenticated, "a uid counts on a unix socket only; use a token")
		}
		return peer, s.identify(u, &peer)
	case CredentialNone:
		if !s.cfg.Anonymous || !trusted {
			return peer, fail(sluice.Unauthenticated, "this server wants a credential: a token (sluice admin token) or the unix socket on its host")
		}
		if ok, _ := regexp.MatchString(userPattern, h.user); !ok {
			return peer, fail(sluice.Unauthenticated, "the name %q is not a user name", cut(h.user))
		}
		peer.Principal = sluice.Principal{User: h.user, Groups: []string{h.user}}
	default:
		return peer, fail(sluice.Unauthenticated, "credential kind %d is unknown here", h.kind)
	}
	return peer, nil
}

// examine reads and checks the client's proof.
func (s *Server) examine(in *inlet, h *clientHello, sh *serverHello, t []byte, peer *Peer) error {
	b, err := readHello(in, frameClientProof)
	if err != nil {
		return err
	}
	var p clientProof
	if err := p.decode(b); err != nil {
		return err
	}
	switch h.kind {
	case CredentialKey:
		if !s.cfg.Keys.CheckProof(sh.key, clientLabel, t, p.mac) {
			return fail(sluice.Unauthenticated, "the client did not prove the cluster key; its key file is not this cluster's")
		}
		peer.Principal = sluice.Principal{User: "sluice", Groups: []string{"sluice"}, Super: true}
		peer.SpeakFor = true
		peer.Worker = h.worker
	case CredentialToken:
		token, err := s.cfg.Keys.VerifyToken(p.token, s.cfg.Now())
		if err != nil {
			return err
		}
		peer.Principal, peer.SpeakFor = token.Principal(), token.SpeakFor
	}
	return nil
}

// identify makes the uid at the other end of a unix socket a principal.
func (s *Server) identify(u *net.UnixConn, peer *Peer) error {
	uid, err := peerUID(u)
	if err != nil {
		return fail(sluice.Unauthenticated, "the kernel does not say who is calling: %w", err)
	}
	peer.UID = uid
	name, groups := s.cfg.LookupUser(uid)
	if name == "" {
		name, groups = "#"+strconv.FormatUint(uint64(uid), 10), nil
	}
	peer.Principal = sluice.Principal{User: name, Groups: groups, Super: uid == *s.cfg.Superuser}
	return nil
}

// origin judges where a connection comes from. trusted: from this machine, or from a
// network the operator named.
func (s *Server) origin(conn net.Conn) (trusted bool, err error) {
	ip, ok := remoteIP(conn)
	if !ok || ip.IsLoopback() {
		return true, nil
	}
	for _, n := range s.cfg.TrustedNetworks {
		if n.Contains(ip) {
			return true, nil
		}
	}
	if s.cfg.TLS == nil {
		return false, fail(sluice.Unauthenticated, "%s is in none of the trusted networks and this server has no TLS", ip)
	}
	return false, nil
}

// remoteIP returns the address at the other end, false if it is not an IP network's.
func remoteIP(conn net.Conn) (netip.Addr, bool) {
	t, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	return t.AddrPort().Addr().Unmap().WithZone(""), true
}

func remoteAddress(conn net.Conn) string {
	if u, ok := conn.(*net.UnixConn); ok {
		return u.LocalAddr().String()
	}
	return conn.RemoteAddr().String()
}

// hostUser looks a uid up in the host's user database; "" if it is not there.
func hostUser(uid uint32) (string, []string) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return "", nil
	}
	var names []string
	ids, _ := u.GroupIds()
	add := func(id string) {
		g, err := user.LookupGroupId(id)
		name := "#" + id
		if err == nil {
			name = g.Name
		}
		names = append(names, name)
	}
	add(u.Gid)
	for _, id := range ids {
		if id != u.Gid && len(names) < 1024 {
			add(id)
		}
	}
	return u.Username, names
}

// Validate says what to change if the server must not listen on one of the addresses
// (host:port, or unix:path) with this configuration.
func (c ServerConfig) Validate(listen ...string) error {
	for _, a := range listen {
		if len(a) >= 5 && a[:5] == "unix:" {
			continue
		}
		host, _, err := net.SplitHostPort(a)
		if err != nil {
			return fail(sluice.Invalid, "%q is not host:port or unix:path", a)
		}
		ip, err := netip.ParseAddr(host)
		if host == "localhost" || err == nil && ip.Unmap().IsLoopback() {
			continue
		}
		if err := c.beyond(a); err != nil {
			return err
		}
	}
	for _, n := range c.TrustedNetworks {
		if n.Bits() == 0 {
			return fail(sluice.Invalid, "%s trusts everybody; name the networks that are yours", n)
		}
	}
	return nil
}

// beyond says what a listener beyond loopback lacks.
func (c ServerConfig) beyond(addr string) error {
	switch {
	case c.Keys == nil:
		return fail(sluice.Invalid, "a listener beyond loopback (%s) needs the cluster key; name a key file, or listen on 127.0.0.1", addr)
	case c.TLS == nil && !c.Plaintext:
		return fail(sluice.Invalid, "a listener beyond loopback (%s) needs TLS; name a certificate and its key, or set plaintext: true together with trusted networks", addr)
	case c.TLS == nil && len(c.TrustedNetworks) == 0:
		return fail(sluice.Invalid, "plaintext: true (%s) needs trusted networks; name those that callers come from", addr)
	}
	return nil
}

func (c ServerConfig) checkListener(a net.Addr) error {
	t, ok := a.(*net.TCPAddr)
	if !ok || t.IP.IsLoopback() {
		return c.Validate()
	}
	if err := c.beyond(a.String()); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return c.Validate()
}

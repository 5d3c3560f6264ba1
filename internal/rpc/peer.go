package rpc

import (
	"fmt"
	"io"

	"github.com/sluicefs/sluice/internal/auth"

	sluice "github.com/sluicefs/sluice"
)

// Role is what a process is in the cluster. The numbers travel on the wire.
type Role uint8

// The roles.
const (
	RoleClient Role = iota + 1 // a library, mount, gateway or command
	RoleWorker
	RoleMaster
	RoleAdmin // a command of the operator
)

// String returns the role's name.
func (r Role) String() string {
	switch r {
	case RoleClient:
		return "client"
	case RoleWorker:
		return "worker"
	case RoleMaster:
		return "master"
	case RoleAdmin:
		return "admin"
	default:
		return fmt.Sprintf("role %d", uint8(r))
	}
}

// CredentialKind is how a peer proves who it is. The numbers travel on the wire.
type CredentialKind uint8

// The kinds of credential.
const (
	CredentialNone  CredentialKind = iota // nothing is proved; only where the server allows it
	CredentialUID                         // the kernel's word on the uid at the other end of a unix socket
	CredentialToken                       // a user's token
	CredentialKey                         // knowledge of the cluster key
)

// String returns the kind in words.
func (k CredentialKind) String() string {
	switch k {
	case CredentialNone:
		return "none"
	case CredentialUID:
		return "uid"
	case CredentialToken:
		return "token"
	case CredentialKey:
		return "cluster key"
	default:
		return fmt.Sprintf("credential %d", uint8(k))
	}
}

// Credential is what a client proves itself with: the cluster key if Keys is set, else
// Token if that is set, else its uid on a unix socket, else nothing. With the key it
// also demands that the server prove it.
type Credential struct {
	Role   Role // zero means RoleClient
	Keys   *auth.Keyring
	Token  string          `json:"-"`
	User   string          // the name a client without credential gives itself
	Worker sluice.WorkerID // of a worker
}

// String says the kind of credential and no secret.
func (c Credential) String() string {
	switch {
	case c.Keys != nil:
		return "cluster key"
	case c.Token != "":
		return "token"
	default:
		return "uid or none"
	}
}

// Format writes String for every verb, so that none shows a secret.
func (c Credential) Format(f fmt.State, _ rune) { io.WriteString(f, c.String()) }

// Peer is who is at the other end, as far as the handshake proved it. A server reads
// it of its callers; a client of its server (then Principal and UID are zero).
type Peer struct {
	Role        Role
	Kind        CredentialKind
	Principal   sluice.Principal // whom the credential stands for; with the cluster key the superuser
	SpeakFor    bool             // may name the principal of each request; true with the cluster key
	UID         uint32           // with CredentialUID
	Local       bool             // on the other end of a unix socket
	Address     string           // the remote address, or the socket's path
	Worker      sluice.WorkerID  // of a worker that proved the cluster key
	Cluster     string           // the cluster it said to be of; may be empty
	Incarnation sluice.Incarnation
}

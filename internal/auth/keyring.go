package auth

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	sluice "github.com/sluicefs/sluice"
)

// KeyID names one key of a ring. It travels beside everything the key has signed or
// sealed, so that old and new keys are valid side by side while a ring is rotated.
// 0 names no key.
type KeyID uint32

const (
	keySize   = 32
	maxKeys   = 16
	maxFile   = 16 << 10
	fileMagic = "sluice-keys 1"
)

// Keyring is the cluster key: one key that signs and seals, and the older ones that
// still verify and open. It never changes after it is made and may be used by any
// number of goroutines.
type Keyring struct {
	random io.Reader
	keys   []key // Invariant: not empty, ids strictly ascending; the last one signs
	grants *grantCache
}

// key is one secret with the keys derived from it, one per purpose.
type key struct {
	id     KeyID
	secret [keySize]byte
	grant  []byte
	token  []byte
	seal   []byte
	proof  []byte
}

// String says which keys the ring has, and nothing of what they are.
func (k *Keyring) String() string {
	return fmt.Sprintf("keyring of %d, signing with key %d", len(k.keys), k.Signing())
}

// Format writes String for every verb, so that none shows a secret.
func (k *Keyring) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

// Signing returns the id of the key that signs and seals.
func (k *Keyring) Signing() KeyID { return k.keys[len(k.keys)-1].id }

// NewKeyring makes a ring of one new key that is kept nowhere. random nil means the
// system's source.
func NewKeyring(random io.Reader) (*Keyring, error) {
	r := newRing(random)
	if err := r.add(1); err != nil {
		return nil, err
	}
	return r, nil
}

// Rotated returns a ring that signs with a new key and still accepts what the keys
// of k have signed. At most 16 keys are kept; the oldest go first.
func (k *Keyring) Rotated() (*Keyring, error) {
	r := newRing(k.random)
	r.keys = append(r.keys, k.keys[max(0, len(k.keys)-maxKeys+1):]...)
	if err := r.add(k.Signing() + 1); err != nil {
		return nil, err
	}
	return r, nil
}

// LoadKeyring reads a key file. Kind NotFound: there is none. Permission: others than
// its owner may read or write it. Invalid: it is not a key file.
func LoadKeyring(path string, random io.Reader) (*Keyring, error) {
	k, err := loadKeyring(path, random)
	return k, sluice.Wrap("load key file", "", err)
}

// CreateKeyring makes a new key and writes it to path with mode 0600, synced. Kind
// Exists: a file is there already; it is never replaced.
func CreateKeyring(path string, random io.Reader) (*Keyring, error) {
	k, err := NewKeyring(random)
	if err == nil {
		err = k.write(path, false)
	}
	if err != nil {
		return nil, sluice.Wrap("create key file", "", err)
	}
	return k, nil
}

// LoadOrCreateKeyring loads the key file, or creates it if it is absent.
func LoadOrCreateKeyring(path string, random io.Reader) (*Keyring, error) {
	k, err := LoadKeyring(path, random)
	if !errors.Is(err, sluice.NotFound) {
		return k, err
	}
	k, err = CreateKeyring(path, random)
	if errors.Is(err, sluice.Exists) { // somebody was faster
		return LoadKeyring(path, random)
	}
	return k, err
}

// Save replaces the key file at path by this ring in one step, for rotation.
func (k *Keyring) Save(path string) error {
	return sluice.Wrap("save key file", "", k.write(path, true))
}

func newRing(random io.Reader) *Keyring {
	if random == nil {
		random = rand.Reader
	}
	return &Keyring{random: random, grants: newGrantCache()}
}

func (k *Keyring) add(id KeyID) error {
	n := key{id: id}
	if _, err := io.ReadFull(k.random, n.secret[:]); err != nil {
		return fmt.Errorf("draw a key: %w", err)
	}
	if err := n.derive(); err != nil {
		return err
	}
	k.keys = append(k.keys, n)
	return nil
}

// derive makes the purpose keys (HKDF, RFC 5869), so that no two purposes share one.
func (n *key) derive() error {
	for _, p := range []struct {
		label string
		to    *[]byte
	}{{"sluice grant 1", &n.grant}, {"sluice token 1", &n.token}, {"sluice seal 1", &n.seal}, {"sluice proof 1", &n.proof}} {
		b, err := hkdf.Key(sha256.New, n.secret[:], nil, p.label, keySize)
		if err != nil {
			return fmt.Errorf("derive a key: %w", err)
		}
		*p.to = b
	}
	return nil
}

func (k *Keyring) find(id KeyID) *key {
	for i := range k.keys {
		if k.keys[i].id == id {
			return &k.keys[i]
		}
	}
	return nil
}

// Proof returns the HMAC-SHA256, with the key id, of label and transcript; nil if the
// ring has no such key. It proves knowledge of the cluster key to whoever has it too.
func (k *Keyring) Proof(id KeyID, label string, transcript []byte) []byte {
	n := k.find(id)
	if n == nil {
		return nil
	}
	m := hmac.New(sha256.New, n.proof)
	m.Write([]byte{byte(len(label))})
	io.WriteString(m, label)
	m.Write(transcript)
	return m.Sum(nil)
}

// CheckProof says whether proof is what [Keyring.Proof] returns, in constant time.
func (k *Keyring) CheckProof(id KeyID, label string, transcript, proof []byte) bool {
	want := k.Proof(id, label, transcript)
	return want != nil && subtle.ConstantTimeCompare(want, proof) == 1
}

func loadKeyring(path string, random io.Reader) (*Keyring, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, invalid("%s is not a regular file", path)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, &sluice.Error{Kind: sluice.Permission, Err: fmt.Errorf("%s has mode %04o and must be readable by its owner only; run chmod 600 on it (and make a new key if somebody may have seen it)", path, perm)}
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	k, err := parseKeyring(text, random)
	if err != nil {
		return nil, invalid("%s is not a key file: %w", path, err)
	}
	return k, nil
}

// parseKeyring reads "sluice-keys 1", then a line "id hex" per key. Its errors name
// lines, never their content.
func parseKeyring(text []byte, random io.Reader) (*Keyring, error) {
	if len(text) > maxFile {
		return nil, errors.New("it is too long")
	}
	k, n := newRing(random), 0
	for line := range strings.SplitSeq(string(text), "\n") {
		n++
		line = strings.TrimSpace(line)
		switch {
		case n == 1 && line != fileMagic:
			return nil, fmt.Errorf("line 1 is not %q", fileMagic)
		case n == 1 || line == "" || line[0] == '#':
			continue
		}
		id, secret, _ := strings.Cut(line, " ")
		i, err1 := strconv.ParseUint(id, 10, 32)
		b, err2 := hex.DecodeString(strings.TrimSpace(secret))
		if err1 != nil || err2 != nil || i == 0 || len(b) != keySize {
			return nil, fmt.Errorf("line %d is not an id and %d bytes in hexadecimal", n, keySize)
		}
		if len(k.keys) > 0 && k.Signing() >= KeyID(i) {
			return nil, fmt.Errorf("line %d: ids must ascend", n)
		}
		if len(k.keys) == maxKeys {
			return nil, fmt.Errorf("it has more than %d keys", maxKeys)
		}
		e := key{id: KeyID(i), secret: [keySize]byte(b)}
		if err := e.derive(); err != nil {
			return nil, err
		}
		k.keys = append(k.keys, e)
	}
	if len(k.keys) == 0 {
		return nil, errors.New("it has no key")
	}
	return k, nil
}

func (k *Keyring) text() []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, fileMagic)
	for _, e := range k.keys {
		fmt.Fprintf(&b, "%d %x\n", e.id, e.secret)
	}
	return b.Bytes()
}

// write puts the ring at path by way of a temporary file, so that the file is whole
// or absent; without replace an existing file is kept and kind Exists returned.
func (k *Keyring) write(path string, replace bool) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".keys-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(k.text())
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if replace {
		err = os.Rename(f.Name(), path)
	} else {
		err = os.Link(f.Name(), path)
	}
	if errors.Is(err, fs.ErrExist) {
		return &sluice.Error{Kind: sluice.Exists, Err: fmt.Errorf("%s is there already", path)}
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func invalid(format string, args ...any) error {
	return &sluice.Error{Kind: sluice.Invalid, Err: fmt.Errorf(format, args...)}
}

func unauthenticated(format string, args ...any) error {
	return &sluice.Error{Kind: sluice.Unauthenticated, Err: fmt.Errorf(format, args...)}
}

// Has says whether the ring has the key.
func (k *Keyring) Has(id KeyID) bool { return k.find(id) != nil }

package auth

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"io"

	sluice "github.com/sluicefs/sluice"
)

// A sealed secret is, in bytes (numbers big-endian):
//
//	0       1       5      17
//	version key id  nonce  AES-256-GCM of the secret with its tag
//
// The first five bytes and the caller's context are authenticated with it.
const (
	sealVersion = 1
	sealHeader  = 1 + 4
	sealNonce   = 12
	sealTag     = 16
	maxSecret   = 64 << 10
)

// Seal encrypts secret so that only who has the cluster key opens it, and only with
// the same context (what it belongs to, such as a mount's id and option), which is
// not kept in it. Kind TooLarge: the secret has more than 64 KiB.
func (k *Keyring) Seal(secret []byte, context string) ([]byte, error) {
	const op = "seal secret"
	if len(secret) > maxSecret {
		return nil, &sluice.Error{Op: op, Kind: sluice.TooLarge, Err: fmt.Errorf("a secret has at most %d bytes", maxSecret)}
	}
	n := &k.keys[len(k.keys)-1]
	box, err := sealer(n)
	if err != nil {
		return nil, sluice.Wrap(op, "", err)
	}
	out := make([]byte, sealHeader+sealNonce, sealHeader+sealNonce+len(secret)+sealTag)
	out[0] = sealVersion
	binary.BigEndian.PutUint32(out[1:], uint32(n.id))
	if _, err := io.ReadFull(k.random, out[sealHeader:]); err != nil {
		return nil, sluice.Wrap(op, "", fmt.Errorf("draw a nonce: %w", err))
	}
	return box.Seal(out, out[sealHeader:], secret, sealData(out[:sealHeader], context)), nil
}

// Open decrypts what [Keyring.Seal] returned. Kind Corrupt: it was altered or sealed
// for another context. Kind Unauthenticated: the ring lacks its key.
func (k *Keyring) Open(sealed []byte, context string) ([]byte, error) {
	const op = "open secret"
	corrupt := func(text string) error {
		return &sluice.Error{Op: op, Kind: sluice.Corrupt, Err: fmt.Errorf("the sealed secret %s", text)}
	}
	if len(sealed) < sealHeader+sealNonce+sealTag || sealed[0] != sealVersion {
		return nil, corrupt("is too short or of an unknown version")
	}
	id := KeyID(binary.BigEndian.Uint32(sealed[1:]))
	n := k.find(id)
	if n == nil {
		return nil, sluice.Wrap(op, "", unauthenticated("it was sealed with key %d, which the key file does not have; bring back the key file the cluster was made with", id))
	}
	box, err := sealer(n)
	if err != nil {
		return nil, sluice.Wrap(op, "", err)
	}
	nonce, text := sealed[sealHeader:sealHeader+sealNonce], sealed[sealHeader+sealNonce:]
	secret, err := box.Open(nil, nonce, text, sealData(sealed[:sealHeader], context))
	if err != nil {
		return nil, corrupt("was altered, or belongs to something else")
	}
	return secret, nil
}

func sealData(header []byte, context string) []byte {
	return append(append(make([]byte, 0, len(header)+len(context)), header...), context...)
}

func sealer(n *key) (cipher.AEAD, error) {
	b, err := aes.NewCipher(n.seal)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

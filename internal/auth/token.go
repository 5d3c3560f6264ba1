package auth

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"

	sluice "github.com/sluicefs/sluice"
)

// Token is what a user's token says. Name and groups are those of the holder; Admin
// makes the holder the superuser; SpeakFor lets the holder (a mount, a gateway) name
// the principal of each request.
type Token struct {
	User     string
	Groups   []string
	Expiry   time.Time // cut to the second
	Admin    bool
	SpeakFor bool
}

// Principal returns on whose behalf the holder acts.
func (t Token) Principal() sluice.Principal {
	return sluice.Principal{User: t.User, Groups: t.Groups, Super: t.Admin}
}

const (
	tokenIssuer = "sluice"
	maxToken    = 8 << 10
)

// tokenClaims are the claims of our JWT (RFC 7519, HS256).
type tokenClaims struct {
	Groups   []string `json:"groups,omitempty"`
	Admin    bool     `json:"admin,omitempty"`
	SpeakFor bool     `json:"speak_for,omitempty"`
	jwt.RegisteredClaims
}

// IssueToken signs a token. Kind Invalid: it has no user or no expiry, or would be
// longer than 8 KiB.
func (k *Keyring) IssueToken(t Token) (string, error) {
	const op = "issue token"
	if t.User == "" || t.Expiry.IsZero() {
		return "", sluice.Wrap(op, "", invalid("a token needs a user and an expiry"))
	}
	n := &k.keys[len(k.keys)-1]
	j := jwt.NewWithClaims(jwt.SigningMethodHS256, tokenClaims{
		Groups: t.Groups, Admin: t.Admin, SpeakFor: t.SpeakFor,
		RegisteredClaims: jwt.RegisteredClaims{Issuer: tokenIssuer, Subject: t.User, ExpiresAt: jwt.NewNumericDate(t.Expiry)},
	})
	j.Header["kid"] = strconv.FormatUint(uint64(n.id), 10)
	s, err := j.SignedString(n.token)
	if err != nil {
		return "", sluice.Wrap(op, "", fmt.Errorf("sign: %w", err))
	}
	if len(s) > maxToken {
		return "", sluice.Wrap(op, "", invalid("the token has %d bytes and at most %d are accepted; name fewer groups", len(s), maxToken))
	}
	return s, nil
}

// VerifyToken returns what a token says. Kind Unauthenticated: it is malformed,
// altered, signed by no key of the ring, or expired at now.
func (k *Keyring) VerifyToken(s string, now time.Time) (Token, error) {
	t, err := k.verifyToken(s, now)
	return t, sluice.Wrap("verify token", "", err)
}

func (k *Keyring) verifyToken(s string, now time.Time) (Token, error) {
	if len(s) > maxToken {
		return Token{}, unauthenticated("the token has more than %d bytes", maxToken)
	}
	var c tokenClaims
	_, err := jwt.ParseWithClaims(s, &c, k.tokenKey,
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithIssuer(tokenIssuer),
		jwt.WithExpirationRequired(), jwt.WithStrictDecoding(), jwt.WithTimeFunc(func() time.Time { return now }))
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return Token{}, unauthenticated("the token has expired; have a new one made with sluice admin token")
	case err != nil: // the library's text may quote the token
		return Token{}, unauthenticated("the token is not one of this cluster")
	case c.Subject == "":
		return Token{}, unauthenticated("the token names no user")
	}
	return Token{User: c.Subject, Groups: c.Groups, Expiry: c.ExpiresAt.Time, Admin: c.Admin, SpeakFor: c.SpeakFor}, nil
}

func (k *Keyring) tokenKey(t *jwt.Token) (any, error) {
	kid, _ := t.Header["kid"].(string)
	id, err := strconv.ParseUint(kid, 10, 32)
	if err == nil {
		if n := k.find(KeyID(id)); n != nil {
			return n.token, nil
		}
	}
	return nil, errors.New("unknown key")
}

package swift

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"

	api "github.com/ncw/swift/v2"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// fail turns the failure of a call that changes nothing into our error.
func (s *Store) fail(op string, key underfs.Key, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*sluice.Error](err); ok {
		return e
	}
	kind, hint := s.kind(err)
	if is(err, http.StatusTooManyRequests) || is(err, 498) {
		err = fmt.Errorf("%w: %w", underfs.ErrSlowDown, err)
	}
	if hint != "" {
		err = fmt.Errorf("%w; %s", err, hint)
	}
	return underfs.Fail(op, key, kind, err)
}

// failChange is fail for a call that changes what others see: what was sent and not
// answered, and what the proxy could not get a quorum for, has an unknown outcome.
func (s *Store) failChange(op string, key underfs.Key, err error) error {
	if err == nil {
		return nil
	}
	_, ours := errors.AsType[*sluice.Error](err)
	r, answered := errors.AsType[*statusError](err)
	unknown := !ours && !answered && !neverSent(err) || answered && r.status >= 500 && r.status != http.StatusNotImplemented && r.status != http.StatusInsufficientStorage
	if unknown {
		return underfs.Fail(op, key, sluice.UnknownOutcome, err)
	}
	return s.fail(op, key, err)
}

// neverSent says whether a request failed before it could reach the proxy.
func neverSent(err error) bool {
	if _, ok := errors.AsType[*signInError](err); ok {
		return true
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return true
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return true
	}
	return badCertificate(err)
}

// badCertificate says whether err is a TLS peer that is not trusted.
func badCertificate(err error) bool {
	_, verify := errors.AsType[*tls.CertificateVerificationError](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, host := errors.AsType[x509.HostnameError](err)
	_, record := errors.AsType[tls.RecordHeaderError](err)
	return verify || unknown || host || record || errors.Is(err, http.ErrSchemeMismatch)
}

// kind returns the kind of a failure and what to do about it.
func (s *Store) kind(err error) (sluice.Kind, string) {
	if e, ok := errors.AsType[*signInError](err); ok {
		return signInKind(e.err)
	}
	r, answered := errors.AsType[*statusError](err)
	if !answered {
		_, syntax := errors.AsType[*json.SyntaxError](err)
		switch {
		case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
			return sluice.KindOf(err), ""
		case badCertificate(err):
			return sluice.Invalid, "check property ca_file, and whether the address speaks HTTPS"
		case syntax:
			return sluice.Invalid, "the address does not speak Swift; check property storage_url"
		case neverSent(err):
			return sluice.Unavailable, "nothing answers there; check properties auth_url, region and storage_url"
		}
		return sluice.Unavailable, ""
	}
	switch r.status {
	case http.StatusUnauthorized:
		return sluice.Unauthenticated, "the token is refused; check user, project and secrets"
	case http.StatusForbidden:
		return sluice.Permission, ""
	case http.StatusNotFound:
		return sluice.NotFound, ""
	case http.StatusPreconditionFailed, http.StatusRequestedRangeNotSatisfiable, http.StatusNotModified:
		return sluice.Changed, ""
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return sluice.Unsupported, ""
	case http.StatusRequestEntityTooLarge:
		return sluice.NoSpace, "the account or container is over its quota, or part_size above the cluster's max_file_size"
	case http.StatusInsufficientStorage:
		return sluice.NoSpace, ""
	case http.StatusConflict, http.StatusUnprocessableEntity, http.StatusRequestTimeout, http.StatusTooManyRequests, 498, 499:
		return sluice.Unavailable, "" // a newer change, a damaged body, a slow one, too many: nothing was done
	}
	if r.status >= 500 {
		return sluice.Unavailable, ""
	}
	return sluice.Invalid, ""
}

// signInKind is kind of a token that was not given.
func signInKind(err error) (sluice.Kind, string) {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return sluice.KindOf(err), ""
	}
	e, answered := errors.AsType[*api.Error](err)
	_, syntax := errors.AsType[*json.SyntaxError](err)
	switch {
	case badCertificate(err):
		return sluice.Invalid, "check property ca_file, and whether auth_url speaks HTTPS"
	case syntax:
		return sluice.Invalid, "nothing that gives tokens answers there; check properties auth_url and auth_version"
	case !answered:
		return sluice.Unavailable, "nothing answers there; check property auth_url"
	}
	switch code := e.StatusCode; {
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusBadRequest:
		return sluice.Unauthenticated, "check user, domains, project and secrets"
	case code == 0:
		return sluice.Invalid, "there is no object store in the catalog; check properties region and endpoint_type"
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code >= 500:
		return sluice.Unavailable, ""
	}
	return sluice.Invalid, "check properties auth_url and auth_version"
}

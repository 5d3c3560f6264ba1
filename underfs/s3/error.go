package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/minio/minio-go/v7"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// fail turns what minio-go returned for a call that changes nothing into our error.
func (s *Store) fail(op string, key underfs.Key, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*sluice.Error](err); ok {
		return e
	}
	kind, hint := s.kind(err)
	if r, ok := errors.AsType[minio.ErrorResponse](err); ok && kind == sluice.Unavailable && (r.StatusCode == http.StatusServiceUnavailable || r.StatusCode == http.StatusTooManyRequests) {
		err = fmt.Errorf("%w: %w", underfs.ErrSlowDown, err)
	}
	if hint != "" {
		err = fmt.Errorf("%w; %s", err, hint)
	}
	return underfs.Fail(op, key, kind, err)
}

// failChange is fail for a call that changes the store: what was sent and not answered
// has an unknown outcome.
func (s *Store) failChange(op string, key underfs.Key, err error) error {
	if err == nil {
		return nil
	}
	r, answered := errors.AsType[minio.ErrorResponse](err)
	unknown := !answered && !neverSent(err)
	switch {
	case answered && (r.StatusCode == 500 || r.StatusCode == 502 || r.StatusCode == 504):
		unknown = true
	case answered && r.StatusCode == http.StatusOK: // a multipart completion that broke on its way
		unknown = r.Code == "InternalError"
	}
	if _, ours := errors.AsType[*sluice.Error](err); unknown && !ours {
		return underfs.Fail(op, key, sluice.UnknownOutcome, err)
	}
	return s.fail(op, key, err)
}

// neverSent says whether a request failed before it could reach the service.
func neverSent(err error) bool {
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

// kind returns the kind of an error of minio-go and what to do about it.
func (s *Store) kind(err error) (sluice.Kind, string) {
	r, answered := errors.AsType[minio.ErrorResponse](err)
	if !answered {
		_, garbage := errors.AsType[*xml.SyntaxError](err)
		switch {
		case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
			return sluice.KindOf(err), ""
		case badCertificate(err):
			return sluice.Invalid, "check property ca_file, and whether the endpoint speaks HTTPS"
		case garbage:
			return sluice.Invalid, "the endpoint does not speak S3; check property endpoint"
		case neverSent(err):
			return sluice.Unavailable, "nothing answers at " + s.host + "; check property endpoint"
		}
		return sluice.Unavailable, ""
	}
	if k, hint, ok := s.kindOfCode(r); ok {
		return k, hint
	}
	switch code := r.StatusCode; {
	case code == http.StatusUnauthorized:
		return sluice.Unauthenticated, "check the mount's secrets"
	case code == http.StatusForbidden:
		return sluice.Permission, ""
	case code == http.StatusNotFound:
		return sluice.NotFound, ""
	case code == http.StatusPreconditionFailed, code == http.StatusRequestedRangeNotSatisfiable:
		return sluice.Changed, ""
	case code == http.StatusConflict:
		return sluice.Unavailable, "" // a concurrent change of the same key; nothing was done
	case code == http.StatusMethodNotAllowed, code == http.StatusNotImplemented:
		return sluice.Unsupported, ""
	case code == http.StatusInsufficientStorage:
		return sluice.NoSpace, ""
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code >= 500:
		return sluice.Unavailable, ""
	case code >= 300 && code < 400:
		return sluice.Invalid, "the bucket lies elsewhere; check properties region and endpoint"
	default:
		return sluice.Invalid, ""
	}
}

// kindOfCode decides by the service's code where that says more than the status.
func (s *Store) kindOfCode(r minio.ErrorResponse) (sluice.Kind, string, bool) {
	switch r.Code {
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchUser", "XAdminUserNotFound", "InvalidToken", "ExpiredToken", "TokenRefreshRequired", "InvalidSecurity":
		return sluice.Unauthenticated, "check secrets access_key, secret_key and session_token", true
	case "RequestTimeTooSkewed":
		return sluice.Unauthenticated, s.transport.drift(), true
	case "AccessDenied", "AllAccessDisabled":
		if v, err := s.creds.GetWithContext(nil); err != nil || v.AccessKeyID == "" {
			return sluice.Unauthenticated, "there are no credentials: give secrets access_key and secret_key, or AWS_ACCESS_KEY_ID, or ~/.aws/credentials", true
		}
		return sluice.Permission, "", true
	case "NoSuchBucket":
		return sluice.NotFound, fmt.Sprintf("there is no bucket %q at %s", s.bucket, s.host), true
	case "InvalidBucketName":
		return sluice.Invalid, fmt.Sprintf("%q is no bucket's name", s.bucket), true
	case "InvalidObjectState":
		return sluice.Archived, "", true
	case "SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "RequestLimitExceeded", "OperationAborted", "ConditionalRequestConflict":
		return sluice.Unavailable, "", true
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "IllegalLocationConstraintException":
		if to := s.transport.learned.Load(); to != nil && *to != s.region {
			return sluice.Unavailable, "the bucket lies in region " + *to + ", where the next try goes", true
		}
		if r.Region != "" {
			return sluice.Invalid, "set property region to " + r.Region, true
		}
		return sluice.Invalid, "check property region", true
	case "BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch":
		return sluice.Unavailable, "the body was damaged on its way", true
	case "QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity":
		return sluice.NoSpace, "", true
	case "EntityTooLarge":
		return sluice.TooLarge, "", true
	case "ExistingObjectIsDirectory":
		return sluice.IsDirectory, "", true
	case "ObjectParentIsFile":
		return sluice.NotDirectory, "", true
	case "DirectoryNotEmpty":
		return sluice.NotEmpty, "", true
	}
	return 0, "", false
}

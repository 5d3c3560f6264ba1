package underfs

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluicefs/sluice"
)

// ErrSlowDown is in the cause of an Unavailable call that the store refused because there
// were too many: fewer at once get more done.
var ErrSlowDown = errors.New("the store asks for fewer calls at once")

// Fail returns the *sluice.Error of a failed call on key. The store's key is part of the
// cause: which path it belongs to is known to the caller only. A cancelled or expired
// context in err overrides kind, except UnknownOutcome. It returns nil for a nil err.
func Fail(op string, key Key, kind sluice.Kind, err error) error {
	if err == nil {
		return nil
	}
	if kind != sluice.UnknownOutcome {
		switch {
		case errors.Is(err, context.Canceled):
			kind = sluice.Cancelled
		case errors.Is(err, context.DeadlineExceeded):
			kind = sluice.Timeout
		}
	}
	if key != "" {
		err = fmt.Errorf("key %q: %w", clip(key), err)
	}
	return &sluice.Error{Op: op, Kind: kind, Err: err}
}

// Failf is [Fail] with a text.
func Failf(op string, key Key, kind sluice.Kind, format string, args ...any) error {
	return Fail(op, key, kind, fmt.Errorf(format, args...))
}

// clip shortens a key for a message.
func clip(key Key) Key {
	if len(key) > 200 {
		return key[:200] + "..."
	}
	return key
}

// ValidKey says whether key makes a valid path below a mount, with or without the "/" of
// a directory at its end. Keys that do not are listed and counted, never opened by users.
func ValidKey(key Key) bool {
	s := string(key)
	if n := len(s); n > 0 && s[n-1] == '/' {
		s = s[:n-1]
	}
	if s == "" {
		return key == ""
	}
	_, err := sluice.ParsePath("/" + s)
	return err == nil
}

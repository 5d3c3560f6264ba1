package sluice

import (
	"context"
	"errors"
	"io/fs"
	"strings"
)

// Error is what every room answers at its border: what was tried, on what, what
// sort of failure it was, and the cause. Path and Op are said once, by the
// outermost room that knows them.
type Error struct {
	Op      string // the operation in a user's words, such as "open" or "mount"
	Path    Path   // what it was about; empty where it is about no path
	Kind    Kind
	Primary string // the primary master's address, with kind NotPrimary, if known
	Err     error  // the cause, may be nil; what a person sees says what to do next
}

// Error returns "op path: kind: cause" without what is empty.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Path != "" {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(string(e.Path))
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(e.Kind.String())
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is matches a [Kind], and the standard library's errors of the same meaning, so
// that code written for io/fs and context understands ours.
func (e *Error) Is(target error) bool {
	if k, ok := target.(Kind); ok {
		return e.Kind == k
	}
	switch e.Kind {
	case NotFound:
		return target == fs.ErrNotExist
	case Exists:
		return target == fs.ErrExist
	case Permission:
		return target == fs.ErrPermission
	case Invalid:
		return target == fs.ErrInvalid
	case Timeout:
		return target == context.DeadlineExceeded
	case Cancelled:
		return target == context.Canceled
	default:
		return false
	}
}

// KindOf returns the kind of err: that of the outermost [Error] in its chain, of
// context and io/fs errors by meaning, else [Internal]. It must not be asked of nil.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	if k, ok := errors.AsType[Kind](err); ok {
		return k
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	case errors.Is(err, context.Canceled):
		return Cancelled
	case errors.Is(err, fs.ErrNotExist):
		return NotFound
	case errors.Is(err, fs.ErrExist):
		return Exists
	case errors.Is(err, fs.ErrPermission):
		return Permission
	case errors.Is(err, fs.ErrInvalid):
		return Invalid
	default:
		return Internal
	}
}

// Wrap returns err as an [Error] with the operation and path filled in where they
// are not said yet, and nil for nil. It copies: errors are shared between callers.
func Wrap(op string, path Path, err error) error {
	if err == nil {
		return nil
	}
	e, ok := err.(*Error)
	if !ok {
		return &Error{Op: op, Path: path, Kind: KindOf(err), Err: err}
	}
	c := *e
	if c.Op == "" {
		c.Op = op
	}
	if c.Path == "" {
		c.Path = path
	}
	return &c
}

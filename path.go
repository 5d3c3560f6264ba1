package sluice

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of a [Path], in bytes. They are those of Linux (NAME_MAX, PATH_MAX), so
// that whatever Sluice accepts can be shown by a kernel mount.
const (
	MaxName = 255
	MaxPath = 4096
)

// Path is a canonical, absolute name in the one namespace: it starts with "/", has
// no empty, "." or ".." component, no trailing slash (except the root itself), is
// valid UTF-8 without control characters, and keeps to [MaxName] and [MaxPath].
// Make one with [ParsePath]; a conversion from string skips the checks.
type Path string

// Root is the top of the namespace.
const Root Path = "/"

// ParsePath checks s and returns it as a Path. It does not clean: what is not
// canonical is refused, with kind [Invalid] and a message that says why, because a
// silently mended path names another file than the user typed.
func ParsePath(s string) (Path, error) {
	bad := func(format string, args ...any) (Path, error) {
		return "", &Error{Op: "parse path", Path: Path(printable(s)), Kind: Invalid, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case s == "":
		return bad("a path must not be empty; the top is /")
	case s[0] != '/':
		return bad("a path must start with /")
	case s == "/":
		return Root, nil
	case len(s) > MaxPath:
		return bad("a path may have at most %d bytes, this one has %d", MaxPath, len(s))
	case s[len(s)-1] == '/':
		return bad("a path must not end in /")
	}
	for name := range strings.SplitSeq(s[1:], "/") {
		if err := CheckName(name); err != nil {
			return bad("%w", err)
		}
	}
	return Path(s), nil
}

// CheckName says whether name may be one component of a [Path], and if not, why.
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("empty component (two slashes in a row)")
	case name == "." || name == "..":
		return fmt.Errorf("component %q is not allowed; write the full path", name)
	case len(name) > MaxName:
		return fmt.Errorf("a component may have at most %d bytes, %.20q... has %d", MaxName, name, len(name))
	case !utf8.ValidString(name):
		return fmt.Errorf("component %q is not valid UTF-8", name)
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c == '/':
			return fmt.Errorf("a component must not contain a slash, %q does", name)
		case c < 0x20 || c == 0x7f:
			return fmt.Errorf("component %q contains the control character %#02x", name, c)
		}
	}
	return nil
}

// Name returns the last component, "" for the root.
func (p Path) Name() string { return string(p[strings.LastIndexByte(string(p), '/')+1:]) }

// Parent returns the path without its last component; the root is its own parent.
func (p Path) Parent() Path {
	if i := strings.LastIndexByte(string(p), '/'); i > 0 {
		return p[:i]
	}
	return Root
}

// Join returns the path of the child name below p. It does not check name: callers
// that got it from outside use [Path.Child].
func (p Path) Join(name string) Path {
	if p == Root {
		return Path("/" + name)
	}
	return p + "/" + Path(name)
}

// Child returns the path of the child name below p, or kind [Invalid].
func (p Path) Child(name string) (Path, error) {
	if err := CheckName(name); err != nil {
		return "", &Error{Op: "parse path", Path: p, Kind: Invalid, Err: err}
	}
	if c := p.Join(name); len(c) <= MaxPath {
		return c, nil
	}
	return "", &Error{Op: "parse path", Path: p, Kind: Invalid, Err: fmt.Errorf("a path may have at most %d bytes", MaxPath)}
}

// Contains says whether q is p or lies below p.
func (p Path) Contains(q Path) bool {
	return p == q || p == Root || strings.HasPrefix(string(q), string(p)+"/")
}

// Rel returns the part of q below p without a leading slash, "" where they are
// equal. It must only be asked where p contains q.
func (p Path) Rel(q Path) string {
	if p == Root {
		return string(q[1:])
	}
	return strings.TrimPrefix(string(q[len(p):]), "/")
}

// Names returns the components from the top, none for the root.
func (p Path) Names() []string {
	if p == Root {
		return nil
	}
	return strings.Split(string(p[1:]), "/")
}

// printable makes s fit for an error message: control characters and broken UTF-8
// are escaped, and an over-long text is cut.
func printable(s string) string {
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	q := fmt.Sprintf("%q", s)
	return q[1 : len(q)-1]
}

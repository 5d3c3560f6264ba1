package sluice_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluicefs/sluice"
)

func TestParsePath(t *testing.T) {
	long := strings.Repeat("n", sluice.MaxName)
	for _, good := range []string{"/", "/a", "/a b/c%20d+e", "/.hidden/..x", "/" + long, "/ü/日本"} {
		if p, err := sluice.ParsePath(good); err != nil || string(p) != good {
			t.Errorf("ParsePath(%q) = %q, %v", good, p, err)
		}
	}
	for bad, why := range map[string]string{
		"": "must not be empty", "a": "must start with /", "/a/": "must not end in /", "//": "must not end in /", "/a//b": "empty component",
		"/a/../b": `".."`, "/./a": `"."`, "/" + long + "x": "at most 255 bytes", "/\xff": "not valid UTF-8", "/a\nb": "control character 0x0a",
		"/a\x00": "control character", "/\x7f": "control character", strings.Repeat("/x", 2049): "at most 4096 bytes",
	} {
		_, err := sluice.ParsePath(bad)
		if !errors.Is(err, sluice.Invalid) || !strings.Contains(fmt.Sprint(err), why) {
			t.Errorf("ParsePath(%.40q): got %v, want kind invalid that says %q", bad, err, why)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\x00") {
			t.Errorf("ParsePath(%.40q): the message carries control characters: %q", bad, err)
		}
	}
}

func TestPathParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfN(rapid.StringMatching(`[a-z.]{1,8}[a-z]`), 0, 6).Draw(t, "names")
		p := sluice.Root
		for _, n := range names {
			c, err := p.Child(n)
			if err != nil {
				t.Fatalf("Child(%q): %v", n, err)
			}
			if c.Parent() != p || c.Name() != n || !p.Contains(c) || c.Contains(p) || p.Rel(c) != n {
				t.Fatalf("parts of %q below %q are wrong", c, p)
			}
			p = c
		}
		if got := strings.Join(p.Names(), "/"); got != strings.Join(names, "/") {
			t.Fatalf("Names: got %q", got)
		}
		if q, err := sluice.ParsePath(string(p)); err != nil || q != p {
			t.Fatalf("ParsePath(%q): %q, %v", p, q, err)
		}
	})
	if sluice.Path("/ab").Contains("/abc") || sluice.Path("/a").Contains("/") {
		t.Error("Contains looks at bytes, not components")
	}
}

func TestKindsAreTotal(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range sluice.Kinds() {
		if s := k.String(); s == "unknown kind" || seen[s] {
			t.Errorf("kind %d has no name of its own: %q", k, s)
		}
		seen[k.String()] = true
		err := fmt.Errorf("around: %w", &sluice.Error{Op: "open", Path: "/x", Kind: k})
		if !errors.Is(err, k) || sluice.KindOf(err) != k {
			t.Errorf("%v is not found in %v", k, err)
		}
		for _, other := range sluice.Kinds() {
			if other != k && errors.Is(err, other) {
				t.Errorf("%v is taken for %v", err, other)
			}
		}
	}
}

func TestErrorMeanings(t *testing.T) {
	for target, k := range map[error]sluice.Kind{
		fs.ErrNotExist: sluice.NotFound, fs.ErrExist: sluice.Exists, fs.ErrPermission: sluice.Permission, fs.ErrInvalid: sluice.Invalid,
		context.DeadlineExceeded: sluice.Timeout, context.Canceled: sluice.Cancelled,
	} {
		if err := (&sluice.Error{Kind: k}); !errors.Is(err, target) {
			t.Errorf("%v is not %v for the standard library", err, target)
		}
		if got := sluice.KindOf(fmt.Errorf("x: %w", target)); got != k {
			t.Errorf("KindOf(%v) = %v, want %v", target, got, k)
		}
	}
	e := &sluice.Error{Kind: sluice.NotFound, Err: errors.New("gone")}
	if got := sluice.Wrap("open", "/x", e).Error(); got != "open /x: not found: gone" {
		t.Errorf("Wrap: %q", got)
	}
	if e.Op != "" {
		t.Error("Wrap changed a shared error")
	}
	if got := sluice.Wrap("read", "/y", sluice.Wrap("open", "/x", e)).Error(); got != "open /x: not found: gone" {
		t.Errorf("said twice: %q", got)
	}
	if sluice.Wrap("open", "/x", nil) != nil {
		t.Error("Wrap of nil")
	}
}

func TestTextForms(t *testing.T) {
	c := sluice.ContentID{Incarnation: 0xabc, Counter: 77}
	if got, err := sluice.ParseContentID(c.String()); err != nil || got != c {
		t.Errorf("content id: %v, %v", got, err)
	}
	if _, err := sluice.ParseContentID("x"); !errors.Is(err, sluice.Invalid) {
		t.Errorf("bad content id: %v", err)
	}
	for s, want := range map[string]sluice.Freshness{"never": sluice.NeverAsk(), "always": sluice.Always(), "5m": sluice.Every(5 * time.Minute), "every 30s": sluice.Every(30 * time.Second), "": {}} {
		if got, err := sluice.ParseFreshness(s); err != nil || got != want {
			t.Errorf("freshness %q: %v, %v", s, got, err)
		}
		if got, err := sluice.ParseFreshness(want.String()); err != nil || got != want {
			t.Errorf("freshness %q does not round-trip: %v, %v", want, got, err)
		}
	}
	for m, want := range map[sluice.Mode]string{0o644: "rw-r--r--", 0o7777: "rwsrwsrwt", 0o7000: "--S--S--T", 0: "---------"} {
		if m.String() != want {
			t.Errorf("mode %o: %s, want %s", m, m, want)
		}
	}
	if s := fmt.Sprintf("%v %+v %#v", sluice.Secrets{"k": "hunter2"}, sluice.Secrets{"k": "hunter2"}, sluice.Secrets{"k": "hunter2"}); strings.Contains(s, "hunter2") {
		t.Errorf("secrets print: %s", s)
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"/", "/a/b", "//", "/../", "/\xff", "/a\x01"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := sluice.ParsePath(s)
		if err != nil {
			return
		}
		if string(p) != s || p != sluice.Root && p.Parent().Join(p.Name()) != p {
			t.Errorf("%q is not canonical", s)
		}
	})
}

package sluice_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/sluicefs/sluice"

// source is one hand-written, non-test file.
type source struct {
	name    string // slash-separated, from the module's root
	file    *ast.File
	imports []string
}

func (s source) dir() string { return filepath.ToSlash(filepath.Dir(s.name)) }

// sources parses every hand-written non-test Go file of the module.
func sources(t *testing.T) (*token.FileSet, []source) {
	t.Helper()
	fset := token.NewFileSet()
	var all []source
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			skip := name != "." && (strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"testdata", "tools", "bin", "dist"}, d.Name()))
			if skip {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		if ast.IsGenerated(f) {
			return nil
		}
		s := source{name: filepath.ToSlash(name), file: f}
		for _, i := range f.Imports {
			p, _ := strconv.Unquote(i.Path.Value)
			s.imports = append(s.imports, p)
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("found only %d source files: the walk is broken", len(all))
	}
	return fset, all
}

// ours returns the folder of an import of this module, or false.
func ours(path string) (string, bool) {
	if path == module {
		return ".", true
	}
	rest, ok := strings.CutPrefix(path, module+"/")
	return rest, ok
}

// floor numbers the rooms from the ground: a room imports its own floor and those below.
func floor(dir string) int {
	switch {
	case dir == ".":
		return 0
	case slices.Contains([]string{"internal/keyvalue", "internal/namespace", "internal/policy", "internal/wire", "internal/auth", "internal/simnet"}, dir),
		dir == "underfs", strings.HasPrefix(dir, "underfs/"):
		return 1
	case slices.Contains([]string{"internal/rpc", "internal/journal", "internal/zookeeper", "internal/fleet", "internal/blockstore"}, dir):
		return 2
	case slices.Contains([]string{"internal/master", "internal/worker", "client", "internal/jobs", "internal/inspect"}, dir):
		return 3
	case isDoor(dir):
		return 4
	case strings.HasPrefix(dir, "cmd/"), slices.Contains([]string{"internal/cluster", "internal/bench"}, dir), strings.HasPrefix(dir, "test/"):
		return 5
	default:
		return -1
	}
}

func isDoor(dir string) bool {
	return slices.Contains([]string{"internal/shell", "internal/web", "internal/fuse", "internal/s3", "internal/webhdfs"}, dir)
}

func TestFloors(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		own := floor(s.dir())
		if own < 0 {
			t.Errorf("%s: the folder %s has no floor; give it one in arch_test.go and docs/ARCHITECTURE.md", s.name, s.dir())
			continue
		}
		for _, path := range s.imports {
			dir, ok := ours(path)
			if !ok {
				if own == 0 && strings.Contains(strings.Split(path, "/")[0], ".") {
					t.Errorf("%s imports %s: the words import the standard library only", s.name, path)
				}
				continue
			}
			if floor(dir) > own {
				t.Errorf("%s (floor %d) imports %s (floor %d): imports go down", s.name, own, dir, floor(dir))
			}
			if isDoor(s.dir()) && dir != "." {
				t.Errorf("%s imports %s: a door imports the words and its protocol library, nothing else of ours", s.name, dir)
			}
			if s.dir() == "client" && strings.HasPrefix(dir, "underfs/") && !slices.Contains([]string{"underfs/mounts"}, dir) {
				t.Errorf("%s imports %s: the client imports no driver", s.name, dir)
			}
		}
	}
}

// TestEveryRoomIsDrawn: docs/ARCHITECTURE.md names each folder with code.
func TestEveryRoomIsDrawn(t *testing.T) {
	page, err := os.ReadFile("docs/ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, all := sources(t)
	missing := map[string]bool{}
	for _, s := range all {
		dir := s.dir()
		if dir == "." || strings.HasPrefix(dir, "test/") {
			continue
		}
		name := dir
		if parent, last, _ := strings.Cut(dir, "/"); parent == "underfs" && slices.Contains([]string{"retry", "limit", "breaker", "trace", "guard"}, last) {
			name = last // they share a line
		}
		if !strings.Contains(string(page), "`"+name+"`") && !strings.Contains(string(page), "`"+dir+"`") {
			missing[dir] = true
		}
	}
	for dir := range missing {
		t.Errorf("docs/ARCHITECTURE.md does not name %s: give it a line that says what it owns, refuses and uses", dir)
	}
}

// TestVendors: what only one room may import.
func TestVendors(t *testing.T) {
	only := []struct {
		prefix string
		rooms  []string
	}{
		{"go.etcd.io/raft", []string{"internal/journal"}},
		{"github.com/go-zookeeper/zk", []string{"internal/zookeeper"}},
		{"github.com/minio/", []string{"underfs/s3"}},
		{"github.com/colinmarc/hdfs", []string{"underfs/hdfs"}},
		{"github.com/ncw/swift", []string{"underfs/swift"}},
		{"github.com/hanwen/go-fuse", []string{"internal/fuse"}},
		{"github.com/prometheus/", []string{"internal/web"}},
	}
	_, all := sources(t)
	for _, s := range all {
		for _, path := range s.imports {
			for _, o := range only {
				if strings.HasPrefix(path, o.prefix) && !slices.Contains(o.rooms, s.dir()) {
					t.Errorf("%s imports %s, which belongs to %v alone", s.name, path, o.rooms)
				}
			}
			pebble := strings.HasPrefix(path, "github.com/cockroachdb/pebble") && !strings.HasSuffix(path, "/vfs") && !strings.HasSuffix(path, "/vfs/errorfs")
			if pebble && s.dir() != "internal/keyvalue" {
				t.Errorf("%s imports %s, which belongs to internal/keyvalue alone (its vfs is free)", s.name, path)
			}
		}
	}
}

// TestPure: the rooms that must give the same answer on every replica.
func TestPure(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		if s.dir() != "internal/namespace" && s.dir() != "internal/policy" {
			continue
		}
		for _, path := range s.imports {
			if slices.Contains([]string{"os", "net", "math/rand", "math/rand/v2", "crypto/rand", "os/exec"}, path) || strings.HasPrefix(path, "net/") {
				t.Errorf("%s imports %s: this room is pure", s.name, path)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Sleep", "After", "NewTimer", "NewTicker", "Tick"}, sel.Sel.Name) {
					t.Errorf("%s uses time.%s: this room has no clock", s.name, sel.Sel.Name)
				}
			}
			if _, ok := n.(*ast.GoStmt); ok && s.dir() == "internal/namespace" {
				t.Errorf("%s starts a goroutine: the state machine has none", s.name)
			}
			return true
		})
	}
}

// TestNames: one comment a package, no init, no mutable globals, no room for leftovers.
func TestNames(t *testing.T) {
	fset, all := sources(t)
	comments := map[string]int{}
	for _, s := range all {
		comments[s.dir()] += 0
		if s.file.Doc != nil {
			comments[s.dir()]++
		}
		if slices.Contains([]string{"util", "utils", "common", "base", "types", "helpers", "manager"}, s.file.Name.Name) {
			t.Errorf("%s: a package called %s collects what nobody wanted to name", s.name, s.file.Name.Name)
		}
		for _, decl := range s.file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					t.Errorf("%s: no init", fset.Position(d.Pos()))
				}
			case *ast.GenDecl:
				if d.Tok != token.VAR {
					continue
				}
				for _, spec := range d.Specs {
					if v := spec.(*ast.ValueSpec); !constantInAllButName(d, v) {
						t.Errorf("%s: package-level variable %s; pass values instead", fset.Position(v.Pos()), v.Names[0].Name)
					}
				}
			}
		}
	}
	for dir, n := range comments {
		if n != 1 {
			t.Errorf("%s has %d package comments, wants exactly 1", dir, n)
		}
	}
}

// constantInAllButName: blank assertions, errors, patterns, embedded files.
func constantInAllButName(d *ast.GenDecl, v *ast.ValueSpec) bool {
	if v.Names[0].Name == "_" {
		return true
	}
	if d.Doc != nil && slices.ContainsFunc(d.Doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed") }) {
		return true
	}
	if len(v.Values) != 1 {
		return false
	}
	call, ok := v.Values[0].(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	return ok && slices.Contains([]string{"New", "MustCompile", "Errorf", "MakeTable"}, sel.Sel.Name)
}

// TestInterfaces: small ones belong to the consumer.
func TestInterfaces(t *testing.T) {
	fset, all := sources(t)
	for _, s := range all {
		ast.Inspect(s.file, func(n ast.Node) bool {
			if it, ok := n.(*ast.InterfaceType); ok {
				methods := 0
				for _, m := range it.Methods.List {
					methods += len(m.Names)
				}
				if methods > 12 {
					t.Errorf("%s: an interface of %d methods; 12 is the limit", fset.Position(it.Pos()), methods)
				}
			}
			return true
		})
	}
}

package underfs_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/hdfs"
	"github.com/sluicefs/sluice/underfs/local"
	"github.com/sluicefs/sluice/underfs/s3"
	"github.com/sluicefs/sluice/underfs/underfstest"
	"github.com/sluicefs/sluice/underfs/webhdfs"
)

func TestRegistryOpen(t *testing.T) {
	r := underfs.NewRegistry(local.Driver{}, s3.Driver{}, &underfstest.Driver{})
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		cfg  underfs.Config
		kind sluice.Kind
		says string
	}{
		{"a path", underfs.Config{URI: dir}, 0, ""},
		{"a file URI", underfs.Config{URI: "file://" + dir}, 0, ""},
		{"a directory that is not there", underfs.Config{URI: dir + "/nothing"}, sluice.NotFound, ""},
		{"a file", underfs.Config{URI: file}, sluice.NotDirectory, ""},
		{"another host", underfs.Config{URI: "file://host/x"}, sluice.Invalid, "host"},
		{"a bucket", underfs.Config{URI: "s3://bucket/prefix"}, 0, ""},
		{"no bucket", underfs.Config{URI: "s3://"}, sluice.Invalid, "bucket"},
		{"a bucket's name that is none", underfs.Config{URI: "s3://b"}, sluice.Invalid, "bucket"},
		{"keys in the URI", underfs.Config{URI: "s3://id:geheim@bucket"}, sluice.Invalid, "secrets"},
		{"in memory", underfs.Config{URI: "mem://x"}, 0, ""},
		{"an unknown scheme", underfs.Config{URI: "hdfs://x"}, sluice.Invalid, "file, mem, s3"},
		{"a relative path", underfs.Config{URI: "data"}, sluice.Invalid, "file, mem, s3"},
		{"a typo", underfs.Config{URI: "s3://bkt", Properties: map[string]string{"regoin": "x"}}, sluice.Invalid, `"region"`},
		{"a property of another driver", underfs.Config{URI: dir, Properties: map[string]string{"region": "x"}}, sluice.Invalid, `"sync"`},
		{"a wrong boolean", underfs.Config{URI: "s3://bkt", Properties: map[string]string{"insecure": "yes"}}, sluice.Invalid, "insecure"},
		{"a part too small", underfs.Config{URI: "s3://bkt", Properties: map[string]string{"part_size": "1024"}}, sluice.Invalid, "part_size"},
		{"an endpoint with a path", underfs.Config{URI: "s3://bkt", Properties: map[string]string{"endpoint": "http://h/p"}}, sluice.Invalid, "endpoint"},
		{"a secret as property", underfs.Config{URI: "s3://bkt", Properties: map[string]string{"secret_key": "geheim"}}, sluice.Invalid, "secret"},
		{"half a key", underfs.Config{URI: "s3://bkt", Secrets: sluice.Secrets{"access_key": "geheim"}}, sluice.Invalid, "together"},
		{"an unknown secret", underfs.Config{URI: "s3://bkt", Secrets: sluice.Secrets{"secret_keys": "geheim"}}, sluice.Invalid, `"secret_key"`},
		{"a reference to nothing", underfs.Config{URI: "s3://bkt", Secrets: sluice.Secrets{"secret_key": "env:SLUICE_TEST_NOT_SET"}}, sluice.Invalid, "SLUICE_TEST_NOT_SET"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := r.Open(c.cfg)
			if c.says == "" && c.kind == 0 {
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %v, want kind %q and %q in it", err, c.kind, c.says)
			}
			if strings.Contains(err.Error(), "geheim") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SLUICE_TEST_SECRET", "from the environment")
	in := sluice.Secrets{"a": "literal", "b": "file:" + file, "c": "env:SLUICE_TEST_SECRET"}
	got, err := underfs.Resolve(in)
	if err != nil {
		t.Fatal(err)
	}
	if got["a"] != "literal" || got["b"] != "from a file" || got["c"] != "from the environment" || in["b"] != "file:"+file {
		t.Errorf("resolved to a=%q b=%q c=%q", got["a"], got["b"], got["c"])
	}
	if _, err := underfs.Resolve(sluice.Secrets{"a": "file:" + file + "x"}); !errors.Is(err, sluice.Invalid) {
		t.Errorf("a file that is not there: %v, want kind invalid", err)
	}
}

func TestEverySettingIsDocumented(t *testing.T) {
	for _, d := range []underfs.Driver{local.Driver{}, s3.Driver{}, hdfs.Driver{}, webhdfs.Driver{}, &underfstest.Driver{}} {
		for _, s := range d.Settings() {
			if s.Name == "" || s.Help == "" {
				t.Errorf("%v: setting %+v has no name or help", d.Schemes(), s)
			}
		}
	}
}

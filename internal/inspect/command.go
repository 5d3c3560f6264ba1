package inspect

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/sluicefs/sluice/internal/wire"
)

// sealed stands in for a secret.
const sealed = "(sealed)"

// fill puts a command into its line.
func (l *line) fill(c *wire.Command) error {
	m := c.ProtoReflect()
	op := m.WhichOneof(m.Descriptor().Oneofs().ByName("op"))
	if op == nil {
		return errors.New("a command of a later version")
	}
	l.Op = string(op.Message().Name())
	var err error
	if l.Args, err = message(m.Get(op).Message().Interface()); err != nil {
		return err
	}
	if c.By != nil {
		if l.By, err = message(c.By); err != nil {
			return err
		}
	}
	if c.Request != nil {
		l.Request, err = message(c.Request)
	}
	return err
}

// message returns a message as JSON, its fields in order of name, without secrets.
func message(m proto.Message) (json.RawMessage, error) {
	b, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	b, err = json.Marshal(redact(v))
	return b, err
}

// redact replaces the values of every map called "secrets", and passwords in URIs.
func redact(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for k, inner := range x {
			if s, ok := inner.(map[string]any); ok && strings.EqualFold(k, "secrets") {
				for name, value := range s {
					s[name] = secret(value)
				}
				continue
			}
			if _, ok := inner.(string); ok && telling(k) {
				x[k] = sealed
				continue
			}
			x[k] = redact(inner)
		}
	case []any:
		for i := range x {
			x[i] = redact(x[i])
		}
	case string:
		if u, err := url.Parse(x); err == nil && u.Scheme != "" && u.User != nil {
			u.User = url.User(sealed)
			return u.String()
		}
	}
	return v
}

// telling says whether a field or option is called like a secret, wherever it was put.
func telling(name string) bool {
	name = strings.ToLower(name)
	for _, word := range []string{"secret", "password", "passwd", "token", "credential"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

// secret returns what may be shown of a secret: only where it is kept.
func secret(v any) string {
	s, _ := v.(string)
	b, err := base64.StdEncoding.DecodeString(s)
	if err == nil && (bytes.HasPrefix(b, []byte("file:")) || bytes.HasPrefix(b, []byte("env:"))) {
		return string(b)
	}
	return sealed
}

// duration returns nanoseconds for people.
func duration(ns int64) string { return time.Duration(ns).String() }

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/v2"
	"gopkg.in/yaml.v3"

	"github.com/sluicefs/sluice/internal/shell"
)

// setting is one key that can be set.
type setting struct {
	key  string // dotted
	kind reflect.Type
	help string
	def  string // its default as text
}

// settings lists every key, in the order of the struct.
func settings() []setting {
	return walkSettings("", reflect.ValueOf(defaults()))
}

func walkSettings(prefix string, v reflect.Value) []setting {
	var all []setting
	for i := range v.NumField() {
		field, value := v.Type().Field(i), v.Field(i)
		key := prefix + field.Tag.Get("koanf")
		if value.Kind() == reflect.Struct {
			all = append(all, walkSettings(key+".", value)...)
			continue
		}
		s := setting{key: key, kind: field.Type, help: field.Tag.Get("help")}
		if !value.IsZero() {
			s.def = fmt.Sprint(value.Interface())
		}
		all = append(all, s)
	}
	return all
}

// source is a map of dotted keys as a koanf provider.
type source map[string]any

// ReadBytes implements koanf.Provider.
func (source) ReadBytes() ([]byte, error) { return nil, errors.ErrUnsupported }

// Read implements koanf.Provider.
func (s source) Read() (map[string]any, error) {
	nested := map[string]any{}
	for key, value := range s {
		parts := strings.Split(key, ".")
		m := nested
		for _, p := range parts[:len(parts)-1] {
			next, ok := m[p].(map[string]any)
			if !ok {
				next = map[string]any{}
				m[p] = next
			}
			m = next
		}
		m[parts[len(parts)-1]] = value
	}
	return nested, nil
}

// read puts together defaults, the file (if named or at its usual place), SLUICE_*
// variables and key=value settings of flags, in that order.
func read(file string, environ, set []string) (config, error) {
	c := defaults()
	k := koanf.New(".")
	fromFile, err := readFile(file)
	if err != nil {
		return c, err
	}
	fromEnv, err := readEnviron(environ)
	if err != nil {
		return c, err
	}
	fromFlags := source{}
	for _, s := range set {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return c, &shell.Usage{Err: fmt.Errorf("--set takes key=value, not %q", s)}
		}
		if err := known(key, "--set"); err != nil {
			return c, &shell.Usage{Err: err}
		}
		fromFlags[key] = value
	}
	for _, s := range []source{fromFile, fromEnv, fromFlags} {
		if err := k.Load(s, nil); err != nil {
			return c, err
		}
	}
	err = k.UnmarshalWithConf("", &c, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		Result: &c, TagName: "koanf", WeaklyTypedInput: true, ErrorUnused: true,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(durations, sizes, mapstructure.TextUnmarshallerHookFunc(), mapstructure.StringToSliceHookFunc(",")),
	}})
	if err != nil {
		if all, ok := errors.AsType[interface {
			error
			Unwrap() []error
		}](err); ok {
			err = all // without the heading of the library
		}
		return c, &shell.Usage{Err: fmt.Errorf("configuration: %w", err)}
	}
	if c.Data, err = absolute(c.Data); err != nil {
		return c, &shell.Usage{Err: fmt.Errorf("configuration: data: %w", err)}
	}
	if err := c.validate(); err != nil {
		return c, &shell.Usage{Err: fmt.Errorf("configuration: %w", err)}
	}
	return c, nil
}

// absolute makes the data directory independent of where a process was started, for
// clients on this machine are told the sockets in it. "~/" is the home directory.
func absolute(dir string) (string, error) {
	if rest, ok := strings.CutPrefix(dir, "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return dir, err
		}
		return filepath.Join(home, rest), nil
	}
	if dir == "" {
		return "", nil
	}
	return filepath.Abs(dir)
}

// durations reads times with units; a bare number is refused, for nobody knows its unit.
func durations(_, to reflect.Type, v any) (any, error) {
	if to != reflect.TypeFor[time.Duration]() {
		return v, nil
	}
	text, ok := v.(string)
	if !ok {
		return nil, fmt.Errorf("%v needs a unit, such as 30s or 5m", v)
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return nil, fmt.Errorf("%q is not a time with a unit, such as 30s or 5m", text)
	}
	return d, nil
}

// sizes refuses a number without a unit in YAML, as [size.UnmarshalText] does in text.
func sizes(_, to reflect.Type, v any) (any, error) {
	if _, ok := v.(string); to == reflect.TypeFor[size]() && !ok {
		return nil, fmt.Errorf("%v needs a unit, such as 64MiB or 10GB", v)
	}
	return v, nil
}

func readFile(file string) (source, error) {
	optional := file == ""
	if optional {
		file = os.ExpandEnv("$HOME/.sluice.yaml")
	}
	b, err := os.ReadFile(file)
	if optional && errors.Is(err, os.ErrNotExist) {
		return source{}, nil
	}
	if err != nil {
		return nil, &shell.Usage{Err: err}
	}
	var tree map[string]any
	if err := yaml.Unmarshal(b, &tree); err != nil {
		return nil, &shell.Usage{Err: fmt.Errorf("%s: %w", file, err)}
	}
	s := source{}
	if err := flatten("", tree, s); err != nil {
		return nil, &shell.Usage{Err: fmt.Errorf("%s: %w", file, err)}
	}
	return s, nil
}

// flatten turns a tree into dotted keys and refuses unknown ones.
func flatten(prefix string, tree map[string]any, to source) error {
	for key, value := range tree {
		if sub, ok := value.(map[string]any); ok {
			if err := flatten(prefix+key+".", sub, to); err != nil {
				return err
			}
			continue
		}
		if err := known(prefix+key, "key"); err != nil {
			return err
		}
		for _, s := range settings() {
			if s.key == prefix+key {
				if err := knownBelow(s.key, s.kind, value); err != nil {
					return err
				}
			}
		}
		to[prefix+key] = value
	}
	return nil
}

// knownBelow refuses unknown keys in lists of structures, such as worker.tiers[0].dirs.
func knownBelow(at string, kind reflect.Type, value any) error {
	list, ok := value.([]any)
	if !ok || kind.Kind() != reflect.Slice || kind.Elem().Kind() != reflect.Struct {
		return nil
	}
	kinds := map[string]reflect.Type{}
	var names []string
	for _, s := range walkSettings("", reflect.Zero(kind.Elem())) {
		kinds[s.key] = s.kind
		names = append(names, s.key)
	}
	for i, element := range list {
		tree, _ := element.(map[string]any)
		for key, sub := range tree {
			where := fmt.Sprintf("%s[%d].%s", at, i, key)
			if kinds[key] == nil {
				return fmt.Errorf("unknown key %q; did you mean %q?", where, nearest(key, names))
			}
			if err := knownBelow(where, kinds[key], sub); err != nil {
				return err
			}
		}
	}
	return nil
}

// readEnviron takes SLUICE_MASTER_LISTEN for master.listen.
func readEnviron(environ []string) (source, error) {
	s := source{}
	names := map[string]string{}
	for _, known := range settings() {
		names["SLUICE_"+strings.ToUpper(strings.ReplaceAll(known.key, ".", "_"))] = known.key
	}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "SLUICE_") || slices.Contains(foreign(), name) {
			continue
		}
		key, ok := names[name]
		if !ok {
			all := make([]string, 0, len(names))
			for n := range names {
				all = append(all, n)
			}
			return nil, &shell.Usage{Err: fmt.Errorf("environment: unknown variable %s; did you mean %s?", name, nearest(name, all))}
		}
		s[key] = value
	}
	return s, nil
}

// foreign are variables with our prefix that are not settings: those of tests (which start
// servers that inherit them) and of the scripts in test/servers.
func foreign() []string {
	return []string{"SLUICE_CONFIG", "SLUICE_TOOLS", "SLUICE_SERVER_DIR", "SLUICE_SKIP_S3", "SLUICE_SEED", "SLUICE_SOAK", "SLUICE_VERSITYGW", "SLUICE_KILL_WRITER", "SLUICE_KILL_MASTER"}
}

// known refuses a key that is no setting and names the nearest one.
func known(key, what string) error {
	var all []string
	for _, s := range settings() {
		if s.key == key {
			return nil
		}
		all = append(all, s.key)
	}
	return fmt.Errorf("unknown %s %q; did you mean %q?", what, key, nearest(key, all))
}

// nearest returns the candidate with the smallest edit distance.
func nearest(s string, all []string) string {
	slices.Sort(all)
	best, least := "", len(s)+1000
	for _, a := range all {
		if d := distance(s, a); d < least {
			best, least = a, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

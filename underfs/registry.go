package underfs

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/sluicefs/sluice"
)

// Registry makes stores from URIs. It is a value: two clusters in one process may know
// different drivers. It does not change after [NewRegistry], so many may use it at once.
type Registry struct {
	drivers []Driver
	schemes map[string]Driver
}

// NewRegistry returns a registry of drivers. Of two drivers with one scheme the later
// one serves it.
func NewRegistry(drivers ...Driver) *Registry {
	r := &Registry{drivers: slices.Clone(drivers), schemes: make(map[string]Driver)}
	for _, d := range drivers {
		for _, s := range d.Schemes() {
			r.schemes[s] = d
		}
	}
	return r
}

// Drivers returns the drivers in the order they were given.
func (r *Registry) Drivers() []Driver { return slices.Clone(r.drivers) }

// Schemes returns the schemes that Open knows, sorted.
func (r *Registry) Schemes() []string {
	all := make([]string, 0, len(r.schemes))
	for s := range r.schemes {
		all = append(all, s)
	}
	slices.Sort(all)
	return all
}

// Driver returns the driver of uri's scheme; a plain absolute path is "file". Kind
// Invalid, naming the known schemes, where there is none.
func (r *Registry) Driver(uri string) (Driver, error) {
	scheme := Scheme(uri)
	if d, ok := r.schemes[scheme]; ok {
		return d, nil
	}
	known := strings.Join(r.Schemes(), ", ")
	if scheme == "" {
		return nil, &sluice.Error{Op: "open store", Kind: sluice.Invalid,
			Err: fmt.Errorf("%q is neither an absolute path nor a URI; the known schemes are %s", uri, known)}
	}
	return nil, &sluice.Error{Op: "open store", Kind: sluice.Invalid,
		Err: fmt.Errorf("no driver for %q; the known schemes are %s", scheme+"://", known)}
}

// Open makes the store of cfg.URI by its scheme. The names of properties and secrets are
// checked against what the driver knows: an unknown one is kind Invalid and the message
// names the nearest valid one. Secrets that are references are resolved first.
func (r *Registry) Open(cfg Config) (Store, error) {
	d, cfg, err := r.prepare(cfg)
	if err != nil {
		return nil, err
	}
	return d.Open(cfg)
}

// Baseline opens the plain client of cfg.URI's driver, with the checks of Open.
func (r *Registry) Baseline(cfg Config) (Baseline, error) {
	d, cfg, err := r.prepare(cfg)
	if err != nil {
		return nil, err
	}
	return d.Baseline(cfg)
}

// prepare finds the driver, checks the settings and resolves the secrets.
func (r *Registry) prepare(cfg Config) (Driver, Config, error) {
	d, err := r.Driver(cfg.URI)
	if err != nil {
		return nil, cfg, err
	}
	if err := CheckSettings(cfg, d.Settings()); err != nil {
		return nil, cfg, err
	}
	cfg.Secrets, err = Resolve(cfg.Secrets)
	return d, cfg, err
}

// Scheme returns the scheme of a store's URI, "file" for an absolute path, "" for what is
// neither.
func Scheme(uri string) string {
	if strings.HasPrefix(uri, "/") {
		return "file"
	}
	scheme, _, ok := strings.Cut(uri, "://")
	if !ok {
		return ""
	}
	return strings.ToLower(scheme)
}

// CheckSettings says whether every property and secret of cfg is one of settings.
func CheckSettings(cfg Config, settings []Setting) error {
	var properties, secrets []string
	for _, s := range settings {
		if s.Secret {
			secrets = append(secrets, s.Name)
		} else {
			properties = append(properties, s.Name)
		}
	}
	for _, name := range names(cfg.Properties) {
		if slices.Contains(secrets, name) {
			return invalid("%q is a secret: give it as one, so that nobody sees it", name)
		}
		if !slices.Contains(properties, name) {
			return unknown("property", name, properties)
		}
	}
	for _, name := range names(cfg.Secrets) {
		if !slices.Contains(secrets, name) {
			return unknown("secret", name, secrets)
		}
	}
	return nil
}

// Resolve returns secrets with every reference replaced by what it names: "file:/path"
// by the file's content without the line end, "env:NAME" by the variable. Anything else
// is literal. A reference that names nothing is kind Invalid; the message never shows a
// value.
func Resolve(secrets sluice.Secrets) (sluice.Secrets, error) {
	if secrets == nil {
		return nil, nil
	}
	out := make(sluice.Secrets, len(secrets))
	for _, name := range names(secrets) {
		value := secrets[name]
		if path, ok := strings.CutPrefix(value, "file:"); ok {
			b, err := os.ReadFile(path)
			if err != nil {
				return nil, invalid("secret %q: %w", name, err)
			}
			value = strings.TrimRight(string(b), "\r\n")
		} else if variable, ok := strings.CutPrefix(value, "env:"); ok {
			if value, ok = os.LookupEnv(variable); !ok {
				return nil, invalid("secret %q: the environment has no variable %s", name, variable)
			}
		}
		out[name] = value
	}
	return out, nil
}

// names returns the keys of m, sorted so that the first complaint is always the same.
func names[M ~map[string]string](m M) []string {
	all := make([]string, 0, len(m))
	for name := range m {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// unknown complains of a name that is none of known.
func unknown(what, name string, known []string) error {
	if len(known) == 0 {
		return invalid("unknown %s %q: this driver has none", what, name)
	}
	return invalid("unknown %s %q, did you mean %q? Known are %s", what, name, nearest(name, known), strings.Join(known, ", "))
}

// invalid makes an error of kind Invalid about a mount's settings.
func invalid(format string, args ...any) error {
	return &sluice.Error{Op: "open store", Kind: sluice.Invalid, Err: fmt.Errorf(format, args...)}
}

// nearest returns the name of known with the fewest edits from name.
func nearest(name string, known []string) string {
	best, least := "", 1<<30
	for _, k := range known {
		if d := edits(name, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// edits is the Levenshtein distance of a and b in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

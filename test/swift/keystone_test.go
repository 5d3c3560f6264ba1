//go:build e2e

package swift

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/test/swiftserver"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/swift"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// keystone is a Keystone and who administers it.
type keystone struct {
	*testing.T
	url, token string
	user       string // id
}

// TestKeystone: version 3 with a catalog, by password and by application credential.
// Keystone is a hundred packages and a minute more, so that only the long form has it.
func TestKeystone(t *testing.T) {
	if os.Getenv("SLUICE_SOAK") == "" {
		t.Skip("SKIPPED: Keystone is tried in the long form only; set SLUICE_SOAK=1")
	}
	srv := swiftserver.New(t, "SWIFT_AUTH=keystone", "SWIFT_MAX_FILE_SIZE="+maxFile)
	k := signIn(t, srv)
	service := k.post("/services", `{"service":{"type":"object-store","name":"swift"}}`, "service", "id")
	account := srv.Env["SWIFT_STORAGE_URL"]
	k.post("/endpoints", `{"endpoint":{"interface":"public","region_id":"RegionOne","service_id":"`+service+`","url":"`+account+`"}}`, "endpoint", "id")
	id := k.post("/users/"+k.user+"/application_credentials", `{"application_credential":{"name":"sluice","secret":"geheim"}}`, "application_credential", "id")
	k.send(http.MethodPut, account+"/c", "")
	for name, cfg := range map[string]underfs.Config{
		"password": {
			Properties: map[string]string{"user": "admin", "user_domain_id": "default", "project": "admin", "project_domain_id": "default"},
			Secrets:    sluice.Secrets{"key": "admin"},
		},
		"application credential": {
			Properties: map[string]string{"application_credential": id}, Secrets: sluice.Secrets{"application_credential_secret": "geheim"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Properties["auth_url"], cfg.Properties["part_size"] = srv.Env["OS_AUTH_URL"], "2097152"
			n := 0
			for _, check := range []string{"sizes", "listing", "copy", "conditions of a commit", "probe"} {
				underfstest.Check(t, check, func() underfs.Store {
					n++
					cfg.URI = "swift://c.RegionOne/" + strings.ReplaceAll(name, " ", "-") + "-" + strings.Repeat("x", n)
					s, err := underfs.NewRegistry(swift.Driver{}).Open(cfg)
					if err != nil {
						t.Fatal(err)
					}
					return s
				})
			}
		})
	}
}

// signIn signs in as the administrator.
func signIn(t *testing.T, srv *swiftserver.Server) *keystone {
	t.Helper()
	k := &keystone{T: t, url: srv.Env["OS_AUTH_URL"]}
	h, body := k.send(http.MethodPost, k.url+"/auth/tokens", `{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"admin","domain":{"id":"default"},"password":"admin"}}},
		"scope":{"project":{"name":"admin","domain":{"id":"default"}}}}}`)
	k.token = h.Get("X-Subject-Token")
	var told struct {
		Token struct{ User struct{ ID string } }
	}
	if err := json.Unmarshal(body, &told); err != nil {
		t.Fatal(err)
	}
	k.user = told.Token.User.ID
	return k
}

// post makes a thing and returns one of its fields.
func (k *keystone) post(path, body, thing, field string) string {
	k.Helper()
	_, text := k.send(http.MethodPost, k.url+path, body)
	var told map[string]map[string]any
	if err := json.Unmarshal(text, &told); err != nil {
		k.Fatal(err)
	}
	s, _ := told[thing][field].(string)
	return s
}

// send sends a request that must succeed.
func (k *keystone) send(method, url, body string) (http.Header, []byte) {
	k.Helper()
	req, err := http.NewRequestWithContext(k.Context(), method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		k.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Auth-Token", k.token)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		k.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		k.Fatalf("%s %s: %s %s, %v", method, url, resp.Status, text, err)
	}
	return resp.Header, text
}

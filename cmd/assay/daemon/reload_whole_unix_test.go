//go:build unix

package daemon_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// A reload changes nothing at all if any part is wrong: a setting, or a file that a setting names,
// whether it would take effect at a reload or at a restart.
func TestReloadAllOrNothing(t *testing.T) {
	world := proxytest.New(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	if err := assaytest.WriteCertificate(filepath.Join(dir, "cert"), filepath.Join(dir, "key"), "localhost"); err != nil {
		t.Fatal(err)
	}
	cert, err := os.ReadFile(filepath.Join(dir, "cert"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"htpasswd": "alice:$2a$04$aWdmEpoh/zW6QuLHLv.zXefG7SAFBrT2///IDkoAwdrQ2sLi8RQNm\n", "groups": "team: alice\n", "tokens": "",
		"oidc": "", "netrc": "machine git.corp.test login x password y\n", "credentials": "", "tls-cert": string(cert), "tls-key": string(key),
		"tls-client-ca": string(cert), "hook-secret-file": "0123456789abcdef\n",
	}
	args := []string{"--data", t.TempDir(), "--sumdb", world.GOSUMDB(), "--vcs", "off", "--config", filepath.Join(dir, "assay.toml")}
	for name, text := range files {
		args = append(args, "--"+name, write(name, text))
	}
	const before = "private = \"corp.example\"\n"
	upstream := "upstream = \"" + world.URL("ok") + "\"\n"
	write("assay.toml", upstream+before)
	p := serveIn(t, args...)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	private := func(module string) bool {
		t.Helper()
		resp, err := client.Get(p.url + "/" + module + "/@v/list")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(body), "is private here")
	}
	said := 0
	reload := func(want string) {
		t.Helper()
		hangup(t)
		assaytest.WaitFor(t, func() bool {
			reloads := strings.Count(p.log.String(), "reload refused") + strings.Count(p.log.String(), "settings reloaded")
			done := reloads > said
			said = max(said, reloads)
			return done
		})
		log := strings.TrimSpace(p.log.String())
		if last := log[strings.LastIndex(log, "reload"):]; !strings.Contains(log[strings.LastIndexByte(log, '\n')+1:], want) {
			t.Errorf("want %q, the log says %s", want, last)
		}
	}
	const after = "private = \"corp.example,new.example\"\n"
	wantNothing := func(what string) {
		t.Helper()
		if private("new.example/x") || !private("corp.example/x") {
			t.Errorf("%s is wrong, and the reload has changed the patterns", what)
		}
	}
	write("assay.toml", upstream+after)
	for name, text := range files {
		path := write(name, "[x = \x00")
		if name == "netrc" { // any content is valid
			if err := os.Chmod(path, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		reload("reload refused")
		wantNothing(name)
		write(name, text)
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{
		"log_level = \"loud\"", "ca_file = \"" + filepath.Join(dir, "none") + "\"", "no_such_setting = 1", "fills = 0", "mirror = \"nonsense\"",
		"access = \"nonsense\"", "trusted_proxies = \"x\"", "connect_timeout = \"-1s\"",
	} {
		write("assay.toml", upstream+after+line+"\n")
		reload("reload refused")
		wantNothing(line)
	}
	write("assay.toml", "upstream = \"gopher://x\"\n"+after)
	reload("reload refused")
	wantNothing("upstream")
	write("assay.toml", upstream+"private = \"corp.example, new.example\"\n")
	reload("reload refused")
	wantNothing("private")

	write("assay.toml", upstream+after)
	reload("settings reloaded")
	if !private("new.example/x") {
		t.Error("a reload in which all is right has changed nothing")
	}
}

//go:build public

package daemon_test

import (
	"crypto/sha256"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
)

// publicModules are real ones: ordinary, without go.mod, +incompatible, upper case, major versions,
// gopkg.in, pseudo-versions.
const publicModules = `
rsc.io/quote@v1.5.2
rsc.io/quote/v3@v3.1.0
rsc.io/sampler@v1.3.0
golang.org/x/text@v0.14.0
golang.org/x/mod@v0.17.0
golang.org/x/sync@v0.7.0
golang.org/x/net@v0.24.0
golang.org/x/exp@v0.0.0-20240416160154-fe59bbe5cc7f
golang.org/x/xerrors@v0.0.0-20200804184101-5ec99f83aff1
github.com/BurntSushi/toml@v1.3.2
github.com/Masterminds/semver/v3@v3.2.1
github.com/Azure/go-autorest/autorest/to@v0.4.0
github.com/NYTimes/gziphandler@v1.1.1
github.com/docker/docker@v20.10.27+incompatible
github.com/docker/cli@v20.10.27+incompatible
github.com/dgrijalva/jwt-go@v3.2.0+incompatible
github.com/evanphx/json-patch@v4.12.0+incompatible
github.com/pkg/errors@v0.9.1
github.com/google/uuid@v1.6.0
github.com/google/go-cmp@v0.6.0
github.com/spf13/cobra@v1.8.0
github.com/spf13/pflag@v1.0.5
github.com/stretchr/testify@v1.9.0
github.com/go-chi/chi/v5@v5.0.12
github.com/prometheus/client_golang@v1.19.0
github.com/beorn7/perks@v1.0.1
github.com/cespare/xxhash/v2@v2.2.0
github.com/davecgh/go-spew@v1.1.1
github.com/pmezard/go-difflib@v1.0.0
github.com/inconshreveable/mousetrap@v1.1.0
github.com/jpillora/backoff@v1.0.0
gopkg.in/yaml.v2@v2.4.0
gopkg.in/yaml.v3@v3.0.1
gopkg.in/check.v1@v0.0.0-20161208181325-20d25e280405
go.etcd.io/bbolt@v1.3.9
google.golang.org/protobuf@v1.33.0
k8s.io/klog/v2@v2.120.1
`

// toolchainModule has no .info or .mod that a go command would request.
const toolchainModule = "golang.org/toolchain@v0.0.1-go1.22.2.linux-amd64"

// TestPublic fetches real modules from the public mirror, verified with the real checksum database,
// and then again without any upstream. It skips modules that the mirror does not serve.
//
//	go test -tags public -run Public ./cmd/assay/daemon
func TestPublic(t *testing.T) {
	t.Parallel()
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get("https://proxy.golang.org/rsc.io/quote/@v/v1.5.2.info")
	if err != nil {
		t.Skipf("the public mirror cannot be reached: %v", err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Skipf("the public mirror answers %s", resp.Status)
	}
	dir := t.TempDir()
	online := serveIn(t, "--data", dir)
	sums := map[string][sha256.Size]byte{}
	for line := range strings.FieldsSeq(publicModules + toolchainModule) {
		path, version, _ := strings.Cut(line, "@")
		files := []string{".info", ".mod", ".zip"}
		if line == toolchainModule {
			files = files[2:]
		}
		base := publicPath(t, module.Version{Path: path, Version: version})
		for _, ext := range files {
			status, body := assaytest.Fetch(t, online.url+"/"+base+ext)
			if status != http.StatusOK {
				t.Logf("left out: %s%s: %d %s", base, ext, status, body)
				continue
			}
			sums[base+ext] = sha256.Sum256([]byte(body))
			if ext != ".zip" && fromMirror(t, base+ext) != body {
				t.Errorf("%s%s is not what the mirror has", base, ext)
			}
		}
	}
	if len(sums) < 60 {
		t.Errorf("only %d files were answered", len(sums))
	}
	online.end()
	offline := serveIn(t, "--data", dir, "--upstream", "off")
	for path, sum := range sums {
		if status, body := assaytest.Fetch(t, offline.url+"/"+path); status != http.StatusOK || sha256.Sum256([]byte(body)) != sum {
			t.Errorf("offline: %s: status %d", path, status)
		}
	}
	for line := range strings.FieldsSeq(publicModules + toolchainModule) {
		path, version, _ := strings.Cut(line, "@")
		base := publicPath(t, module.Version{Path: path, Version: version})
		if _, ok := sums[base+".zip"]; !ok {
			continue
		}
		lookup := "/sumdb/sum.golang.org/lookup/" + strings.Replace(base, "/@v/", "@", 1)
		if status, body := assaytest.Fetch(t, offline.url+lookup); status != http.StatusOK || !strings.Contains(body, path+" "+version+" h1:") {
			t.Errorf("offline: %s: status %d %.200s", lookup, status, body)
		}
	}
	t.Logf("%d files verified", len(sums))
}

func publicPath(t *testing.T, m module.Version) string {
	t.Helper()
	path, err := module.EscapePath(m.Path)
	if err != nil {
		t.Fatal(err)
	}
	version, err := module.EscapeVersion(m.Version)
	if err != nil {
		t.Fatal(err)
	}
	return path + "/@v/" + version
}

func fromMirror(t *testing.T, path string) string {
	t.Helper()
	resp, err := http.Get("https://proxy.golang.org/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

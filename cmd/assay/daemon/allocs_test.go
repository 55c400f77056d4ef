package daemon

import (
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/spf13/pflag"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// hitAllocations returns how many allocations a hit takes of a server with a prefix and trusted proxies, with
// headers of the request in pairs.
func hitAllocations(t *testing.T, prefix, proxies string, header ...string) float64 {
	t.Helper()
	world := proxytest.New(t)
	world.Add("-- example.com/hello@v1.0.0/go.mod --\nmodule example.com/hello\n")
	c, _, err := config.Load(pflag.NewFlagSet("", pflag.ContinueOnError), func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	c.Listen, c.Data, c.Upstream, c.SumDB, c.Prefix, c.TrustedProxies = "127.0.0.1:0", t.TempDir(), world.URL("ok"), world.GOSUMDB(), prefix, proxies
	c.AccessLog = false // its queue allocates at times
	d := newDaemon(c, os.Stderr)
	defer d.log.Close()
	if err := d.listen(1000, nil); err != nil {
		t.Fatal(err)
	}
	defer d.listener.Close()
	if err := d.open(t.Context(), Options{}, config.Sources{}); err != nil {
		t.Fatal(err)
	}
	defer d.close()
	handler := d.front.routes()
	path := prefix + "/example.com/hello/@v/v1.0.0.mod"
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.RemoteAddr = "127.0.0.1:4711"
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	hit := func() {
		r.URL.Path = path
		w := httptest.NewRecorder()
		if handler.ServeHTTP(w, r); w.Code != http.StatusOK {
			t.Fatalf("GET %s: %d %s", path, w.Code, w.Body)
		}
	}
	hit()
	return testing.AllocsPerRun(200, hit)
}

// A prefix costs a hit no allocation, and trusted proxies cost none either: only the text of a client's address
// is one, where it is used.
func TestFrontAllocations(t *testing.T) {
	plain := hitAllocations(t, "", "")
	prefixed := hitAllocations(t, "/go", "")
	behind := hitAllocations(t, "/go", "127.0.0.0/8", "X-Forwarded-For", "192.0.2.7", "X-Forwarded-Proto", "https")
	t.Logf("allocations of a hit: %v, with a prefix %v, behind a proxy %v", plain, prefixed, behind)
	if prefixed > plain || behind > plain+1 {
		t.Errorf("a hit allocates %v times, with a prefix %v, behind a proxy %v", plain, prefixed, behind)
	}
}

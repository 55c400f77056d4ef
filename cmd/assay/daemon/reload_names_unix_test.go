//go:build unix

package daemon_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// A name that becomes private during a request is sent to no other upstream, and not sent again:
// neither for a module nor to the checksum database.
func TestReloadStopsNames(t *testing.T) {
	world := proxytest.New(t)
	world.Add("-- example.com/a@v1.0.0/go.mod --\nmodule example.com/a\n")
	came, answer := make(chan string, 100), make(chan int)
	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "corp.example") {
			world.ServeHTTP(w, r)
			return
		}
		came <- r.URL.Path
		status, ok := <-answer
		if !ok {
			status = http.StatusNotFound
		}
		http.Error(w, "no", status)
	}))
	defer first.Close()
	defer close(answer)
	file := filepath.Join(t.TempDir(), "assay.toml")
	write := func(private string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("private = \""+private+"\"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, status := range []int{http.StatusNotFound, http.StatusServiceUnavailable} { // leads to the next upstream, or the next attempt
		write("")
		p := serveIn(t, "--data", filepath.Join(t.TempDir(), "data"), "--upstream", first.URL+"/ok,"+world.URL("ok"), "--sumdb", world.GOSUMDB(), "--vcs", "off", "--config", file)
		assaytest.Fetch(t, p.url+"/example.com/a/@v/v1.0.0.mod") // now the route to the database is known
		world.ResetCounts()
		paths := []string{"/corp.example/x/@v/list", "/corp.example/x/@v/v1.0.0.info", "/sumdb/" + proxytest.Database + "/lookup/corp.example/x@v1.0.0"}
		var clients sync.WaitGroup
		for _, path := range paths {
			clients.Go(func() {
				// There is no other database that could be asked.
				if got, body := assaytest.Fetch(t, p.url+path); got < 500 && (got != status || !strings.HasPrefix(path, "/sumdb/")) {
					t.Errorf("GET %s = %d %s", path, got, body)
				}
			})
			<-came
		}
		write("corp.example")
		hangup(t)
		assaytest.WaitFor(t, func() bool { return strings.Contains(p.log.String(), "settings reloaded") })
		for range paths {
			answer <- status
		}
		clients.Wait()
		for _, path := range world.Paths() {
			if strings.Contains(path, "corp.example") {
				t.Errorf("after a %d the next upstream was asked for %s", status, path)
			}
		}
		if len(came) > 0 {
			t.Errorf("after a %d the first was asked again for %s", status, <-came)
		}
		p.end()
	}
}

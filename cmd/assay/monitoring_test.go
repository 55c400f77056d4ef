//go:build monitoring

package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// TestMonitoring runs every query of the dashboard, the rules and the alerts in a real Prometheus
// ($PROMETHEUS, or the one in the path), which scrapes three servers under load: one with private
// modules, an upstream that is down and one whose transfers break; one whose upstream sends other
// zips than those in the checksum database; and one with a bucket and a limit of its local copies.
func TestMonitoring(t *testing.T) {
	world, code := proxytest.New(t), vcstest.New(t)
	paths := world.AddBig(20, 400<<10)
	world.Add("-- example.com/hello@v1.0.0/go.mod --\nmodule example.com/hello\n-- example.com/hello@v1.0.0/hello.go --\npackage hello\n")
	code.Module("secret", "v1.0.0\n-- go.mod --\nmodule corp.example/secret\n")
	good := startMonitored(t, code, "--upstream", "http://127.0.0.1:1|"+world.URL("reset-mid"), "--sumdb", world.GOSUMDB(),
		"--private", "corp.example", "--access", "corp.example=team", "--ca-file", code.CAFile())
	bad := startMonitored(t, code, "--upstream", world.URL("tampered-zip"), "--sumdb", world.GOSUMDB())
	replica := startMonitored(t, code, "--store", bucketURL(s3test.Start(t).URL), "--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB(), "--disk-limit", "2GiB")
	p := startPrometheus(t, good.address, bad.address, replica.address)
	p.wait("all servers are scraped", func() bool { return len(p.query(`assay_checksum_mismatches_total`)) == 3 })

	visits := 0
	load := func() {
		good.get(paths[visits%len(paths)]) // each is a miss once, and then a hit
		good.get(strings.TrimSuffix(paths[visits%len(paths)], "zip") + "info")
		for _, path := range []string{
			"example.com/hello/@v/list", "example.com/hello/@latest", "example.com/hello/@v/v1.0.0.info", "example.com/hello/@v/v1.0.0.mod", "example.com/hello/@v/v1.0.0.zip",
			"example.com/absent/@v/list", "corp.example/secret/@v/list", "corp.example/secret/@v/v1.0.0.mod",
			"sumdb/" + proxytest.Database + "/latest", "sumdb/" + proxytest.Database + "/lookup/example.com/hello@v1.0.0",
			"sumdb/" + proxytest.Database + "/tile/8/0/000.p/1", "sumdb/" + proxytest.Database + "/lookup/corp.example/secret@v1.0.0",
		} {
			good.get(path)
		}
		bad.get("example.com/hello/@v/v1.0.0.zip")
		replica.get(paths[visits%len(paths)])
		visits++
	}
	var missing []string
	p.whenever("every query has data", load, func() bool {
		missing = p.withoutData(dashboardQueries(t))
		missing = append(missing, p.withoutData(p.recorded())...)
		return len(missing) == 0
	}, func() string { return "no data for\n" + strings.Join(missing, "\n") })

	for alert, state := range map[string]string{
		"AssayChecksumMismatch " + bad.address: "firing", "AssayPrivateNamesLeak " + good.address: "firing",
		"AssayUpstreamBreakerOpen " + good.address: "pending",
	} {
		p.wait(alert+" is "+state, func() bool { return p.alerts()[alert] == state })
	}
	for _, r := range p.rules() {
		if r.Health != "ok" {
			t.Errorf("the rule %s is %s: %s", r.Name, r.Health, r.LastError)
		}
		for _, use := range metricUse.FindAllStringSubmatch(r.Query, -1) {
			if len(p.query("count({__name__=\""+use[1]+"\"})")) == 0 {
				t.Errorf("the rule %s reads %s, which the servers do not have", r.Name, use[1])
			}
		}
	}
	t.Logf("%d queries of the dashboard and %d rules, after %d rounds of requests", len(dashboardQueries(t)), len(p.rules()), visits)
}

// monitored is a server that Prometheus scrapes.
type monitored struct {
	t              *testing.T
	address, token string
}

func startMonitored(t *testing.T, code *vcstest.World, args ...string) *monitored {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	token, err := assay(program, "token", "create", "ci", "--groups", "team", "--data", data).Output()
	if err != nil {
		t.Fatal(err)
	}
	env := append(append(os.Environ(), quickExit, "HTTPS_PROXY="+code.Proxy()), bucketEnv...)
	address, _ := startProcessIn(t, env, program, append(args, "--data", data)...)
	return &monitored{t, strings.TrimPrefix(address, "http://"), strings.TrimSpace(string(token))}
}

// get requests a path, with a token and without. What the answers are, other tests check.
func (m *monitored) get(path string) {
	m.t.Helper()
	for _, token := range []string{m.token, ""} {
		r, err := http.NewRequestWithContext(m.t.Context(), http.MethodGet, "http://"+m.address+"/"+path, nil)
		if err != nil {
			m.t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			m.t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body) // some are aborted
		resp.Body.Close()
	}
}

// prometheus is a Prometheus with the rules of the mixin.
type prometheus struct {
	t   *testing.T
	url string
	log *assaytest.Output
}

// startPrometheus starts Prometheus, which scrapes the addresses each second.
func startPrometheus(t *testing.T, addresses ...string) *prometheus {
	t.Helper()
	program := os.Getenv("PROMETHEUS")
	if program == "" {
		program = "prometheus"
	}
	rules, err := filepath.Abs(mixinDir + "out")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [%[1]s/rules.yaml, %[1]s/alerts.yaml]
scrape_configs:
  - job_name: assay
    static_configs: [{targets: ['%[2]s']}]
`, rules, strings.Join(addresses, "', '"))
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	p := &prometheus{t, "http://" + address, new(assaytest.Output)}
	cmd := exec.Command(program, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	cmd.Stderr = p.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if t.Failed() {
			t.Logf("the log of Prometheus:\n%s", p.log.String())
		}
	})
	p.wait("Prometheus is ready", func() bool {
		resp, err := http.Get(p.url + "/-/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return p
}

// monitoringTime is how long a busy machine may take until something is so.
const monitoringTime = 2 * time.Minute

func (p *prometheus) wait(what string, ok func() bool) {
	p.t.Helper()
	p.whenever(what, func() {}, ok, func() string { return "" })
}

// whenever repeats do until ok; why says what is missing if it never is.
func (p *prometheus) whenever(what string, do func(), ok func() bool, why func() string) {
	p.t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(200 * time.Millisecond) {
		if time.Since(begin) > monitoringTime {
			p.t.Fatalf("not within %s: %s\n%s", monitoringTime, what, why())
		}
		do()
	}
}

// api decodes the data of an answer of Prometheus.
func (p *prometheus) api(path string, into any) {
	p.t.Helper()
	resp, err := http.Get(p.url + "/api/v1/" + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: into}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Status != "success" {
		p.t.Fatalf("%s: %v %s", path, err, answer.Error)
	}
}

// query returns the values of a query that are numbers.
func (p *prometheus) query(expr string) (values []float64) {
	p.t.Helper()
	var data struct {
		Result []struct{ Value [2]any }
	}
	p.api("query?query="+url.QueryEscape(expr), &data)
	for _, r := range data.Result {
		if v, err := strconv.ParseFloat(r.Value[1].(string), 64); err == nil && !math.IsNaN(v) {
			values = append(values, v)
		}
	}
	return values
}

func (p *prometheus) withoutData(queries []string) (missing []string) {
	p.t.Helper()
	for _, expr := range queries {
		if len(p.query(expr)) == 0 {
			missing = append(missing, expr)
		}
	}
	return missing
}

// rule is a rule as Prometheus reports it.
type rule struct {
	Name, Query, Health, Type, LastError string
	Alerts                               []struct {
		Labels map[string]string
		State  string
	}
}

func (p *prometheus) rules() (all []rule) {
	p.t.Helper()
	var data struct {
		Groups []struct{ Rules []rule }
	}
	p.api("rules", &data)
	for _, g := range data.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// recorded returns the names of the recording rules.
func (p *prometheus) recorded() (names []string) {
	p.t.Helper()
	for _, r := range p.rules() {
		if r.Type == "recording" {
			names = append(names, r.Name)
		}
	}
	return names
}

// alerts returns the states of the active alerts by name and server.
func (p *prometheus) alerts() map[string]string {
	p.t.Helper()
	states := map[string]string{}
	for _, r := range p.rules() {
		for _, a := range r.Alerts {
			states[r.Name+" "+a.Labels["instance"]] = a.State
		}
	}
	return states
}

// dashboardQueries returns the queries of the panels, for all servers.
func dashboardQueries(t *testing.T) (queries []string) {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(assaytest.ReadDoc(t, mixinDir+"out/dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$job", ".+", "$instance", ".+", "$__rate_interval", "1m")
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			queries = append(queries, variables.Replace(target.Expr))
		}
	}
	if slices.Sort(queries); len(queries) < 50 {
		t.Fatalf("only %d queries in the dashboard", len(queries))
	}
	return queries
}

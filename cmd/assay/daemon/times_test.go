package daemon_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// seriesIn returns the value of a series in the text of /metrics, and whether it is there.
func seriesIn(t *testing.T, metrics, series string) (value float64, ok bool) {
	t.Helper()
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(metrics)
	if found == nil {
		return 0, false
	}
	value, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return value, true
}

// The time to the first byte is measured by kind and result, and does not include the time for which a client
// waits for the rest. Paths for machines are no requests.
func TestFirstByte(t *testing.T) {
	t.Parallel()
	world := proxytest.New(t)
	path := world.AddBig(1, 2<<20)[0]
	p := serveIn(t, "--data", t.TempDir(), "--upstream", world.URL("gated"), "--sumdb", world.GOSUMDB(), "--predict=false")
	begin := time.Now()
	resp, err := http.Get(p.url + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	first := time.Since(begin)
	world.OpenGate()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{path, strings.TrimSuffix(path, "zip") + "mod", strings.TrimSuffix(path, "zip") + "mod", "livez", "example.com/none/@latest", "bogus/path"} {
		assaytest.Fetch(t, p.url+"/"+path)
	}
	_, metrics := assaytest.Fetch(t, p.url+"/metrics")
	for _, labels := range []string{
		`{kind="zip",result="miss"}`, `{kind="zip",result="hit"}`, `{kind="mod",result="miss"}`, `{kind="mod",result="hit"}`,
		`{kind="latest",result="absent"}`, `{kind="other",result="absent"}`,
	} {
		if n, ok := seriesIn(t, metrics, "assay_http_first_byte_seconds_count"+labels); !ok || n != 1 {
			t.Errorf("%v answers %s, want 1", n, labels)
		}
	}
	if strings.Contains(metrics, `first_byte_seconds_count{kind="list"`) || strings.Count(metrics, "assay_http_first_byte_seconds_count{") != 6 {
		t.Errorf("there are other series:\n%s", metrics)
	}
	got, _ := seriesIn(t, metrics, `assay_http_first_byte_seconds_sum{kind="zip",result="miss"}`)
	if got <= 0 || got > first.Seconds() {
		t.Errorf("the first byte came after %v s, the client had it after %v", got, first)
	}
}

// The expiry is that of the server's own certificate in the served files: clients may know another way from it to an
// authority than those that follow in the file. Without TLS it is 0.
func TestCertificateExpiry(t *testing.T) {
	t.Parallel()
	const series = "assay_tls_certificate_expiry_timestamp_seconds"
	plain := serveIn(t, "--data", t.TempDir(), "--upstream", "off", "--sumdb", "off")
	_, metrics := assaytest.Fetch(t, plain.url+"/metrics")
	if got, ok := seriesIn(t, metrics, series); !ok || got != 0 {
		t.Errorf("without TLS the certificate expires at %v", got)
	}

	files := newTLSFiles(t)
	write := func(days int, and string) time.Time {
		t.Helper()
		expires := time.Now().Add(time.Duration(days) * 24 * time.Hour)
		if err := assaytest.WriteCertificateUntil(files.cert, files.key, "localhost", expires); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(files.cert, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(and); err != nil {
			t.Fatal(err)
		}
		return expires
	}
	now := write(40, "")
	p := startFront(t, "--tls-cert", files.cert, "--tls-key", files.key)
	expires := func() float64 {
		t.Helper()
		_, body, err := ask(t, files.client(t), p.url+"/metrics")
		if err != nil {
			return 0 // the files have changed and are not in force yet
		}
		got, _ := seriesIn(t, body, series)
		return got
	}
	if got := expires(); got != float64(now.Unix()) {
		t.Errorf("the certificate expires at %v, want %d", got, now.Unix())
	}
	later := write(90, "")
	assaytest.WaitFor(t, func() bool { return expires() == float64(later.Unix()) })

	other := filepath.Join(files.dir, "other.pem")
	sooner := time.Now().Add(24 * time.Hour)
	if err := assaytest.WriteCertificateUntil(other, filepath.Join(files.dir, "other.key"), "authority", sooner); err != nil {
		t.Fatal(err)
	}
	own := write(95, assaytest.ReadDoc(t, other))
	assaytest.WaitFor(t, func() bool { return expires() == float64(own.Unix()) })
}

// A rule names a bucket as the server does: another text for the same number matches no series.
func TestRuleBuckets(t *testing.T) {
	t.Parallel()
	world := proxytest.New(t)
	world.Add("-- example.com/a@v1.0.0/go.mod --\nmodule example.com/a\n")
	p := serveIn(t, "--data", t.TempDir(), "--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB())
	assaytest.Fetch(t, p.url+"/example.com/a/@v/v1.0.0.mod")
	_, metrics := assaytest.Fetch(t, p.url+"/metrics")
	named := regexp.MustCompile(`(assay_\w+_bucket)\{[^}]*\ble=~?"([^"]+)"`).FindAllStringSubmatch(assaytest.ReadDoc(t, "../../../deploy/mixin/out/rules.yaml"), -1)
	if len(named) < 2 {
		t.Fatalf("the rules name %d buckets", len(named))
	}
	for _, match := range named {
		pattern := regexp.MustCompile(match[1] + `\{(.*,)?le="(` + match[2] + `)"`)
		if !pattern.MatchString(metrics) {
			t.Errorf("the server has no bucket %s of %s", match[2], match[1])
		}
		whole, rest, _ := strings.Cut(match[2], "|")
		if rest != whole+"[.]0" {
			t.Errorf("for whole seconds Prometheus 3 adds .0 to the label, which %s does not match", match[2])
		}
	}
}

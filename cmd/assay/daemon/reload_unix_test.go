//go:build unix

package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// If a reload changes a setting that needs a restart, the old value stays in force: with another
// checksum database in the settings, the old one keeps working.
func TestReloadKeepsDatabase(t *testing.T) {
	world := proxytest.New(t)
	world.Add("-- example.com/a@v1.0.0/go.mod --\nmodule example.com/a\n")
	file := filepath.Join(t.TempDir(), "assay.toml")
	write := func(sumdb string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("sumdb = "+sumdb+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`"` + world.GOSUMDB() + `"`)
	p := serveIn(t, "--data", t.TempDir(), "--upstream", world.URL("ok"), "--config", file)
	reload := func(log string) {
		t.Helper()
		hangup(t)
		assaytest.WaitFor(t, func() bool { return strings.Contains(p.log.String(), log) })
	}
	write(`"off"`)
	reload("restart required for changed settings")
	if status, body := assaytest.Fetch(t, p.url+"/example.com/a/@v/v1.0.0.mod"); status != 200 {
		t.Errorf("after the reload: %d %s", status, body)
	}
	write(`"nonsense"`)
	reload("reload refused")
}

// hangup sends this process the signal for a reload.
func hangup(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

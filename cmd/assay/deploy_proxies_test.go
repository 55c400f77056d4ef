package main_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/cmd/assay/config"
)

var serveComment = regexp.MustCompile(`(?m)^# +assay serve (.*)$`)

// Each configuration of a reverse proxy says how the server runs behind it, with settings that exist,
// and the page names it. deploy/test/proxies.sh runs them.
func TestDeployProxies(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("../../deploy/proxies/*")
	if err != nil || len(names) < 3 {
		t.Fatal(names, err)
	}
	page := assaytest.ReadDoc(t, "../../docs/proxies.md")
	for _, name := range names {
		if !strings.Contains(page, "deploy/proxies/"+filepath.Base(name)) {
			t.Errorf("docs/proxies.md does not name %s", name)
		}
		found := serveComment.FindStringSubmatch(assaytest.ReadDoc(t, name))
		if found == nil {
			t.Errorf("%s does not say how the server runs", name)
			continue
		}
		flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
		config.AddFlags(flags)
		if err := flags.Parse(strings.Fields(found[1])); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c, _, err := config.Load(flags, func(string) string { return "" })
		if _, socket := config.Socket(c.Listen); err != nil || !socket && c.TrustedProxies == "" || c.MetricsListen == "" {
			t.Errorf("%s: with %s the proxy is not trusted, or publishes the metrics: %v", name, found[1], err)
		}
	}
}

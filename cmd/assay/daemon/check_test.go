package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
)

// Settings that cannot work, or contradict each other, are refused with a text that says so and
// contains no secrets.
func TestConfigRefuses(t *testing.T) {
	t.Parallel()
	const key = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
	for file, want := range map[string]string{
		`listen = ""`:                                 "listen",
		`listen = ":"`:                                "listen",
		`listen = "localhost"`:                        "listen",
		`data = ""`:                                   "data",
		`mirror = "off"`:                              "mirror",
		`mirror = "` + key + `"`:                      "sum.golang.org is named twice",
		`operators = "ops, sre"`:                      "operators",
		`operators = ","`:                             "operators",
		`operators = "*"`:                             "* is not a group",
		`vcs = "git, hg"`:                             "vcs",
		`vcs_hosts = "a.example\tb.example"`:          "vcs-hosts",
		`vcs_hosts = "https://git.corp.test"`:         "vcs-hosts",
		`vcs_hosts = "a.example,git.corp.test/"`:      "vcs-hosts",
		`vcs_hosts = "git.corp.test/team"`:            "vcs-hosts",
		`vcs_hosts = "git.corp.test:ssh"`:             "vcs-hosts",
		`access = "corp.example=a,b"`:                 "write |b",
		`redirect_hosts = "https://cdn.example"`:      "redirect-hosts",
		`redirect_hosts = "cdn.example/"`:             "redirect-hosts",
		`redirect_hosts = "cdn.example:x"`:            "redirect-hosts",
		`redirect_hosts = "*.example"`:                "redirect-hosts",
		`mirror = "x https://user:hunter2@a.example"`: "mirror",
		`memory_budget = 143`:                         "at least 144",
		`memory_budget = 8796093022208`:               "at most",
		`access_log_sample = 0`:                       "access-log-sample is 0; it must be at least 1",
		`breaker_share = 101`:                         "breaker-share is 101; it must be at most 100",
		`store_limit = -1`:                            "store-limit is -1",
		`vcs_cache = 9223372036854775807`:             "at most",
		`shutdown_delay = "-1s"`:                      "shutdown-delay is -1s; it must not be negative",
	} {
		name := filepath.Join(t.TempDir(), "assay.toml")
		if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		c, _, err := config.Load(pflag.NewFlagSet("", pflag.ContinueOnError), func(variable string) string {
			return map[string]string{"ASSAY_CONFIG": name}[variable]
		})
		if err == nil {
			err = daemon.Check(c)
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "%!") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want an error with %q", file, err, want)
		}
	}
}

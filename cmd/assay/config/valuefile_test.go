package config_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/assay-proxy/assay/cmd/assay/config"
)

// loadIn loads the settings with an environment and no flags.
func loadIn(environ map[string]string) (config.Config, config.Sources, error) {
	return config.Load(pflag.NewFlagSet("", pflag.ContinueOnError), func(name string) string { return environ[name] })
}

// valueFile writes a file with a value that only this user can read.
func valueFile(t *testing.T, content string) (name string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// Each setting that can have a secret can be in a file of its own, whose value is not printed.
func TestValueFiles(t *testing.T) {
	t.Parallel()
	const value = "https://user:hunter2@proxy.corp.example/go"
	for setting, field := range map[string]func(config.Config) string{
		"UPSTREAM": func(c config.Config) string { return c.Upstream },
		"SUMDB":    func(c config.Config) string { return c.SumDB },
		"MIRROR":   func(c config.Config) string { return c.Mirror },
	} {
		for _, end := range []string{"", "\n", "\r\n"} {
			name := valueFile(t, value+end)
			variable := "ASSAY_" + setting + "_FILE"
			environ := map[string]string{variable: name, "GOPROXY": "https://a.example", "GOSUMDB": "off"}
			c, from, err := loadIn(environ)
			if err != nil {
				t.Fatal(err)
			}
			if field(c) != value {
				t.Errorf("%s of a file that ends in %q is %q", setting, end, field(c))
			}
			key := strings.ToLower(setting)
			if want := "environment " + variable + ", file " + name; from[key] != want {
				t.Errorf("the source is %q, want %q", from[key], want)
			}
			var printed strings.Builder
			if err := c.Print(&printed, from); err != nil {
				t.Fatal(err)
			}
			if text := printed.String(); strings.Contains(text, "corp.example") || strings.Contains(text, "\n"+key+" =") || !strings.Contains(text, "# From: "+from[key]+"\n") {
				t.Errorf("printed: %s", text)
			}
			environ["ASSAY_CONFIG"] = valueFile(t, printed.String())
			if again, _, err := loadIn(environ); err != nil || field(again) != value {
				t.Errorf("what is printed, and the file beside it, are read as %q, %v", field(again), err)
			}
		}
	}
	secrets := 0
	for _, s := range config.Settings() {
		if s.Secret {
			secrets++
		}
	}
	if secrets != 3 {
		t.Errorf("%d settings can have a secret, and this test knows three", secrets)
	}
}

// A file that cannot have the value is refused, by an error that names the variable and quotes nothing.
func TestValueFilesRefused(t *testing.T) {
	t.Parallel()
	open := valueFile(t, "https://user:hunter2@proxy.corp.example")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for want, name := range map[string]string{
		"is empty":                     valueFile(t, ""),
		"the file is empty":            valueFile(t, "\n"),
		"the file is empty;":           valueFile(t, "  \r\n"),
		"several lines":                valueFile(t, "https://user:hunter2@proxy.corp.example\nhttps://user:hunter2@b.example\n"),
		"has several lines":            valueFile(t, "https://user:hunter2@proxy.corp.example\n\n"),
		"several lines; it":            valueFile(t, "https://user:hunter2@proxy.corp.example\x00"),
		"more than 65536 bytes":        valueFile(t, "https://user:hunter2@"+strings.Repeat("a", 64<<10)),
		"has no URL":                   valueFile(t, "hunter2"),
		"no URL; write the":            valueFile(t, "user:hunter2@proxy.corp.example"),
		"ASSAY_UPSTREAM_FILE, file":    filepath.Join(t.TempDir(), "none"),
		"(from environment ASSAY_UPST": t.TempDir(),
		"chmod o-rwx":                  open,
	} {
		if runtime.GOOS == "windows" && name == open {
			continue
		}
		_, _, err := loadIn(map[string]string{"ASSAY_UPSTREAM_FILE": name})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "ASSAY_UPSTREAM_FILE") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", want, err)
		}
	}
	_, _, err := loadIn(map[string]string{"ASSAY_UPSTREAM_FILE": valueFile(t, "https://a.example"), "ASSAY_UPSTREAM": "https://user:hunter2@b.example"})
	if err == nil || !strings.Contains(err.Error(), "ASSAY_UPSTREAM and ASSAY_UPSTREAM_FILE are both set") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("both: %v", err)
	}
}

// The variable of a file is known, and one that has no meaning is not.
func TestValueFilesAreKnown(t *testing.T) {
	t.Parallel()
	stray := config.StrayVariables([]string{"ASSAY_UPSTREAM_FILE=a", "ASSAY_SUMDB_FILE=b", "ASSAY_MIRROR_FILE=c", "ASSAY_NETRC_FILE=d"}, nil)
	if len(stray) != 1 || stray[0] != "ASSAY_NETRC_FILE" {
		t.Errorf("stray variables: %v", stray)
	}
}

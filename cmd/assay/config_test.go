package main

import (
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// load is loadConfig with a file's content instead of a file, and nothing else.
func load(data []byte) (config, error) {
	values, err := parseConfigFile(data)
	if err != nil {
		return config{}, err
	}
	var c config
	none := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, s := range settings() {
		text, _ := choose(s, none, func(string) string { return "" }, values, "file")
		if err := set(fieldOf(&c, s), text); err != nil {
			return config{}, err
		}
	}
	return c, c.check()
}

func fieldOf(c *config, s setting) reflect.Value { return reflect.ValueOf(c).Elem().Field(s.field) }

// A file that is accepted means something, and what assay config prints of it
// means the same.
func FuzzConfigFile(f *testing.F) {
	for _, seed := range []string{
		"", "listen = \":3000\"", "attempts = 5\naccess_log = false\nfresh = \"90s\"", "data = \"\"", "upstream = \"off\"",
		"upstream = \"https://user:secret@a.example|https://b.example,off\"", "listen = 3000", "attempts = -1", "attempts = 99999999999999999999",
		"fresh = \"1e9h\"", "stale = 5", "[listen]\na = 1", "listen = [1]", "listen = 1979-05-27", "log_level = \"loud\"", "private = \"a\\u0000b\"",
		"sumdb = \"\"\"a\nb\"\"\"", "mirror = 'x'", "\xff", "listen = \"a\"\nlisten = \"b\"", "unknown = 1", "log-level = \"info\"",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := load(data)
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Error("an error without a text")
			}
			return
		}
		var printed strings.Builder
		if err := printConfig(&printed, c, origins{}); err != nil {
			t.Fatal(err)
		}
		again, err := load([]byte(printed.String()))
		if err != nil {
			t.Fatalf("what it prints is refused: %v\n%s", err, printed.String())
		}
		for _, s := range settings() {
			if c.text(s) != again.text(s) {
				t.Errorf("%s is %q, printed and read again %q", s.Name, c.text(s), again.text(s))
			}
		}
	})
}

// What could not work, or not as it is meant, is refused with a text that says so
// and has no secrets in it.
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
		`operators = "*"`:                             "no group is called *",
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
		`vcs_cache = 9223372036854775807`:             "at most",
		`shutdown_delay = "-1s"`:                      "shutdown-delay is -1s; it must not be negative",
	} {
		c, err := load([]byte(file))
		if err == nil {
			err = c.validate()
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "%!") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want an error with %q", file, err, want)
		}
	}
}

// No secret is printed, wherever a URL can stand.
func TestConfigPrintsNoSecrets(t *testing.T) {
	t.Parallel()
	const key = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
	c, err := load([]byte(`
upstream = "https://user:hunter2@a.example"
sumdb = "` + key + ` https://user:hunter2@b.example"
mirror = "` + key + ` https://user:hunter2@c.example"
`))
	if err != nil {
		t.Fatal(err)
	}
	var printed strings.Builder
	if err := printConfig(&printed, c, origins{}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(printed.String(), "hunter2") || strings.Count(printed.String(), ".example\"") != 3 {
		t.Errorf("printed: %s", printed.String())
	}
}

package config

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// loadFile is Load with only a file, whose content is data.
func loadFile(data []byte) (Config, error) {
	values, err := parseFile(data)
	if err != nil {
		return Config{}, err
	}
	none := pflag.NewFlagSet("", pflag.ContinueOnError)
	c, _, err := load(none, func(string) string { return "" }, settingsFile{"file", values})
	return c, err
}

// An accepted file is printed by assay config with the same meaning.
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
		c, err := loadFile(data)
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Error("an error without a text")
			}
			return
		}
		var printed strings.Builder
		if err := c.Print(&printed, Sources{}); err != nil {
			t.Fatal(err)
		}
		again, err := loadFile([]byte(printed.String()))
		if err != nil {
			t.Fatalf("what it prints is refused: %v\n%s", err, printed.String())
		}
		for _, s := range Settings() {
			if c.text(s) != again.text(s) {
				t.Errorf("%s is %q, printed and read again %q", s.Name, c.text(s), again.text(s))
			}
		}
	})
}

// No secret is printed, in any setting that can contain a URL.
func TestConfigPrintsNoSecrets(t *testing.T) {
	t.Parallel()
	const key = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
	c, err := loadFile([]byte(`
upstream = "https://user:hunter2@a.example"
sumdb = "` + key + ` https://user:hunter2@b.example"
mirror = "` + key + ` https://user:hunter2@c.example"
`))
	if err != nil {
		t.Fatal(err)
	}
	var printed strings.Builder
	if err := c.Print(&printed, Sources{}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(printed.String(), "hunter2") || strings.Count(printed.String(), ".example\"") != 3 {
		t.Errorf("printed: %s", printed.String())
	}
}

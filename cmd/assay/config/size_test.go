package config_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/config"
)

func TestParseSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]config.Size{
		"0": 0, "200": 200 << 20, "200MB": 200e6, "200MiB": 200 << 20, "10GB": 10e9, "1TiB": 1 << 40, "1.5 gib": 3 << 29, "512KiB": 512 << 10, "4096b": 4096, "2tb": 2e12,
	} {
		got, err := config.ParseSize(text)
		if err != nil || got != want {
			t.Errorf("%q is %d, %v, want %d", text, got, err, want)
		}
		if again, err := config.ParseSize(got.String()); err != nil || again != got {
			t.Errorf("%q is printed as %v, which is %d, %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "MB", "-1MB", "1e9", "10 000", "5 M", "3PB", "1,5GB", "0x10", "1iB", "999999999TiB", "200MB "} {
		if got, err := config.ParseSize(text); err == nil {
			t.Errorf("%q is %d, want an error", text, got)
		}
	}
}

// The schema of the file accepts the sizes that the program prints, and refuses texts.
func TestSizeSchema(t *testing.T) {
	t.Parallel()
	for _, s := range config.Settings() {
		if s.Name != "disk-limit" {
			continue
		}
		schema := s.Schema()
		_, after, ok := strings.Cut(schema, `"pattern":"`)
		pattern, _, _ := strings.Cut(after, `"}`)
		pattern = strings.ReplaceAll(pattern, `\\`, `\`)
		if !ok || !regexp.MustCompile(pattern).MatchString(config.Size(200e6).String()) || regexp.MustCompile(pattern).MatchString("much") {
			t.Errorf("the schema of disk-limit is %s", schema)
		}
		return
	}
	t.Error("there is no disk-limit")
}

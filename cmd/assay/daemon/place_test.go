package daemon

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/config"
)

// The directory of a server of a bucket gets no store of its own when the setting store is forgotten; one to which the
// log was brought back does. A store that the setting hides is said.
func TestPlace(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		files   []string
		refused bool
	}{
		"new":     {nil, false},
		"tier":    {[]string{"meta.db", "tier/meta.db"}, true},
		"log":     {[]string{"log/bucket/sum.corp.example/lock"}, true},
		"back":    {[]string{"meta.db", "log/bucket/sum.corp.example/lock", "log/entries"}, false},
		"its own": {[]string{"meta.db", "log/entries"}, false},
	} {
		c := config.Config{Data: t.TempDir()}
		for _, file := range test.files {
			path := filepath.Join(c.Data, filepath.FromSlash(file))
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var lines bytes.Buffer
		log := slog.New(slog.NewTextHandler(&lines, nil))
		err := checkPlace(c, log)
		if test.refused != (err != nil && strings.Contains(err.Error(), "--store")) {
			t.Errorf("%s: %v, want a refusal: %v", name, err, test.refused)
		}
		c.Store = "s3://bucket/store"
		if err := checkPlace(c, log); err != nil {
			t.Errorf("%s with store: %v", name, err)
		}
		hidden := exists(filepath.Join(c.Data, "meta.db"))
		if said := strings.Contains(lines.String(), "which is not used"); said != hidden {
			t.Errorf("%s: said %v, want %v: %s", name, said, hidden, &lines)
		}
	}
}

package pinlog_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// A bucket that has lost its log, and has other traces of it, gets no second one of that name: neither with the old
// key nor with a new one. Another name is new.
func TestCreateAfterTraces(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, want string
		leave      func(m *moving, c *pinlog.Config)
	}{
		{"files of versions", "the store has versions that a log called " + logName + " pinned", func(m *moving, _ *pinlog.Config) {
			key := storage.PinnedIn(logName).Key("corp.example/lib/@v/v1.0.0.mod")
			content := []byte("module corp.example/lib\n")
			if err := m.store().Create(t.Context(), storage.Info{Key: key, Size: int64(len(content))}, bytes.NewReader(content)); err != nil {
				t.Fatal(err)
			}
		}},
		{"guard of one server", "the store remembers the log " + logName + " of 3 entries", func(m *moving, _ *pinlog.Config) {
			files := m.files
			files.Store = m.store()
			if err := pinlog.Adopt(t.Context(), files, nil); err != nil {
				t.Fatal(err)
			}
		}},
		{"directory", "bring it to the bucket with assay log move", func(m *moving, c *pinlog.Config) { c.Dir = m.files.Dir }},
	} {
		for _, old := range []bool{true, false} {
			m := newMoving(t, 3)
			config := m.config("admin")
			config.Name, config.Bucket.Key = logName, filepath.Join(m.dir, "other-key")
			if old {
				secret, err := os.ReadFile(m.fleet.key)
				if err == nil {
					err = os.WriteFile(config.Bucket.Key, secret, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			c.leave(m, &config)
			if old { // a server with this key says what create says
				m.refuses(openLog(t, config), c.want)
			}
			_, err := pinlog.Create(t.Context(), config)
			if !errors.Is(err, sumdb.ErrFrozen) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, old key %v: Create: %v, want a refusal with %q", c.name, old, err, c.want)
			}
			if keys := m.server.Keys("store/o/log/"); len(keys) > 0 {
				t.Errorf("%s: the bucket has %q", c.name, keys)
			}
			if _, err := os.Stat(config.Bucket.Key); !old && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: a key was made: %v", c.name, err)
			}
			config.Name, config.Bucket.Key = "new.corp.example", filepath.Join(m.dir, "new-key")
			config.Bucket.OthersEnded = true
			if _, err := pinlog.Create(t.Context(), config); err != nil {
				t.Errorf("%s: Create under a new name: %v", c.name, err)
			}
		}
	}
}

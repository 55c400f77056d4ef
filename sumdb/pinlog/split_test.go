package pinlog_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// Two processes that sign one log, although the lock should prevent that, do not fork it: before it
// appends, the second one finds what the first one has signed.
func TestLogTwoSigners(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a file that is open stays where it is")
	}
	for _, test := range []struct {
		name  string
		other func(t *testing.T, c pinlog.Config) pinlog.Config
	}{
		{"a lock that does not hold", func(t *testing.T, c pinlog.Config) pinlog.Config {
			if err := os.Remove(filepath.Join(c.Dir, "lock")); err != nil {
				t.Fatal(err)
			}
			return c
		}},
		{"a copy that was adopted", func(t *testing.T, c pinlog.Config) pinlog.Config {
			moved := pinlog.Config{Dir: filepath.Join(t.TempDir(), "moved"), Guard: c.Guard}
			copyTo(t, moved.Dir, c.Dir)
			if err := pinlog.Adopt(t.Context(), moved, nil); err != nil {
				t.Fatal(err)
			}
			return moved
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newGuardedLog(t, 5)
			one := openLog(t, c)
			two := openLog(t, test.other(t, c))
			pinOne(t, one, entry(5))
			newest := latest(t, one)
			if _, err := two.Pin(t.Context(), entry(6)); !errors.Is(err, sumdb.ErrFrozen) || !strings.Contains(err.Error(), "of another process") {
				t.Errorf("Pin by a second process: %v", err)
			}
			if two.Size() != 5 || two.Refuses() == nil {
				t.Errorf("the second has %d entries and refuses: %v", two.Size(), two.Refuses())
			}
			stillAnswers(t, two, 5)
			pinOne(t, one, entry(6))
			signs(t, one, c.Dir, 7, string(newest))
		})
	}
}

// A log whose files are replaced by a copy while it is open does not append to the removed files.
func TestLogReplacedWhileOpen(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a file that is open stays where it is")
	}
	c := newGuardedLog(t, 5)
	l := openLog(t, c)
	old, away := filepath.Join(t.TempDir(), "old"), filepath.Join(t.TempDir(), "away")
	copyTo(t, old, c.Dir)
	rename(t, c.Dir, away)
	rename(t, old, c.Dir)
	if _, err := l.Pin(t.Context(), entry(5)); !errors.Is(err, sumdb.ErrFrozen) || !strings.Contains(err.Error(), "is another file") {
		t.Errorf("Pin after the files were replaced: %v", err)
	}
	stillAnswers(t, l, 5)
}

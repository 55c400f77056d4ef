package evidence_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/assay-proxy/assay/internal/evidence"
)

func TestKeep(t *testing.T) {
	t.Parallel()
	dir := evidence.Dir(filepath.Join(t.TempDir(), "evidence"))
	for _, text := range []string{"first", "second"} {
		path, err := dir.Keep("mismatch", "a", text)
		if err != nil || path != filepath.Join(string(dir), "mismatch-a.txt") {
			t.Fatalf("Keep = %q, %v", path, err)
		}
		check(t, path, "first")
	}
	if info, err := os.Stat(string(dir)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v (%v), want mode 0700", info, err)
	}
}

// The number of files of a kind is limited; other kinds do not count.
func TestKeepBounded(t *testing.T) {
	t.Parallel()
	dir := evidence.Dir(t.TempDir())
	for n := range evidence.Most {
		if err := os.WriteFile(dir.Path("mismatch", fmt.Sprint(n)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if path, err := dir.Keep("mismatch", "more", "text"); err == nil {
		t.Errorf("one more is kept in %s", path)
	}
	if _, err := os.Stat(dir.Path("mismatch", "more")); err == nil {
		t.Error("one more is there")
	}
	if _, err := dir.Keep("mismatch", "0", "text"); err != nil {
		t.Errorf("one that is there: %v", err)
	}
	if _, err := dir.Keep("fork", "more", "text"); err != nil {
		t.Errorf("another kind: %v", err)
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	dir := evidence.Dir(filepath.Join(t.TempDir(), "evidence"))
	for _, text := range []string{"the first text, which is longer", "the second"} {
		if err := dir.Write("fork", "a", text); err != nil {
			t.Fatal(err)
		}
		check(t, dir.Path("fork", "a"), text)
	}
	if err := evidence.Dir("").Write("fork", "a", "text"); err == nil {
		t.Error("written without a directory")
	}
	if path, err := evidence.Dir("").Keep("fork", "a", "text"); err == nil {
		t.Errorf("kept without a directory in %s", path)
	}
}

func check(t *testing.T, path, want string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil || string(data) != want {
		t.Errorf("%s has %q (%v), want %q", filepath.Base(path), data, err, want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v (%v), want mode 0600", filepath.Base(path), info, err)
	}
}

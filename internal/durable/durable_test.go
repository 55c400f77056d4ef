package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/assay-proxy/assay/internal/durable"
)

func TestReplace(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	for _, text := range []string{"one, which is longer", "two"} {
		if err := os.WriteFile(path+durable.NewSuffix, []byte("left by a crash, longer than either text"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := durable.Replace(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		checkFile(t, path, text)
		if _, err := os.Stat(path + durable.NewSuffix); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the temporary file: %v", err)
		}
	}
}

// A content that fails leaves the old file, and no temporary one.
func TestReplaceFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := durable.Replace(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	err := durable.ReplaceWith(path, 0o600, func(f *os.File) ([]byte, error) {
		_, err := f.WriteString("half")
		return nil, errors.Join(err, broken)
	})
	if !errors.Is(err, broken) {
		t.Errorf("ReplaceWith: %v", err)
	}
	checkFile(t, path, "old")
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("the directory has %v (%v), want the old file", files, err)
	}
	if err := durable.Replace(filepath.Join(dir, "none", "file"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
}

func TestCreate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a", "b", "file")
	if err := durable.MakeDir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.Create(path, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.Create(path, []byte("second"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second time: %v, want fs.ErrExist", err)
	}
	checkFile(t, path, "first")
}

// An incomplete write is truncated; if that fails too, the state of the file is unknown.
func TestAppend(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	if err := durable.Create(path, []byte("one "), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := durable.Append(f, []byte("two"), 4); err != nil {
		t.Fatal(err)
	}
	checkFile(t, path, "one two")
	readOnly, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	var unknown *durable.UnknownError
	if err := durable.Append(readOnly, []byte("three"), 7); !errors.As(err, &unknown) {
		t.Errorf("a file that cannot be written or cut: %v", err)
	}
	checkFile(t, path, "one two")
}

func checkFile(t *testing.T, path, want string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil || string(data) != want {
		t.Errorf("%s has %q (%v), want %q", filepath.Base(path), data, err, want)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v (%v), want mode 0600", filepath.Base(path), info, err)
	}
}

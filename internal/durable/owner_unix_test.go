//go:build unix

package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/assay-proxy/assay/internal/durable"
)

// server is a user that is not root.
const server = 12345

// newServerDir returns a directory of the server, in which only root can make files of another user.
func newServerDir(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root makes files for another user")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, server, server); err != nil {
		t.Fatal(err)
	}
	return dir
}

func checkOwner(t *testing.T, path string, want uint32) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Error(err)
	} else if stat := info.Sys().(*syscall.Stat_t); stat.Uid != want || stat.Gid != want {
		t.Errorf("%s belongs to %d:%d, want %d", filepath.Base(path), stat.Uid, stat.Gid, want)
	}
}

// What root makes belongs to the owner of the directory.
func TestOwner(t *testing.T) {
	t.Parallel()
	dir := newServerDir(t)
	made := func(name string) string { return filepath.Join(dir, name) }
	open := func(f *os.File, err error) error { return errors.Join(err, f.Close()) }
	for path, err := range map[string]error{
		made("replaced"): durable.Replace(made("replaced"), nil, 0o600),
		made("created"):  durable.Create(made("created"), nil, 0o600),
		made("opened"):   open(durable.OpenFile(made("opened"), 0o600)),
		made("a/b"):      durable.MakeDir(made("a/b"), 0o700),
		made("a/b/file"): durable.Create(made("a/b/file"), nil, 0o600),
		made("c"):        durable.CreateDir(made("c"), 0o700),
	} {
		if err != nil {
			t.Error(err)
		}
		checkOwner(t, path, server)
	}
	checkOwner(t, made("a"), server)
}

// The server's user can make links. OpenFile gives away no file to which one leads, and makes none there.
func TestOpenFileBehindLink(t *testing.T) {
	t.Parallel()
	dir, ofRoot := newServerDir(t), filepath.Join(t.TempDir(), "secret")
	link := filepath.Join(dir, "lock")
	if err := os.Symlink(ofRoot, link); err != nil {
		t.Fatal(err)
	}
	if f, err := durable.OpenFile(link, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link that leads to nothing: %v, %v", f, err)
	}
	if err := os.WriteFile(ofRoot, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := durable.OpenFile(link, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	checkOwner(t, ofRoot, 0)
}

// A file that replaces another one gets its mode and owner.
func TestInherit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(newServerDir(t), "file")
	if err := errors.Join(os.WriteFile(path, []byte("old"), 0o600), os.Chmod(path, 0o640), os.Chown(path, 54321, 54321)); err != nil {
		t.Fatal(err)
	}
	old, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	err = durable.ReplaceWith(path, 0o600, func(f *os.File) ([]byte, error) { return []byte("new"), durable.Inherit(f, old) })
	if err != nil {
		t.Fatal(err)
	}
	checkOwner(t, path, 54321)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("it has the mode %v, %v", info.Mode(), err)
	}
}

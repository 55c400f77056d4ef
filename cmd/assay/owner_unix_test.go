//go:build unix

package main_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// What the commands of root make in a data directory, and beside an external guard, belongs to the owner
// of that directory: the server runs as that user.
func TestOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root makes files for another user")
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := assay(program, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("assay %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	dir := t.TempDir()
	source, backup := filepath.Join(dir, "source"), filepath.Join(dir, "backup")
	newPinnedData(t, source)
	run("backup", "--data", source, backup)

	const user = 12345
	data, guards := t.TempDir(), t.TempDir()
	for _, dir := range []string{data, guards} {
		if err := os.Chown(dir, user, user); err != nil {
			t.Fatal(err)
		}
	}
	if out := run("restore", "--data", data, backup); strings.Contains(out, "belong to root") {
		t.Errorf("restore says\n%s", out)
	}
	checkOwners(t, data, user)
	run("log", "adopt", "--data", data, "--log-guard", filepath.Join(guards, "guard"), "--no-client-has-seen-more")
	run("token", "create", "ci", "--data", data)
	checkOwners(t, data, user)
	checkOwners(t, guards, user)

	// A directory that root makes stays root's, and no name of a user is known.
	if out := run("restore", "--data", filepath.Join(dir, "new"), backup); !strings.Contains(out, "its files belong to root") {
		t.Errorf("restore into a new directory says\n%s", out)
	}
}

// newPinnedData makes a data directory with a store and a log of one entry.
func newPinnedData(t *testing.T, data string) {
	t.Helper()
	db, err := bolt.Open(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	log, err := pinlog.Open(t.Context(), pinlog.Config{Dir: filepath.Join(data, "log"), Name: "sum.corp.example", Store: db})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	hash := "h1:" + strings.Repeat("A", 43) + "="
	entry := pinlog.Entry{Module: module.Version{Path: "corp.example/lib", Version: "v1.0.0"}, Zip: hash, Mod: hash, Time: time.Now()}
	if _, err := log.Pin(t.Context(), entry); err != nil {
		t.Fatal(err)
	}
}

// checkOwners checks that everything in dir belongs to a user.
func checkOwners(t *testing.T, dir string, user uint32) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files++
		if stat := info.Sys().(*syscall.Stat_t); stat.Uid != user || stat.Gid != user {
			t.Errorf("%s belongs to %d:%d", strings.TrimPrefix(path, dir), stat.Uid, stat.Gid)
		}
		return nil
	})
	if err != nil || files < 2 {
		t.Errorf("%d files, %v", files, err)
	}
}

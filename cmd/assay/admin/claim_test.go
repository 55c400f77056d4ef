package admin_test

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/admin"
)

// Two commands that write the same backup, or restore into the same directory, do not mix:
// the second one is refused, and the first one ends well.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("no locks of directories")
	}
	client := admin.Local(newServer(t, t.TempDir()))
	defer client.Close()
	archive := save(t, client)
	for name, write := range map[string]func(io.Reader, string) (admin.Manifest, error){
		"SaveDirectory": admin.SaveDirectory, "SaveFile": admin.SaveFile, "Restore": admin.Restore,
	} {
		place := filepath.Join(t.TempDir(), "place")
		in, out := io.Pipe()
		first := make(chan error)
		go func() {
			_, err := write(in, place)
			first <- err
		}()
		// It has read all of this when the second one begins. A read may be of a megabyte.
		half := len(archive) / 2
		if _, err := out.Write(archive[:half]); err != nil {
			t.Fatal(err)
		}
		if _, err := write(bytes.NewReader(archive), place); err == nil || !strings.Contains(err.Error(), "another command is writing it") {
			t.Errorf("%s, the second time at once = %v", name, err)
		}
		if _, err := out.Write(archive[half:]); err != nil {
			t.Fatal(err)
		}
		out.Close()
		if err := <-first; err != nil {
			t.Errorf("%s, the first time = %v", name, err)
		}
		switch name {
		case "Restore":
			if _, err := os.Stat(filepath.Join(place, "meta.db")); err != nil {
				t.Error(err)
			}
		default:
			backup, err := admin.OpenBackup(place)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := admin.Restore(backup, t.TempDir()); err != nil {
				t.Errorf("%s made a backup that cannot be restored: %v", name, err)
			}
			backup.Close()
		}
		if _, err := write(bytes.NewReader(archive), place); err == nil {
			t.Errorf("%s replaced what the first one made", name)
		}
	}
}

// If another command clears what was created, before it is locked, and creates its own, only that
// one goes on: otherwise an archive would be written to the cleared file, and the empty one published.
func TestClaimedMeanwhile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "place")
	nothing := func() error { return nil }
	var ours, theirs *os.File
	_, err := admin.Claim(path, nothing, func() (info fs.FileInfo, err error) {
		for _, f := range []**os.File{&ours, &theirs} {
			if *f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
				return nil, err
			}
			defer (*f).Close()
			if f == &ours {
				if info, err = ours.Stat(); err != nil {
					return nil, err
				}
				if err := os.Remove(path); err != nil {
					return nil, err
				}
			}
		}
		return info, nil
	})
	if err == nil || !strings.Contains(err.Error(), "another command is writing it") {
		t.Errorf("claim = %v", err)
	}
}

// A backup that got its name while another one was written is not replaced.
func TestSavedMeanwhile(t *testing.T) {
	t.Parallel()
	client := admin.Local(newServer(t, t.TempDir()))
	defer client.Close()
	archive := save(t, client)
	for name, write := range map[string]func(io.Reader, string) (admin.Manifest, error){"SaveDirectory": admin.SaveDirectory, "SaveFile": admin.SaveFile} {
		place := filepath.Join(t.TempDir(), "place")
		in, out := io.Pipe()
		first := make(chan error)
		go func() {
			_, err := write(in, place)
			first <- err
		}()
		if _, err := out.Write(archive[:1]); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(place, []byte("of another"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write(archive[1:]); err != nil {
			t.Fatal(err)
		}
		out.Close()
		if err := <-first; err == nil || !strings.Contains(err.Error(), "name a backup that does not exist yet") {
			t.Errorf("%s = %v", name, err)
		}
		if got := names(t, filepath.Dir(place)); len(got) != 1 {
			t.Errorf("%s left %v", name, got)
		}
		if got, err := os.ReadFile(place); err != nil || string(got) != "of another" {
			t.Errorf("%s replaced the file: %q, %v", name, got, err)
		}
	}
}

// A backup is not made in the data directory, whatever it is called and by whatever way:
// restore.unfinished there, or tokens, would be taken for what they are not.
func TestTarget(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(filepath.Join(data, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(data, "log"), link); err != nil {
		t.Skip(err)
	}
	for _, name := range []string{data, "restore", "tokens", "log/x", "new/new/x.tar", "../link/x", "../link/new/x"} {
		if !filepath.IsAbs(name) {
			name = data + "/" + name // not cleaned
		}
		if err := admin.CheckTarget(data, name); err == nil || !strings.Contains(err.Error(), "name a place outside it") {
			t.Errorf("CheckTarget of %s = %v", name, err)
		}
	}
	for _, name := range []string{"database", "data.tar", "other/data/x"} {
		if err := admin.CheckTarget(data, filepath.Join(dir, name)); err != nil {
			t.Errorf("CheckTarget of %s = %v", name, err)
		}
	}
}

package bolt_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// backUp writes a backup to a new directory.
func backUp(ctx context.Context, db *bolt.DB, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return db.Backup(ctx, func(file storage.BackupFile) error {
		f, err := os.OpenFile(filepath.Join(dir, file.Name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		sparse := durable.NewSparse(f)
		w := bufio.NewWriterSize(sparse, 1<<20)
		n, err := file.Content.WriteTo(w)
		if err == nil && n != file.Size {
			err = fmt.Errorf("%s has %d bytes, and not %d", file.Name, n, file.Size)
		}
		return errors.Join(err, w.Flush(), sparse.Flush(), f.Close())
	})
}

// A backup is a store with the same content as its original.
func TestBackup(t *testing.T) {
	t.Parallel()
	db := openDB(t, verifyStore(t))
	dir := t.TempDir()
	if err := backUp(t.Context(), db, dir); err != nil {
		t.Fatal(err)
	}
	put(t, db, "later.example/@v/v1.0.0.zip", storagetest.Content(9, 300_000))
	backup := openDB(t, dir)
	if v, found := verify(t, backup, false); found != nil || int(v.Objects) != len(verifyObjects) {
		t.Errorf("%+v, %v", v, found)
	}
	for key, content := range verifyObjects {
		expectContent(t, backup, key, content)
	}
	if value, err := backup.State(t.Context(), "head"); err != nil || string(value) != "tree 17" {
		t.Errorf("State = %q, %v", value, err)
	}
	put(t, backup, "later.example/@v/v1.0.0.zip", storagetest.Content(10, 300_000))
	expectContent(t, db, "later.example/@v/v1.0.0.zip", storagetest.Content(9, 300_000))
}

// While other goroutines create and delete, a backup has the state of one moment: each object has
// its content, and objects that existed all the time are in it.
func TestBackupWhileUsed(t *testing.T) {
	t.Parallel()
	db := openDB(t, verifyStore(t))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	begun := make(chan bool, 1)
	go func() {
		ended <- churn(ctx, db, func(string, string) {
			select {
			case begun <- true:
			default:
			}
		})
	}()
	contents := newChurnContents()
	for range 4 {
		<-begun
		dir := t.TempDir()
		if err := backUp(t.Context(), db, dir); err != nil {
			t.Fatal(err)
		}
		state := map[string]string{}
		for key := range verifyObjects {
			state[key] = "+"
		}
		checkStore(t, dir, func(key string) []byte {
			if content := verifyObjects[key]; content != nil {
				return content
			}
			return contents.of(key)
		}, state)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestBackupRefuses(t *testing.T) {
	t.Parallel()
	db := openDB(t, verifyStore(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := backUp(ctx, db, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("Backup = %v, want context.Canceled", err)
	}
	full := errors.New("full")
	if err := db.Backup(t.Context(), func(storage.BackupFile) error { return full }); !errors.Is(err, full) {
		t.Errorf("Backup = %v, want the error of the one who writes", err)
	}
	db.Close()
	if err := backUp(t.Context(), db, t.TempDir()); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Backup of a closed store = %v, want fs.ErrClosed", err)
	}
}

// A backup uses no disk space for holes of the store.
func TestBackupHoles(t *testing.T) {
	t.Parallel()
	db := openDB(t, holedStore(t))
	if _, err := db.Compact(t.Context()); errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := backUp(t.Context(), db, dir); err != nil {
		t.Fatal(err)
	}
	if size := onDisk(t, dir); size > 4<<20 {
		t.Errorf("the backup takes %d bytes", size)
	}
	expectHoled(t, openDB(t, dir))
}

// maintainStore compacts and backs up during a churn until it is killed. It prints "c N" and "b
// DIRECTORY" after each, and the lines of the churn.
func maintainStore(dir string) error {
	db, err := bolt.Open(dir, nil)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	go func() { failed <- churn(context.Background(), db, sayChange) }()
	go func() {
		for n := 0; ; n++ {
			if _, err := db.Compact(context.Background()); err != nil && !errors.Is(err, errors.ErrUnsupported) {
				failed <- err
				return
			}
			sayChange("c", fmt.Sprint(n))
			name := filepath.Join(dir, "backups", fmt.Sprint(os.Getpid(), "-", n))
			err := backUp(context.Background(), db, name+".unfinished")
			if err == nil {
				err = os.Rename(name+".unfinished", name)
			}
			if err != nil {
				failed <- err
				return
			}
			sayChange("b", name)
		}
	}()
	return <-failed
}

// If a process is killed at any moment, a compaction leaves the store intact, and a directory with
// the name of a backup is a complete one.
func TestKilledInMaintenance(t *testing.T) {
	t.Parallel()
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	dir := t.TempDir()
	state := map[string]string{}
	contents := newChurnContents()
	backups := 0
	for round := range rounds {
		said := map[string]bool{}
		killed(t, "maintain", dir, 1+round%4, func(line string) bool { // during one of the two, alternating
			what, key, ok := strings.Cut(line, " ")
			switch {
			case !ok || what == "c":
			case what == "b":
				said[key] = true
			default:
				state[key] = what
			}
			return what == "b" || what == "c"
		})
		checkStore(t, dir, contents.of, state)
		made, err := filepath.Glob(filepath.Join(dir, "backups", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range made {
			if strings.HasSuffix(name, ".unfinished") {
				continue
			}
			backups++
			delete(said, name)
			checkStore(t, name, contents.of, map[string]string{})
		}
		if len(said) > 0 {
			t.Errorf("backups that were made are not there: %v", said)
		}
		if err := os.RemoveAll(filepath.Join(dir, "backups")); err != nil {
			t.Fatal(err)
		}
	}
	if backups == 0 {
		t.Error("no backups, which proves nothing")
	}
	t.Logf("%d backups in %d lives", backups, rounds)
}

// A store can be closed during a backup.
func TestCloseInBackup(t *testing.T) {
	t.Parallel()
	db := openDB(t, verifyStore(t))
	ended := make(chan error, 1)
	begun := make(chan bool)
	go func() {
		for n := 0; ; n++ {
			if n == 1 {
				close(begun)
			}
			if err := backUp(t.Context(), db, t.TempDir()); err != nil {
				ended <- err
				return
			}
		}
	}()
	<-begun
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Backup = %v, want fs.ErrClosed", err)
		}
	case <-time.After(time.Minute):
		t.Error("the backup does not end")
	}
}

// What waits for a backup that is not read gives up when its context ends.
func TestWaitForBackup(t *testing.T) {
	t.Parallel()
	db := openDB(t, verifyStore(t))
	begun, end, ended := make(chan bool), make(chan bool), make(chan error)
	go func() {
		var once sync.Once
		ended <- db.Backup(context.Background(), func(storage.BackupFile) error {
			once.Do(func() { begun <- true; <-end })
			return nil
		})
	}()
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := backUp(ctx, db, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("a second backup = %v", err)
	}
	if _, err := db.Compact(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Compact = %v", err)
	}
	end <- true
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := backUp(t.Context(), db, t.TempDir()); err != nil {
		t.Error(err)
	}
}
